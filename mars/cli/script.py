"""How the user called a script of scripts/, for messages that advise a command."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

_VARIABLE = "MARS_SCRIPT"  # the scripts set it to their path, as the user wrote it
_WITHOUT_SCRIPT = {"ray_up.sh": "mars ray", "ray_submit.sh": "mars ray submit"}


def command_of(script: str) -> str:
    """How to call `script` from the user's folder: `bash PATH`, or as a `mars` command if the user called no script."""
    called = os.environ.get(_VARIABLE)
    if called is None:
        return _WITHOUT_SCRIPT[script]
    return f"bash {shlex.quote(str(Path(called).parent / script))}"
