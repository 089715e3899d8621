"""Real runs whose hooks raise or give unusable scores: exit code, message, and what mars.log keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.workshop import LOCAL, Workshop

HOOKS = """
class Nan:
    part, on = "nanny", "multi"
    def __call__(self, item, facts): return [float("nan")] * len(item.multi.rollouts)

class Rule:
    def __call__(self, base, kept, facts): return kept[0].missing
    def state(self): return {}
    def restore(self, state): pass

class Stateless(Rule):
    def state(self): return {}["x"]

class Sampler:
    def __init__(self, setup): self.setup = setup
    def batch(self, round, left_out): return self.setup.sets[0][: self.setup.prompts_per_step]
    def probes(self, step): return ()
    def observe(self, rollouts, step): return {}["x"]
    def state(self): return {}
    def restore(self, state): pass
"""


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    (tmp_path / "host.py").write_text(HOOKS)
    return tmp_path / "host.py"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("recipe.sampler='{}:Sampler'", "recipe.sampler: host:Sampler failed when it observed step 1: KeyError: 'x' ("),
        pytest.param(
            "recipe.advantage=['{}:Rule']",
            "recipe.advantage: host:Rule failed in step 1: AttributeError: ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_hook_that_raises_is_named_with_a_traceback(workshop: Workshop, tmp_path: Path, hooks, setting, message):
    job = workshop.train(tmp_path / "run", *LOCAL, "rollout.engine=hf", setting.format(hooks))
    assert job.returncode == 2, job.stderr[-3000:]
    assert message in job.stderr
    assert "please report" not in job.stderr
    log = (tmp_path / "run" / "mars.log").read_text()
    assert "Traceback" in log
    assert f'File "{hooks}"' in log


def test_a_state_that_raises_is_refused_before_the_run(workshop: Workshop, tmp_path: Path, hooks):
    job = workshop.train(tmp_path / "run", *LOCAL, "rollout.engine=hf", f"recipe.advantage=['{hooks}:Stateless']")
    assert job.returncode == 2, job.stderr[-3000:]
    assert "recipe.advantage: host:Stateless failed when it gave its state: KeyError: 'x'" in job.stderr
    assert "Traceback" not in job.stderr


def test_a_shaping_that_fails_every_score_is_in_the_log(workshop: Workshop, tmp_path: Path, hooks):
    job = workshop.train(tmp_path / "run", *LOCAL, "rollout.engine=hf", f"recipe.shaping=['{hooks}:Nan']")
    assert job.returncode == 0, job.stderr[-3000:]
    assert [row["mars/prompts_kept"] for row in job.metrics] == [0, 0]
    log = (tmp_path / "run" / "mars.log").read_text()
    assert log.count("recipe.shaping: host:Nan: score with nanny is not in") == 1
    assert log.count("all 16 responses to multi prompts failed") == 2
    assert "32 responses got no usable score" in job.stdout
