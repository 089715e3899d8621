"""`mars data show`: a contact sheet of a file of rows, one HTML file with everything inside and no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mars.answers.boxes import find_boxes
from mars.data.convert.eval_json import read_json_rows
from mars.data.pixels.images import BadImage, decode_image
from mars.data.prompts.boxes import truth_frame
from mars.data.rows.dataset import read_prompts
from mars.errors import DataError
from mars.output.files import check_page
from mars.report.choice import evenly
from mars.report.page import FULL, TINY_SIDE, Page
from mars.types import ImageRef, Prompt

_PROBLEMS = 100
_ENTRIES = 50  # shown entries of a row's extra_info


def write_sheet(
    file: Path, out: Path, image_root: Path | None, num_rows: int, first: int = 0, last: int | None = None
) -> None:
    """Write a page with `num_rows` of the usable rows, evenly spread, and with the problems of the unusable rows.

    first, last: numbers of the first and last row that may be shown, counted from 0. last None: the file's last row.
    The page has at most 10 MB. If the rows do not fit, it says so and shows fewer, again spread over all of them.

    The page shows each source as the model gets it (depth in its encoding), with the boxes of the truth. Text is
    escaped.

    Raises DataError if the file cannot be read or has no usable row from `first` to `last` (without `first` and `last`
    the page then has only problems), SetupError if `out` cannot be written, and
    ConfigError if its name ends with neither .html nor .htm.
    """
    check_page(out, "OUT")
    root = None if image_root is None else str(image_root)
    reading = read_prompts([str(file)], root, lambda prompt: None, read_json=read_json_rows)
    problems, usable = reading.problems, reading.usable
    is_all, last = (first, last) == (0, None), len(reading.rows) - 1 if last is None else last
    usable = [prompt for prompt in usable if first <= int(_number(prompt)) <= last]
    if not usable and not is_all:
        raise DataError(
            f"--from, --to: {file} has no usable row from {first} to {last}; got {len(reading.rows)} rows, counted "
            f"from 0; give numbers of usable rows"
        )
    wanted, page = evenly(usable, num_rows), Page("data_parts.html.j2")
    page.write(
        out,
        "data_page.html.j2",
        name=file.name,
        num_rows=len(reading.rows),
        num_usable=len(usable),
        part="" if is_all else f", only those from {first} to {last}",
        num_wanted=len(wanted),
        full=FULL,
        # The problems first: they are short, and the cards may fill the page.
        problems=page.parts("problem", problems[:_PROBLEMS]),
        cards=page.spread("card", wanted, lambda prompt: _card(prompt, page)),
        num_problems=len(problems),
    )


def _number(prompt: Prompt) -> str:
    """The number that the prompt's row has in its file."""
    return prompt.row.rpartition(":")[2]


def _card(prompt: Prompt, page: Page) -> dict[str, Any]:
    boxes = find_boxes(prompt.truth, truth_frame(prompt))
    extra = [(key, value) for key, value in prompt.extra_info.items() if value is not None]
    return {
        "row": _number(prompt),
        "data_source": prompt.data_source,
        "messages": prompt.messages,
        "truth": prompt.truth,
        "response": prompt.response,
        "extra": dict(extra[:_ENTRIES]) | ({"…": f"{len(extra)} entries"} if len(extra) > _ENTRIES else {}),
        "boxes": boxes,
        "pictures": [_picture(source.name, source.image, len(boxes), page) for source in prompt.sources],
    }


def _picture(name: str, ref: ImageRef, num_boxes: int, page: Page) -> dict[str, Any]:
    caption = f"{name}, {ref.size[0]} x {ref.size[1]}" + ("" if ref.encoding == "rgb" else f", {ref.encoding}")
    try:
        image = decode_image(ref)
    except BadImage as error:
        return {"caption": caption, "alt": "", "uri": None, "small": False, "error": str(error)}
    uri = page.picture(image, lossless=ref.encoding != "rgb")
    return {
        "caption": caption,
        "alt": f"{name} image of the row" + (f", with {num_boxes} boxes of the truth" if num_boxes else ""),
        "uri": uri,
        "small": max(image.size) <= TINY_SIDE,
        "error": f"left out: {FULL}" if uri is None else None,
    }
