from __future__ import annotations

import pytest

from mars.checkpoint.changes import accept, changes, read_settings
from mars.config.ramp_section import Ramp
from mars.config.schema import TrainConfig
from mars.errors import ConfigError

BEFORE = {"run.seed": 1, "actor.freeze": ["vision"], "actor.betas": [0.9, 0.999], "run.num_steps": 5}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"run.seed": 2}, "refused"),
        ({"actor.freeze": []}, "refused"),
        ({"actor.betas": [0.8, 0.999]}, "warned"),
        ({"run.num_steps": 9}, "free"),
    ],
)
def test_what_may_change(change, kind):
    found = changes(BEFORE, BEFORE | change)
    ((key, value),) = change.items()
    lines = {"free": (), "warned": (), "refused": ()} | {kind: (f"{key}: {BEFORE[key]} -> {value}",)}
    assert vars(found) == lines


def ramps_of(*keys, last=2.0):
    """As read from a file, and as composed."""
    values = {"first": 1.0, "last": last, "start": 1, "steps": 3, "shape": "linear", "slope": None}
    return [{"key": key, **values} for key in keys], [Ramp(key=key, **values) for key in keys]


@pytest.mark.parametrize(
    ("before", "now", "kind"),
    [
        (ramps_of("data.weights.0", "algorithm.clip_high"), ramps_of("data.weights.0", "algorithm.clip_high"), None),
        (ramps_of("data.weights.0"), ramps_of("data.weights.0", "algorithm.clip_high"), "warned"),
        (ramps_of("data.weights.0"), ramps_of("data.weights.0", last=3.0), "refused"),
        (ramps_of("algorithm.clip_high"), ramps_of("data.weights.1", "algorithm.clip_high"), "refused"),
    ],
)
def test_ramps_of_the_order_of_the_data_cannot_change(before, now, kind):
    found = vars(changes({**BEFORE, "ramps": before[0]}, {**BEFORE, "ramps": now[1]}))
    assert {name for name, lines in found.items() if lines} == ({kind} - {None})


@pytest.mark.parametrize(
    ("before", "now", "kind"),
    [(None, 10, "refused"), (10, None, "refused"), (10, 20, "warned")],
)
def test_a_reference_that_is_in_the_checkpoint_or_not_stays_so(before, now, kind):
    """Else the workers fail on weights that are missing, or the reference jumps back to the first one."""
    key = "algorithm.reference_every"
    found = vars(changes({**BEFORE, key: before}, {**BEFORE, key: now}))
    assert found == {"free": (), "warned": (), "refused": ()} | {kind: (f"{key}: {before} -> {now}",)}


def test_a_refused_change_is_named():
    with pytest.raises(ConfigError, match=r"cannot change:\n  actor\.freeze: \['vision'\] -> \[\]\nset them back"):
        accept(changes(BEFORE, BEFORE | {"actor.freeze": []}))


def test_a_setting_that_the_runs_version_did_not_have_has_its_default(tmp_path):
    """So a run from before it goes on with the default, and is refused another value before anything is written."""
    (tmp_path / "config.yaml").write_text("actor: {betas: [0.5, 0.9]}\n", encoding="utf-8")
    before = read_settings(tmp_path / "config.yaml", TrainConfig)
    assert (before["actor.betas"], before["actor.freeze"], before["actor.lora.rank"]) == ([0.5, 0.9], [], 0)
    assert vars(changes(before, before)) == {"free": (), "warned": (), "refused": ()}
    assert changes(before, before | {"actor.lora.rank": 4}).refused == ("actor.lora.rank: 0 -> 4",)


@pytest.mark.parametrize(
    ("key", "before", "now", "may_be_the_same"),
    [
        ("model.path", "/old/model", "/new/model", True),
        ("reward.function", "/old/rewards.py:score", "/new/rewards.py:score", True),
        ("reward.function", "grounding", "vqa", False),
        ("actor.learning_rate", 1e-5, 1e-4, False),
    ],
)
def test_a_path_that_changed_may_be_of_the_same_thing(caplog, key, before, now, may_be_the_same):
    accept(changes(BEFORE | {key: before}, BEFORE | {key: now}))
    unless = ", unless it is the same in another place" if may_be_the_same else ""
    assert caplog.messages == [
        f"resuming with another setting, which changes the training from here on{unless}: {key}: {before} -> {now}"
    ]
