"""Paths in options of the benchmarks. "~" is the home folder, also in --json=~/a.json, which shells do not expand."""

from __future__ import annotations

import argparse
from pathlib import Path

from mars.config.paths import given_path
from mars.errors import ConfigError


def path_option(text: str) -> Path:
    """For argparse's `type`. Raises ArgumentTypeError for text that cannot be a path.

    Example, if the home is /home/ann: "~/report.json" -> Path("/home/ann/report.json").
    """
    try:
        return Path(given_path(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
