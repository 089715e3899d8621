"""Render and write HTML pages: self-contained files in which all text from data and models is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mars.output.files import write_atomically
from mars.output.text import shorten, visible

MAX_CHARACTERS = 4_000  # of one text on a page, so that it stays small enough to mail


def write_page(path: Path, template: str, **content: Any) -> None:
    """Render `template`, a file beside this one, and write it to `path`. Raises SetupError where it cannot be written.

    The template's filter `shown` is for text from data and models: it makes control characters visible and cuts the
    text at MAX_CHARACTERS, or at the number that it is given.
    """
    import jinja2

    def shown(text: Any, limit: int = MAX_CHARACTERS) -> str:
        return visible(shorten(str(text), limit), keep="\n\t")

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["shown"] = shown
    write_atomically(path, environment.get_template(template).render(**content))
