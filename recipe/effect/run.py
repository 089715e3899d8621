"""`python -m recipe.effect.run OUT`: carry out a study of the benchmark."""

from __future__ import annotations

import sys
from typing import NoReturn

from mars import interrupts


def main() -> NoReturn:
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(_command)


def _command() -> int:
    from recipe.effect.command_line import run_app

    return run_app(sys.argv[1:], prog_name="python -m recipe.effect.run")


if __name__ == "__main__":
    main()
