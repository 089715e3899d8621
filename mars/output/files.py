"""Write files completely or not at all, and raise errors that name the file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mars.errors import ConfigError, DataError, SetupError

MAX_BYTES = 2**31  # of a file that is read whole

_SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# What to do if the system refuses a path. The user may have given it, or a library may have chosen it.
_REMEDIES = {
    errno.EACCES: "change the permissions; if an option or a setting names this path, another can be given",
    errno.EPERM: "change the permissions; if an option or a setting names this path, another can be given",
    errno.EROFS: "make the disk writable; if an option or a setting names this path, another can be given",
    errno.ENOTDIR: "a part of the path is a file and not a folder; correct the path",
    errno.EISDIR: "remove this folder; if an option or a setting names it, the path of a file can be given",
    errno.ELOOP: "correct the link that leads to itself",
    errno.ENAMETOOLONG: "give a shorter path",
}

# Errors that can come only from writing a file, not from reading one.
_NO_ROOM = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit of the size of a file (`ulimit -f`)",
}


def special_kind(mode: int) -> str | None:
    """The kind of a path with this mode (`st_mode` of `os.stat`), such as "a named pipe"; None for a regular file."""
    return None if stat.S_ISREG(mode) else _SPECIAL.get(stat.S_IFMT(mode), "no file")


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises OSError, with the reason in `strerror`, if `path` is not a regular file. Opening a named pipe would wait
    for a writer."""
    special = special_kind(os.stat(path).st_mode)
    if special is not None:
        raise OSError(errno.EINVAL, f"it is {special}, not a file", os.fspath(path))


def read_regular(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file. Raises OSError, also for a folder, a pipe, a device, or a file of more than `most` bytes."""
    check_regular(path)
    size = path.stat().st_size
    if size > most:
        raise OSError(errno.EFBIG, f"it has {size} bytes; at most {most} are read", os.fspath(path))
    return path.read_bytes()


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of results. Raises DataError."""
    try:
        return read_regular(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give results of mars eval infer") from error


def private_folder_problem(folder: Path) -> str | None:
    """Why others might change the contents of an existing `folder`; None if only this user can enter it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is no folder, or a link to one; give a folder of your own"
    if found.st_uid != os.getuid():
        return f"{folder} belongs to somebody else; give a folder of your own"
    if found.st_mode & 0o077:
        return (
            f"others can enter {folder} (mode {stat.S_IMODE(found.st_mode):04o}), where Ray lets everybody write; "
            f"`chmod 700 {folder}`, or give another folder"
        )
    return None


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A draft beside `path` for the block to write. The end of the block renames it to `path`; an exception deletes it.

    A process that opens `path` finds either the old file or the complete new one, even if the writer is killed midway.
    Makes the folder. shared: whether several processes may write the file at once. Then each draft has its own name,
    and stays behind if its process is killed.
    Raises OSError, also if `path` is a device, a pipe or a socket, because for root the renaming would replace even
    /dev/null.

        with replacing(Path("metrics.jsonl")) as draft:
            draft.write_bytes(lines)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_replaceable(path)
    draft = _draft(path, f"{os.getpid()}-" if shared else "")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):  # the failure itself is what must be reported
            draft.unlink(missing_ok=True)
        raise


def _check_replaceable(path: Path) -> None:
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, f"it is {special_kind(mode)}, not a file", os.fspath(path))


def write_atomically(path: Path, content: str, *, shared: bool = False) -> None:
    """Write a text file as `replacing` does. Raises SetupError."""
    try:
        with replacing(path, shared=shared) as draft:
            draft.write_bytes(content.encode())
    except OSError as error:
        raise cannot_write(path, error) from error


def give_usual_permissions(*paths: Path) -> None:
    """Give files the permissions of new files in their folder, because safetensors lets only this user read its files.

    Raises OSError.
    """
    for path in paths:
        draft = _draft(path)
        draft.touch()
        usual = stat.S_IMODE(draft.stat().st_mode)
        draft.unlink()
        path.chmod(usual)


def append(path: Path, content: str) -> None:
    """Append to a text file. Raises SetupError; part of `content` may then be at the end of the file."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(content)
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: Path, option: str) -> None:
    """Make the folder of the file `path`. Raises SetupError if no file can be written there.

    Called before a long job that writes the file at its end. option: names the path in messages, such as "--html".
    """
    if path.name in ("", "..") or (os.path.exists(path) and not os.path.isfile(path)):
        raise SetupError(f"{option}: want a file; got {str(path)!r}; give a path such as folder/file")
    draft = _draft(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise cannot_write(path, error, option) from error


def check_folder(folder: Path, option: str) -> None:
    """Raises SetupError if the folder cannot be made, or if it exists and no file can be made in it.

    Makes and changes nothing. option: names the path in messages, such as "run.dir".
    """
    try:
        os.stat(folder)
    except FileNotFoundError:
        pass
    except OSError as error:  # a loop of links, a name that is too long, a file among the folders above
        raise cannot_write(folder, error, option) from error
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    if not there.is_dir():
        what = "a link to nothing" if there.is_symlink() else "a file"
        raise SetupError(
            f"{option}: want a folder; got {folder}, and {there} is {what}; remove it, or give another path"
        )
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise cannot_write(there, OSError(errno.EROFS, os.strerror(errno.EROFS)), option)
    if not os.access(there, os.W_OK | os.X_OK):
        raise SetupError(
            f"{option}: cannot be written, because no file can be made in {there}; got {folder}; give another path, or "
            f"change the permissions of {there}"
        )


@contextmanager
def writing_into(folder: Path, option: str) -> Iterator[None]:
    """For a block that writes files into `folder`. Raises SetupError before the block as `check_folder` does, and in
    place of an OSError of the block."""
    check_folder(folder, option)
    try:
        yield
    except OSError as error:
        path = Path(error.filename) if isinstance(error.filename, str) else folder
        raise cannot_write(path, error, option) from error


def check_page(path: Path, option: str) -> None:
    """As `check_writable`, for an HTML page.

    Raises ConfigError if the name does not end with .html or .htm, because the page could overwrite a file of another
    kind.
    """
    check_writable(path, option)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{option}: the name of a page ends with .html; got {path}; give such as page.html")


def cannot_write(path: Path, error: OSError, option: str | None = None) -> SetupError:
    """The error to raise for an OSError while writing."""
    name = str(path) if option is None else f"{option}: {path}"
    remedy = _NO_ROOM.get(error.errno or 0, "make room there")
    return SetupError(f"{name}: cannot be written ({error.strerror or error}); {remedy}, or give another path")


def no_room(error: BaseException) -> str | None:
    """What to do if `error` says that a file could not be written for lack of room. None for any other error."""
    return _NO_ROOM.get(error.errno or 0) if isinstance(error, OSError) else None


def refused_path(error: BaseException) -> SetupError | None:
    """The error to report in place of an OSError that nothing has caught, if the system refuses a path because of its
    permissions or its form. None for everything else, also for a missing file: that may be a fault of mars.

    A refusal that does not name its path, such as that of a signal to another user's process, is None too.
    """
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    path = error.filename if error.filename2 is None else f"{error.filename} -> {error.filename2}"
    return SetupError(f"{path}: cannot be used ({error.strerror}); {remedy}")


def _draft(path: Path, writer: str = "") -> Path:
    return path.with_name(f".tmp-{writer}{path.name}")
