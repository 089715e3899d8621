"""The forms in which short texts are compared: their words, numbers and units (docs/rewards.md)."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

Words = tuple[str, ...]

# Unicode normalisation takes quadratic time on adversarial accents, so a longer answer is not compared with the truth.
# Only a yes or no is looked for in the last so many characters of it.
MAX_CHARS = 300

ARTICLES = {"a", "an", "the"}
_APOSTROPHES = "'’‘`´"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d\d\d(?!\d))")

# NFKC would join the digit and the character: "1½" would become 11/2, and "10²" would become 102.
_BEHIND_A_DIGIT = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅟↉⁰-⁹²³¹])")

# Marks that choose between the forms of a character, such as a coloured and a black heart.
_SELECTORS = {"\u034f", *map(chr, range(0xFE00, 0xFE10))}

# Stops and commas of other scripts, as the usual ones. U+066B and U+066C are the decimal and the thousands separator.
_PUNCTUATION = str.maketrans("。।۔،؛؟٫٬٪", "...,;?.,%")

# Numbers as much of Europe writes them: "3,5", "1.200,5", "1.234.567". A comma before exactly three digits separates
# thousands, unless the number begins with 0; "1.200" is read as 1.2.
_NUMBERS = re.compile(r"\d(?:[\d.,]*\d)?")
_DECIMAL_COMMA = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:\.\d{3})+,\d+|\d+,(?!\d{3}(?!\d))\d+|0,\d+)(?![.,]?\d)")
_POINTED_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?![.,]?\d)")

# Punctuation that is part of a word becomes a mark that is kept: "c#", the grade or blood type "a-", "1/2", "5‰".
_SHARP = re.compile(r"(?<=[a-z])#(?!\w)")
_GRADE = re.compile(r"\b([a-z]{1,2})[-−](?!\s*\w)")
_FRACTION = re.compile(r"(?<![\d/⁄])(\d+) ?[/⁄] ?(\d+)(?![\d/⁄])")
_MINUS_POINT = re.compile(r"(?<!\w)[-−](?=\.\d)")
_PER_MILLE = "‰‱"
_SIGN = re.compile(r"[^\w\s]|_")  # letters, digits and blanks stay as they are

_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)")
_FRACTION_WORD = re.compile(r"\d{1,9}⁄\d{1,9}")
_NUMBER_AND_UNIT = re.compile(r"(-?[\d.]*\d)([^\d.].*)")
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NAMED = {name: value for value, name in enumerate(_SMALL.split())} | {
    name: 10 * value for value, name in enumerate(_TENS.split(), start=2)
}

_SPELLINGS = {
    "m": "meter meters metre metres",
    "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres",
    "ft": "foot feet",
    "in": "inch inches",
    "mi": "mile miles",
    "kg": "kilogram kilograms kilo kilos",
    "g": "gram grams",
    "lb": "lbs pound pounds",
    "s": "sec secs second seconds",
    "ms": "millisecond milliseconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "l": "liter liters litre litres",
    "ml": "milliliter milliliters millilitre millilitres",
    "°": "degree degrees",
    "°c": "",
    "°f": "",
    "hz": "hertz",
    "khz": "",
    "mhz": "",
    "ghz": "",
    "w": "watt watts",
    "kw": "kilowatt kilowatts",
    "v": "volt volts",
    "px": "pixel pixels",
    "‰": "permille",
    "‱": "",
}
UNITS = set(_SPELLINGS)
_UNIT_OF = {spelling: unit for unit, listed in _SPELLINGS.items() for spelling in (unit, *listed.split())}
_PERCENT = ({"percent"}, {"per", "cent"}, {"pct"})


def word_set(text: str) -> frozenset[str]:
    """The words of a text, split at white space."""
    return frozenset(text.split())


def normalise(text: str) -> str:
    """The text in the form in which answers are compared: two answers are the same if their normal forms are equal.

    In this order:
    - apply Unicode NFKC, and casefold;
    - drop apostrophes, thousands commas and invisible characters;
    - replace other punctuation by blanks, except decimal points, minus signs and marks that are part of a word ("C#",
      "A-", "1/2", "5‰");
    - drop articles (a, an, the) before another word, and collapse blanks.
    Currency and mathematical signs are kept. A text that is only punctuation keeps it.

    >>> normalise("  The Dunkin’ Donuts, at 1,200.5 m. ")
    'dunkin donuts at 1200.5 m'
    >>> normalise("A"), normalise("C#") == normalise("C")
    ('a', False)
    """
    return " ".join(without_articles(words_of(text)))


def loosely(text: str) -> str:
    """`normalise` that also drops the marks: "C#" and "C", "1/2" and "1 2", "5%" and "5‰" agree.

    The options of a question must differ in this form, so that a careless spelling of one is never another one.
    """
    return " ".join(without_articles(words_of(text, marks=False)))


def comparable(text: str) -> str:
    """The `normalise`d text, with one spelling for a number at its start, and for a unit if only that follows.

    The number may be a word or digits ("three", ".5", "3.0"), and the unit may be percent ("5m", "5 meters",
    "50 percent").
    An "and" between words is dropped, as "&" is.

    >>> comparable("5m") == comparable("5 meters"), comparable("twenty-one") == comparable("21")
    (True, True)
    >>> comparable("50 percent") == comparable("50%"), comparable(".50") == comparable("0.5")
    (True, True)
    """
    words = list(without_articles(words_of(text)))
    words = [word for place, word in enumerate(words) if word != "and" or place in (0, len(words) - 1)]
    glued = _NUMBER_AND_UNIT.fullmatch(words[0]) if words else None
    if glued and glued[2] in _UNIT_OF:
        words[:1] = [glued[1], glued[2]]
    number, rest = _leading_number(words)
    if number is None:
        return " ".join(words)
    if rest[:2] == ["per", "mille"]:
        rest = ["‰", *rest[2:]]
    if set(rest) in _PERCENT:
        rest = []
    if (len(rest) == 2 and rest[0] == "°") or (len(rest) == 2 and rest[0] in ("degree", "degrees")):
        rest = [{"c": "°c", "celsius": "°c", "f": "°f", "fahrenheit": "°f"}.get(rest[1], " ".join(rest))]
    if len(rest) == 1:
        rest = [_UNIT_OF.get(rest[0], rest[0])]
    return " ".join([number, *rest])


def same_number(one: str, other: str) -> bool:
    """Whether one of two `comparable` texts is a fraction and the other the decimal of the same value (1/2 and 0.5)."""
    if ("⁄" in one) == ("⁄" in other) or "." not in one + other:
        return False
    first, second = _value(one), _value(other)
    return first is not None and first == second


def is_number(text: str) -> bool:
    """Whether a `comparable` text is a number in digits and nothing else."""
    return _NUMBER.fullmatch(text) is not None


def words_of(text: str, *, marks: bool = True) -> Words:
    """The words of a text after all steps of `normalise` but the last: articles are kept. marks=False: drops the marks,
    as `loosely` does."""
    visible = _THOUSANDS.sub("", compatible(text).casefold())
    if marks:
        visible = _MINUS_POINT.sub("-0", _GRADE.sub(r"\1⁻", _SHARP.sub("♯", visible)))
        visible = _FRACTION.sub(r"\1⁄\2", visible)
    else:
        visible = visible.replace("⁄", " ").replace("♯", " ")
    kept = _SIGN.sub(lambda match: _character(match, marks), visible)
    return tuple(kept.split()) or tuple(visible.split())


def compatible(text: str) -> str:
    """The text in Unicode NFKC without invisible characters, with the digits of all scripts as 0 to 9.

    Full-width letters and the like become the usual ones, and so do stops and commas of other scripts. A blank
    is put between a digit and a fraction or raised digit behind it: "10²" becomes "10 2".

    >>> compatible("Ｂ．"), compatible("1½"), compatible("٣٫٥")
    ('B.', '1 1⁄2', '3.5')
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(char for char in text if not _is_invisible(char))
    shown = unicodedata.normalize("NFKC", _BEHIND_A_DIGIT.sub(" ", shown)).translate(_PUNCTUATION)
    return "".join(map(_usual_digit, shown))


def with_decimal_point(text: str) -> str:
    """The text in NFKC, with a point for the decimal comma of its only number.

    A text that may list two numbers ("3,5") is changed too, so callers compare the unchanged text as well.

    >>> with_decimal_point("3,5 m"), with_decimal_point("1.200,5"), with_decimal_point("0,125")
    ('3.5 m', '1200.5', '0.125')
    >>> with_decimal_point("1,200"), with_decimal_point("1,2,3"), with_decimal_point("1.200")
    ('1,200', '1,2,3', '1.200')
    """
    text = compatible(text)
    if len(_NUMBERS.findall(text)) != 1:
        return text
    text = _POINTED_THOUSANDS.sub(lambda match: match[0].replace(".", ""), text)
    return _DECIMAL_COMMA.sub(lambda match: match[0].replace(".", "").replace(",", "."), text)


def _is_invisible(char: str) -> bool:
    """Whether a character is a joiner, a direction mark, a variation selector, or a control character.

    Whitespace, such as a line feed, does not count as a control character.
    """
    return char in _SELECTORS or (unicodedata.category(char) in ("Cc", "Cf") and not char.isspace())


def _usual_digit(char: str) -> str:
    return char if char.isascii() or not char.isdecimal() else str(unicodedata.decimal(char))


def without_articles(words: Words) -> Words:
    """Drop articles that another word follows. The answers "A" and "vitamin A" keep theirs."""
    return tuple(word for word in words[:-1] if word not in ARTICLES) + words[-1:]


def _character(sign: re.Match[str], marks: bool) -> str:
    """What `words_of` replaces a sign by: itself, "" or a blank; "-" for the minus sign "−" of a number."""
    text, place = sign.string, sign.start()
    char, before, after = text[place], text[max(place - 1, 0) : place], text[place + 1 : place + 2]
    if char in _APOSTROPHES:
        return ""
    if char == "." and after.isdigit() and not before.isalpha():
        return char
    if char in "-−" and after.isdigit() and not before.isalnum():
        return "-"
    if char in _PER_MILLE:
        return char if marks else " "
    category = unicodedata.category(char)
    keep = category[0] in "LMNS" and category != "Sk"
    return char if keep else " "


def _leading_number(words: list[str]) -> tuple[str | None, list[str]]:
    """The number that the words begin with, in digits, and the words after it."""
    if not words:
        return None, words
    first = words[0]
    if _NUMBER.fullmatch(first):
        if len(words) > 1 and _FRACTION_WORD.fullmatch(words[1]):
            return f"{first} {words[1]}", words[2:]
        return _shortest(first), words[1:]
    if _FRACTION_WORD.fullmatch(first):
        return first, words[1:]
    if first not in _NAMED:
        return None, words
    value = _NAMED[first]
    if value >= 20 and len(words) > 1 and 0 < _NAMED.get(words[1], 0) < 10:
        return str(value + _NAMED[words[1]]), words[2:]
    return str(value), words[1:]


def _shortest(number: str) -> str:
    """A number without needless zeros (3.0 -> 3). "007" stays: it is a name rather than a number."""
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    whole, _, decimals = digits.partition(".")
    if len(whole) > 1 and whole.startswith("0"):
        return number
    decimals = decimals.rstrip("0")
    short = f"{whole or '0'}.{decimals}" if decimals else whole or "0"
    return short if short == "0" else sign + short


def _value(text: str) -> Fraction | None:
    """The value of a number, fraction or mixed number in the form that `comparable` gives. None for any other text, and
    for more than 20 characters."""
    if len(text) > 20:
        return None
    total = Fraction(0)
    for word in text.split():
        if not (_NUMBER.fullmatch(word) or _FRACTION_WORD.fullmatch(word)):
            return None
        top, _, bottom = word.partition("⁄")
        if bottom and not int(bottom):
            return None
        total += Fraction(top) / int(bottom or 1)
    return total
