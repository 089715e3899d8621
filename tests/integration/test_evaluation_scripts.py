"""scripts/infer.sh, then scripts/eval.sh, on a tiny model and a small official evaluation file, with real engines."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image, ImageDraw

from tests.fakes.python import call_script
from tests.integration.workshop import Job, run

SETTINGS = (
    "experiment=quickstart", "cluster=local", "actor.num_workers=1", "rollout.max_response_tokens=12",
    "evaluation.temperature=1.0",
)  # fmt: skip
NUM_QUESTIONS = 4


def script(name: str, *arguments: object) -> Job:
    """`bash scripts/NAME ARGUMENTS`, and what it starts."""
    with TemporaryDirectory() as folder:
        call = call_script(f"scripts/{name}", *map(str, arguments), folder=Path(folder), cwd=Path(folder))
        assert call.argv is not None, call.stderr
        job = run(call.argv[1:], Path(folder) / "run", COLUMNS="160")
    assert job.returncode == 0, job.stderr[-3000:]
    return job


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """Scenes in two images each, as an official evaluation file."""
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for number in range(NUM_QUESTIONS):
        box = [8 + 4 * number, 6 + 2 * number, 40 + 6 * number, 50 + number]
        images = []
        for source in ("visible", "infrared"):
            (folder / source).mkdir(exist_ok=True)
            picture = Image.new("RGB", (112, 84), (30, 30, 60) if source == "visible" else (90, 20, 20))
            ImageDraw.Draw(picture).rectangle(box, fill=(200, 180, 30 + number))
            picture.save(folder / source / f"{number}.png")
            images.append({"type": "image", "image": f"data/images/LLVIP/{source}/{number}.png"})
        text = {"type": "text", "text": "Here are two images of the same scene. Detect all person in the scene."}
        rows.append({"role": "user", "content": [*images, text], "ground_truth": [box]})
    (folder / "llvip_eval.json").write_text(json.dumps(rows))
    return folder / "llvip_eval.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from mars.data.synthetic.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("model") / "tiny", seed=2)


def answers(out: Path) -> dict[tuple, dict]:
    read = [json.loads(text) for text in (out / "answers.jsonl").read_text().splitlines()]
    for record in read:
        del record["row"]  # names the folder of the results
    return {(record["prompt_id"], str(record["view"]), record["sample"]): record for record in read}


@pytest.fixture(scope="module")
def asked(questions, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("asked") / "out"
    script("infer.sh", model, questions, out, "rollout=hf", *SETTINGS)
    return out


def test_all_views_are_answered_and_scored(asked, questions, tmp_path):
    read = answers(asked)
    assert len(read) == 3 * NUM_QUESTIONS
    for record in read.values():
        assert (record["truth_size"], record["response_size"]) == ([112, 84], [112, 84])
        assert 0 < record["response_tokens"] <= 12
        assert record["finish_reason"] in ("stop", "length")
    multi = json.loads((asked / "multi.json").read_text())
    assert [entry["ground_truth"] for entry in multi] == [r["ground_truth"] for r in json.loads(questions.read_text())]
    page = tmp_path / "page.html"
    result = json.loads(script("eval.sh", asked, "grounding", "0.5", "--json", "--html", page).stdout)
    assert (result["n"], result["answers"], result["multi"]["n"]) == (NUM_QUESTIONS, 3 * NUM_QUESTIONS, NUM_QUESTIONS)
    assert list(result["mono"]) == ["visible", "infrared"]
    assert result["unparseable"] == 3 * NUM_QUESTIONS, "random text is counted, not left out"
    assert result["multi"]["mean"] == result["compat"]["multi"]["mean"] == 0
    assert page.read_text().count("data:image/png") == 2 * NUM_QUESTIONS
    table = script("eval.sh", asked / "multi.json", "grounding")
    assert "Unparseable answers" in table.stdout
    assert "same image size" in table.stderr


def test_an_interrupted_call_ends_with_the_same_answers(asked, questions, model, tmp_path):
    """Sampled at temperature 1: what is asked again has the seeds it had."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("manifest.json", "answers.jsonl"):
        (out / name).write_bytes((asked / name).read_bytes())
    content = (out / "answers.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    (out / "answers.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:99])
    done = script("infer.sh", model, questions, out, "rollout=hf", *SETTINGS)
    assert "the last line was cut off" in done.stderr
    assert f"7 of {3 * NUM_QUESTIONS} requests have answers" in done.stderr
    assert answers(out) == answers(asked)
    assert (out / "multi.json").read_bytes() == (asked / "multi.json").read_bytes()


@pytest.mark.slow
def test_vllm_answers_too_and_is_compared(asked, questions, model, tmp_path):
    out = tmp_path / "vllm.json"
    script("infer.sh", model, questions, out, "rollout=vllm", "experiment=quickstart", "cluster=local",
           "actor.num_workers=1", "rollout.max_response_tokens=12", "--views", "multi")  # fmt: skip
    assert len(json.loads(out.read_text())) == NUM_QUESTIONS
    command = ["-m", "mars.cli.main", "eval", "compare", str(asked), str(out.with_suffix(".jsonl"))]
    done = run([*command, "--task", "grounding", "--json"], tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["n"], result["rows"][0]["differences"][1]["mean"]) == (NUM_QUESTIONS, 0)
