"""Chooses and packs the files of a user's folder that are sent to the cluster with a job."""

from __future__ import annotations

import fnmatch
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mars.errors import ConfigError

_FOLDERS = ("runs", "wandb", "outputs", "venv", "node_modules", "__pycache__", "*.egg-info")
_FILES = ("*.parquet", "*.arrow", "*.safetensors", "*.pt", "*.pth", "*.bin", "*.zip", "*.tar", "*.gz", "*.pyc")
_MAX_BYTES = 64 * 2**20
_MAX_FILES = 5000
_SHOWN = 5
# The oldest date that a zip file can hold, the same for all files, so that equal files give an equal package.
_DATE = (1980, 1, 1, 0, 0, 0)


def files_of_job(folder: Path, excludes: Sequence[str]) -> list[Path]:
    """The files in `folder` that are sent, relative to it, in the order of their names.

    Left out are hidden files and folders (.git, .venv, .env), virtual environments, results (runs, wandb), files of
    data and weights, a checkout's own package mars (the nodes have theirs), links to folders, and what matches
    `excludes`: patterns such as "*.png" or "notes/*", of a name or of a relative path.
    Raises ConfigError if there are too many files, if they are too large in sum (the message names the largest), if a
    folder cannot be read, or if a file's name is not UTF-8.
    """
    found: list[Path] = []
    for path in _walk(folder, folder, excludes):
        found.append(path)
        if len(found) > _MAX_FILES:
            raise ConfigError(
                f"{folder}: more than {_MAX_FILES} files would be sent to the cluster; start the command in the folder "
                "of your reward functions, or leave others out with --exclude PATTERN"
            )
    sizes = {path: (folder / path).stat().st_size for path in found}
    if sum(sizes.values()) > _MAX_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
        listed = ", ".join(f"{path} ({sizes[path] / 2**20:.1f} MiB)" for path in largest)
        raise ConfigError(
            f"{folder}: its files have {sum(sizes.values()) / 2**20:.0f} MiB, and at most {_MAX_BYTES // 2**20} MiB "
            f"are sent to the cluster; the largest: {listed}; leave them out with --exclude PATTERN"
        )
    return found


def write_package(target: Path, folder: Path, files: Sequence[Path], more: Mapping[str, str]) -> None:
    """Write a zip file with `files` of `folder`, and the texts `more` by their names. Equal contents give equal
    bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
        for path in files:
            try:
                mode = (folder / path).stat().st_mode & 0o700
                _add(package, path.as_posix(), (folder / path).read_bytes(), mode)
            except OSError as error:
                raise _unsendable(path, error.strerror or str(error)) from error
        for name, text in more.items():
            _add(package, name, text.encode(), 0o600)


def _add(package: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = (stat.S_IFREG | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    package.writestr(entry, content)


def _walk(top: Path, folder: Path, excludes: Sequence[str]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unsendable(folder.relative_to(top), error.strerror or str(error)) from error
    for entry in entries:
        path = Path(entry.path)
        relative = path.relative_to(top)
        if entry.name.startswith(".") or _matches(relative, excludes):
            continue
        if entry.is_dir(follow_symlinks=False):
            own_package = folder == top and entry.name == "mars" and (path / "__init__.py").is_file()
            left_out = own_package or (path / "pyvenv.cfg").is_file() or _matches(Path(entry.name), _FOLDERS)
            if not left_out:
                yield from _walk(top, path, excludes)
        elif path.is_file() and not _matches(Path(entry.name), _FILES):
            try:
                relative.as_posix().encode()
            except UnicodeEncodeError as error:
                raise _unsendable(relative, "its name is not UTF-8") from error
            yield relative


def _unsendable(path: Path, reason: str) -> ConfigError:
    name = os.fsencode(path).decode(errors="backslashreplace")
    return ConfigError(
        f"{name}: it cannot be sent to the cluster ({reason}); rename or remove it, or leave it out with --exclude "
        "PATTERN"
    )


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for text in (path.name, path.as_posix()) for pattern in patterns)
