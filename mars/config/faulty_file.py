"""Find the file that keeps Hydra from composing a configuration, if Hydra's message does not name it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mars.config.problem import Problem


def faulty_file(folders: Sequence[Path], words: Sequence[str]) -> Problem | None:
    """The first fault in the files that `words` choose, and in those that their `defaults` name: a file that is not
    text, is nested without end, or leads back to itself, or an entry of `defaults` that is no name. None if there is
    none.

    folders: searched in this order. words: overrides, such as experiment=mine or experiment=[quickstart,mine].
    """
    for word in words:
        group, _, choices = word.partition("=")
        for choice in re.findall(r"[\w./-]+", choices):
            problem = _fault_in(f"{group.lstrip('+')}/{choice}", (), folders)
            if problem is not None:
                return problem
    return None


def _fault_in(name: str, above: tuple[str, ...], folders: Sequence[Path]) -> Problem | None:
    """name: file without .yaml, such as "experiment/mine". above: the files that led to it, from the first."""
    path = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        return None
    if name in above:
        return _circle(path, (*above[above.index(name) :], name))
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except UnicodeDecodeError:
        return Problem(str(path), "is not text in UTF-8", "correct the file")
    except RecursionError:
        return Problem(str(path), "is nested too deeply, or an alias (*name) contains itself", "correct the file")
    except (OSError, yaml.YAMLError, OmegaConfBaseException):
        return None  # Hydra's message names the file
    defaults = content.get("defaults") if isinstance(content, dict) else None
    for entry in defaults if isinstance(defaults, list) else ():
        if not isinstance(entry, str | dict):
            want = "write `- name` or `- group: choice`"
            return Problem(str(path), "an entry of `defaults` is not a name", want, got=entry)
        for named in _named(entry, name.rpartition("/")[0]):
            problem = _fault_in(named, (*above, name), folders)
            if problem is not None:
                return problem
    return None


def _circle(path: Path, names: tuple[str, ...]) -> Problem:
    if len(names) == 2:
        return Problem(str(path), "its `defaults` name the file itself", "remove this entry")
    return Problem(str(path), f"its `defaults` lead back to the file itself ({' -> '.join(names)})", "remove an entry")


def _named(entry: Any, group: str) -> Iterator[str]:
    """The files that an entry of `defaults` names. group: that of the file which has the entry.

    In the group "experiment", "mine" and {"/experiment": ["mine"]} both name "experiment/mine".
    """
    pairs = entry.items() if isinstance(entry, dict) else [("", entry)]
    for key, choices in pairs:
        words = str(key).split()  # "override" or "optional" may stand before the group
        for choice in choices if isinstance(choices, list) else [choices]:
            if choice in (None, "_self_"):
                continue
            named = "/".join(
                filter(None, (words[-1].partition("@")[0] if words else "", str(choice).partition("@")[0]))
            )
            yield named[1:] if named.startswith("/") else f"{group}/{named}"
