"""The pages in a real browser: on a phone, in the dark theme, with their images, and the filter of the answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mars.answers.record import Answer
from mars.cli.compared_runs import compared
from mars.evaluation.summary import EvalRecord, summarize
from mars.report.comparison_page import write_comparison
from mars.report.data_page import write_sheet
from mars.report.page import Page
from mars.report.run_page import Standing, write_answers_page, write_report
from mars.tracking.rollouts import RolloutFiles
from mars.types import ImageRef, Message, RewardResult, Source
from tests.builders import make_prompt, make_rollouts
from tests.integration.browser import chromium, measure
from tests.unit.cli.run_folders import write_run

ROOT = Path(__file__).parents[2]
PHONE = 390
WORD = "x" * 600  # a word that does not fit
PROBE = """
const style = (selector, name) => { const found = document.querySelector(selector);
  return found && getComputedStyle(found)[name]; };
const shown = (selector) => [...document.querySelectorAll(selector)].filter((item) => item.getClientRects().length);
const root = document.documentElement;
const found = {
  width: innerWidth,
  overflow: root.scrollWidth - root.clientWidth,
  cutOff: [...document.querySelectorAll(".scroll")].filter((item) => item.scrollWidth > item.clientWidth).length,
  images: document.images.length,
  broken: [...document.images].filter((image) => !image.naturalWidth).length,
  withoutAlt: [...document.images].filter((image) => !image.alt).length,
  ink: style("body", "color"), paper: style("body", "backgroundColor"),
  soft: style(".soft", "color"), plot: style(".plot", "backgroundColor"),
};
const form = document.getElementById("filter");
if (form) {
  found.filter = {};
  const choices = [{}, {view: "infrared"}, {from: "0.5"}, {to: "0.4"}, {view: "multi", from: "0.5"},
    {conflict: "yes"}, {conflict: "no"}, {view: "visible", conflict: "yes", to: "0"}];
  for (const choice of choices) {
    for (const name of ["view", "from", "to", "conflict"]) form.elements[name].value = choice[name] ?? "";
    form.elements.view.dispatchEvent(new Event("input", {bubbles: true}));
    const name = new URLSearchParams(choice).toString();
    found.filter[name] = [shown(".responses tbody tr").length, shown("article").length,
      form.querySelector("output").textContent, location.hash];
  }
}
return found;
"""


def scores(values):
    return [RewardResult(value, value, {"accuracy": value}) for value in values]


def noise(ref):
    return Image.effect_noise(ref.size, 80).convert("RGB")


def report(folder, standing=Standing("running", 100)):  # noqa: B008, it is frozen
    """A report with two evaluations, curves, and the rollouts of two prompts: p1 has a conflict, p2 has none."""
    rows = [
        {"step": step, "critic/score/mean": step / 50, "mars/anchor/visible/mean": 0.1, "mars/gain/mean": 0.2}
        | {"response_length/mean": 20.0, "timing_s/gen": 2.0}
        for step in range(1, 51)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evaluation").mkdir()
    for name, step in (("before", 0), ("after", 50)):
        records = [
            EvalRecord(f"q{number}", "llvip", view, number % 2, False, metric="accuracy")
            for number in range(4)
            for view in (None, ("visible",), ("infrared",))
        ]
        result = summarize(records, name=name, step=step, model=f"models/{WORD}", threshold=None)
        (folder / "evaluation" / f"{name}.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text(f"run: {{name: {WORD}, num_steps: 100, seed: 3}}\n")
    images = [ImageRef(f"{name}.png", (640, 512)) for name in ("visible", "infrared")]
    items = [
        make_rollouts(
            make_prompt(name, images, ("visible", "infrared"), f"<image><image>{WORD}", truth="yes"),
            scores(multi),
            text=WORD,
            visible=scores(visible),
            infrared=scores(infrared),
        )
        for name, multi, visible, infrared in (
            ("p1", [0.0, 0.4], [0.0, 0.0], [1.0, 1.0]),
            ("p2", [1.0, 0.6], [0.0, 0.5], [0.2, 0.0]),
        )
    ]
    RolloutFiles(folder / "rollouts", lambda prompt, view: (None, None), lambda _: 9).log_rollouts(items, 50)
    return write_report(folder, None, noise, standing)


def sheet(folder):
    Image.effect_noise((1280, 1024), 80).save(folder / "a.jpg")
    row = {"prompt": [{"role": "user", "content": f"<image><image>{WORD}"}], "images": ["a.jpg", "a.jpg"]}
    row |= {"answer": WORD, "extra_info": {WORD: WORD}}
    bad = {"prompt": [{"role": WORD, "content": "q"}]}
    (folder / "rows.jsonl").write_text((json.dumps(row) + "\n") * 3 + json.dumps(bad) + "\n")
    write_sheet(folder / "rows.jsonl", folder / "sheet.html", None, 12)
    return folder / "sheet.html"


def answers(folder):
    source = Source("visible", ImageRef("a.png", (640, 512)))
    answer = Answer(
        prompt_id=WORD, number=0, row=f"f:{WORD}", data_source=WORD, view=None, sample=0, text=WORD, truth=WORD,
        truth_size=None, response_size=None, extra_info={}, question=(Message("user", WORD),), sources=(source,),
        reward=RewardResult(1.0, 1.0, {WORD: 1.0}), extra=WORD, about=0,
    )  # fmt: skip
    path = folder / "answers.html"
    write_answers_page(path, WORD, WORD, [], WORD, WORD, [[answer]], [WORD], noise)
    return path


def study(folder):
    page = Page("study_parts.html.j2", ROOT / "recipe" / "effect")
    Image.new("RGB", (1400, 900), "white").save(folder / "figure.png")
    cells = ("day, 0.95", "+0.123 [-0.456, 0.789]", "0.0123", "for these cold starts")
    table = {"title": WORD, "columns": ("arm", "difference over seeds", "p (Holm)", "shown"), "rows": [cells] * 3}
    tables = page.parts("table", [table])
    page.write(
        folder / "study.html", "study_page.html.j2", name=WORD, summary=WORD, primary=WORD, family=3,
        figure=page.embed("image/png", (folder / "figure.png").read_bytes()), picture="report.png", full="full",
        notes=page.parts("note", [WORD]), primary_tables=tables, control_tables=tables, secondary_tables=tables,
    )  # fmt: skip
    return folder / "study.html"


def comparison(folder):
    """Three runs with long names, of which the first two have evaluated."""
    views = {None: "0110", "visible": "0100"}
    runs = [
        write_run(
            folder / name, {"run.seed": seed, "data.train_files": [WORD]}, name=f"{WORD}{name}", evaluations=found
        )
        for name, seed, found in (("a", 0, {3: views}), ("b", 1, {3: views}), ("ניסוי", 2, {}))
    ]
    write_comparison(compared(runs), folder / "comparison.html")
    return folder / "comparison.html"


PAGES = {"report": report, "sheet": sheet, "answers": answers, "study": study, "comparison": comparison}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    chromium()
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in PAGES.items()}


@pytest.fixture(scope="module")
def on_a_phone(pages, tmp_path_factory):
    return first(measure(pages, PROBE, tmp_path_factory.mktemp("light"), width=PHONE, dark=False))


@pytest.fixture(scope="module")
def in_the_dark(pages, tmp_path_factory):
    return first(measure(pages, PROBE, tmp_path_factory.mktemp("dark"), width=PHONE, dark=True))


def first(found):
    return {name: values[0] for name, values in found.items()}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_phone(on_a_phone, name):
    found = on_a_phone[name]
    assert found["width"] == PHONE
    assert (found["overflow"], found["cutOff"]) == (0, 0)


@pytest.mark.parametrize("name", PAGES)
def test_images_are_shown_and_have_a_text_in_their_place(on_a_phone, name):
    found = on_a_phone[name]
    assert found["images"] == {"report": 4 + 4, "sheet": 6, "answers": 1, "study": 1, "comparison": 1}[name]
    assert (found["broken"], found["withoutAlt"]) == (0, 0)


def luminance(colour):
    """Relative luminance of "rgb(r, g, b)", 0 to 1 (WCAG 2.2)."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", PAGES)
def test_both_themes_are_legible(on_a_phone, in_the_dark, name):
    light, dark = on_a_phone[name], in_the_dark[name]
    assert luminance(light["paper"]) > 0.9
    assert luminance(dark["paper"]) < 0.05
    for theme in (light, dark):
        assert contrast(theme["ink"], theme["paper"]) >= 7
        assert contrast(theme["soft"], theme["paper"]) >= 4.5
        if theme["plot"] is not None:  # its letters are black
            assert theme["plot"] == "rgb(255, 255, 255)"


def test_the_filter_of_the_rollouts(on_a_phone):
    """p1: multi 0, 0.4, visible 0, 0, infrared 1, 1: a conflict. p2: multi 1, 0.6, visible 0, 0.5, infrared 0.2, 0."""
    found = {choice: tuple(counts) for choice, (*counts, _, _) in on_a_phone["report"]["filter"].items()}
    assert found == {
        "": (12, 2),
        "view=infrared": (4, 2),
        "from=0.5": (2 + 3, 2),
        "to=0.4": (4 + 3, 2),
        "view=multi&from=0.5": (2, 1),
        "conflict=yes": (6, 1),
        "conflict=no": (6, 1),
        "view=visible&conflict=yes&to=0": (2, 1),
    }
    said, address = on_a_phone["report"]["filter"]["view=multi&from=0.5"][2:]
    assert said == "2 of 12 answers, 1 of 2 questions"
    assert address == "#view=multi&from=0.5"


def test_a_followed_report_loads_itself_again_and_keeps_its_filter(tmp_path):
    chromium()
    followed = report(tmp_path, Standing("running", 100, reload_s=1))
    once = tmp_path / "once"
    once.mkdir()
    probe = """
      const form = document.getElementById("filter"), kept = form.elements.view.value;
      if (!kept) {
        form.elements.view.value = "infrared";
        form.elements.view.dispatchEvent(new Event("input", {bubbles: true}));
      }
      return [kept, [...document.querySelectorAll("tr[data-view]")].filter((row) => !row.hidden).length];
    """
    found = measure({"followed": followed, "once": report(once)}, probe, tmp_path, width=PHONE, dark=False)
    assert found["once"] == [["", 4]]
    assert found["followed"][:2] == [["", 4], ["infrared", 4]]
