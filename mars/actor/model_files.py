"""Copy a model's tokenizer, processor and generation settings to the folder of the policy trained from the model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

# Endings of the files to copy. Weights and config.json are saved from the policy. The files are copied because
# transformers would write some of them in another form. It also refuses to write some files that it can read, such as
# generation settings that contradict each other.
_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".py")
# The files to copy if model.path is a hub name, whose files cannot be listed.
_HUB_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class NotCopied:
    """name: of the file, relative to the model's folder."""

    name: str
    error: OSError

    def __str__(self) -> str:
        return f"{self.name} ({self.error.strerror or self.error})"


def carry_files(model_path: str, folder: str) -> list[NotCopied]:
    """Copy the files of `_carried` to `folder`. Returns those that could not be copied."""
    failed = []
    for name, source in _carried(model_path):
        target = Path(folder) / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        except shutil.SameFileError:  # the policy is saved into the folder of its own model
            continue
        except OSError as error:
            failed.append(NotCopied(name, error))
    return failed


def _carried(model_path: str) -> list[tuple[str, Path]]:
    """(name relative to the model's folder, path) of each file to copy."""
    folder = Path(model_path)
    if not folder.is_dir():
        found = [(name, _hub_file(model_path, name)) for name in _HUB_FILES]
        return [(name, path) for name, path in found if path is not None]
    files = sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")])
    return [(str(file.relative_to(folder)), file) for file in files if file.is_file() and _is_carried(file.name)]


def _is_carried(name: str) -> bool:
    return name.endswith(_SUFFIXES) and name != "config.json" and not name.endswith(".index.json")


def _hub_file(model_path: str, name: str) -> Path | None:
    """A file of a hub repository, from the local cache or downloaded; None if there is no such file."""
    from transformers.utils import cached_file

    found = cached_file(model_path, name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None
