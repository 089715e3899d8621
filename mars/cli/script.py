"""How the user called a script of scripts/, for the commands that a message advises."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

_VARIABLE = "MARS_SCRIPT"  # set by the scripts: their path, as the user has written it
_WITHOUT_SCRIPT = {"ray_up.sh": "mars ray", "ray_submit.sh": "mars ray submit"}


def command_of(script: str) -> str:
    """A command that works from the folder of the user: `bash PATH`, or that of `mars` if no script was called."""
    called = os.environ.get(_VARIABLE)
    if called is None:
        return _WITHOUT_SCRIPT[script]
    return f"bash {shlex.quote(str(Path(called).parent / script))}"
