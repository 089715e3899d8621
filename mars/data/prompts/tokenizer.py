"""Load the model's tokenizer without importing the code of the model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mars.errors import SetupError
from mars.families.table import FAMILIES
from mars.output.files import read_regular, special_kind

# tokenizer_class in tokenizer_config.json of a supported model -> the class that AutoTokenizer uses for it.
_CLASSES = {
    "Qwen2Tokenizer": "Qwen2Tokenizer",
    "Qwen2TokenizerFast": "Qwen2Tokenizer",
    "TokenizersBackend": "TokenizersBackend",
}
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)
MAX_BYTES = 2**28  # many times the largest tokenizer.json of today


def load_tokenizer(model_path: str, trust_remote_code: bool) -> Any:
    """transformers' tokenizer of a Hugging Face folder or hub name.

    Raises SetupError if there is none. For the supported families the tokenizer's class is used directly, because
    AutoTokenizer imports half of transformers and torch's compiler. In a fresh process this takes 1.9 processor seconds
    instead of 3.6 (three runs each, within 0.1).
    """
    refuse_large_files(model_path)
    declared = read_json(model_path, "tokenizer_config.json")
    model_type = read_json(model_path, "config.json").get("model_type")
    longest = declared.get("model_max_length")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int | float) or longest < 1):
        raise SetupError(
            f"model.path: {model_path}/tokenizer_config.json: model_max_length must be a number, at least 1; "
            f"got {longest!r}; download the file again"
        )
    try:
        return _load(model_path, model_type, declared, trust_remote_code)
    except Exception as error:
        for name in ("tokenizer.json", "vocab.json", "special_tokens_map.json", "added_tokens.json"):
            read_json(model_path, name)  # raises for the file that is broken
        _check_text(model_path, "chat_template.jinja")
        folder = Path(model_path)
        is_no_model = folder.is_dir() and not (folder / "config.json").is_file()
        why = "the folder has no config.json" if is_no_model else f"{type(error).__name__}: {error}"
        raise SetupError(
            f"model.path: no tokenizer could be loaded; got {model_path}; give a Hugging Face folder or hub name, or "
            f"download its tokenizer files again ({why})"
        ) from error


def _load(model_path: str, model_type: Any, declared: dict[str, Any], trust_remote_code: bool) -> Any:
    import transformers

    if model_type in FAMILIES and "auto_map" not in declared:
        name = FAMILIES[model_type].tokenizer_class or _CLASSES.get(str(declared.get("tokenizer_class")))
        if name is not None:
            return getattr(transformers, name).from_pretrained(model_path)
    return transformers.AutoTokenizer.from_pretrained(model_path, trust_remote_code=trust_remote_code)


def model_type_of(model_path: str) -> str:
    """config.json's model_type, such as "qwen2_5_vl"; "" if it has none."""
    return str(read_json(model_path, "config.json").get("model_type", ""))


def read_json(model_path: str, name: str) -> dict[str, Any]:
    """A JSON file of the model's folder or hub repository; empty if the model has no such file.

    Raises SetupError if there is no such model, or if the file cannot be read or holds anything but a JSON object.
    """
    path = _file(model_path, name)
    return read_json_file(path) if path else {}


def has_file(model_path: str, name: str) -> bool:
    """Whether the model's folder or hub repository has a file. Raises SetupError if there is no such model."""
    return _file(model_path, name) is not None


def _file(model_path: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    refuse_file(model_path)
    try:
        path = cached_file(model_path, name, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise SetupError(f"model.path: no such folder or hub model; got {model_path}: {error}") from error
    if path is None and name == "config.json" and not Path(model_path).is_dir():
        raise no_model(model_path)
    return Path(path) if path else None


def _check_text(model_path: str, name: str) -> None:
    """Raises SetupError if the model has a file of this name that cannot be read as text in UTF-8."""
    path = _file(model_path, name)
    try:
        if path is not None:
            read_regular(path, MAX_BYTES).decode()
    except (OSError, ValueError) as error:
        raise SetupError(
            f"model.path: {path}: not a readable text file in UTF-8: {error}; download it again"
        ) from error


def refuse_file(model_path: str, key: str = "model.path") -> None:
    """Raises SetupError if something is at this path that is not a folder: a file, or a link that leads to nothing.

    Called before the hub is asked for a model of this name, because without a network that takes half a minute.
    """
    if os.path.lexists(model_path) and not os.path.isdir(model_path):
        raise no_model(model_path, key)


def no_model(model_path: str, key: str = "model.path") -> SetupError:
    """The error for a path that is no folder, and of which the hub and its cache have no config.json. key: the setting
    that holds the path."""
    folder = Path(model_path)
    if folder.exists():
        what = special_kind(folder.stat().st_mode) or "a file"
        is_in_model = folder.is_file() and (folder.parent / "config.json").is_file()
        remedy = f"give the folder that holds it, {folder.parent}" if is_in_model else "give the folder of a model"
        return SetupError(f"{key}: is {what}, and not the folder of a model; got {model_path}; {remedy}")
    if folder.is_symlink():
        return SetupError(f"{key}: a link that leads to nothing; got {model_path}; correct the link")
    return SetupError(
        f"{key}: no such folder, and no such model on the Hugging Face hub, or the hub cannot be reached; got "
        f"{model_path}; correct the path, or download the model where there is a network"
    )


def read_json_file(path: Path, key: str = "model.path") -> dict[str, Any]:
    """The object in one of the model's JSON files. key: the setting to name in errors. Raises SetupError."""
    try:
        # tokenizer.json may repeat a key: the library that reads it keeps the last value, as json does.
        pairs = None if path.name == "tokenizer.json" else _one_value_each
        value = json.loads(read_regular(path, MAX_BYTES), parse_constant=_no_number, object_pairs_hook=pairs)
    except (OSError, ValueError, RecursionError) as error:
        raise SetupError(f"{key}: {path}: not a readable JSON file: {error}; download it again") from error
    if not isinstance(value, dict):
        raise SetupError(f"{key}: {path}: want a JSON object; got {type(value).__name__}; download it again")
    return value


def refuse_large_files(model_path: str, key: str = "model.path") -> None:
    """Raises SetupError if a file of SMALL_FILES in the model's folder has more than MAX_BYTES bytes."""
    for name in SMALL_FILES:
        file = Path(model_path) / name
        size = file.stat().st_size if file.is_file() else 0
        if size > MAX_BYTES:
            raise SetupError(f"{key}: {file}: has {size} bytes; at most {MAX_BYTES} are read; download it again")


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}, which JSON does not have")


def _one_value_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it gives {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
