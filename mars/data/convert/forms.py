"""The forms in which public JSON files write a question, all read into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mars.data.problems import RowError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Question:
    """One question as written: its image tags are still those of its format, its paths those of its file.

    turns: (role, text) up to the question itself. answer: text, number or list of boxes.
    instruction: DEMON's, in front of the question. extra: the row's own extra_info.
    """

    turns: tuple[tuple[str, str], ...]
    images: tuple[Any, ...]
    answer: Any
    identity: str | None = None
    instruction: str = ""
    choices: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    response: str | None = None


def count_questions(record: Any) -> int:
    """How many questions a record asks: as many as its conversation has answers, else one."""
    turns = record.get("conversations") if isinstance(record, dict) else None
    if not isinstance(turns, list):
        return 1
    return max(sum(isinstance(turn, dict) and _role(turn) == "assistant" for turn in turns), 1)


def read_question(record: Any, number: int, metadata: Mapping[str, Any]) -> Question:
    """Question `number` (from 0) of a record in any of these forms. Raises RowError.

    - {id or sample_id, image, conversations: [{from: human, value}, {from: gpt, value}, …]}: LLaVA, SpatialQA,
      M4-Instruct. Question k comes with the turns before it, answers included.
    - {sample_id, task_instruction_id, task_instance: {context, images_path, choice_list?}, response}: DEMON, with
      metadata {task_instruction: [...]}.
    - {role, content: [{type: image, image}, …, {type: text, text}], ground_truth, extra_info?}: evaluation files.
    - {image, question, answer}: SpatialBench; {problem or prompt, answer or reward_model, images}: EasyR1, verl.
    """
    if not isinstance(record, dict):
        raise RowError("json", f"a record must be a JSON object; got {type(record).__name__}")
    if "conversations" in record:
        return _conversation(record, number, metadata)
    if "task_instance" in record:
        return _demon(record, metadata)
    if "content" in record:
        return _evaluation(record)
    if "question" in record:
        return _bench(record)
    if "problem" in record or "prompt" in record:
        return _verl(record)
    raise RowError("prompt", f"none of the known forms of a question; got the keys {sorted(map(str, record))[:12]}")


def _conversation(record: Mapping[str, Any], number: int, metadata: Mapping[str, Any]) -> Question:
    turns = record["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and _role(turn) for turn in turns):
        raise RowError("prompt", f"conversations must be a list of {{from, value}}; got {turns!r:.120}")
    texts = [(_role(turn), turn.get("value", turn.get("content"))) for turn in turns]
    if not all(isinstance(text, str) for _, text in texts):
        raise RowError("prompt", "every turn of a conversation needs a text under 'value'")
    answers = [place for place, (role, _) in enumerate(texts) if role == "assistant"]
    if number >= len(answers) or answers[number] == 0 or texts[answers[number] - 1][0] != "user":
        raise RowError("prompt", "conversations must have an answer (gpt) after each question (human)")
    own = record.get("metadata") if isinstance(record.get("metadata"), dict) else {}
    place = answers[number]
    name = _first(record, "id", "sample_id", "question_id")
    several = len(answers) > 1 and name is not None
    return Question(
        turns=tuple(texts[:place]),
        images=_images(_first(record, "image", "images")),
        answer=texts[place][1],
        identity=f"{name}-{number + 1}" if several else name,
        instruction=_instruction(record, {**metadata, **own}),
        choices=_first(record, "choice_list") or own.get("choice_list"),
    )


def _demon(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> Question:
    task = record["task_instance"]
    if not isinstance(task, dict) or not isinstance(task.get("context"), str):
        raise RowError("prompt", "task_instance must have a text under 'context'")
    return Question(
        turns=(("user", task["context"]),),
        images=_images(_first(task, "images_path", "image_path", "images")),
        answer=record.get("response"),
        identity=_first(record, "sample_id", "id"),
        instruction=_instruction(record, metadata),
        choices=task.get("choice_list"),
    )


def _evaluation(record: Mapping[str, Any]) -> Question:
    parts = record["content"]
    if isinstance(parts, str):
        parts = [{"type": "text", "text": parts}]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise RowError("prompt", f"content must be a list of parts; got {parts!r:.120}")
    if record.get("role", "user") != "user":
        raise RowError("prompt", f"the role must be user; got {record['role']!r:.80}")
    images, text = [], ""
    for part in parts:
        if part.get("type") == "image":
            images.append(_first(part, "image", "path", "url"))
            text += f"{{image#{len(images)}}}"
        elif isinstance(part.get("text"), str):
            text += ("\n" if text.endswith("}") else "") + part["text"]
        else:
            raise RowError("prompt", f"content parts must be of type image or text; got {part.get('type')!r:.80}")
    extra = record.get("extra_info") if isinstance(record.get("extra_info"), dict) else {}
    return Question(
        turns=(("user", text),),
        images=tuple(images),
        answer=record.get("ground_truth"),
        identity=_first(extra, "sample_id", "id"),
        choices=extra.get("choices"),
        extra=extra,
    )


def _bench(record: Mapping[str, Any]) -> Question:
    question = record["question"]
    if not isinstance(question, str):
        raise RowError("prompt", f"question must be a text; got {question!r:.120}")
    answer = _first(record, "answer", "ground_truth")
    name = _first(record, "id", "question_id")
    return Question((("user", question),), _images(_first(record, "image", "images")), answer, name)


def _verl(record: Mapping[str, Any]) -> Question:
    turns = record["prompt"] if record.get("prompt") is not None else record.get("problem")
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    texts = [(turn.get("role"), turn.get("content")) for turn in _dicts(turns)]
    if not texts or not all(isinstance(text, str) for _, text in texts):
        raise RowError("prompt", "prompt must be a text, or a list of {role, content} with texts")
    model = record.get("reward_model") if isinstance(record.get("reward_model"), dict) else {}
    extra = record.get("extra_info") if isinstance(record.get("extra_info"), dict) else {}
    return Question(
        turns=tuple((str(role), text) for role, text in texts),
        images=_images(_first(record, "images", "image")),
        answer=model.get("ground_truth", _first(record, "answer", "ground_truth")),
        identity=_first(extra, "id") or _first(record, "id"),
        choices=extra.get("choices"),
        extra=extra,
        response=record.get("response"),
    )


def _instruction(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The task instruction of a record: the metadata's text, or that of the record's number in its list; "" if none."""
    known, number = metadata.get("task_instruction"), record.get("task_instruction_id")
    if isinstance(known, str):
        return known.strip()
    if number is None:
        return ""
    if isinstance(known, dict):
        found = known.get(str(number))
    else:
        place = int(number) if str(number).isdecimal() else -1
        found = known[place] if isinstance(known, list) and 0 <= place < len(known) else None
    if not isinstance(found, str):
        raise RowError("prompt", f"no text for task_instruction_id {number!r:.80} in the metadata's task_instruction")
    return found.strip()


def _dicts(value: Any) -> list[Any]:
    """A list of mappings; [] for anything else."""
    return value if isinstance(value, list) and all(isinstance(item, dict) for item in value) else []


def _images(value: Any) -> tuple[Any, ...]:
    items: Sequence[Any] = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(item.get("path") if isinstance(item, dict) else item for item in items)


def _first(record: Mapping[str, Any], *keys: str) -> Any:
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _role(turn: Mapping[str, Any]) -> str | None:
    return ROLES.get(str(turn.get("from", turn.get("role"))))
