"""Reward functions as users write them, good and bad. Loaded by path, never imported by the tests."""

from __future__ import annotations

import builtins
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from mars.types import RewardInput, RewardResult


@dataclass(frozen=True)
class Settings:
    """A dataclass needs its module to be registered."""

    factor: float = 2.0


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no text for this")


RETURNED = {
    "one": 1,
    "half": 0.5,
    "fraction": Fraction(1, 4),
    "minus": -3.0,
    "nan": float("nan"),
    "inf": float("inf"),
    "minus inf": float("-inf"),
    "huge": 10**5000,
    "beyond": 1e308,
    "below": -1.01e6,
    "at the bound": -1e6,
    "dict beyond": {"score": 1e155, "acc": 1.0},
    "result beyond": RewardResult(2e6, 1.0, {}),
    "dict large part": {"score": 1.0, "time": 1.7e18},
    "none": None,
    "true": True,
    "text": "1.0",
    "list": [1.0],
    "complex": 1j,
    "tuple": (1.0, {}),
    "no score": {"accuracy": 1.0},
    "unspeakable": Unspeakable(),
    "dict": {"score": 3, "acc": True, "pred": "red", "steps": 4, "why": None},
    "dict nan": {"score": float("nan")},
    "dict true": {"score": True},
    "dict text": {"score": "1"},
    "dict nan part": {"score": 1.0, "steps": float("nan")},
    "dict accuracy 3": {"score": 1.0, "acc": 3.0},
    "result": RewardResult(1.25, 0.5, {"format": 0.75, "accuracy": 0.5}),
    "result nan": RewardResult(float("nan"), 0.5, {}),
    "result accuracy nan": RewardResult(1.0, float("nan"), {"accuracy": 1.0}),
    "result accuracy 2": RewardResult(1.0, 2.0, {}),
    "result text part": RewardResult(1.0, 1.0, {"format": "good"}),  # type: ignore[dict-item]
    "result failed": RewardResult(0.0, 0.0, {}, failed="the judge is offline"),
}


def returns(item: RewardInput) -> object:
    return RETURNED[item.response]


def length(item: RewardInput) -> float:
    return Settings().factor * len(item.response)


def verl(data_source, solution_str, ground_truth, extra_info=None):
    return {
        "score": float(solution_str == ground_truth),
        "bonus": extra_info["bonus"],
        "is_test": data_source == "test",
    }


def verl_short(solution_str, ground_truth):
    return float(solution_str == ground_truth)


def verl_open(solution_str, ground_truth, **kwargs):
    return {"score": 1.0, "number_of_others": len(kwargs)}


def two(item, other):
    return 1.0


def verl_and_more(data_source, solution_str, ground_truth, extra_info, judge):
    return 1.0


async def later(item):
    return 1.0


async def stream(item):
    yield 1.0


def steps(item):
    yield 1.0


class Judge:
    def __init__(self, strictness=1.0):
        self.strictness = strictness

    def __call__(self, item):
        return self.strictness


class Later:
    async def __call__(self, item):
        return 1.0


judge = Judge(0.5)
later_judge = Later()
partly_later = partial(later)
not_a_function = 3


def torch_loaded(item: RewardInput) -> float:
    return float("torch" in sys.modules)


ALL_HERE = threading.Barrier(4)


def misbehave(item: RewardInput) -> float:
    """Does what the response says; scores other responses by their length."""
    what, _, argument = item.response.partition(" ")
    if what == "hang":
        while True:
            signal.pause()
    elif what == "regex":  # a C loop that holds the interpreter
        os.write(1, b"hanging\n")
        re.match(r"(a+)+$", "a" * 60 + "b")
    elif what == "deaf":
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
    elif what == "child":
        child = subprocess.Popen(["sleep", "1000"])
        with open(argument, "w") as file:
            file.write(str(child.pid))
        child.wait()
    elif what == "exit":
        os._exit(3)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "null":
        ctypes.string_at(0)
    elif what == "close":
        os.closerange(3, 100)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "group":
        os.killpg(0, signal.SIGKILL)
    elif what == "patch":
        builtins.len = None
    elif what == "fork":
        os.fork()  # both copies go on
    elif what == "print":
        sys.stdout.write("x" * 100_000)
        sys.stdout.flush()
        os.write(2, b"x" * 1000)
    elif what == "raise":
        raise ValueError(f"cannot read {argument}")
    elif what == "meet":  # returns if four calls are in flight
        ALL_HERE.wait(30)
    elif what == "interrupt":
        raise KeyboardInterrupt
    elif what == "leave":
        sys.exit(4)
    elif what == "recurse":
        return misbehave(item) + 1
    elif what == "nan":
        return float("nan")
    return float(len(item.response))
