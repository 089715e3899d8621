"""Workers that are lost while the other half of their GPU sleeps. Here the GPU is the memory of a CPU process."""

from __future__ import annotations

from mars.run_dir.events import read_events
from tests.faults.test_resume import rows, weights
from tests.integration.workshop import LOCAL, Workshop

SETTINGS = ("rollout=hf", "actor.num_workers=1", "data.prompts_per_step=2", "actor.prompts_per_update=1",
            "rollout.samples_per_prompt=2", "rollout.max_response_tokens=8", "run.num_steps=3", "checkpoint.every=1",
            "evaluation.every=2", "algorithm.kl_coefficient=0.1", "algorithm.kl_placement=reward")  # fmt: skip


def test_lost_workers_change_nothing_while_engine_and_rank_take_turns(workshop: Workshop, tmp_path, monkeypatch):
    """An engine dies while it takes weights, so the new one has to wait until the rank is offloaded; one dies while it
    samples; the rank dies before an update, while the engine sleeps. The undisturbed run is separate, without Ray."""
    settings = (*SETTINGS, f"algorithm.kl_reference='{workshop.model}'")
    apart = workshop.train(tmp_path / "apart", *LOCAL, *settings)
    assert apart.returncode == 0, apart.stderr[-3000:]
    once = tmp_path / "once"
    once.mkdir()
    faults = ("engine.load_weights:kill@2", "engine.samples:kill@4", "actor.before_update:kill@2")
    monkeypatch.setenv("MARS_FAULT", ",".join(faults))
    monkeypatch.setenv("MARS_FAULT_ONCE", str(once))
    together = workshop.train(
        tmp_path / "together", *settings, "cluster.placement=colocated", "cluster.call_timeout_s=60"
    )
    assert together.returncode == 0, together.stderr[-3000:]
    assert {path.name for path in once.iterdir()} == set(faults)
    assert rows(together.run_dir) == rows(apart.run_dir)
    assert weights(together.run_dir) == weights(apart.run_dir)
    events = [entry["event"] for entry in read_events(together.run_dir)]
    assert (events.count("trainer_rebuilt"), together.metrics[-1]["fault/engine_restarts"]) == (1, 2)
    assert all("timing_s/turns" in row for row in together.metrics)
