"""The command line of `python -m mars.main` and `python -m mars.sft`: a few options, the rest are overrides."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars.config.folders import groups, shipped_folder

if TYPE_CHECKING:
    from mars.config.load import RootName

_WIDTH = 80  # most characters of a line
OPTIONS: dict[str, dict[str, Any]] = {
    "--config-dir": {
        "action": "append",
        "default": [],
        "metavar": "DIR",
        "help": "folder with further configuration files; repeatable",
    },
    "--cfg": {"choices": ["job"], "help": "print the composed configuration and exit"},
    "--dry-run": {"action": "store_true", "help": "check settings, data and model files and exit"},
}
"""Option -> its arguments of `add_argument`."""
PROGRAMS: dict[RootName, str] = {"train": "python -m mars.main", "sft": "python -m mars.sft"}
"""Configuration -> the command of its job."""
_EXAMPLES = {
    "train": "experiment=quickstart run.num_steps=5 --dry-run",
    "sft": "experiment=quickstart_sft run.num_steps=5 --dry-run",
}


@dataclass(frozen=True)
class CommandLine:
    """overrides: for Hydra; includes unknown options, which `load_config` reports with all other problems."""

    overrides: tuple[str, ...]
    config_dirs: tuple[str, ...]
    show_config: bool
    dry_run: bool


def parse_command_line(root: str, program: str, argv: Sequence[str]) -> CommandLine:
    """root: the configuration, "train" or "sft". Ends the process after --help (0) or a misused option (2)."""
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [options] [key=value ...]",
        epilog=f"{_choices(root)}\n\nExample:\n  {program} {_EXAMPLES[root]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change; docs/config.md lists all"
    )
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    options, unknown = parser.parse_known_intermixed_args(argv)
    overrides = (*options.overrides, *unknown)
    return CommandLine(overrides, tuple(options.config_dir), options.cfg is not None, options.dry_run)


def _choices(root: str) -> str:
    folders: list[Path] = [shipped_folder()]
    lines = [_wrapped(f"  {group}=", choices) for group, choices in groups(root, folders).items() if choices]
    return "\n".join(["groups:", *lines])


def _wrapped(start: str, choices: Sequence[str]) -> str:
    """The choices with "|" between them, on lines that fit the terminal."""
    lines, width = [start], min(shutil.get_terminal_size().columns, _WIDTH)
    for choice in choices:
        word = choice if choice == choices[-1] else f"{choice}|"
        if len(lines[-1]) + len(word) > width:
            lines.append("    ")
        lines[-1] += word
    return "\n".join(lines)
