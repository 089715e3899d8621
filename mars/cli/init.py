"""`mars init DIR`: writes a user's own project, which trains without changes."""

from __future__ import annotations

import shlex
from pathlib import Path

from mars.data.synthetic.starter import write_starter
from mars.errors import ConfigError

_TEMPLATES = Path(__file__).parent / "project"
_LEFT_OUT = "__pycache__"


def init(folder: Path) -> list[str]:
    """Write the project to `folder`, which must be new or empty, and return what to print.

    Raises ConfigError if the folder has files or cannot be written.
    """
    _check_empty(folder)
    files = [path for path in sorted(_TEMPLATES.rglob("*")) if path.is_file() and _LEFT_OUT not in path.parts]
    try:
        for source in files:
            path = folder / source.relative_to(_TEMPLATES)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
        write_starter(folder)
    except OSError as error:
        raise ConfigError(f"DIR: cannot write {folder}: {error.strerror or error}; give another folder") from error
    written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    run = shlex.join(["bash", str(folder / "run.sh")])
    return [*(f"wrote {folder / name}" for name in written), f"next: {run}   ({folder / 'README.md'} explains it)"]


def _check_empty(folder: Path) -> None:
    try:
        if next(folder.iterdir(), None) is not None:
            raise ConfigError(f"DIR: the folder is not empty; got {folder}; give a new one, or an empty one")
    except FileNotFoundError:
        if folder.is_symlink():
            raise ConfigError(f"DIR: a link that leads nowhere; got {folder}; give another folder") from None
    except OSError as error:
        raise ConfigError(f"DIR: cannot be read: {error.strerror}; got {folder}; give another folder") from error
