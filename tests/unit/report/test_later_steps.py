"""Nothing remains in a run directory of steps that a resumed run makes again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mars.report.later_steps import remove_later_steps

STEPS = (0, 9, 10, 11, 1000000)
KEPT = ("policy/model.safetensors", "logs/attempt_1/engine-0.log", "evaluation/public.json", "rollouts/notes.txt",
        "rollouts/step_x.jsonl", "evaluation/step_000011.csv", "events.jsonl")  # fmt: skip


def write(run_dir: Path, *names: str) -> None:
    for name in names:
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text("{}")


@pytest.fixture
def run_dir(tmp_path):
    """A run with files of many steps, and rows up to step 11."""
    for step in STEPS:
        write(tmp_path, f"rollouts/step_{step:06d}.jsonl")
        write(tmp_path, *(f"evaluation/step_{step:06d}.{kind}" for kind in ("json", "jsonl")))
    write(tmp_path, *KEPT)
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(12)))
    return tmp_path


def files(run_dir: Path) -> set[str]:
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}


def of(folder: str, kinds: tuple[str, ...], last: int) -> set[str]:
    return {f"{folder}/step_{step:06d}.{kind}" for step in STEPS if step <= last for kind in kinds}


# A checkpoint is saved before or after its step's row is written; without one the run starts at its beginning.
@pytest.mark.parametrize(("sampled", "logged"), [(10, 10), (10, 9), (0, -1)])
def test_files_of_later_steps_go_and_all_others_stay(run_dir, caplog, sampled, logged):
    write(run_dir, "report.html")
    with caplog.at_level(logging.INFO):
        remove_later_steps(run_dir, sampled, logged)
    kept = of("rollouts", ("jsonl",), sampled) | of("evaluation", ("json", "jsonl"), logged)
    assert files(run_dir) == {*KEPT, "metrics.jsonl", *kept}
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 12  # the tracker's
    (record,) = caplog.records
    assert f"the run goes on after step {sampled}: rollouts/step_" in record.getMessage()


def test_a_report_of_steps_that_stay_stays(run_dir):
    write(run_dir, "report.html")
    before = files(run_dir)
    remove_later_steps(run_dir, 1000000, 1000000)
    assert files(run_dir) == before


def test_rows_alone_make_a_report_old(tmp_path):
    write(tmp_path, "report.html")
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    remove_later_steps(tmp_path, 3, 3)
    assert files(tmp_path) == {"report.html", "metrics.jsonl"}
    remove_later_steps(tmp_path, 2, 2)
    assert files(tmp_path) == {"metrics.jsonl"}


def test_what_cannot_be_removed_is_named(tmp_path, caplog):
    (tmp_path / "rollouts" / "step_000005.jsonl").mkdir(parents=True)
    remove_later_steps(tmp_path, 4, 4)
    assert "rollouts/step_000005.jsonl: of a step that is trained again, but cannot be removed" in caplog.text
    remove_later_steps(tmp_path / "new", 0, -1)
