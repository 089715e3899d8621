"""Time of the advantages of a million rollouts of 100,000 prompts, on one core, compared with a plain Python loop.

    python scripts/bench.py advantages
    python scripts/bench.py advantages --prompts 10000 --rounds 5

The function of mars and the loop compute the mono-anchored advantages of GRPO from the same rewards, in turns.
docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from statistics import median

import torch

from mars.algorithms.advantages import AdvantageSettings, group_advantages
from scripts.bench.machine import machine_facts

MARS = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
TARGET_SECONDS = 0.5
Prompts = list[tuple[list[float], list[float]]]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py advantages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--rollouts-per-prompt", type=int, default=8, help="multi rollouts, on average")
    parser.add_argument("--anchors-per-prompt", type=int, default=2, help="anchor rollouts, on average")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    prompts = random_prompts(options.prompts, options.rollouts_per_prompt, options.anchors_per_prompt, options.seed)
    tensors = flat_tensors(prompts)
    seconds: dict[str, list[float]] = {"vectorised": [], "python_loop": []}
    difference = 0.0
    for _ in range(options.rounds):
        start = time.perf_counter()
        ours = group_advantages(*tensors, len(prompts), MARS).values
        seconds["vectorised"].append(time.perf_counter() - start)
        start = time.perf_counter()
        plain = plain_advantages(prompts)
        seconds["python_loop"].append(time.perf_counter() - start)
        difference = max(difference, float((ours - torch.tensor(plain, dtype=torch.float64)).abs().max()))
    medians = {name: median(times) for name, times in seconds.items()}
    report = {
        "machine": machine_facts(),
        "prompts": len(prompts),
        "multi_rollouts": len(tensors[0]),
        "anchor_rollouts": len(tensors[2]),
        "threads": torch.get_num_threads(),
        "seconds": {name: [round(value, 4) for value in times] for name, times in seconds.items()},
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "times_faster": round(medians["python_loop"] / medians["vectorised"], 1),
        "largest_difference": difference,
        "target_seconds": TARGET_SECONDS,
        "target_met": medians["vectorised"] < TARGET_SECONDS,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


def random_prompts(count: int, rollouts: int, anchors: int, seed: int) -> Prompts:
    """(multi rewards, anchor rewards) of each prompt.

    How many of each is random: `rollouts` and `anchors`, or up to half more or fewer.
    """
    generator = torch.Generator().manual_seed(seed)

    def sizes(mean: int) -> list[int]:
        half = mean // 2
        return torch.randint(mean - half, mean + half + 1, (count,), generator=generator).tolist()

    def rewards(number: int) -> list[float]:
        return (torch.randint(0, 8, (number,), generator=generator) / 7).double().tolist()

    return [(rewards(multi), rewards(anchor)) for multi, anchor in zip(sizes(rollouts), sizes(anchors), strict=True)]


def flat_tensors(prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards and prompt indices of multi and of anchor rollouts, as `group_advantages` takes them."""

    def flat(groups: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([len(group) for group in groups])
        values = torch.tensor([value for group in groups for value in group], dtype=torch.float64)
        return values, torch.repeat_interleave(torch.arange(len(groups)), lengths)

    return (*flat([multi for multi, _ in prompts]), *flat([anchors for _, anchors in prompts]))


def plain_advantages(prompts: Prompts) -> list[float]:
    """The advantages by the formula of the MARS paper, with anchors, in a Python loop over the prompts."""
    advantages = []
    for multi, anchors in prompts:
        pool = multi + anchors
        mean = sum(pool) / len(pool)
        squares = sum((reward - mean) ** 2 for reward in pool)
        spread = math.sqrt(squares / (len(pool) - 1)) if max(pool) > min(pool) else 0.0
        for reward in multi:
            advantages.append((reward - mean) / (spread + MARS.epsilon) if spread else 0.0)
    return advantages
