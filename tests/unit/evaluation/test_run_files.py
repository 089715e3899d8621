"""`mars eval score|compare|show` on what a run keeps: its sampled rollouts and the answers of its evaluations."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mars.answers.files import step_file, write_answers
from mars.cli.app import app
from mars.data.prompts.views import anchor_views
from mars.errors import DataError
from mars.evaluation.ask import EvaluationParts, evaluate
from mars.evaluation.files import read_results
from mars.rewards.functions import RewardsBySet
from mars.rewards.local import LocalScorer
from mars.rollout.collect import collect, score_stream
from mars.rollout.plan import RolloutPlan
from mars.rollout.scripted import ScriptedEngine
from mars.tracking.rollouts import RolloutFiles
from mars.types import ImageRef, Sampling
from tests.builders import make_prompt
from tests.unit.evaluation.result_files import boxes_text

EOS = 1_200_000  # beyond every character
TRUTH = [[0, 0, 50, 25]]
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"
SAMPLING = Sampling(1.0, 1.0, 0, 200)


def frames(prompt, view):
    return (100, 50), (100, 50)


def width_of(step: int, view) -> int:
    """Of the answered box; the true one is 50 wide. The policy improves with all images and not with one alone."""
    return {None: 10 + step, ("visible",): 20, ("infrared",): 30}.get(view, 40)


class Run:
    """A run's folder, written by what writes it in a run."""

    def __init__(self, folder: Path, anchors: str = "mono", names=("visible", "infrared")) -> None:
        self.folder = folder
        images = []
        for name in names:
            Image.new("RGB", (100, 50), (200, 30, 30)).save(folder / f"{name}.png")
            images.append(ImageRef(str(folder / f"{name}.png"), (100, 50)))
        text = "<image>" * len(names) + f"Where? {HOSTILE}"
        self.prompts = [
            make_prompt(prompt_id, images, names, text, truth=json.dumps(TRUTH), data_source="scenes")
            for prompt_id in ("p", "q")
        ]
        encode = lambda prompt, view: ((1, 2), tuple(images[: 1 if view else len(images)]))  # noqa: E731
        views = partial(anchor_views, anchor_kind=anchors)
        self.plan = RolloutPlan(2, 1, SAMPLING, SAMPLING, views, encode, seed=0)
        self.scorer = LocalScorer("grounding", "strict")

    def engine(self, step: int) -> ScriptedEngine:
        def script(request, k):
            text = boxes_text([[0, 0, width_of(step, request.view), 25]]) + HOSTILE
            return (*map(ord, text), EOS)

        return ScriptedEngine(script, [EOS])

    @staticmethod
    def decode(ids) -> str:
        return "".join(chr(token) for token in ids if token != EOS)

    def evaluate(self, step: int) -> dict:
        parts = EvaluationParts(
            engine=self.engine(step), scorer=self.scorer, plan=self.plan, decode=self.decode, frames=frames,
            prompt_length=lambda request: 10 * len(request.images), threshold=0.5,
            rewards=RewardsBySet("grounding", {}), max_bad_fraction=0.5,
        )  # fmt: skip
        evaluation = evaluate(parts, self.prompts, name=f"step {step}", step=step, model="m")
        (self.folder / "evaluation").mkdir(exist_ok=True)
        write_answers(step_file(self.folder / "evaluation", step), evaluation.answers)
        return dict(evaluation.result)

    def sample(self, step: int) -> None:
        requests = self.plan.requests(self.prompts, step)
        finished = self.engine(step).generate(requests)
        scored = score_stream(
            self.prompts, requests, finished, decode=self.decode, frames=frames, scorer=self.scorer, step=1
        )
        files = RolloutFiles(self.folder / "rollouts", frames, lambda request: 10 * len(request.images))
        files.log_rollouts(collect(self.prompts, requests, scored.samples), step)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def call(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_scoring_an_evaluation_again_gives_what_the_run_reported(run):
    reported = run.evaluate(20)
    done = call("score", run.folder / "evaluation" / "step_000020.jsonl", "--task", "grounding", "--json")
    assert done.exit_code == 0, done.output
    scored = json.loads(done.stdout)
    assert (scored["name"], scored["model"]) == ("step_000020", "policy at step 20")
    different = {"name", "step", "model", "by_data_source"}
    assert {key: scored[key] for key in reported.keys() - different} == {
        key: reported[key] for key in reported.keys() - different
    }
    assert scored["by_data_source"] == reported["by_data_source"]
    # One box, 30 of 50 wide; 20 and 30 of it alone.
    assert (scored["multi"]["mean"], scored["union"]["mean"]) == (pytest.approx(0.6), pytest.approx(0.6))
    assert scored["mono"]["visible"]["mean"] == pytest.approx(0.4)


def test_sampled_rollouts_are_scored(run):
    run.sample(10)
    scored = json.loads(
        call("score", run.folder / "rollouts" / "step_000010.jsonl", "--task", "grounding", "--json").stdout
    )
    assert (scored["n"], scored["answers"], scored["frames"], scored["cut_off"]) == (2, 8, "of each image", 0)
    assert scored["multi"]["mean"] == pytest.approx(0.4)
    assert scored["information_gain"]["mean"] == pytest.approx(0.4 - 0.5)


def test_anchors_of_two_sources_are_scored_and_shown(tmp_path):
    run = Run(tmp_path, "all_but_one", ("visible", "infrared", "depth"))
    run.sample(10)
    path = tmp_path / "rollouts" / "step_000010.jsonl"
    scored = json.loads(call("score", path, "--task", "grounding", "--json").stdout)
    assert set(scored["mono"]) == {"visible+infrared", "visible+depth", "infrared+depth"}
    assert (scored["multi"]["mean"], scored["union"]["mean"]) == (pytest.approx(0.4), pytest.approx(0.8))
    assert "Only infrared+depth" in call("score", path, "--task", "grounding").stdout
    assert "infrared+depth 0" in call("show", path).stdout


def test_two_steps_of_a_run_are_compared_question_by_question(run):
    """Multi goes from 10 to 50 of 50 pixels, one source alone stays: +0.8 and 0."""
    for step in (0, 40):
        run.evaluate(step)
    files = [run.folder / "evaluation" / f"step_{step:06d}.jsonl" for step in (0, 40)]
    result = json.loads(call("compare", *files, "--task", "grounding", "--json").stdout)
    assert result["n"] == 2
    difference = {row["quantity"]: row["differences"][1]["mean"] for row in result["rows"] if row["scorer"] == "strict"}
    assert difference["multi"] == pytest.approx(0.8)
    assert difference["mono/visible"] == pytest.approx(0.0)
    assert difference["information_gain"] == pytest.approx(0.8)
    assert [file["name"] for file in result["files"]] == ["step_000000", "step_000040"]
    table = call("compare", *files, "--task", "grounding").stdout
    assert "B: step_000040, model policy at step 40, 2 questions, 0 of them left out" in table


def test_answers_are_shown_with_the_rewards_they_were_given(run):
    """The page has the images with their boxes; no text acts on page or terminal."""
    run.sample(10)
    path = run.folder / "rollouts" / "step_000010.jsonl"
    done = call("show", path)
    assert done.exit_code == 0, done.output
    assert "multi 1 · score " in done.stdout
    assert "accuracy 0.4" in done.stdout
    assert "visible 0 · score " in done.stdout
    assert done.stdout.count("  truth\n    [[0, 0, 50, 25]]\n") == 2
    assert "\x1b" not in done.stdout
    assert "\\x1b[2J" in done.stdout
    one = call("show", path, "--questions", 1)
    assert one.stdout.count("  truth\n") == 1
    page = run.folder / "page.html"
    assert call("show", path, "--html", page).stdout == f"page: {page}\n"
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 4
    assert '<rect class="multi" x="0.0" y="0.0" width="0.2" height="0.5"/>' in html
    assert '<rect class="mono" x="0.0" y="0.0" width="0.3" height="0.5"/>' in html
    assert "policy at step 10" in html
    assert "Answers to 2 of 2 questions" in html
    assert "accuracy 0.4" in html
    assert html.count("<script") == 1, "the page's own"
    assert "\x1b" not in html


def test_a_cut_file_is_shown_as_far_as_it_goes_and_not_scored(run):
    run.sample(10)
    path = run.folder / "rollouts" / "step_000010.jsonl"
    path.write_bytes(path.read_bytes()[:-200])
    done = call("show", path)
    assert done.exit_code == 0
    assert "step_000010.jsonl:7: left out" in done.stderr
    assert "infrared 0" in done.stdout, "of the first question"
    error = call("score", path, "--task", "grounding").exception
    assert isinstance(error, DataError)
    assert "1 of 8 lines cannot be used" in str(error)


def test_answers_of_infer_without_their_manifest_are_shown_and_not_scored(run):
    """Nothing says how many of them there should be."""
    run.sample(10)
    path = run.folder / "answers.jsonl"
    records = [json.loads(text) for text in (run.folder / "rollouts" / "step_000010.jsonl").read_text().splitlines()]
    path.write_text("".join(json.dumps({**record, "step": None, "reward": None}) + "\n" for record in records))
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        read_results(path)
    assert "multi 0 · " in call("show", path).stdout
    assert "score" not in call("show", path).stdout


def test_the_summary_of_an_evaluation_is_no_result_file_and_says_where_the_answers_are(run):
    path = run.folder / "step_000020.json"
    path.write_text(json.dumps(run.evaluate(20)))
    error = call("score", path, "--task", "grounding").exception
    assert isinstance(error, DataError)
    assert "the answers of a run are in .jsonl files" in str(error)


def test_a_public_file_is_shown_too(tmp_path):
    (tmp_path / "theirs.json").write_text(json.dumps([{"content": ["a", "b\x1b[2J"], "ground_truth": "x"}]))
    done = call("show", tmp_path / "theirs.json")
    assert "  multi 1\n    b\\x1b[2J\n" in done.stdout


def test_a_file_that_is_not_there_has_a_reason(tmp_path):
    assert isinstance(call("show", tmp_path / "gone.jsonl").exception, DataError)
    assert call("show", tmp_path / "gone.jsonl", "--questions", 0).exit_code == 2
