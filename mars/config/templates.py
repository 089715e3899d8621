"""The prompt template that a setting names."""

from __future__ import annotations

from pathlib import Path

from mars.config.folders import shipped_folder
from mars.errors import ConfigError

BY_REWARD = "auto"
OFF = "none"
BUILT_IN = ("grounding", "vqa")
SUFFIX = ".jinja"


def template_file(setting: str, function: str | None) -> Path | None:
    """The file of `data.template`, or None where prompts stay as they are.

    function: the reward function, which "auto" follows: a built-in one has a template of its own, another has none.
    Raises ConfigError for a file that is not there.
    """
    if setting == BY_REWARD:
        setting = function if function in BUILT_IN else OFF
    if setting == OFF:
        return None
    path = template_folder() / f"{setting}{SUFFIX}" if setting in BUILT_IN else Path(setting).expanduser()
    if not path.is_file():
        raise ConfigError(f"data.template: no such file; got {setting!r}; give {wanted()}")
    return path


def template_folder() -> Path:
    """Where the shipped templates are, for templates that include them."""
    return shipped_folder() / "data"


def wanted() -> str:
    return f"{', '.join((BY_REWARD, *BUILT_IN, OFF))} or path/to/file{SUFFIX}"
