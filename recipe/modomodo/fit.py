"""MoDoMoDo: find the mixture of data sets that is best by a quadratic model of finished pilot runs.

    python recipe/modomodo/fit.py runs/pilot_1 runs/pilot_2 …

All runs must have an evaluation, `data.weights` and the same `data.train_files`. Prints two overrides:
`data.weights` of the best mixture, and `data.train_files` without the files whose share is below 5e-5.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np
import yaml

from mars.config.folders import CONFIG_FILE
from mars.errors import ConfigError, DataError, MarsError

STARTS, STEPS = 64, 1000
"""Of the search: random starts beside the corners and the centre, and steps of each."""
SMALLEST = 5e-5
"""A set with a smaller share is left out."""


def features(mixtures: np.ndarray) -> np.ndarray:
    """The terms of a quadratic function of mixtures [n, m]: w_i and w_i w_j for i < j: [n, m + m (m - 1) / 2].

    The weights of a mixture have the sum 1, so these terms span the constant and the squares too.
    """
    first, second = np.triu_indices(mixtures.shape[1], 1)
    return np.concatenate([mixtures, mixtures[:, first] * mixtures[:, second]], axis=1)


def fit(mixtures: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Least squares: the coefficients of `features`. With too few runs, the solution of smallest norm."""
    return np.linalg.lstsq(features(mixtures), scores, rcond=None)[0]


def predicted(coefficients: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    return features(mixtures) @ coefficients


def to_simplex(points: np.ndarray) -> np.ndarray:
    """For each of the points [n, m] the nearest mixture, [n, m]: no weight below 0, sum 1 (Duchi et al., 2008).

    >>> to_simplex(np.array([[1.0, 0.5, -2.0]])).tolist()
    [[0.75, 0.25, 0.0]]
    """
    ordered = np.sort(points)[:, ::-1]
    excess = (ordered.cumsum(1) - 1) / np.arange(1, points.shape[1] + 1)
    last = (ordered > excess).sum(1) - 1
    return np.maximum(points - np.take_along_axis(excess, last[:, None], 1), 0.0)


def best_mixture(coefficients: np.ndarray, num_sets: int) -> np.ndarray:
    """The mixture with the largest prediction: projected gradient from corners, centre and random starts (seed 0)."""
    curvature = np.zeros((num_sets, num_sets))
    curvature[np.triu_indices(num_sets, 1)] = coefficients[num_sets:]
    curvature += curvature.T
    rate = 1 / (num_sets * np.abs(coefficients).max() + 1e-12)
    random = np.random.default_rng(0).dirichlet(np.ones(num_sets), STARTS)
    mixtures = np.concatenate([np.eye(num_sets), np.full((1, num_sets), 1 / num_sets), random])
    for _ in range(STEPS):
        mixtures = to_simplex(mixtures + rate * (coefficients[:num_sets] + mixtures @ curvature))
    return mixtures[int(predicted(coefficients, mixtures).argmax())]


def read_run(run_dir: Path) -> tuple[list[str], list[float], float]:
    """(training files, their shares, score) of a run. The score is the mean accuracy of its last evaluation.

    Raises DataError if the folder is not a run, or has no evaluation, or the last one has no score; ConfigError for a
    run without `data.weights`.
    """
    try:
        data = yaml.safe_load((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))["data"]
    except OSError as error:
        raise DataError(f"{run_dir}: config.yaml cannot be read: {error.strerror}; give the folder of a run") from error
    if data["weights"] is None:
        raise ConfigError(f"{run_dir}: data.weights: not set; give each pilot run the shares of its training files")
    results = sorted((run_dir / "evaluation").glob("step_*.json"))
    if not results:
        raise DataError(f"{run_dir}: has no evaluation; want evaluation/step_*.json")
    weights = np.array(data["weights"], dtype=float)
    score = json.loads(results[-1].read_text(encoding="utf-8"))["multi"]["mean"]
    if not isinstance(score, int | float) or not isfinite(score):
        raise DataError(f"{results[-1]}: the mean accuracy is not a number; got {score}; leave this run out")
    return list(data["train_files"]), (weights / weights.sum()).tolist(), score


def main(folders: Sequence[str]) -> None:
    """Raises DataError and ConfigError as `read_run` does, and DataError if runs have different files."""
    runs = [read_run(Path(folder)) for folder in folders]
    if len({tuple(files) for files, _, _ in runs}) != 1:
        raise DataError("the runs differ in data.train_files; give runs over the same files")
    files, mixtures, scores = runs[0][0], np.array([run[1] for run in runs]), np.array([run[2] for run in runs])
    coefficients = fit(mixtures, scores)
    if len(runs) < len(coefficients):
        sys.stderr.write(f"{len(runs)} runs for {len(coefficients)} terms: the fit is one of many\n")
    error = np.abs(predicted(coefficients, mixtures) - scores).max()
    best = best_mixture(coefficients, len(files))
    kept = [(file, round(float(weight), 4)) for file, weight in zip(files, best, strict=True) if weight >= SMALLEST]
    lines = [
        f"predicted {predicted(coefficients, best[None])[0]:.4f}, largest error on the runs {error:.4f}",
        f"data.train_files=[{','.join(file for file, _ in kept)}] data.weights={[weight for _, weight in kept]}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def command(arguments: Sequence[str]) -> None:
    """Run `main` with command-line arguments."""
    parser = argparse.ArgumentParser(prog="fit.py", description="Find the best mixture of data sets.")
    parser.add_argument("runs", nargs="+", help="folder of a finished pilot run")
    try:
        main(parser.parse_args(arguments).runs)
    except MarsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    command(sys.argv[1:])
