"""The method in forty lines of docs/extend.md, as a user starts it: with the real trainer and engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.integration.workshop import ROOT, Workshop, run

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
HEADER = "# @package _global_\ndefaults:\n  - quickstart\n  - _self_\n\n"
REWARD = f"{Path(__file__).with_name('varied_reward.py')}:score"  # random text scores nothing; this varies


def test_the_method_of_the_page_trains(workshop: Workshop, tmp_path: Path):
    """The second step has two prompts that the first has not sampled, and the checkpoint has a number for all four."""
    files = dict(re.findall(r"```python\n# file: (own\.py|looking\.py)\n(.*?)```", PAGE, re.DOTALL))
    assert list(files) == ["own.py", "looking.py"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "experiment").mkdir()
    first = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert first is not None
    (tmp_path / "experiment" / "own.yaml").write_text(HEADER + first[1], encoding="utf-8")
    given = [
        "-m", "mars.main", "--config-dir", str(tmp_path), "experiment=own", "run.dir=run", "cluster.kind=local",
        f"model.path='{workshop.model}'", f"data.train_files=['{workshop.data}/train.parquet']", "data.eval_files=[]",
        "rollout.engine=hf", "rollout.num_workers=1", "actor.num_workers=1", "evaluation.before_training=false",
        "data.prompts_per_step=2", "actor.prompts_per_update=2", "rollout.samples_per_prompt=3", "checkpoint.every=2",
        "rollout.max_response_tokens=16", "reward.num_workers=1", f"reward.function={REWARD}",
    ]  # fmt: skip
    job = run([*given, "run.num_steps=2"], tmp_path / "run")
    assert job.returncode == 0, job.stderr[-3000:]
    assert len(job.metrics) == 2
    for row in job.metrics:
        assert row["mars/prompts_kept"] == 2
        assert 0 <= row["sampler/mean_accuracy"] <= 1
        assert row["actor/rule_loss"] == 0, "the rule has factors and no loss of its own"
        assert row["actor/grad_norm"] > 0
    state = json.loads((tmp_path / "run" / "checkpoints" / "step_000002" / "state.json").read_text())
    hooks = json.loads(state["hooks"])
    times, accuracies = hooks["advantage"]["own:Rarely"], hooks["sampler"]["state"]
    assert [*times.values()] == [1] * 4
    assert accuracies.keys() == times.keys()
