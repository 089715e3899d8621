"""No page has more than 10 MB, whatever it is asked to show, and it says what it leaves out."""

from __future__ import annotations

import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.answers.record import Answer
from mars.errors import DataError
from mars.report import page
from mars.report import questions as questions_module
from mars.report.choice import coarse_to_fine, evenly, shares
from mars.report.data_page import write_sheet
from mars.report.page import MAX_PAGE_BYTES, Page
from mars.report.run_page import write_answers_page, write_report
from mars.types import ImageRef, Message, RewardResult, Source

WIDE = "\U0001f3fd\u202e" * 2_000  # a character takes up to 10 bytes on a page


@pytest.fixture
def small(monkeypatch):
    """Pages of 300 kB, so that the tests are quick."""
    monkeypatch.setattr(page, "MAX_PAGE_BYTES", 300_000)
    monkeypatch.setattr(page, "_FRAME_BYTES", 100_000)
    monkeypatch.setattr(page, "IMAGE_BYTES", 150_000)


def noise(side=60):
    return Image.frombytes("RGB", (side, side), os.urandom(3 * side * side))


def answer(number, text="yes", images=2, **fields):
    sources = tuple(Source(f"s{i}", ImageRef(f"{i}.png", (60, 60))) for i in range(images))
    return Answer(
        prompt_id=f"p{number}", number=number, row=f"f:{number}", data_source="d", view=None, sample=0, text=text,
        truth="yes", truth_size=None, response_size=None, extra_info={}, question=(Message("user", "q"),),
        sources=sources, reward=RewardResult(1.0, 1.0, {}), **fields,
    )  # fmt: skip


def test_a_sheet_of_many_rows_is_a_sample_from_all_parts_of_the_file(tmp_path, small):
    noise().save(tmp_path / "a.png")
    row = {"prompt": [{"role": "user", "content": "<image>q"}], "images": ["a.png"], "answer": "yes"}
    (tmp_path / "a.jsonl").write_text((json.dumps(row) + "\n") * 400)
    write_sheet(tmp_path / "a.jsonl", tmp_path / "out.html", None, 400)
    html = (tmp_path / "out.html").read_text()
    assert len(html.encode()) < 300_000
    shown = [int(number) for number in re.findall(r"<h2>row (\d+) ", html)]
    assert f"{len(shown)} of 400 usable rows of 400" in html
    assert "400 rows were asked for; a page has at most 10 MB" in html
    assert 5 < len(shown) < 20  # an image takes 14,500 bytes
    assert shown == sorted(shown)
    assert max(later - earlier for earlier, later in zip(shown, [*shown[1:], 400], strict=True)) < 130


def test_a_sheet_of_rows_with_long_texts(tmp_path, small):
    row = {
        "prompt": [{"role": "user", "content": WIDE[::2]}] * 3,
        "answer": WIDE,
        "extra_info": dict.fromkeys("abc", WIDE),
    }
    bad = {"prompt": [{"role": WIDE, "content": "q"}]}
    (tmp_path / "a.jsonl").write_text((json.dumps(row) + "\n") * 20 + (json.dumps(bad) + "\n") * 200)
    write_sheet(tmp_path / "a.jsonl", tmp_path / "out.html", None, 400)
    html = (tmp_path / "out.html").read_text()
    assert len(html.encode()) < 300_000
    problems = int(re.search(r"(\d+) problems, the first \d+<", html)[1])
    assert problems > 100


def test_pages_of_answers(tmp_path, small):
    cases = {
        "many questions": [[answer(i)] for i in range(500)],
        "long texts": [[answer(i, text=WIDE, images=0)] for i in range(100)],
        "many answers": [[answer(0, images=0)] * 100_000],
        "many images": [[answer(0, images=1000)], [answer(1)]],
    }
    for name, questions in cases.items():
        write_answers_page(
            tmp_path / "out.html",
            WIDE,
            WIDE,
            [],
            "Answers",
            None,
            questions,
            [WIDE] * 1000,
            lambda ref: noise(ref.size[0]),
        )
        html = (tmp_path / "out.html").read_text()
        assert len(html.encode()) < 300_000, name
    write_answers_page(
        tmp_path / "out.html", "n", "m", [], "Answers", None, cases["many questions"], [], lambda ref: noise()
    )
    html = (tmp_path / "out.html").read_text()
    assert re.search(
        r"Only \d+ of these 500 questions, from everywhere among them, are on this page: a page has at", html
    )
    assert 3 < html.count("<article") < 12
    write_answers_page(
        tmp_path / "out.html", "n", "m", [], "Answers", None, cases["many answers"], [], lambda ref: noise()
    )
    assert f"The first {questions_module._ANSWERS} of 100000 answers." in (tmp_path / "out.html").read_text()


def test_a_report_of_many_evaluations_and_notes(tmp_path, small):
    (tmp_path / "evaluation").mkdir()
    for number in range(300):
        (tmp_path / "evaluation" / f"{'x' * 200}{number}.json").write_text("{")
    (tmp_path / "config.yaml").write_text("run:\n  name: n\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "critic/score/mean": 1.0}\n')
    html = write_report(tmp_path, None, lambda ref: noise()).read_text()
    assert len(html.encode()) < 300_000


def test_the_limit_is_10_megabytes_and_images_are_as_wide_as_they_are_drawn():
    assert MAX_PAGE_BYTES == 10_000_000
    assert page.IMAGE_BYTES + page._FRAME_BYTES < MAX_PAGE_BYTES
    image = Image.new("RGB", (2000, 1000))
    assert Page("run_parts.html.j2").picture(image).startswith("data:image/jpeg;base64,")
    assert image.size == (340, 170)


def test_a_part_of_a_file(tmp_path):
    row = {"prompt": [{"role": "user", "content": "q"}], "answer": "yes"}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 30)
    write_sheet(tmp_path / "rows.jsonl", tmp_path / "out.html", None, 3, 10, 20)
    html = (tmp_path / "out.html").read_text()
    assert re.findall(r"<h2>row (\d+) ", html) == ["10", "15", "20"]
    assert "3 of 11 usable rows of 30, only those from 10 to 20" in html
    with pytest.raises(DataError, match=r"--from, --to: .* no usable row from 30 to 40; got 30 rows"):
        write_sheet(tmp_path / "rows.jsonl", tmp_path / "none.html", None, 3, 30, 40)


def test_a_report_with_the_longest_settings(tmp_path):
    """The parts outside of the budget stay within what is reserved for them."""
    wide = "\U000e0001" * 5_000
    sections = {"run": {"name": wide}, "model": {"path": wide}, "algorithm": {"estimator": wide}}
    sections |= {"reward": {"function": wide, "functions": {wide: wide}}, "anchor": {"kind": wide}}
    (tmp_path / "config.yaml").write_text(json.dumps(sections))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "critic/score/mean": 1.0}\n')
    html = write_report(tmp_path, None, lambda ref: noise()).read_text()
    assert len(html.encode()) - len(re.search("<details>.*</details>", html, re.DOTALL)[0].encode()) < page._FRAME_BYTES


def test_an_image_without_room_is_not_embedded(monkeypatch):
    monkeypatch.setattr(page, "IMAGE_BYTES", 100)
    small = Page("run_parts.html.j2")
    assert small.embed("image/png", b"12") == "data:image/png;base64,MTI="
    assert small.embed("image/png", bytes(60)) is None
    assert small.parts("note", ["later"]) == []


def test_some_from_everywhere_by_hand():
    assert evenly(range(11), 3) == [0, 5, 10]
    assert evenly("ab", 5) == ["a", "b"]
    assert evenly("abc", 1) == ["c"]
    assert evenly("abc", 0) == []


def test_shares_by_hand():
    assert shares([10, 10, 10], 24) == [8, 8, 8]
    assert shares([2, 100, 50], 24) == [2, 11, 11]
    assert shares([100, 1, 100], 4) == [2, 1, 1]
    assert shares([0, 3, 0], 24) == [0, 3, 0]


@given(st.lists(st.integers(0, 30), max_size=5), st.integers(0, 100))
def test_shares_use_all_there_is(sizes, number):
    given_ = shares(sizes, number)
    assert sum(given_) == min(number, sum(sizes))
    assert all(share <= size for share, size in zip(given_, sizes, strict=True))
    open_groups = [share for share, size in zip(given_, sizes, strict=True) if share < size]
    assert not open_groups or max(given_) - min(open_groups) <= 1


def test_coarse_to_fine_by_hand():
    assert coarse_to_fine(1) == [0]
    assert coarse_to_fine(6) == [0, 4, 2, 1, 5, 3]
    assert sorted(coarse_to_fine(1000)) == list(range(1000))
