"""Read the question of a record in any of the forms of public JSON files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mars.data.convert.markers import count_tags, has_numbers
from mars.data.pixels.cells import IMAGE_COLUMNS, is_filled
from mars.data.rows.columns import extra_info_of, image_cells, messages_of, wrong_part
from mars.data.rows.media import (
    refuse_media_of_turn,
    refuse_unread_images,
    refuse_unread_keys,
    refuse_unread_words,
    refuse_videos,
)
from mars.data.rows.problems import RowError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_ALPACA = ("user", "assistant")
_DEMON_IMAGES = ("images_path", "image_path", "images")
CHOICES = ("choice_list", "choices", "options")


@dataclass(frozen=True)
class Question:
    """One question of a record. Image tags and image paths are unchanged.

    turns: (role, text) of the conversation; the question is the last. answer: text, number or list of boxes.
    instruction: DEMON's text before the question; None if the record has the id of an instruction, but its
    file has no instructions.
    extra: the row's own extra_info. said: the assistant's turn after the question, unchanged.
    """

    turns: tuple[tuple[str, str], ...]
    images: tuple[Any, ...]
    answer: Any
    identity: str | None = None
    instruction: str | None = ""
    choices: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    response: str | None = None
    said: str | None = None


def count_questions(record: Any) -> int:
    """The number of questions of a record: one per answer, and one more if its conversation ends with a question."""
    try:
        turns = _turns(record) if isinstance(record, dict) else None
    except RowError:  # raised again when its question is read
        turns = None
    if not isinstance(turns, list):
        return 1
    roles = [_role(turn) if isinstance(turn, dict) else None for turn in turns]
    return max(roles.count("assistant") + (roles[-1:] == ["user"]), 1)


def read_question(record: Any, number: int, metadata: Mapping[str, Any]) -> Question:
    """Question `number` (from 0) of a record in any of these forms. Raises RowError.

    - {id or sample_id, image, conversations: [{from: human, value}, {from: gpt, value}, …]}: LLaVA, SpatialQA,
      M4-Instruct, ShareGPT.
    - {messages: [{role, content}, …], images}: LLaMA-Factory, OpenAI.
    - {instruction, input?, output, history?, images}: Alpaca.
      In these three forms: the text of a key `system` becomes the first turn, of role system. Question k comes with the
      turns before it, answers included. If the record has as many image tags as images, question k has only the
      images whose tags are in these turns or in the question.
    - {sample_id, task_instruction_id, task_instance: {context, images_path, choice_list?}, response}: DEMON, with
      metadata {task_instruction: [...]}.
    - {role, content: [{type: image, image}, …, {type: text, text}], ground_truth, extra_info?}: evaluation files.
    - {problem or prompt, answer or reward_model, images}: EasyR1, verl.
    - {image, question, answer, choices?}: SpatialBench.
    """
    if not isinstance(record, dict):
        raise RowError("json", f"a record must be a JSON object; got {type(record).__name__}")
    refuse_videos(record)
    question = _read_form(record, number, metadata)
    if not question.images and not any(is_filled(record.get(name)) for name in IMAGE_COLUMNS):
        refuse_unread_images(record)
    return question


def _read_form(record: Mapping[str, Any], number: int, metadata: Mapping[str, Any]) -> Question:
    if _turns(record) is not None:
        return _conversation(record, number, metadata)
    if record.get("task_instance") is not None:
        return _demon(record, metadata)
    if record.get("content") is not None:
        return _evaluation(record)
    if record.get("problem") is not None or record.get("prompt") is not None:
        return _verl(record)
    if record.get("question") is not None:
        return _bench(record)
    raise RowError("prompt", f"none of the known forms of a question; got the keys {sorted(map(str, record))[:12]}")


def _conversation(record: Mapping[str, Any], number: int, metadata: Mapping[str, Any]) -> Question:
    turns = _turns(record)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and _role(turn) for turn in turns):
        known = ", ".join(ROLES)
        raise RowError("prompt", f"a conversation must be a list of {{from, value}} by {known}; got {turns!r:.120}")
    texts = [(_role(turn), turn.get("value", turn.get("content"))) for turn in turns]
    if not all(isinstance(text, str) for _, text in texts):
        raise RowError("prompt", "every turn of a conversation needs a text under 'value' or 'content'")
    if [role for role, _ in texts].count("system") > 1:
        raise RowError("prompt", "a conversation can have one system text; got a second one")
    answers = [place for place, (role, _) in enumerate(texts) if role == "assistant"]
    if number >= len(answers) or answers[number] == 0 or texts[answers[number] - 1][0] != "user":
        raise RowError("prompt", "conversations must have an answer (gpt) after each question (human)")
    own = record.get("metadata") if isinstance(record.get("metadata"), dict) else {}
    place = answers[number]
    _refuse_unread(record, turns[: place + 1])
    for turn in turns[:place]:
        refuse_media_of_turn(turn)
    images = _images(image_cells(record, ()))
    if count_tags([text for _, text in texts]) == len(images):
        images = images[: count_tags([text for _, text in texts[:place]])]
    name = _first(record, "id", "sample_id", "question_id")
    several = len(answers) > 1 and name is not None
    return Question(
        turns=tuple(texts[:place]),
        images=images,
        answer=texts[place][1],
        said=texts[place][1],
        identity=f"{name}-{number + 1}" if several else name,
        instruction=_instruction(record, {**metadata, **own}),
        choices=_first(record, *CHOICES) or own.get("choice_list"),
    )


def _turns(record: Mapping[str, Any]) -> Any:
    """The turns of a conversation in any of its forms, None for a record of another form."""
    turns = _first(record, "conversations", "messages")
    if turns is None and isinstance(record.get("instruction"), str) and "output" in record:
        given = record.get("input")
        if given is not None and not isinstance(given, str):
            raise RowError("prompt", f"input must be a text; got {given!r:.120}")
        asked = "\n".join(text for text in (record["instruction"], given) if text)
        history = record.get("history") or []
        if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            return history  # the caller refuses it, because it is no list of turns
        pairs = [*history, (asked, record["output"])]
        turns = [{"role": role, "content": text} for pair in pairs for role, text in zip(_ALPACA, pair, strict=True)]
    system = record.get("system")
    if isinstance(turns, list) and system not in (None, ""):
        return [{"role": "system", "content": system}, *turns]
    return turns


def _refuse_unread(record: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> None:
    """Raises RowError for what this reader does not support and must not ignore.

    These are tools, reasoning in a message under a key beside `content`, and a mark that the
    response must not be trained on, such as label=false in the record, or weight=0 in the response's turn.
    turns: up to the response, which is the last.
    """
    for holder in ({"tools": record.get("tools")}, *turns):
        refuse_unread_words(holder)
    said = turns[-1]
    marks = {"label": record.get("label"), "kto_tag": record.get("kto_tag"), "weight": said.get("weight")}
    for key, mark in marks.items():
        if mark is False or (key == "weight" and mark == 0):
            raise RowError("prompt", f"{key}={mark!r} marks a response that must not be trained on; remove it")


def _demon(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> Question:
    task = record["task_instance"]
    if not isinstance(task, dict) or not isinstance(task.get("context"), str):
        raise RowError("prompt", "task_instance must have a text under 'context'")
    images = next((task[name] for name in _DEMON_IMAGES if is_filled(task.get(name))), None)
    if images is None:
        refuse_videos(task)
        refuse_unread_images({**record, **task}, *IMAGE_COLUMNS)
    return Question(
        turns=(("user", task["context"]),),
        images=_images(images),
        answer=record.get("response"),
        identity=_first(record, "sample_id", "id"),
        instruction=_instruction(record, metadata),
        choices=_first(task, *CHOICES),
    )


def _evaluation(record: Mapping[str, Any]) -> Question:
    parts = record["content"]
    if isinstance(parts, str):
        parts = [{"type": "text", "text": parts}]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise RowError("prompt", f"content must be a list of parts; got {parts!r:.120}")
    if record.get("role", "user") != "user":
        raise RowError("prompt", f"the role must be user; got {record['role']!r:.80}")
    tagged = any(isinstance(part.get("text"), str) and has_numbers(part["text"]) for part in parts)
    images, text, after_image = [], "", False
    for part in parts:
        is_image = part.get("type") == "image"
        if is_image:
            refuse_unread_keys(part, ("type", "image", "path", "url"))
            images.append(_first(part, "image", "path", "url"))
            text += "" if tagged else f"{{image#{len(images)}}}"
        elif part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            refuse_unread_keys(part, ("type", "text"))
            text += ("\n" if after_image and not tagged else "") + part["text"]
        else:
            raise wrong_part(part)
        after_image = is_image
    if not images:
        refuse_unread_images(record, *IMAGE_COLUMNS)
    extra = extra_info_of(record)
    return Question(
        turns=(("user", text),),
        images=tuple(images),
        answer=record.get("ground_truth"),
        identity=_first(extra, "sample_id", "id"),
        choices=_first(extra, *CHOICES),
        extra=extra,
    )


def _bench(record: Mapping[str, Any]) -> Question:
    question = record["question"]
    if not isinstance(question, str):
        raise RowError("prompt", f"question must be a text; got {question!r:.120}")
    return Question(
        turns=(("user", question),),
        images=_images(image_cells(record, ())),
        answer=_first(record, "answer", "ground_truth"),
        identity=_first(record, "id", "question_id"),
        choices=_first(record, *CHOICES),
    )


def _verl(record: Mapping[str, Any]) -> Question:
    messages, inline = messages_of(record)
    model, extra = _mapping(record, "reward_model", "truth"), extra_info_of(record)
    return Question(
        turns=tuple((message.role, message.text) for message in messages),
        images=_images(image_cells(record, inline)),
        answer=model.get("ground_truth", _first(record, "answer", "ground_truth")),
        identity=_first({"extra": extra.get("id"), "own": record.get("id")}, "extra", "own"),
        choices=_first(extra, *CHOICES) or _first(record, *CHOICES),
        extra=extra,
        response=record.get("response"),
    )


def _instruction(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> str | None:
    """The task instruction of a record. If the metadata has a single text, it is this text for every record.

    Otherwise it is the text with the record's task_instruction_id; "" for a record without task_instruction_id; None if
    the record has one, but the metadata has no instructions. Raises RowError if no instruction has this number.
    """
    known, number = metadata.get("task_instruction"), record.get("task_instruction_id")
    if isinstance(known, str):
        return known.strip()
    if number is None:
        return ""
    if known is None:
        return None
    if isinstance(known, dict):
        found = known.get(str(number))
    else:
        place = int(number) if str(number).isdecimal() else -1
        found = known[place] if isinstance(known, list) and 0 <= place < len(known) else None
    if not isinstance(found, str):
        raise RowError("prompt", f"no text for task_instruction_id {number!r:.80} in the metadata's task_instruction")
    return found.strip()


def _mapping(record: Mapping[str, Any], key: str, reason: str) -> Mapping[str, Any]:
    value = record.get(key)
    if value is not None and not isinstance(value, dict):
        raise RowError(reason, f"{key} must be a mapping; got {type(value).__name__}")
    return value or {}


def _images(value: Any) -> tuple[Any, ...]:
    items: Sequence[Any] = value if isinstance(value, list) else [] if value is None else [value]
    for item in items:
        refuse_unread_keys(item)
    return tuple(item.get("path") if isinstance(item, dict) else item for item in items)


def _first(record: Mapping[str, Any], *keys: str) -> Any:
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _role(turn: Mapping[str, Any]) -> str | None:
    return ROLES.get(str(turn.get("from", turn.get("role"))))
