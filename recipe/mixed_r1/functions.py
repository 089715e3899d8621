"""The rewards of Mixed-R1, one for each kind of data; `reward.functions` says which set has which.

    reward.functions: {charts: recipe/mixed_r1/functions.py:chart, captions: recipe/mixed_r1/functions.py:text, …}

`text` needs the input embeddings of the policy: recipe/mixed_r1/build.py writes them into a folder, and the environment
of the run names it in MIXED_R1_EMBEDDINGS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mars.errors import ConfigError, DataError
from mars.rewards.grounding import score_grounding
from mars.rewards.parsing import has_visible, parse_response, read_blocks
from mars.rewards.vqa import answer_accuracy
from mars.types import RewardInput, RewardResult

FORMAT_WEIGHT = 1.0
MAX_TOKENS = 2048  # of an answer and of a truth: all pairs are compared
_NUMBER = re.compile(r"\s*[^\d\s.+-]{0,3}\s*([+-]?[\d,]{0,20}\.?\d{1,12})\s*(%?)[\s.]*")


@dataclass(frozen=True)
class Embeddings:
    """vectors: [vocabulary, size], each of length 1 (or 0)."""

    tokenizer: Tokenizer
    vectors: np.ndarray

    def of(self, text: str) -> np.ndarray:
        """[tokens, size], float32."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids[:MAX_TOKENS]
        return np.asarray(self.vectors[ids], dtype=np.float32)


def match(item: RewardInput) -> RewardResult:
    """A short answer or an option: right or wrong, as the reward `vqa` compares it."""
    return _scored(item, lambda answer: answer_accuracy(item, answer))


def chart(item: RewardInput) -> RewardResult:
    """A number read off a chart: 1 - its relative error, at least 0. Raises DataError for a truth that is no number."""
    true = read_number(item.truth)
    if true is None:
        raise DataError(f"truth: got {item.truth[:80]!r}; want a number")
    return _scored(item, lambda answer: closeness(read_number(answer), true))


def boxes(item: RewardInput) -> RewardResult:
    """Boxes: their mean IoU, as the reward `grounding` computes it."""
    accuracy = score_grounding(item).accuracy
    return _scored(item, lambda answer: accuracy)


def text(item: RewardInput) -> RewardResult:
    """An open answer: `bmas` of its token embeddings with the truth's. Raises ConfigError without embeddings."""
    return _scored(item, lambda answer: bmas(embeddings().of(answer.strip()), embeddings().of(item.truth.strip())))


def bmas(answer: np.ndarray, truth: np.ndarray) -> float:
    """Bidirectional max-average similarity of rows of length 1: ((mean_i max_j + mean_j max_i) cosine) / 2, in [0, 1].

    answer: [i, size]. truth: [j, size]. Negative results, and those of a text without tokens, are 0.

    >>> bmas(np.eye(2), np.eye(2)[:1])  # (mean(1, 0) + 1) / 2
    0.75
    """
    if not len(answer) or not len(truth):
        return 0.0
    cosine = answer @ truth.T
    return float(np.clip((cosine.max(1).mean() + cosine.max(0).mean()) / 2, 0.0, 1.0))


def closeness(number: float | None, true: float) -> float:
    """1 - |number - true| / |true|, at least 0. For a truth of 0: 1 if equal, else 0.

    >>> closeness(90.0, 100.0), closeness(300.0, 100.0), closeness(None, 1.0)
    (0.9, 0.0, 0.0)
    """
    if number is None:
        return 0.0
    return max(0.0, 1 - abs(number - true) / abs(true)) if true else float(number == true)


def read_number(answer: str) -> float | None:
    """A text that is one number, perhaps with a currency sign, commas and %, which is left out. None otherwise.

    >>> read_number("$1,250.5"), read_number(" 30 %"), read_number("30 or 40")
    (1250.5, 30.0, None)
    """
    found = _NUMBER.fullmatch(answer)
    return float(found[1].replace(",", "")) if found else None


@cache
def embeddings() -> Embeddings:
    folder = os.environ.get("MIXED_R1_EMBEDDINGS")
    if not folder or not Path(folder, "embeddings.npy").is_file():
        raise ConfigError(f"MIXED_R1_EMBEDDINGS: got {folder!r}; give a folder that recipe/mixed_r1/build.py wrote")
    vectors = np.load(Path(folder, "embeddings.npy"), mmap_mode="r")
    return Embeddings(Tokenizer.from_file(str(Path(folder, "tokenizer.json"))), vectors)


def _scored(item: RewardInput, accuracy_of: Callable[[str], float]) -> RewardResult:
    """score = accuracy + format."""
    blocks = read_blocks(item.response, ("think", "answer"))
    answer = parse_response(item.response).answer
    form = float(blocks is not None and all(map(has_visible, blocks)))
    accuracy = 0.0 if answer is None else accuracy_of(answer)
    return RewardResult(accuracy + FORMAT_WEIGHT * form, accuracy, {"accuracy": accuracy, "format": form})
