"""Pages of thousands of large images have at most 10 MB, and say which of them they show."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from PIL import Image

from mars.answers.record import Answer
from mars.report.data_page import write_sheet
from mars.report.run_page import write_answers_page
from mars.types import ImageRef, Message, RewardResult, Source


def wide_noise(ref=None):
    """1280 x 1024 pixels that JPEG cannot make small."""
    return Image.effect_noise((1280, 1024), 100).convert("RGB")


def test_a_sheet_of_two_thousand_rows_of_large_images(tmp_path):
    for name in "ab":
        wide_noise().save(tmp_path / f"{name}.jpg")
    row = {"prompt": [{"role": "user", "content": "<image><image>q"}], "images": ["a.jpg", "b.jpg"], "answer": "yes"}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 2000)
    write_sheet(tmp_path / "rows.jsonl", tmp_path / "out.html", None, 2000)
    html = (tmp_path / "out.html").read_text()
    assert 6_000_000 < len(html.encode()) < 10_000_000
    shown = [int(number) for number in re.findall(r"<h2>row (\d+) ", html)]
    assert f"{len(shown)} of 2,000 usable rows of 2,000" in html
    assert f"about one in {round(2000 / len(shown))}." in html
    assert "2,000 rows were asked for; a page has at most 10 MB" in html
    assert [sum(part * 250 <= number < part * 250 + 250 for number in shown) > 1 for part in range(8)] == [True] * 8


def test_a_page_of_two_thousand_questions_with_large_images_and_long_texts(tmp_path):
    picture = wide_noise()
    source = Source("visible", ImageRef("a.png", (1280, 1024)))
    first = Answer(
        prompt_id="p", number=0, row="f:0", data_source="d", view=None, sample=0, text="word " * 20_000, truth="yes",
        truth_size=None, response_size=None, extra_info={}, question=(Message("user", "q"),), sources=(source,),
        reward=RewardResult(1.0, 1.0, {}),
    )  # fmt: skip
    questions = [[replace(first, prompt_id=f"p{number}", row=f"f:{number}")] for number in range(2000)]
    write_answers_page(tmp_path / "out.html", "n", "m", [], "A", "chosen", questions, [], lambda ref: picture.copy())
    html = (tmp_path / "out.html").read_text()
    assert 6_000_000 < len(html.encode()) < 10_000_000
    shown = [int(number) for number in re.findall(r"f:(\d+) · p", html)]
    assert f"Only {len(shown)} of these 2,000 questions, from everywhere among them" in html
    assert shown == sorted(shown)
    assert [sum(part * 250 <= number < part * 250 + 250 for number in shown) > 1 for part in range(8)] == [True] * 8
