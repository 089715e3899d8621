"""One way to call users' code: an error in it ends the run with a message that names the object and the line."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mars.errors import ConfigError, MarsError

_PACKAGE = Path(__file__).resolve().parent
_RECIPES = _PACKAGE / "recipe"  # if mars is installed; recipes are called like users' code
_LIBRARIES = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib"))


@contextmanager
def calling(
    failure: str,
    do: str = "correct it",
    *,
    unchanged: type[BaseException] | tuple[type[BaseException], ...] = MarsError,
) -> Iterator[None]:
    """If the block raises, raise a ConfigError from that error, so that the log has the traceback of the error.

    The block should be the call of the user's object and nothing else. Otherwise the message would say that the user's
    code had failed where mars did. SystemExit counts as an error too.

    failure: the setting, the object, and where it failed, such as "recipe.advantage: own:Rarely failed in step 3".
    do: the advice at the end of the message. unchanged: exceptions that are passed on as they are.

    Example: recipe.advantage: own:Rarely failed in step 3: KeyError: 'x' (/home/me/own.py:24); correct it
    """
    try:
        yield
    except unchanged:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ConfigError(f"{failure}: {reason}{_place(error)}; {do}") from error


def _place(error: BaseException) -> str:
    """ " (file:line)": the last line of the user's code that ran; "" if none did.

    If that line called a function of mars, which raised the error, the function's line comes first, because the
    mistake may be in either.
    """
    # The first two frames are those of `calling` and of the block.
    ran = traceback.extract_tb(error.__traceback__)[2:]
    # Generated code, such as the __setattr__ of a frozen dataclass, has a name like "<string>" and no file.
    frames = [(Path(frame.filename).resolve(), frame.lineno) for frame in ran if not frame.filename.startswith("<")]
    frames = [frame for frame in frames if not _is_of_library(frame[0])]
    users = [number for number, (file, _) in enumerate(frames) if not _is_of_mars(file)]
    if not users:
        return ""
    own, last = (f"{file}:{line}" for file, line in (frames[users[-1]], frames[-1]))
    return f" ({own})" if own == last else f" ({last}, called from {own})"


def _is_of_library(file: Path) -> bool:
    """False for files of mars, which lie in a library's folder if mars is installed."""
    if file.is_relative_to(_PACKAGE) or file.is_relative_to(_RECIPES):
        return False
    return any(file.is_relative_to(folder) for folder in _LIBRARIES)


def _is_of_mars(file: Path) -> bool:
    return file.is_relative_to(_PACKAGE) and not file.is_relative_to(_RECIPES)
