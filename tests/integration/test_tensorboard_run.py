"""A short run with the real TensorBoard: its event files have metrics and pictures of rollouts."""

from __future__ import annotations

import pytest

from tests.integration.workshop import LOCAL, Workshop


def test_a_run_writes_event_files(workshop: Workshop, tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = workshop.train(tmp_path / "run", *LOCAL, "rollout=scripted", "tracking.to=[tensorboard]")
    assert job.returncode == 0, job.stderr
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    tags = events.Tags()
    assert [event.step for event in events.Scalars("critic/score/mean")] == [1, 2]
    assert any(tag.startswith("sources/score/") for tag in tags["scalars"])
    assert tags["images"] == [f"rollouts/prompt_{number}" for number in (1, 2, 3, 4)]
    assert [row["fault/tracker"] for row in job.metrics] == [0, 0]
