"""The recipes as a user starts them: the run scripts on real rows, and a few real steps of each tiny experiment."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mars.cli.app import app
from tests.fakes.python import call_script
from tests.integration.workshop import ROOT, Job, Workshop, run
from tests.unit.rewards.judge_server import judge_server

DAPO = "recipe/dapo/run_dapo_qwen2.5_3b.sh"
MARS = "recipe/mars/run_mars_qwen2.5_3b.sh"
EXAMPLE = "examples/grpo_trainer/run_qwen2_5_vl-3b.sh"
REWARD = f"{Path(__file__).with_name('varied_reward.py')}:score"  # random text scores nothing; this varies
# The tiny experiments of all recipes but these two.
METHODS = sorted(
    path for path in ROOT.glob("recipe/*/experiment/*_tiny.yaml") if path.parents[1].name not in ("dapo", "mars")
)
# The commands of READMEs that prepare a tiny experiment.
PREPARES = re.compile(
    r"^(?:mars data build \w+|python recipe/\w+/\w+\.py) runs/(?:quickstart|puzzles)/.*$", re.MULTILINE
)
ON_A_CPU = ("cluster.device=cpu", "rollout.tensor_parallel_size=1")


def start(script: str, cwd: Path, *arguments: str) -> Job:
    """`bash script arguments` from `cwd`, and what it starts; the run's folder is cwd/run."""
    call = call_script(script, *arguments, folder=cwd, cwd=cwd)
    assert call.returncode == 0, call.stderr
    return run(["-m", "mars.main", *call.of_mars_main], cwd / "run")


def test_a_script_checks_its_arguments_and_data(workshop: Workshop, tmp_path: Path):
    rows = tmp_path / "rows"
    rows.mkdir()
    enlarge(workshop.data, rows, times=11)
    given = ["--dry-run", f"model.path='{workshop.model}'", f"data.image_root='{workshop.data}'", *ON_A_CPU]
    done = start(EXAMPLE, tmp_path, "vllm", "rows", "grounding", "2", *given)
    assert done.returncode == 0, done.stderr
    assert "132 rows with 2" in done.stdout
    assert "128 prompts, 2048 rollouts, 1792 of them trained on" in done.stdout
    baseline = start(DAPO, tmp_path, "hf", "rows", "grounding", "any", "anchor=none", *given)
    assert baseline.returncode == 0, baseline.stderr
    assert "16 prompts, 192 rollouts, 192 of them trained on" in baseline.stdout
    wrong = start(MARS, tmp_path, "hf", "rows", "grounding", "3", *given)
    assert wrong.returncode == 3
    assert "train.parquet:0" in wrong.stderr
    assert "2 images; data.images_per_row is 3" in wrong.stderr
    assert not (tmp_path / "runs").exists(), "a dry run writes nothing"


def enlarge(source: Path, target: Path, times: int) -> None:
    """The rows of `source` several times over, without ids."""
    import pyarrow as pa
    from pyarrow import parquet

    for part in ("train", "test"):
        rows = parquet.read_table(source / f"{part}.parquet").drop_columns(["extra_info"])
        parquet.write_table(pa.concat_tables([rows] * times), target / f"{part}.parquet")


@pytest.mark.parametrize(
    "method",
    [*(pytest.param(plain, marks=pytest.mark.slow) for plain in ("grpo", "dapo")), "mars_grpo", "mars_dapo"],
)
def test_the_tiny_experiments_train(workshop: Workshop, tmp_path: Path, method: str):
    """Real vLLM and FSDP, in one process; as they are written they use Ray, as the runs of test_training_job.py do."""
    script, anchored = (DAPO if "dapo" in method else MARS), method.startswith("mars_")
    job = start(
        script, tmp_path, "vllm", str(workshop.data), REWARD, "2", f"experiment={method}_tiny", "run.dir=run",
        f"model.path='{workshop.model}'", "run.num_steps=2", "data.prompts_per_step=4", "actor.prompts_per_update=4",
        "rollout.samples_per_prompt=4", "evaluation.before_training=false", "cluster.kind=local",
        "actor.num_workers=1", "tracking.to=[console]",
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    for row in job.metrics:
        assert row["actor/grad_norm"] > 0
        assert row["mars/prompts_kept"] == 4
        assert (row["anchor/tokens"] > 0) == anchored
        assert row.get("mars/lambda") == (pytest.approx(4 / 6) if anchored else None)
        assert ("reward/overlong_penalty/mean" in row) == ("dapo" in method)
        assert row["mars/rounds"] <= (10 if "dapo" in method else 1)
    assert (job.metrics[1]["actor/kl_loss"] > 0) == ("grpo" in method), (
        "after one update the policy has left its reference"
    )
    # A random policy babbles up to the limit: nearly every response loses the whole factor of 1.
    if "dapo" in method:
        assert job.metrics[0]["reward/overlong_penalty/mean"] < -0.5
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def quick_start(workshop: Workshop, tmp_path_factory) -> Path:
    """A folder with the quick start's data and model, and with recipe/, where the tiny experiments look for them."""
    folder = tmp_path_factory.mktemp("quick_start")
    (folder / "runs" / "quickstart" / "cold_start").mkdir(parents=True)
    (folder / "runs" / "quickstart" / "data").symlink_to(workshop.data)
    (folder / "runs" / "quickstart" / "cold_start" / "policy").symlink_to(workshop.model)
    (folder / "recipe").symlink_to(ROOT / "recipe")
    with contextlib.chdir(folder):
        for readme in sorted(ROOT.glob("recipe/*/README.md")):
            for line in PREPARES.findall(readme.read_text()):
                prepare(shlex.split(line), folder)
    return folder


def prepare(command: list[str], folder: Path) -> None:
    """A command of a README that makes what a tiny experiment needs, from the quick start's data or model."""
    if command[0] == "mars":
        app(command[1:], standalone_mode=False)
    else:
        done = run(command[1:], folder / "run")
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def environment(quick_start: Path) -> Iterator[dict[str, str]]:
    """What some rewards need: a service that stands in for a judge model, and the model's embeddings."""
    with judge_server() as server:
        judge = {"JUDGE_URL": server.url, "JUDGE_MODEL": "a-judge", "NO_PROXY": "127.0.0.1"}
        yield judge | {"MIXED_R1_EMBEDDINGS": str(quick_start / "runs" / "puzzles" / "embeddings")}


def has_sources(experiment: Path) -> bool:
    """Whether some row has two images, which anchors need: the quick start's rows have, a recipe's own may not."""
    files = yaml.safe_load(experiment.read_text()).get("data", {}).get("train_files", [])
    own = [ROOT / file for file in files if file.startswith("recipe/")]
    rows = [json.loads(line) for file in own for line in file.read_text().splitlines()]
    return len(own) < len(files) or not files or any(len(row.get("images", ())) > 1 for row in rows)


def has_rule(experiment: Path) -> bool:
    return bool(yaml.safe_load(experiment.read_text()).get("recipe", {}).get("tokens"))


# With anchors too where they meet a rule in the trainer; tests/shipped/recipes takes two steps of all with anchors.
CASES = [(path, None) for path in METHODS]
CASES += [(path, "mono") for path in METHODS if has_rule(path) and has_sources(path)]


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "anchor"), CASES, ids=[f"{path.stem}-{anchor}" for path, anchor in CASES])
def test_a_step_of_every_method(quick_start: Path, environment: dict[str, str], experiment: Path, anchor: str | None):
    """Real models in one process, with the engine of transformers; the other engines run the same step."""
    own = yaml.safe_load(experiment.read_text())
    # Random text scores nothing with a built-in reward.
    varied = [] if "reward" in own else [f"reward.function={REWARD}"]
    given = [
        f"experiment={experiment.stem}", "run.num_steps=1", "cluster.kind=local", "rollout.engine=hf",
        "rollout.num_workers=1", "actor.num_workers=1", "evaluation.before_training=false", "evaluation.every=0",
        "data.prompts_per_step=2", "actor.prompts_per_update=2", "rollout.samples_per_prompt=4",
        "rollout.max_response_tokens=16", "reward.num_workers=1", "tracking.to=[console]", *varied,
        *([f"anchor={anchor}", f"run.name={experiment.stem}_{anchor}"] if anchor else []),
    ]  # fmt: skip
    folder = experiment.parents[1].relative_to(ROOT)
    run_dir = quick_start / "runs" / (f"{experiment.stem}_{anchor}" if anchor else experiment.stem)
    job = run(["-m", "mars.main", "--config-dir", str(folder), *given], quick_start / "run", **environment)
    assert job.returncode == 0, job.stderr[-3000:]
    (row,) = Job(0, "", "", run_dir).metrics
    assert row["reward/failed"] == 0
    assert row["mars/prompts_sampled"] >= 2
    # A step that trains on guests alone has nothing to compare.
    assert "rollout/logprob_diff_max" in row or any(name.startswith("extra/") for name in row)
    assert row.get("rollout/logprob_diff_max", 0.0) < 1e-3
    assert row.get("sampler/rows_added", 1) > 0, "the rows that its README makes"
    parts = [name for name in row if name.startswith("reward/") and name.endswith("/mean")]
    assert varied or parts, "a recipe's own reward names its parts"
    if has_rule(experiment):
        # The rule of vogue adds no loss: it changes advantages.
        assert (row["actor/rule_loss"] != 0) == (experiment.stem != "vogue_tiny")
        assert [name for name in row if name.startswith("recipe/")], "a rule says what it measured"
    assert (run_dir / "policy" / "model.safetensors").is_file()
