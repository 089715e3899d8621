"""Paths on the command line of `mars`: arguments and options in which "~" means the home folder, also after "=".

A shell replaces "~" only at the start of a word, so it passes on `--image-root=~/images` unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mars.cli.completion import complete_run
from mars.config.paths import given_path
from mars.errors import ConfigError


def path_argument(**settings: Any) -> Any:
    """`typer.Argument` for a parameter of type Path, or a list of them."""
    return typer.Argument(parser=_path, **settings)


def path_option(*names: str, **settings: Any) -> Any:
    """`typer.Option` for a parameter of type Path, or a list of them."""
    return typer.Option(*names, parser=_path, **{"metavar": "PATH", **settings})


def path_text_argument(**settings: Any) -> Any:
    """`typer.Argument` for a parameter of type str that is a path or a name, such as that of a model."""
    return typer.Argument(parser=_text, **settings)


def path_text_option(*names: str, **settings: Any) -> Any:
    """`typer.Option` for a parameter of type str that is a path or a name, or a list of them."""
    return typer.Option(*names, parser=_text, **{"metavar": "PATH", **settings})


def _path(text: str | Path) -> Path:
    return Path(_text(str(text)))


def _text(text: str) -> str:
    try:
        return given_path(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


RunDir = Annotated[Path, path_argument(metavar="RUN", help="Folder of a run (run.dir).", autocompletion=complete_run)]
RunDirs = Annotated[
    list[Path],
    path_argument(
        metavar="RUN",
        help="Folders of runs (run.dir); the others are compared with the first.",
        autocompletion=complete_run,
    ),
]
ConfigDirs = Annotated[list[str] | None, path_text_option(help="Folder with further configuration files; repeatable.")]
