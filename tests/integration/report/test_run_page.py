from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mars.errors import DataError
from mars.evaluation.summary import EvalRecord, summarize
from mars.report import page as page_module
from mars.report.plots import _label, draw_figures
from mars.report.run_page import write_report
from mars.tracking.rollouts import RolloutFiles
from mars.types import ImageRef, RewardResult
from tests.builders import make_prompt, make_rollouts
from tests.examples import some

HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=alert(1)> \"'`{{7*7}} \x1b[31m \u202e \x00 \ud800 $a$ &amp;"
)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str, name: str) -> list[str]:
        return [value for found, key, value in self.attributes if (found, key) == (tag, name)]


def decode(ref) -> Image.Image:
    generator = random.Random(ref.path)
    return Image.frombytes("RGB", ref.size, generator.randbytes(3 * ref.size[0] * ref.size[1]))


def frames(prompt, view):
    return (40, 20), (80, 40)


def write_rows(run: Path, rows: list[dict]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def metric_rows(count: int, source: str = "visible") -> list[dict]:
    return [
        {
            "step": step,
            "critic/score/mean": step / count,
            f"mars/anchor/{source}/mean": 0.1,
            "mars/gain/mean": step / count - 0.1,
            "response_length/mean": None if step == 2 else 20.0,
            "timing_s/gen": 2.0,
            "timing_s/driver": 0.1,
        }
        for step in range(1, count + 1)
    ]


def write_rollouts(run: Path, step: int, text: str, question: str = "Where?", sources=("visible", "infrared")) -> None:
    images = [ImageRef(f"{name}.png", (40, 20)) for name in sources]
    truth = json.dumps([{"bbox_2d": [10, 5, 20, 10], "label": "person"}])
    prompt = make_prompt("p1", images, sources, "<image>" * len(sources) + question, truth=truth, data_source="llvip")
    scored = RewardResult(0.5, 0.25, {"format": 0.75, "iou": 0.25})
    item = make_rollouts(prompt, [scored] * 2, text=text, **{name: [scored] for name in sources})
    RolloutFiles(run / "rollouts", frames, lambda request: 9).log_rollouts([item], step)


def write_evaluation(run: Path, name: str, step: int, data_sources=("llvip",), source: str = "visible") -> None:
    records = [
        EvalRecord(f"{data_source}{number}", data_source, view, number % 2, False, metric="accuracy")
        for data_source in data_sources
        for number in range(4)
        for view in (None, (source,))
    ]
    (run / "evaluation").mkdir(exist_ok=True)
    result = summarize(records, name=name, step=step, model="tiny", threshold=None)
    (run / "evaluation" / f"{name}.json").write_text(json.dumps(result))


def read(run: Path) -> Page:
    return Page(write_report(run, None, decode).read_text(encoding="utf-8"))


def test_a_whole_run_in_one_file(tmp_path: Path) -> None:
    write_rows(tmp_path, metric_rows(50))
    write_evaluation(tmp_path, "after", 50, ("llvip", "other"))
    write_evaluation(tmp_path, "before", 0, ("llvip", "other"))
    write_rollouts(tmp_path, 10, "an old answer")
    write_rollouts(tmp_path, 50, '<answer>```json\n[{"bbox_2d": [20, 10, 40, 20]}]\n```</answer>')
    (tmp_path / "config.yaml").write_text("run: {name: my run, seed: 3}\nmodel: {path: models/tiny}\n")
    page = read(tmp_path)
    assert "my run" in page.text
    assert "model models/tiny" in page.text
    assert "run.seed=3" in page.text
    assert "Sample rollouts of step 50" in page.text
    assert "an old answer" not in page.text
    assert page.text.index("before (step 0)") < page.text.index("after (step 50)")
    assert page.text.count("Information gain") == 4  # the table of all, one for each data source, the legend
    assert "Notes" not in page.text
    # Four curves and two pictures, all inside the file.
    kinds = [uri.split(";")[0] for uri in page.of("img", "src")]
    assert kinds == ["data:image/svg+xml"] * 4 + ["data:image/png"] * 2
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 1, "the filter"
    assert not page.of("script", "src")
    assert not re.search(r"url\(|@import|https?://", (tmp_path / "report.html").read_text().split("</style>")[0])


def test_boxes_are_drawn_in_their_own_frames(tmp_path: Path) -> None:
    # Truth (10, 5, 20, 10) of 40 x 20 and the answer (20, 10, 40, 20) of 80 x 40 are the same place.
    write_rollouts(tmp_path, 1, '[{"bbox_2d": [20, 10, 40, 20]}]')
    page = read(tmp_path)
    boxes = list(zip(page.of("rect", "class"), page.of("rect", "x"), page.of("rect", "width"), strict=True))
    one_picture = [("truth", "0.25", "0.25"), ("multi", "0.25", "0.25"), ("multi", "0.25", "0.25")]
    assert boxes == [*one_picture, ("mono", "0.25", "0.25")] * 2


def test_the_only_script_is_admitted_by_its_hash(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, "yes")
    html = write_report(tmp_path, None, decode).read_text()
    (script,) = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert f"script-src 'sha256-{digest}'\"" in html


def test_what_stands_in_the_place_of_images(tmp_path: Path) -> None:
    write_rows(tmp_path, metric_rows(50))
    write_rollouts(tmp_path, 1, '[{"bbox_2d": [20, 10, 40, 20]}]', sources=("visible",))
    assert read(tmp_path).of("img", "alt") == [
        "Lines over steps 1 to 50, in mean score. Last values: multi 1; anchor: visible 0.1.",
        "Lines over steps 1 to 50, in difference of scores. Last values: over the mean of the sources 0.9; "
        "over visible 0.9.",
        "Lines over steps 1 to 50, in tokens. Last values: mean 20.",
        "Stacked bars, one colour for each stage, over steps 1 to 50.",
        "visible image of the question, with boxes: 1 truth, 2 multi, 1 mono",
    ]


def test_a_report_says_which_of_many_questions_it_shows(tmp_path: Path) -> None:
    items = [make_rollouts(make_prompt(f"p{i:02}", [], (), "q", truth="yes"), [RewardResult(1.0, 1.0, {})], text="yes")
             for i in range(47)]  # fmt: skip
    RolloutFiles(tmp_path / "rollouts", lambda prompt, view: (None, None), lambda request: 9).log_rollouts(items, 3)
    page = read(tmp_path)
    assert re.findall(r"· p(\d\d)", page.text) == [f"{i:02}" for i in range(0, 47, 2)]
    assert "24 of the 47 questions of this step, from everywhere among them" in page.text


def test_text_answers_have_no_boxes_but_all_else(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, "<answer>yes</answer>")
    page = read(tmp_path)
    assert "multi" not in page.of("rect", "class")
    assert page.text.count("<answer>yes</answer>") == 4


def test_hostile_text_is_shown_and_never_acts(tmp_path: Path) -> None:
    write_rows(tmp_path, metric_rows(3, source=HOSTILE.replace("\ud800", "")))
    write_rollouts(tmp_path, 3, HOSTILE, question=HOSTILE, sources=(HOSTILE, "b"))
    write_evaluation(tmp_path, "before", 0, (HOSTILE, "x"), source=HOSTILE)
    (tmp_path / "config.yaml").write_text(json.dumps({"run": {"name": HOSTILE}, "model": {"path": HOSTILE}}))
    (tmp_path / "evaluation" / "<script>.json").write_text('{"<script>alert(1)</script>": 1}')
    path = write_report(tmp_path, None, decode)
    raw = path.read_text(encoding="utf-8")
    page = Page(raw)
    assert page.tags.count("script") == 1, "the page's own"
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert all(uri.startswith("data:") for uri in page.of("img", "src"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", raw)
    assert r"\x1b[31m \u202e \x00 \ud800" in page.text
    assert page.text.count("</pre><script>alert(1)</script>") >= 6  # question, answers, names
    assert "{{7*7}}" in page.text  # not a template of ours
    for uri in page.of("img", "src"):
        if uri.startswith("data:image/svg"):
            assert b"<script" not in base64.b64decode(uri.partition(",")[2])


def test_what_is_damaged_is_named_and_left_out(tmp_path: Path) -> None:
    write_rows(tmp_path, metric_rows(3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "cri')
    write_evaluation(tmp_path, "before", 0)
    for name, content in (("a", "{"), ("b", "[]"), ("c", '{"multi": 3}'), ("d", "[" * 100_000)):
        (tmp_path / "evaluation" / f"{name}.json").write_text(content)
    write_rollouts(tmp_path, 3, "fine")
    with (tmp_path / "rollouts" / "step_000003.jsonl").open("a") as file:
        file.write('{"step": 3}\nnot json\n')
    (tmp_path / "rollouts" / "step_9.jsonl.bak").write_text("")
    (tmp_path / "config.yaml").write_text("a: [")
    page = read(tmp_path)
    for note in (
        "metrics.jsonl: damaged lines that are left out: 1",
        "evaluation/a.json: left out",
        "evaluation/b.json: left out",
        "evaluation/c.json: left out",
        "evaluation/d.json: left out",
        "rollouts/step_000003.jsonl:4: left out (view: is missing)",
        "rollouts/step_000003.jsonl:5: left out",
        "config.yaml: cannot be read",
    ):
        assert note in page.text
    assert "fine" in page.text
    assert "before (step 0)" in page.text


def test_an_image_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, "yes")

    def fail(ref):
        raise DataError(f"{ref.path}: <no such image>")

    page = Page(write_report(tmp_path, None, fail).read_text())
    assert "Image not shown: visible.png: <no such image>" in page.text
    assert page.of("img", "src") == []


def test_images_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rollouts(tmp_path, 1, "yes")
    monkeypatch.setattr(page_module, "IMAGE_BYTES", 4000)  # noise of 40 x 20 pixels takes 2,500 bytes, 3,400 in base64
    page = read(tmp_path)
    assert len(page.of("img", "src")) == 1
    assert "left out: a page has at most 10 MB" in page.text


def test_large_images_become_small(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, "yes")
    path = tmp_path / "rollouts" / "step_000001.jsonl"
    path.write_text(path.read_text().replace('"size": [40, 20]', '"size": [1280, 1024]'))
    page = Page(write_report(tmp_path, None, lambda ref: Image.new("RGB", ref.size)).read_text())
    assert all(uri.startswith("data:image/jpeg") for uri in page.of("img", "src"))
    assert path.with_name("x").parent.parent.joinpath("report.html").stat().st_size < 50_000


def test_long_answers_are_cut(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, "word " * 20_000)
    page = read(tmp_path)
    assert "(96000 more characters)" in page.text
    assert len(page.text) < 30_000


def test_failed_rewards_and_missing_numbers_are_shown(tmp_path: Path) -> None:
    failed = RewardResult(float("nan"), 0.0, {}, failed="ValueError: <odd>")
    item = make_rollouts("p1", [failed], text="yes")
    RolloutFiles(tmp_path / "rollouts", lambda prompt, view: (None, None), lambda request: 9).log_rollouts([item], 1)
    assert "– (failed: ValueError: <odd>)" in " ".join(read(tmp_path).text.split())


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to report"):
        write_report(tmp_path, None, decode)
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_alone_is_a_report(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "before", 0)
    out = write_report(tmp_path, tmp_path / "elsewhere.html", decode)
    assert out == tmp_path / "elsewhere.html"
    page = Page(out.read_text())
    assert "model tiny" in page.text
    assert "no metrics.jsonl" in page.text


def test_the_same_run_gives_the_same_figures() -> None:
    rows = metric_rows(100)
    first, second = draw_figures(rows), draw_figures(rows)
    assert first == second
    assert [figure.caption.split(":")[0].split(".")[0] for figure in first] == [
        "Reward of the multi rollouts, and of the anchors of each source",
        "Gain",
        "Response length",
        "Seconds per stage of a step",
    ]
    assert all(len(figure.svg) < 200_000 for figure in first)


def test_any_source_name_can_be_drawn() -> None:
    sources = [r"$\frac{$", "$$", "_hidden", "a" * 300, "\x00", "漢字", "한국어", "عربي", "😀", "\ue000"]
    rows = [{key: value for source in sources for key, value in metric_rows(3, source)[i].items()} for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of characters that its font lacks
        assert len(draw_figures(rows)) == 4
    assert _label("漢字 é") == r"\u6f22\u5b57 é"
    assert _label("🧠$") == r"\U0001f9e0\$"


@pytest.mark.parametrize(
    ("number", "name"),
    some([(300, "source_{}"), (12, "{}" + "a" * 300), (12, "{}" + "漢" * 300), (1, "{}" + "$" * 300)], 1),
)
def test_figures_of_many_sources_with_long_names_are_legible(number: int, name: str) -> None:
    """A legend of hundreds of lines would leave no room for the axes, and matplotlib would warn of it."""
    sources = [name.format(i) for i in range(number)]
    rows = [{key: value for source in sources for key, value in metric_rows(3, source)[i].items()} for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = draw_figures(rows)
    assert all(len(figure.svg) < 400_000 for figure in figures)
    assert ("289 more lines are not drawn" in figures[0].caption) == (number == 300)


NO_AXIS = [float("nan"), float("inf"), -float("inf"), 1e308, -1.7e308, 1e300, 10**400]


def test_values_that_no_axis_can_hold_are_left_out() -> None:
    rows = metric_rows(60)
    for number, value in enumerate(NO_AXIS, start=5):
        rows[number] |= dict.fromkeys(("critic/score/mean", "response_length/max", "timing_s/gen"), value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(draw_figures(rows)) == 4


@pytest.mark.parametrize("value", some(NO_AXIS, 3))
def test_a_line_of_values_that_no_axis_can_hold_is_left_out(value: float) -> None:
    rows = [{"step": i, "response_length/max": value, "response_length/mean": 5.0} for i in range(60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (figure,) = draw_figures(rows)
    assert figure.caption.startswith("Response length")


def test_runs_without_anchors_or_times_have_fewer_figures() -> None:
    (figure,) = draw_figures([{"step": 1, "critic/score/mean": 0.5}])
    assert figure.caption.startswith("Reward")
    assert draw_figures([{"step": 0, "eval/multi/mean": 0.5}]) == []
