"""examples/<data set>/<method>.sh on small sets in each public format, from download to a checked and to a real job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars.cli.app import app
from mars.main import main
from tests.fakes.python import call_script
from tests.integration.test_recipes import ON_A_CPU, REWARD, start
from tests.integration.workshop import ROOT, Workshop

METHODS = ("grpo", "mars_grpo", "dapo", "mars_dapo")
ROWS = 20
SMALL = ("data.prompts_per_step=8", "actor.prompts_per_update=8", "actor.num_workers=2")
TINY = (
    "cluster=local", "actor.num_workers=1", "model.dtype=float32", "run.num_steps=2", "run.dir=run",
    "data.prompts_per_step=4", "actor.prompts_per_update=4", "rollout.samples_per_prompt=3", "rollout.top_p=1.0",
    "rollout.max_response_tokens=12", "rollout.max_model_len=1024", "data.max_prompt_tokens=1000",
    "data.max_image_pixels=12544", "data.min_image_pixels=784", "rollout.vllm.enforce_eager=true",
    "rollout.vllm.block_size=32", "rollout.vllm.kv_cache_memory_bytes=67108864",
    "actor.gradient_checkpointing=false", "tracking.to=[console]",
    "evaluation.before_training=false", "actor.learning_rate=1e-4", "actor.warmup_steps=0",
)  # fmt: skip


def pictures(folder: Path, number: int) -> list[str]:
    noise = np.random.default_rng(0)
    names = [f"images/{i}.png" for i in range(number)]
    (folder / "images").mkdir(parents=True)
    for name in names:
        Image.fromarray(noise.integers(0, 256, (56, 84, 3), dtype=np.uint8)).save(folder / name)
    return names


def spatialqa(folder: Path) -> None:
    names = pictures(folder, ROWS)
    (folder / "images_d").mkdir()
    records = []
    for i, name in enumerate(names):
        below = f"images_d/{i}.png"
        Image.fromarray(np.full((56, 84), 100 * i, dtype=np.uint16)).save(folder / below)
        question = f"<image 1>\n<image 2>\nIs there a cup {i}? The end of your output must be Yes or No."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": ("Yes", "No")[i % 2]}]
        records.append({"id": i, "image": [name, below], "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))


def demon(folder: Path, images: int, context: str, responses: list[str], choices: list[str] | None) -> None:
    names = pictures(folder, images)
    records = []
    for i in range(ROWS):
        task = {"context": context.format(i), "images_path": names}
        if choices:
            task["choice_list"] = choices
        records.append(
            {
                "sample_id": i,
                "task_instruction_id": 0,
                "task_instance": task,
                "response": responses[i % len(responses)],
            }
        )
    metadata = {"task_instruction": ["Answer the question."], "dataset": "set", "split": "train"}
    (folder / "train.json").write_text(json.dumps({"metadata": metadata, "data": records}))


def nuscenes(folder: Path) -> None:
    shown = "".join(f"{{{{image#{i}}}}}" for i in range(1, 7))
    demon(folder, 6, shown + " How many cars are there, in round {}?", ["three or 3", "yes"], None)


def ocr_vqa(folder: Path) -> None:
    context = "{{image#1}}{{image#2}} Question {}: are these two books in the same field?"
    demon(folder, 2, context, ["Travel", "not the same"], ["not the same", "Travel", "Law", "History"])


MAKERS = {"spatialqa": spatialqa, "nuscenes": nuscenes, "ocr_vqa": ocr_vqa}


@pytest.fixture(scope="module")
def sets(workshop: Workshop, tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Data set -> (folder with train.parquet, image root), each converted by the command from its own format."""
    found = {"llvip": (workshop.data, workshop.data)}
    for name, make in MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        make(folder / "src")
        app(["data", "convert", name, str(folder / "src"), str(folder / "out")], standalone_mode=False)
        found[name] = (folder / "out", folder / "src")
    return found


def given(workshop: Workshop, sets, name: str) -> list[str]:
    folder, root = sets[name]
    return [str(folder), f"model.path='{workshop.model}'", f"data.image_root='{root}'", *ON_A_CPU]


@pytest.mark.parametrize("method", [*(pytest.param(one, marks=pytest.mark.slow) for one in METHODS[:-1]), METHODS[-1]])
@pytest.mark.parametrize("name", ["llvip", *MAKERS])
def test_every_example_is_in_order(workshop: Workshop, sets, tmp_path: Path, capsys, name: str, method: str):
    """The script's own command, dry, in this process: 16 processes would only import the same again."""
    script = f"examples/{name}/{method}.sh"
    arguments = [*given(workshop, sets, name), "--dry-run", *SMALL]
    assert main(call_script(script, *arguments, folder=tmp_path, cwd=tmp_path).of_mars_main) == 0
    shown = capsys.readouterr().out
    assert "dry run:" in shown
    images = {"nuscenes": 6}.get(name, 2)
    assert f"rows with {images}" in shown
    assert len((ROOT / script).read_text().splitlines()) <= 20
    assert call_script(script, folder=tmp_path, cwd=tmp_path).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("llvip", "mars_grpo"), ("nuscenes", "mars_dapo")])
def test_one_of_each_task_trains_for_real(workshop: Workshop, sets, tmp_path: Path, name: str, method: str):
    own = ["algorithm.overlong_buffer_tokens=4"] if "dapo" in method else ["algorithm.kl_coefficient=0.0"]
    job = start(
        f"examples/{name}/{method}.sh", tmp_path, *given(workshop, sets, name), *TINY, *own,
        f"reward.function='{REWARD}'",
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    assert len(job.metrics) == 2
    for row in job.metrics:
        assert row["actor/grad_norm"] > 0
        assert row["anchor/tokens"] > 0
        assert {key for key in row if key.startswith("mars/anchor/")} == {
            f"mars/anchor/{source}/mean" for source in sources(name)
        }


def sources(name: str) -> list[str]:
    return ["visible", "infrared"] if name == "llvip" else [f"view_{i}" for i in range(1, 7)]
