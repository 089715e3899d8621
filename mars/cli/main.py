"""Entry point of the command `mars`.

Sets signal handlers before it imports the commands, because this import takes most of the time of the start.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from mars import interrupts


def main() -> NoReturn:
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(_command)


def _command() -> int:
    from mars.cli.app import app

    return app(sys.argv[1:], prog_name="mars")


if __name__ == "__main__":
    main()
