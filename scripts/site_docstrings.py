"""How the site's reference reads docstrings (mkdocs.yml): as plain text, in which <think> is not HTML."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_CODE = re.compile(r"(`[^`]+`|^ {4}.*$)", re.MULTILINE)


def escaped(text: str) -> str:
    """The docstring as Markdown: "<" and "*" outside code show as they are, indented lines after text as code."""
    parts = _CODE.split(text)
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return re.sub(r"^(\S.*\n)(?= {4})", r"\1\n", "".join(parts), flags=re.MULTILINE)


class Docstrings(Extension):
    """Escapes the docstring of each module, class, function and attribute after griffe has read it."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)
