"""Time of scoring tokens (log-probs with gradients, and entropies) with a vocabulary of real size, and the time of the
matrix products alone.

    python scripts/bench.py head
    python scripts/bench.py head --tokens 256 --rounds 3 --hidden 96

`scores` is mars/actor/token_scores.py. `products` are the four products of size tokens x hidden x vocabulary that its
forward and backward need, in the same chunks. Both run in turns in one process. `logits_buffers` is the peak memory of
`scores` beyond its inputs and gradients. Its unit is the size of one float32 tensor [chunk, vocabulary]. It is
read once per hidden size, in a process of its own. docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch

from mars.actor.token_scores import token_scores
from scripts.bench.machine import machine_facts
from scripts.bench.memory import in_own_process, status_mib
from scripts.bench.summary import check, rounded

VOCABULARY = 151_936
HIDDEN = (96, 1024)
TARGET = 2.0  # scores / products


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py head", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=list(HIDDEN))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=256, help="actor.logprob_chunk_tokens")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = {str(hidden): bench_size(hidden, options) for hidden in options.hidden}
    report = {"machine": machine_facts(), "settings": vars(options), "hidden": sizes}
    sys.stdout.write(json.dumps(rounded(report), indent=2) + "\n")
    return 0


def bench_size(hidden: int, options: argparse.Namespace) -> dict[str, Any]:
    work = Work(hidden, options.tokens, options.vocabulary, options.chunk)
    seconds: dict[str, list[float]] = {"products": [], "scores": []}
    for number in range(options.rounds):
        order = list(seconds) if number % 2 == 0 else list(reversed(seconds))
        for name in order:
            seconds[name].append(timed(getattr(work, name)))
    ratios = [scores / products for scores, products in zip(seconds["scores"], seconds["products"], strict=True)]
    peak = in_own_process(peak_buffers, hidden, options.tokens, options.vocabulary, options.chunk)
    return {
        "seconds": seconds,
        "scores/products": check(median(ratios), TARGET) | {"of_each_round": ratios},
        "logits_buffers": peak,
    }


class Work:
    """Inputs of one size, and the two functions that are timed."""

    def __init__(self, hidden: int, tokens: int, vocabulary: int, chunk: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.states = torch.randn(tokens, hidden, generator=generator).requires_grad_()
        self.weight = (torch.randn(vocabulary, hidden, generator=generator) / hidden**0.5).requires_grad_()
        self.targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
        self.slopes = torch.randn(tokens, generator=generator)
        self.blocked = torch.tensor([vocabulary - 1])
        self.chunk = chunk

    @torch.no_grad()
    def products(self) -> None:
        """The four products: logits in forward, logits again in backward, the gradients of states and of weight.

        In the last two, the logits stand for their own gradient, which has the same size.
        """
        gradient = torch.zeros_like(self.weight)
        for states in self.states.split(self.chunk):
            logits = states @ self.weight.T
            logits = states @ self.weight.T
            _ = logits @ self.weight
            gradient.addmm_(logits.T, states)

    def scores(self) -> None:
        self.states.grad = self.weight.grad = None
        logprobs, _ = token_scores(
            self.states,
            self.weight,
            self.targets,
            blocked=self.blocked,
            temperature=1.0,
            chunk_tokens=self.chunk,
            entropy_gradient=False,
        )
        (logprobs * self.slopes).sum().backward()


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_buffers(hidden: int, tokens: int, vocabulary: int, chunk: int) -> float:
    """Peak memory of `scores` beyond inputs and gradients. Unit: the size of one float32 tensor [chunk, vocabulary]."""
    torch.set_num_threads(1)
    work = Work(hidden, tokens, vocabulary, chunk)
    work.states.grad, work.weight.grad = torch.ones_like(work.states), torch.ones_like(work.weight)
    before = status_mib("VmRSS")
    # Linux: this sets the high-water mark to what is resident now (proc_pid_clear_refs(5)).
    Path("/proc/self/clear_refs").write_text("5")
    work.scores()
    return (status_mib("VmHWM") - before) * 2**20 / (4 * chunk * vocabulary)
