"""recipe/modomodo: fits of known functions, and the search for the best mixture."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError, DataError
from tests.shipped.recipes.recipe_files import module_of

fit = module_of("modomodo", "fit.py")
MIXTURES = np.random.default_rng(1).dirichlet(np.ones(3), 12)


def test_a_quadratic_function_is_found_again():
    """0.3 + w_0 - 2 w_1^2: on mixtures, w_1^2 is w_1 - w_0 w_1 - w_1 w_2 and 0.3 is 0.3 of each weight."""
    scores = 0.3 + MIXTURES[:, 0] - 2 * MIXTURES[:, 1] ** 2
    found = fit.fit(MIXTURES, scores)
    assert found == pytest.approx([1.3, 0.3 - 2, 0.3, 2, 0, 2])
    assert fit.predicted(found, MIXTURES) == pytest.approx(scores)


@pytest.mark.parametrize(
    ("coefficients", "best"),
    [
        ([1, 2, 3, 0, 0, 0], [0, 0, 1]),  # linear: a corner
        ([1, 1, 0, 4, 0, 0], [0.5, 0.5, 0]),  # two sets help each other
        ([0, 0, 0, 1, 1, 1], [1 / 3, 1 / 3, 1 / 3]),
        ([1, 1.5, 0, -4, 0, 0], [0, 1, 0]),  # two sets disturb each other: two corners, one is better
        ([0, 1, 0, 2, 0, 0], [0.25, 0.75, 0]),  # d/dw (1 - w + 2 w (1 - w)) = 1 - 4 w = 0
    ],
)
def test_the_best_mixture(coefficients, best):
    assert fit.best_mixture(np.array(coefficients, dtype=float), 3) == pytest.approx(best, abs=1e-3)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=4))
def test_the_projection_is_the_nearest_mixture(point):
    point = np.array(point)
    (found,) = fit.to_simplex(point[None])
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    others = np.random.default_rng(0).dirichlet(np.ones(len(point)), 50)
    assert ((others - point) ** 2).sum(-1).min() >= ((found - point) ** 2).sum() - 1e-9


def write_run(folder, weights, score, files=("a.jsonl", "b.jsonl")):
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"train_files": list(files), "weights": weights}}))
    for step, value in ((0, 0.0), (50, score)):
        (folder / "evaluation" / f"step_{step:06d}.json").write_text(json.dumps({"multi": {"mean": value}}))
    return str(folder)


def test_runs_give_the_mixture_of_the_last_one(tmp_path, capsys):
    """Scores 4 w (1 - w) of the shares w: best at a half."""
    runs = [write_run(tmp_path / str(k), [k, 4 - k], k * (4 - k) / 4) for k in (1, 2, 3)]
    fit.main(runs)
    printed = capsys.readouterr()
    assert "data.train_files=[a.jsonl,b.jsonl] data.weights=[0.5, 0.5]" in printed.out
    assert "predicted 1.0000, largest error on the runs 0.0000" in printed.out
    assert printed.err == ""
    fit.main(runs[:2])
    assert "2 runs for 3 terms" in capsys.readouterr().err


def test_runs_that_cannot_be_used(tmp_path):
    good = write_run(tmp_path / "good", [1, 1], 0.5)
    with pytest.raises(ConfigError, match=r"data\.weights: not set"):
        fit.main([write_run(tmp_path / "plain", None, 0.5)])
    with pytest.raises(DataError, match="over the same files"):
        fit.main([good, write_run(tmp_path / "other", [1, 1], 0.5, ("a.jsonl", "c.jsonl"))])
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text(yaml.safe_dump({"data": {"train_files": ["a"], "weights": [1.0]}}))
    with pytest.raises(DataError, match="has no evaluation"):
        fit.main([str(bare)])
    with pytest.raises(DataError, match=r"nowhere: config\.yaml cannot be read"):
        fit.main([good, str(tmp_path / "nowhere")])
    for k, score in enumerate((float("nan"), float("inf"), None)):
        with pytest.raises(DataError, match=r"step_000050\.json: the mean accuracy is not a number"):
            fit.main([good, write_run(tmp_path / str(k), [1, 1], score)])


@pytest.mark.parametrize(("folders", "code", "message"), [([], 2, "usage: "), (["nowhere"], 3, "nowhere: config.yaml")])
def test_the_command_ends_with_a_message_alone(folders, code, message, capsys):
    with pytest.raises(SystemExit) as ended:
        fit.command(folders)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (code, "")
    assert printed.err.startswith(message)
