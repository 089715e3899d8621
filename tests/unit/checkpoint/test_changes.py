from __future__ import annotations

import pytest

from mars.checkpoint.changes import accept, changes
from mars.errors import ConfigError

BEFORE = {"run.seed": 1, "actor.freeze": ["vision"], "actor.beta1": 0.9, "run.num_steps": 5}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"run.seed": 2}, "refused"),
        ({"actor.freeze": []}, "refused"),
        ({"actor.beta1": 0.8}, "warned"),
        ({"run.num_steps": 9}, "free"),
    ],
)
def test_what_may_change(change, kind):
    found = changes(BEFORE, BEFORE | change)
    ((key, value),) = change.items()
    lines = {"free": (), "warned": (), "refused": ()} | {kind: (f"{key}: {BEFORE[key]} -> {value}",)}
    assert vars(found) == lines


def test_a_refused_change_is_named():
    with pytest.raises(ConfigError, match=r"cannot change:\n  actor\.freeze: \['vision'\] -> \[\]\nset them back"):
        accept(changes(BEFORE, BEFORE | {"actor.freeze": []}))


def test_a_run_of_a_version_without_the_setting_goes_on():
    older = {key: value for key, value in BEFORE.items() if key != "actor.freeze"}
    found = changes(older, BEFORE)
    assert (found.refused, found.warned) == ((), ("actor.freeze: (not set) -> ['vision']",))
