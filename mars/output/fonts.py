"""Fonts of figures and pictures. Labels may have any characters, including Chinese, Japanese and Korean ones (CJK)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mars.output.text import visible

LATIN = "DejaVu Sans"
"""Comes with matplotlib."""

CJK = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "SimHei",
    "Malgun Gothic",
    "Arial Unicode MS",
)
"""Names of common fonts that have CJK characters, on Linux, macOS and Windows."""


@cache
def families() -> tuple[str, ...]:
    """The font families of labels: matplotlib's own, and the first of `CJK` that is installed on this machine."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return LATIN, *[name for name in CJK if name in installed][:1]


def font_files() -> list[str]:
    """The files of `families`."""
    from matplotlib.font_manager import findfont

    return [findfont(name) for name in families()]


def drawable(text: str, files: Sequence[str] | None = None) -> str:
    r"""`text` with escapes in place of invisible characters and of characters that no font of `files` has.

    Without this, a figure would show boxes in their place, with a warning for each. files: `font_files` by default.

    >>> from matplotlib.font_manager import findfont
    >>> drawable("红外 é", [findfont(LATIN)])
    '\\u7ea2\\u5916 é'
    """
    from matplotlib.font_manager import get_font

    fonts = [get_font(file) for file in (font_files() if files is None else files)]
    return "".join(
        character
        if any(font.get_char_index(ord(character)) for font in fonts)
        else character.encode("unicode_escape").decode()
        for character in visible(text)
    )


def font_file(text: str) -> str:
    """The file of the first font that has every character of a `drawable` text; if none has, the last font's file."""
    from matplotlib.font_manager import get_font

    files = font_files()
    return next((file for file in files if all(get_font(file).get_char_index(ord(one)) for one in text)), files[-1])
