"""Find the options of a multiple-choice question: in its text ("Choice list : [A. Travel, B. Law]") or in a field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from mars.data.rows.problems import RowError

# Labels and separators may be those of Chinese text: "（A）", "A．", "A、", "；".
_HEADING = re.compile(
    r"(?:\b(?:choices|options|(?:choice|option) list|answer choices|optionen|antwortmöglichkeiten|الخيارات)|选项)"
    r" ?[:：]\s*",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"[(（]?([A-Za-z])[.:)．：）、]\s*(.*)", re.DOTALL)
_LONE_LETTER = re.compile(r"\s*[(（]?([A-Za-z])[.:)．：）、。]{0,2}\s*")
_LABEL = r"(?P<open>[(（]?)(?P<letter>[Aa])(?P<close>[.):．：）、])(?P<space>\s*)(?=\S)"
_FIRST_LABEL = re.compile(_LABEL)
_UNHEADED = re.compile(rf"(?:^|(?<=[\s：；，。？])){_LABEL}")
_MOST_STARTS = 8  # a list without a heading must begin at one of the last 8 labels "A", so that long texts stay fast
_USUAL_SEPARATORS = {"|": ";", "；": ";", "，": ","}
_SEPARATORS = "\n;, "  # between the options of one list, the most reliable first
_QUOTED_LIST = re.compile(r"\s*[\"'](.*?)[\"']\s*\]", re.DOTALL)
_BETWEEN_QUOTES = re.compile(r"[\"']\s*,\s*[\"']")
_AFTER_LIST = re.compile(r"\n|(?<=[.?!])\s{1,9}(?:answer|please|your|choose|select|respond|give|pick|reply)\b", re.I)


@dataclass(frozen=True)
class TextChoices:
    """The options of a list in a text, without their letters.

    span: start and end of the list in the text, brackets included.
    lettered: whether the text shows letters. If not, the first option is A, the second B, and so on.
    """

    options: list[str]
    span: tuple[int, int]
    lettered: bool


def choices_in_text(text: str, truth: Any) -> TextChoices | None:
    """The options of the last list of choices in a text; None if there is none.

    Three forms are known. A label is "A.", "A)", "A:" or "(A)"; labels are in one line or each starts a line.
    - with a heading and labels: "Choice list : [A. …, B. …]", "Options: (A) … (B) …", in brackets or not;
    - with a heading and quotes: "Choice list:['…', '…']";
    - labels alone: "A. … B. …".
    Only a bracketed "Choice list" with labels is certain. Ordinary text may look like one of the other forms, so a list
    in such a form counts only if `truth` is a letter or one of the options. An option ends where the next letter's
    label starts; it may contain commas, brackets and initials.

    >>> choices_in_text("Who? Choice list : [A. D. H. Lawrence, B. not the same, C. Poe, Edgar].", "C").options
    ['D. H. Lawrence', 'not the same', 'Poe, Edgar']
    >>> choices_in_text("Which one? (A) cat (B) dog", "dog").options
    ['cat', 'dog']
    """
    found, sure = _headed(text)
    if found is None:
        found, sure = _unheaded(text), False
    if found is None or sure or is_letter(truth) or letter_of(str(truth), found.options) != str(truth):
        return found
    return None


def options_of(text: str, truth: str) -> list[str] | None:
    """The options that a row's text lists, for a row without a field of choices; None if it lists none.

    If the text has no letters beside the options, they are returned only if the truth is a letter. With another truth
    the model is to answer with the text of an option, so the row needs no choices.
    """
    found = choices_in_text(text, truth)
    return found.options if found and (found.lettered or is_letter(truth)) else None


def is_letter(truth: Any) -> bool:
    """Whether a truth looks like the letter of an option: "B", "(b)", "B."."""
    return isinstance(truth, str) and _LONE_LETTER.fullmatch(truth) is not None


def merged(known: Sequence[str], shown: Sequence[str]) -> list[str]:
    """The choices of a record that has them in a field (`known`) and in its text (`shown`).

    If both are the same options, the result has the text's order, because the model sees the text's letters. Otherwise
    it is `known`.
    """
    same = sorted(map(_comparable, known)) == sorted(map(_comparable, shown))
    return list(shown if same else known)


def plain_choices(given: Any) -> list[str] | None:
    """A record's choices as texts without letters; None if it has none.

    given: a list of texts or numbers, a mapping of the letters A, B, ... to them, or a text such as
        "[A. Travel, B. Law]". Letters without a value do not count: all rows of a parquet file have the letters of the
        row with the most choices. Raises RowError ("choices") for other values and for more than 26 choices.
    """
    given = list(given) if isinstance(given, tuple) else given.tolist() if hasattr(given, "tolist") else given
    given = {key: option for key, option in given.items() if option is not None} if isinstance(given, dict) else given
    if given is None or given in ([], "", {}):
        return None
    options = given
    if isinstance(given, str):
        found, _ = _headed(f"Choice list : {given}")
        options = None if found is None else found.options
    elif isinstance(given, dict):
        letters = [str(key).strip().upper() for key in given]
        in_order = sorted(letters) == list(ascii_uppercase[: len(letters)])
        options = [option for _, option in sorted(zip(letters, given.values(), strict=True))] if in_order else None
    if isinstance(options, list):
        options = [str(option) if _is_number(option) else option for option in options]
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise RowError("choices", f"the choices must be a list of texts; got {given!r:.120}")
    if len(options) > len(ascii_uppercase):
        raise RowError("choices", f"at most {len(ascii_uppercase)} choices; got {len(options)}")
    return _without_letters(options) or [option.strip() for option in options]


def with_plain_choices(extra_info: Mapping[str, Any]) -> dict[str, Any]:
    """`extra_info` with its `choices` as templates and rewards expect them: texts in order of letter, without letters.

    Choices in an unknown form are not changed: `check_choices` refuses the row, and rewards raise DataError.

    >>> with_plain_choices({"choices": {"B": "Law", "A": "Travel"}})
    {'choices': ['Travel', 'Law']}
    """
    given = extra_info.get("choices")
    try:
        options = plain_choices(given)
    except RowError:
        return dict(extra_info)
    return dict(extra_info) if options is None and given in (None, []) else {**extra_info, "choices": options}


def listed(options: Sequence[str]) -> str:
    """The options in the form of the MARS paper's evaluation files: "[A. Travel, B. Law]"."""
    return f"[{', '.join(f'{letter}. {option}' for letter, option in _lettered(options))}]"


def letter_of(answer: str, options: Sequence[str]) -> str:
    """The letter of the option that an answer names by letter, text, or both; the answer itself if it names none.

    A letter means the option with this letter, even if the text of another option is the same letter. If the
    text of any option is the letter of another option, an answer that gives a text ("Law", "B. Law") is returned
    unchanged, because the letter that would replace it could be read as the text of another option.

    >>> [letter_of(answer, ["Travel", "Law"]) for answer in ("law.", "(b)", "B. Law", "A. Law")]
    ['B', 'B', 'B', 'A. Law']
    """
    lone = _LONE_LETTER.fullmatch(answer)
    if lone and lone[1].upper() in ascii_uppercase[: len(options)]:
        return lone[1].upper()
    texts = [_comparable(option) for option in options]
    if _comparable(answer) in texts:
        if _read_as_letters(options):
            return answer
        return ascii_uppercase[texts.index(_comparable(answer))]
    label = _LABELLED.fullmatch(answer.strip())
    if label and (label[1].upper(), _comparable(label[2])) in _lettered(texts) and not _read_as_letters(options):
        return label[1].upper()
    return answer


def clear_letter(truth: str, options: Sequence[str]) -> str:
    """If the truth is a letter and an option's text is another option's letter, add the text of the truth's option.

    Example with blood groups: the truth "A" means the first option, "O", not the option "A"; it becomes "A. O".

    >>> clear_letter("A", ["O", "A", "B", "AB"]), clear_letter("A", ["Travel", "Law"])
    ('A. O', 'A')
    """
    lone = _LONE_LETTER.fullmatch(truth)
    index = ascii_uppercase.index(lone[1].upper()) if lone else len(options)
    if index >= len(options) or not _read_as_letters(options):
        return truth
    return f"{ascii_uppercase[index]}. {options[index]}"


def _read_as_letters(options: Sequence[str]) -> bool:
    """Whether an option's text is the letter of another option."""
    letters = ascii_uppercase[: len(options)]
    lone = [_LONE_LETTER.fullmatch(option) for option in options]
    return any(
        match and match[1].upper() in letters.replace(own, "") for match, own in zip(lone, letters, strict=False)
    )


def _headed(text: str) -> tuple[TextChoices | None, bool]:
    """The last list of choices that directly follows a heading, and whether its form is certain (`choices_in_text`)."""
    for heading in reversed(list(_HEADING.finditer(text))):
        start, bracketed = heading.end(), text[heading.end() : heading.end() + 1] == "["
        found = _letters(text, start + bracketed, bracketed) or (_quoted(text, start + 1) if bracketed else None)
        if found is not None:
            sure = bracketed and found.lettered and heading.group().lower().startswith("choice list")
            return TextChoices(found.options, (start, found.span[1]), found.lettered), sure
    return None, False


def _unheaded(text: str) -> TextChoices | None:
    starts = [match.start("open") for match in _UNHEADED.finditer(text)][-_MOST_STARTS:]
    lists = (_letters(text, start, False) for start in reversed(starts))
    return next((found for found in lists if found and all(found.options)), None)


def _letters(text: str, start: int, bracketed: bool) -> TextChoices | None:
    """Options "A. …, B. …" from `start` on.

    The last option ends at the closing bracket. Without brackets it ends at the end of its line, or at an instruction
    such as "Please answer".
    """
    first = _FIRST_LABEL.match(text, start)
    if first is None:
        return None
    last = max(text.rfind("]"), 0) if bracketed else len(text)
    labels = [(first.start(), first.end())]
    separators = _SEPARATORS
    for letter in ascii_uppercase[1:]:
        shown = letter if first["letter"] == "A" else letter.lower()
        label = re.compile(re.escape(f"{first['open']}{shown}{first['close']}") + (r"\s+" if first["space"] else ""))
        places = [(place.start(), place.end()) for place in label.finditer(text, labels[-1][1], last)]
        found = [(_separator(text, place[0]), place) for place in places]
        separators = next((kind for kind in separators if kind in [other for other, _ in found]), "")
        if not separators:
            break
        labels.append(next(place for kind, place in found if kind == separators))
    if len(labels) < 2:
        return None
    end = _closing_bracket(text, labels[-1][1], last) if bracketed else _end_of_last(text, labels[-1][1])
    stops = [label_start for label_start, _ in labels[1:]]
    options = [_before_separator(text[label_end:stop]) for (_, label_end), stop in zip(labels, stops, strict=False)]
    options.append(text[labels[-1][1] : end])
    return TextChoices([option.strip() for option in options], (start, end + bracketed), True)


def _before_separator(option: str) -> str:
    option = option.rstrip()
    return option[:-1] if option.endswith((",", ";", *_USUAL_SEPARATORS)) else option


def _separator(text: str, place: int) -> str:
    """The separator before `place`: a line break, ";" (also for "|"), "," or a blank; "" if there is none of these."""
    before = place
    while before and text[before - 1].isspace():
        before -= 1
    if "\n" in text[before:place]:
        return "\n"
    mark = text[before - 1 : before]
    mark = _USUAL_SEPARATORS.get(mark, mark)
    return mark if mark in (",", ";") else " " if before < place else ""


def _closing_bracket(text: str, start: int, last: int) -> int:
    """Position of the bracket that closes the list around `start`; `last` if the brackets are not balanced."""
    depth = 0
    for place in range(start, last):
        depth += {"[": 1, "]": -1}.get(text[place], 0)
        if depth < 0:
            return place
    return last


def _end_of_last(text: str, start: int) -> int:
    after = _AFTER_LIST.search(text, start)
    return after.start() if after else len(text)


def _quoted(text: str, start: int) -> TextChoices | None:
    """The list '…', '…'] of quoted options; `start` is behind its "[". Quotes in an option may be escaped or plain."""
    body = _QUOTED_LIST.match(text, start)
    if body is None:
        return None
    options = [re.sub(r"\\(?=['\"])", "", option).strip() for option in _BETWEEN_QUOTES.split(body[1])]
    bare = _without_letters(options)
    return TextChoices(bare or options, (start, body.end()), bare is not None) if len(options) > 1 else None


def _without_letters(options: Sequence[str]) -> list[str] | None:
    """The options without their letters; None if they do not begin with A, B, … in order."""
    labels = [_LABELLED.fullmatch(option.strip()) for option in options]
    if [label[1].upper() for label in labels if label] != list(ascii_uppercase[: len(options)]):
        return None
    return [label[2].strip() for label in labels if label]


def _lettered(options: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, options, strict=False))


def _comparable(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
