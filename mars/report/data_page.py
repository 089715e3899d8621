"""`mars data show`: a contact sheet of a file of rows, one HTML file with everything inside and no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mars.data.convert.eval_json import read_json_rows
from mars.data.pixels.images import BadImage, decode_image
from mars.data.prompts.boxes import truth_frame
from mars.data.rows.dataset import read_prompts
from mars.output.files import check_page
from mars.report.boxes import find_boxes
from mars.report.page import write_page
from mars.types import ImageRef, Prompt

# Enough to look at, small enough to mail.
_SIDE = 480
_LOSSLESS_PIXELS = 128 * 128
_PROBLEMS = 100


def write_sheet(file: Path, out: Path, image_root: Path | None, num_rows: int) -> None:
    """Write `num_rows` usable rows of `file`, evenly over it, and what is wrong with the others, to `out`.

    Each source is shown as the model gets it (depth as its encoding makes it) with the boxes of the truth on it, then
    the question, the truth and the rest of the row. Text is escaped. Raises DataError if the file cannot be read,
    SetupError if `out` cannot be written, and ConfigError if its name does not end with .html.
    """
    check_page(out, "OUT")
    root = None if image_root is None else str(image_root)
    reading = read_prompts([str(file)], root, lambda prompt: None, read_json=read_json_rows)
    problems, usable = reading.problems, reading.usable
    write_page(
        out,
        "data_page.html.j2",
        name=file.name,
        num_rows=len(reading.rows),
        num_usable=len(usable),
        cards=[_card(prompt) for prompt in _evenly(usable, num_rows)],
        problems=problems[:_PROBLEMS],
        num_problems=len(problems),
    )


def _evenly(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """`number` of the prompts, from the first to the last. Example: 3 of 0 … 10 -> 0, 5, 10."""
    if len(prompts) <= number:
        return list(prompts)
    last = len(prompts) - 1
    return [prompts[last if number == 1 else i * last // (number - 1)] for i in range(number)]


def _card(prompt: Prompt) -> dict[str, Any]:
    boxes = find_boxes(prompt.truth, truth_frame(prompt))
    return {
        "row": prompt.row.rpartition(":")[2],
        "data_source": prompt.data_source,
        "messages": prompt.messages,
        "truth": prompt.truth,
        "response": prompt.response,
        "extra": {key: value for key, value in prompt.extra_info.items() if value is not None},
        "boxes": boxes,
        "pictures": [_picture(source.name, source.image) for source in prompt.sources],
    }


def _picture(name: str, ref: ImageRef) -> dict[str, Any]:
    caption = f"{name}, {ref.size[0]} x {ref.size[1]}" + ("" if ref.encoding == "rgb" else f", {ref.encoding}")
    try:
        image = decode_image(ref)
    except BadImage as error:
        return {"caption": caption, "error": str(error)}
    image.thumbnail((_SIDE, _SIDE))
    stored, small = io.BytesIO(), image.width * image.height <= _LOSSLESS_PIXELS
    image.save(stored, format="PNG" if small or ref.encoding != "rgb" else "JPEG", quality=90)
    kind = "png" if small or ref.encoding != "rgb" else "jpeg"
    data = base64.b64encode(stored.getvalue()).decode()
    return {"caption": caption, "uri": f"data:image/{kind};base64,{data}", "small": small}
