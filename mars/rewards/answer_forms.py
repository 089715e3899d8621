"""The forms in which a short answer is given: markup, a phrase before it, a letter, a number with what it counts.

The functions are made for texts of at most `MAX_CHARS` characters.
"""

from __future__ import annotations

import re

from mars.rewards.answer_words import (
    MAX_CHARS,
    UNITS,
    comparable,
    compatible,
    is_number,
    same_number,
    with_decimal_point,
    word_set,
)

# A text that is longer than `MAX_CHARS` without its markup is not read. NFKC makes up to 18 characters of one, but at
# most 3 of a blank or a character of markup. So if `MAX_CHARS` characters become more than the number below, at most
# 3 * `MAX_CHARS` of the new ones are blanks and markup, and more than `MAX_CHARS` others remain.
_MAX_UNFOLDED = 4 * MAX_CHARS

_COMMANDS = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname) ?\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dt]?frac ?(?:\{ ?(\d{1,9}) ?\} ?\{ ?(\d{1,9}) ?\}|(\d)(\d))")
_MATHS = re.compile(r"\$\$?([^$]+)\$\$?")
_SPACES = re.compile(r"\\[,;:! ]|\\[()\[\]]")
_DEGREES = re.compile(r"\^ ?\{? ?\\circ ?\}?")
_TAGS = re.compile(r"</?(?:b|i|u|em|strong|code|p|span|br) ?/?>", re.IGNORECASE)
_MARKDOWN = re.compile(r"(?<!\w)\*+|\*+(?!\w)|`+|(?<!\w)_+|_+(?!\w)|^(?:#+|[-•·])\s+", re.MULTILINE)

_BEFORE_STOP = re.compile(r" (?=[.,;:!?](?:\D|$))")

_OPEN = "[(\\[{<\"'“‘«【「『〈《〔]"
_CLOSE = "[)\\]}>\"'”’»】」』〉》〕]"
_SEPARATOR = "[.:;,=|·・、。→\\-–—]"
_CALLED = r"(?:(?:the )?(?:option|choice|letter|answer) ?[.:#]? ?)"
_IS_RIGHT = r"(?: is (?:the )?(?:(?:correct|right|best|final)(?: (?:answer|option|choice|one|letter))?|answer))?"

_LETTER = re.compile(rf"({_CALLED}?{_OPEN}*)([a-z])({_CLOSE}*)\s?[.:;,!?]*{_IS_RIGHT}[.!]*", re.IGNORECASE)
_LABEL = re.compile(
    rf"{_CALLED}?{_OPEN}*([a-z])({_CLOSE}+\s*{_SEPARATOR}*|\s*{_SEPARATOR}+{_CLOSE}*|\s)\s*(?=\S)", re.IGNORECASE
)
_LETTER_BEHIND = re.compile(r"(.*\S)\s*,?\s*(?:[(\[](?:option )?|option )([a-z])[)\]]?[.!]*", re.IGNORECASE | re.DOTALL)
_RIGHT_BEHIND = re.compile(
    r" is (?:the )?(?:correct|right|best)(?: (?:answer|option|choice|one))?[.!]*$", re.IGNORECASE
)

_ADVERBS = r"(?:(?:clearly|definitely|certainly|indeed|simply|just|exactly|only|therefore|thus|also|probably) )?"
_OF = r"(?: of (?:the |these |those |this )?(?!other\b|wrong\b|rest\b)\w+)?"
_QUALITIES = (
    "colou?r|number|total|total number|count|total count|name|author|title|genre|field|subject|category|type|shape|size"
    "|weather|time|position|direction|distance|height|width|length|speed|percentage|value|ratio|sum"
)
_LEADS = [
    r"(?:so|thus|therefore|hence|well|ok|okay|finally|overall|in conclusion|in short|in summary)\b[,:]? ",
    r"(?:the |my |our |its )?(?:(?:final|correct|right|best|short) )*"
    r"(?:answer|ans|choice|option|letter|result|solution)(?: (?:to the question|here|choice|option|letter))?"
    rf"(?: (?:is|are|would be|must be|should be)(?: ?: ?| ){_ADVERBS}| ?[:=-]+ ?| )",
    r"(?:the )?(?:correct|right|best)(?: one)?(?: is |: ?)",
    r"(?:(?:clearly|definitely|certainly|obviously|exactly|only|just)\b,? |= ?|ans\. ?)",
    r"(?:response|selected|selection|total|count|output|prediction) ?[:=] ?",
    r"(?:i )?(?:choose|select|pick) ",
    r"(?:it is|it['’]?s|this is|that is|that['’]?s|these are|they are|there is|there['’]s|there are|there['’]re"
    rf"|(?:that|this|it) would be) {_ADVERBS}",
    r"i (?:can )?(?:see|count|counted|think|believe|choose|chose|pick|select|say) (?:that )?",
    r"(?:i would|i['’]d|i will|i['’]ll|we) (?:say|choose|pick|select|answer|go with) ",
    rf"the (?:{_QUALITIES}){_OF} (?:is|are|was|would be) {_ADVERBS}",
]
# "The answer is", "the right answer:", "I choose" in German, Chinese and Arabic.
_LEADS_OF_OTHER_LANGUAGES = [
    r"(?:(?:die|meine) )?(?:(?:richtige|korrekte|endgültige) )?(?:antwort|lösung)"
    r"(?: (?:ist|lautet|wäre)(?: ?: ?| )| ?: ?)",
    r"(?:ich wähle|es (?:ist|sind)) ",
    r"(?:所以|因此|综上)?[,:]? ?(?:我的)?(?:正确|最终|最佳)?(?:的)?答案(?:应该|应当)?(?:是|为|选) ?:? ?",
    r"(?:正确|最终|最佳)?(?:的)?答案 ?: ?",
    r"(?:我)?选(?:择|项)? ?:? ?",
    r"(?:ال)?(?:[إا]جابة|جواب)(?: (?:الصحيحة|الصحيح|النهائية|النهائي))?(?: (?:هي|هو)(?: ?: ?| )| ?: ?)",
]
_LEAD = re.compile("|".join(f"(?:{lead})" for lead in (*_LEADS, *_LEADS_OF_OTHER_LANGUAGES)), re.IGNORECASE)

_ONE_OF = word_set(
    "person pedestrian human man woman child individual car vehicle truck bus bicycle bike motorcycle cyclist rider "
    "animal dog cat bird horse tree building house sign light object item image picture book boat ship plane table "
    "chair ball umbrella window door box bag bottle cup face hand wheel lane room floor year day hour time"
)
_MANY = {"people", "men", "women", "children", "sheep", "fish", "mice", "feet", "teeth", "geese", "deer", "aircraft"}
_NOT_THINGS = word_set(
    "yes dozens tens hundreds thousands millions billions pairs halves thirds quarters fourths fifths sixths "
    "sevenths eighths ninths tenths hundredths percents points plus minus less was is its this as us"
)
_NOT_ADJECTIVES = word_set(
    "more fewer less other of or and out to not no by from than over under at about dozen hundred thousand million "
    "billion pair point plus minus half thirds per percent a an the in is are was if but nor versus vs yes"
)
_PLACE = re.compile(
    r"(?:(?:is|are) )?(?:(?:visible|present|shown|here|there|total|altogether|in total|in all|overall)(?: |$))?"
    r"(?:(?:in|on) (?:this |these |both |each |either )?(?:two )?"
    r"(?:images?|pictures?|photos?|scene|view|road|street))?"
)


def readings(text: str) -> list[str]:
    """The text without markup, then what remains each time a phrase such as "the answer is" is cut from its start.

    At most four entries; empty for a text of more than `MAX_CHARS` characters.

    >>> readings("**Answer:** the option $B$.")
    ['Answer: the option B.', 'the option B.', 'B.']
    """
    if len(text) > MAX_CHARS:
        return []
    text = compatible(text)
    if len(text) > _MAX_UNFOLDED:
        return []
    found = [without_markup(text)]
    while len(found) < 4:
        lead = _LEAD.match(found[-1])
        rest = found[-1][lead.end() :].strip() if lead else ""
        if not rest:
            break
        found.append(rest)
    return [reading for reading in found if len(reading) <= MAX_CHARS]


def without_markup(text: str) -> str:
    r"""The text in NFKC without LaTeX, Markdown and HTML around its words.

    >>> without_markup(r"**\boxed{B}**"), without_markup(r"$\frac{1}{2}$"), without_markup("Ｂ．Travel")
    ('B', '1/2', 'B.Travel')
    """
    text = compatible(text)
    text = _FRAC.sub(lambda match: f" {match[1] or match[3]}/{match[2] or match[4]} ", text)
    for _ in range(3):
        text = _COMMANDS.sub(r" \1 ", text)
    text = text.replace("\\%", "%").replace("\\$", "＄")  # the sign of a price does not delimit mathematics
    if text.count("$") % 2 == 0:
        text = _MATHS.sub(r" \1 ", text)
    text = _SPACES.sub(" ", _DEGREES.sub("°", text))
    if "</" in text:
        text = _TAGS.sub(" ", text)
    text = _MARKDOWN.sub("", text.strip()).replace("＄", "$")
    return _BEFORE_STOP.sub("", " ".join(text.split()))


def lone_letter(text: str) -> tuple[str, bool] | None:
    """The option letter that a text consists of, and whether brackets or a word before it mark it as an option.

    A stop and words such as "is correct" may follow the letter. Returns None for any other text.

    >>> lone_letter("B."), lone_letter("(b)"), lone_letter("option B"), lone_letter("B is correct.")
    (('b', False), ('b', True), ('b', True), ('b', False))
    >>> lone_letter("C#"), lone_letter("A-"), lone_letter("B or C")
    (None, None, None)
    """
    match = _LETTER.fullmatch(text.strip())
    return None if match is None else (match[2].lower(), bool(match[1].strip("\"'“‘ ") or match[3].strip("\"'”’ ")))


def letter_and_text(text: str) -> list[tuple[str, str, bool]]:
    """(letter, the other words, whether the letter surely names an option), for a letter at the start of the text, and
    for a letter at its end that is in brackets or behind the word "option".

    An "a" before a blank may be an article, an "A" only if a small letter follows the blank: "A dog", not "A Travel".

    >>> letter_and_text("[B] Travel"), letter_and_text("B Travel"), letter_and_text("Travel (B)")
    ([('b', 'Travel', True)], [('b', 'Travel', True)], [('b', 'Travel', True)])
    >>> letter_and_text("A dog")
    [('a', 'dog', False)]
    """
    text = text.strip()
    found = []
    label = _LABEL.match(text)
    if label:
        rest = _RIGHT_BEHIND.sub("", text[label.end() :])
        is_article = not label[2].strip() and label[1] in "aA" and (label[1] == "a" or rest[:1].islower())
        found.append((label[1].lower(), rest, not is_article))
    behind = _LETTER_BEHIND.fullmatch(text)
    if behind:
        found.append((behind[2].lower(), behind[1], True))
    return found


def equals_one_of(answer: str, accepted: set[str]) -> bool:
    """Whether one reading of an answer is one of the accepted texts, which are in `comparable` form.

    An accepted text that is a bare number also accepts that number of things: "3" accepts "3 red cars".

    >>> equals_one_of("There are 3 red cars.", {"3"}), equals_one_of("3 of 4 cars", {"3"}), equals_one_of("½", {"0.5"})
    (True, False, True)
    """
    return any(_equals(reading, accepted) for reading in readings(answer))


def _equals(reading: str, accepted: set[str]) -> bool:
    text, decimal = comparable(reading), comparable(with_decimal_point(reading))
    if not accepted.isdisjoint((text, decimal)) or any(same_number(text, other) for other in accepted):
        return True
    if any(len(other) == 1 and other.isalpha() for other in accepted):
        letter = lone_letter(reading)
        return letter is not None and letter[0] in accepted
    return any(_is_number_of_things(form, accepted) for form in {text, decimal})


def _is_number_of_things(text: str, accepted: set[str]) -> bool:
    number, _, things = text.partition(" ")
    return number in accepted and is_number(number) and _are_things(things, number == "1")


def _are_things(text: str, one: bool) -> bool:
    """Whether words after a number only name what it counts: a unit; or a noun, with up to two adjectives before it and
    perhaps a place after it."""
    if text in UNITS:
        return "‰" not in text and "‱" not in text
    words = text.split()
    for place, word in enumerate(words[:3]):
        plural = word in _MANY or (len(word) > 3 and word.endswith("s") and word not in _NOT_THINGS)
        noun = word in _ONE_OF if one else plural
        if noun and _PLACE.fullmatch(" ".join(words[place + 1 :])):
            return True
        if word in _NOT_ADJECTIVES or not word.isalpha():
            return False
    return False
