"""`mars data show`: a contact sheet of a file of rows, one HTML file with everything inside and no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mars.data.convert.eval_json import read_json_rows
from mars.data.pixels.images import BadImage, decode_image
from mars.data.prompts.boxes import truth_frame
from mars.data.rows.dataset import read_prompts
from mars.output.files import check_page
from mars.report.boxes import find_boxes
from mars.report.page import FULL, TINY_SIDE, Page
from mars.types import ImageRef, Prompt

_PROBLEMS = 100
_ENTRIES = 50  # shown entries of a row's extra_info


def write_sheet(file: Path, out: Path, image_root: Path | None, num_rows: int) -> None:
    """Write a page with `num_rows` usable rows, spread evenly over the file, and with the problems of the other rows.

    The page has at most 10 MB. If the rows do not fit, it says so and shows fewer, again spread over the whole file.

    Each source is shown as the model gets it (depth as its encoding makes it) with the boxes of the truth on it, then
    the question, the truth and the rest of the row. Text is escaped. Raises DataError if the file cannot be read,
    SetupError if `out` cannot be written, and ConfigError if its name does not end with .html.
    """
    check_page(out, "OUT")
    root = None if image_root is None else str(image_root)
    reading = read_prompts([str(file)], root, lambda prompt: None, read_json=read_json_rows)
    problems, usable = reading.problems, reading.usable
    wanted, page = _evenly(usable, num_rows), Page("data_parts.html.j2")
    # The problems first: they are short, and the cards may fill the page.
    listed = page.parts("problem", problems[:_PROBLEMS])
    order = _coarse_to_fine(len(wanted))
    cards = page.parts("card", order, lambda place: _card(wanted[place], page))
    page.write(
        out,
        "data_page.html.j2",
        name=file.name,
        num_rows=len(reading.rows),
        num_usable=len(usable),
        num_wanted=len(wanted),
        full=FULL,
        cards=[card for _, card in sorted(zip(order, cards, strict=False), key=lambda item: item[0])],
        problems=listed,
        num_problems=len(problems),
    )


def _evenly(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """`number` prompts at equal distances, the first and the last included. Example: 3 of 0 … 10 -> 0, 5, 10."""
    if len(prompts) <= number:
        return list(prompts)
    last = len(prompts) - 1
    return [prompts[last if number == 1 else i * last // (number - 1)] for i in range(number)]


def _coarse_to_fine(number: int) -> list[int]:
    """The numbers 0 … number - 1, sorted by their reversed bits: the first few are spread over the whole range.

    >>> _coarse_to_fine(6)
    [0, 4, 2, 1, 5, 3]
    """
    width = max(number - 1, 1).bit_length()
    reversed_bits = (int(f"{place:0{width}b}"[::-1], 2) for place in range(2**width))
    return [place for place in reversed_bits if place < number]


def _card(prompt: Prompt, page: Page) -> dict[str, Any]:
    boxes = find_boxes(prompt.truth, truth_frame(prompt))
    extra = [(key, value) for key, value in prompt.extra_info.items() if value is not None]
    return {
        "row": prompt.row.rpartition(":")[2],
        "data_source": prompt.data_source,
        "messages": prompt.messages,
        "truth": prompt.truth,
        "response": prompt.response,
        "extra": dict(extra[:_ENTRIES]) | ({"…": f"{len(extra)} entries"} if len(extra) > _ENTRIES else {}),
        "boxes": boxes,
        "pictures": [_picture(source.name, source.image, page) for source in prompt.sources],
    }


def _picture(name: str, ref: ImageRef, page: Page) -> dict[str, Any]:
    caption = f"{name}, {ref.size[0]} x {ref.size[1]}" + ("" if ref.encoding == "rgb" else f", {ref.encoding}")
    try:
        image = decode_image(ref)
    except BadImage as error:
        return {"caption": caption, "uri": None, "small": False, "error": str(error)}
    uri = page.picture(image, lossless=ref.encoding != "rgb")
    return {
        "caption": caption,
        "uri": uri,
        "small": max(image.size) <= TINY_SIDE,
        "error": f"left out: {FULL}" if uri is None else None,
    }
