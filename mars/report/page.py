"""Render and write HTML pages: self-contained files of at most 10 MB. Text from data and models is escaped."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mars.output.files import write_atomically
from mars.output.text import shorten, visible
from mars.report.choice import coarse_to_fine

if TYPE_CHECKING:
    from markupsafe import Markup
    from PIL.Image import Image

MAX_CHARACTERS = 4_000  # most characters of one text on a page
MAX_PAGE_BYTES = 10_000_000  # small enough to mail
IMAGE_BYTES = 7_000_000  # most bytes of all images on a page
FULL = "a page has at most 10 MB"
PICTURE_SIDE = 340  # pixels, as wide as the pages draw an image
TINY_SIDE = 160  # images up to this size are drawn enlarged, and JPEG would blur them
_FRAME_BYTES = 1_000_000  # reserved for the rest: style, script, headings, the most important settings of a run
ANSWERS_SCRIPT = "answers.js"  # filters the answers, and loads the page again
_HERE = Path(__file__).parent

Item = TypeVar("Item")


class Page:
    """The parts of one page, rendered until it is full.

    Every part whose number or size depends on data is rendered by `parts` or `spread`, and every image is embedded by
    `embed` or `picture`, so that the page stays within its limit.
    macros: the file that has the macros of the parts. folder: where the templates are; by default beside this file.
    """

    def __init__(self, macros: str, folder: Path = _HERE) -> None:
        self._environment = _environment(folder)
        self._macros: Any = self._environment.get_template(macros).module
        self._bytes_left = MAX_PAGE_BYTES - _FRAME_BYTES
        self._image_bytes_left = IMAGE_BYTES
        self._is_full = False

    def parts(self, macro: str, items: Iterable[Item], make: Callable[[Item], Any] = lambda item: item) -> list[Markup]:
        """`macro(make(item))` for each item, until the page is full.

        If that gives fewer parts than there are items, the caller must say so on the page.
        """
        rendered: list[Markup] = []
        for item in items:
            if self._is_full:
                break
            part = getattr(self._macros, macro)(make(item))
            size = len(part.encode())
            if size > self._bytes_left:
                self._is_full = True
                break
            self._bytes_left -= size
            rendered.append(part)
        return rendered

    def spread(self, macro: str, items: Sequence[Item], make: Callable[[Item], Any]) -> list[Markup]:
        """As `parts`, but if the page gets full, the items that it shows are spread over all of `items`."""
        order = coarse_to_fine(len(items))
        rendered = self.parts(macro, order, lambda place: make(items[place]))
        return [part for _, part in sorted(zip(order, rendered, strict=False), key=lambda pair: pair[0])]

    def embed(self, media_type: str, content: bytes) -> str | None:
        """A data URI of an image; None if the page has no room for it."""
        uri = f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
        if len(uri) > self._image_bytes_left:
            self._is_full = True
            return None
        self._image_bytes_left -= len(uri)
        return uri

    def picture(self, image: Image, *, lossless: bool = False) -> str | None:
        """A data URI of the image, made small; None if the page has no room for it. Resizes `image` in place."""
        image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        lossless = lossless or max(image.size) <= TINY_SIDE
        stored = io.BytesIO()
        image.convert("RGB").save(stored, format="PNG" if lossless else "JPEG", quality=85)
        return self.embed("image/png" if lossless else "image/jpeg", stored.getvalue())

    def figure(self, caption: str, description: str, svg: bytes) -> dict[str, str | None]:
        """What the macro `figure` takes. The SVG's labels come from the data and might hold scripts, so the page shows
        it in an <img>, where no script runs. description: in words, for those who cannot see it."""
        return {"caption": caption, "description": description, "uri": self.embed("image/svg+xml", svg)}

    def write(self, path: Path, template: str, *, script: str | None = None, **content: Any) -> None:
        """Render `template`, a file in the templates' folder, and write the page. Raises SetupError if that fails.

        script: a file beside this one; the page's only script, whose hash its Content-Security-Policy allows.
        content: results of `parts`, and a few short values.
        """
        from markupsafe import Markup

        code = None if script is None else (_HERE / script).read_text(encoding="utf-8")
        html = self._environment.get_template(template).render(
            **content, policy=Markup(_policy(code)), script=None if code is None else Markup(code)
        )
        # `mars report` may write the page that a running run keeps up to date.
        write_atomically(path, html, shared=True)


def _policy(script: str | None) -> str:
    """The Content-Security-Policy of a page: it loads nothing and runs nothing but `script`."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if script is None:
        return policy
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return f"{policy}; script-src 'sha256-{digest}'"


def _environment(folder: Path) -> Any:
    """Templates use the filter `shown` for text from data and models. It makes control characters visible, and cuts the
    text at MAX_CHARACTERS or at the number that it gets."""
    import jinja2

    def shown(text: Any, limit: int = MAX_CHARACTERS) -> str:
        return visible(shorten(str(text), limit), keep="\n\t")

    def count(number: int) -> str:
        return f"{number:,}"

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _HERE]), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"shown": shown, "count": count}
    return environment
