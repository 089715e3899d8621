"""The example at the end of a command's help."""

from __future__ import annotations


def example(*commands: str) -> str:
    r"""The text that a command's --help shows below the options. tests/unit/cli/test_help.py parses its commands.

    >>> example("mars runs ls")
    '\x08\nExample:\n  mars runs ls'
    """
    return "\n".join(["\b", "Example:", *(f"  {command}" for command in commands)])
