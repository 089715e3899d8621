"""Find the file of a prompt template."""

from __future__ import annotations

from pathlib import Path

from mars.config.folders import shipped_folder
from mars.errors import ConfigError
from mars.plugin import find
from mars.rewards.built_in import BUILT_IN, built_in_names, is_built_in

BY_REWARD = "auto"
OFF = "none"
SUFFIX = ".jinja"


def template_file(setting: str, function: str | None) -> Path | None:
    """The file of `data.template`, or None where prompts stay as they are.

    setting: the value of `data.template`: the name of a built-in reward, whose template is used, or "auto", "none" or a
    file.
    function: the reward function. "auto" means its template: a built-in reward has one, a user's function has none.
    Raises ConfigError for a file that is not there.
    """
    if setting == BY_REWARD:
        setting = function if function is not None and is_built_in(function) else OFF
    if setting == OFF:
        return None
    if is_built_in(setting):
        return template_folder() / f"{BUILT_IN[setting].template}{SUFFIX}"
    path = find(setting)
    if not path.is_file():
        raise ConfigError(f"data.template: no such file; got {setting!r}; give {wanted(with_reward=True)}")
    return path


def template_folder() -> Path:
    """Where the shipped templates are; a user's template may include them."""
    return shipped_folder() / "data"


def is_template(setting: str, *, with_reward: bool) -> bool:
    """Whether `setting` is a valid value of `data.template`. with_reward: rows have a reward, so "auto" is valid."""
    return is_built_in(setting) or setting == OFF or setting.endswith(SUFFIX) or (with_reward and setting == BY_REWARD)


def wanted(*, with_reward: bool) -> str:
    """The values of `data.template`, for error messages: "auto, grounding, vqa, none or path/to/file.jinja"."""
    auto = [BY_REWARD] if with_reward else []
    return f"{', '.join([*auto, built_in_names(), OFF])} or path/to/file{SUFFIX}"
