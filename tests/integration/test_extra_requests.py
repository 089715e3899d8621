"""A run with `recipe.requests` on real models in one process: every role, before and after, in one step."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.workshop import Workshop, run

REWARD = f"{Path(__file__).with_name('varied_reward.py')}:score"  # random text scores nothing; this varies
ASKS = """
from mars.hooks.requests import Extra, Injected
from mars.types import Message


class Asks:
    def before(self, prompt, facts):
        sources = tuple(source.image for source in prompt.sources)
        first = (Message("user", "<image>\\nWhat is it?"),)
        return (
            Extra("part", "own_group", first, sources[:1], prompt.truth, 2),
            Extra("swapped", "guest", prompt.messages, sources[::-1], prompt.truth, 2, bounded=True),
            Injected("truth", f"<answer>{prompt.truth}</answer>", 1.0),
        )

    def after(self, item, facts):
        return [
            Extra(
                "blind", "signal", (Message("user", one.text + " Why?"),), (), "yes", 1, view=one.view, about=one.index
            )
            for group in (item.multi, *item.anchors) for one in group.rollouts
        ]


class Bonus:
    part, on = "blind", "all"

    def __call__(self, item, facts):
        said = {(g.request.view, g.request.extra.about): len(r.text) for g in item.extras for r in g.valid}
        groups = (*item.multi_groups, *item.anchors)
        return [0.01 * said.get((r.view, r.index), 0) for group in groups for r in group.rollouts]
"""


def test_every_role_in_a_real_run(workshop: Workshop, tmp_path: Path):
    (tmp_path / "asks.py").write_text(ASKS)
    job = run(
        [
            "-m", "mars.main", "experiment=quickstart", f"data.train_files=[{workshop.data / 'train.parquet'}]",
            "data.eval_files=[]", f"data.image_root={workshop.data}", f"model.path={workshop.model}", "anchor=mono",
            f"run.dir={tmp_path / 'run'}", "run.num_steps=2", "cluster.kind=local", "rollout.engine=hf",
            "rollout.num_workers=1", "actor.num_workers=1", "evaluation.before_training=false", "evaluation.every=0",
            "data.prompts_per_step=2", "actor.prompts_per_update=1", "rollout.samples_per_prompt=2",
            "rollout.max_response_tokens=16", "rollout.max_model_len=528", "reward.num_workers=1",
            f"reward.function={REWARD}", "tracking.rollouts_every=1",
            f"recipe.requests={tmp_path / 'asks.py'}:Asks", f"recipe.shaping=[{tmp_path / 'asks.py'}:Bonus]",
        ],
        tmp_path / "run",
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    for row in job.metrics:
        asked = {name: row[f"extra/{name}/responses"] + row[f"extra/{name}/left_out"] for name in ("part", "swapped")}
        assert asked == {"part": 4, "swapped": 4}
        assert row["extra/blind/responses"] + row["extra/blind/left_out"] >= 2 * (2 + 2)
        assert row["extra/blind/failed"] == 0
        assert row["reward/blind/mean"] > 0
        assert row["actor/grad_norm"] > 0
        assert row["rollout/logprob_diff_max"] < 1e-3
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "rollouts" / "step_000002.jsonl").read_text().splitlines()
    ]
    assert {line.get("extra") for line in lines} >= {None, "part", "swapped", "blind"}
