"""The rewards of Mixed-R1, one for each kind of data; `reward.functions` gives each data set its reward.

    reward.functions: {charts: recipe/mixed_r1/functions.py:chart, captions: recipe/mixed_r1/functions.py:text, …}

`text` needs the input embeddings of the policy. recipe/mixed_r1/build.py writes them into a folder. The run's
environment variable MIXED_R1_EMBEDDINGS names this folder.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mars.errors import ConfigError, DataError
from mars.rewards import grounding, vqa
from mars.rewards.grounding import score_grounding
from mars.rewards.parsing import has_visible, parse_response, plain_minus, read_blocks
from mars.rewards.vqa import answer_accuracy
from mars.types import RewardInput, RewardResult

FORMAT_WEIGHT = 1.0
MAX_TOKENS = 2048  # of an answer and of a truth: all pairs are compared
_NUMBER = re.compile(r"\s*([+-]?)\s*(?:(?:US)?([^\w\s.,+-]))?\s*([+-]?)([\d,]{0,20}\.?\d{1,12})\s*%?[\s.]*")


@dataclass(frozen=True)
class Embeddings:
    """vectors: [vocabulary, size], each of length 1 (or 0)."""

    tokenizer: Tokenizer
    vectors: np.ndarray

    def of(self, text: str) -> np.ndarray:
        """The embeddings of a text's first `MAX_TOKENS` tokens: float32 [tokens, size]."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids[:MAX_TOKENS]
        return np.asarray(self.vectors[ids], dtype=np.float32)


def match(item: RewardInput) -> RewardResult:
    """For a short answer or an option. accuracy: right or wrong, by the rules of the reward `vqa`. Raises DataError."""
    answer_accuracy(item, None)  # a malformed truth is an error, with an answer or without
    return _scored(item, lambda answer: answer_accuracy(item, answer))


def chart(item: RewardInput) -> RewardResult:
    """A number from a chart. accuracy: 1 - relative error, at least 0. Raises DataError if the truth is no number."""
    true = true_number(item.truth)
    return _scored(item, lambda answer: closeness(read_number(answer), true))


def boxes(item: RewardInput) -> RewardResult:
    """For boxes. accuracy: their mean IoU, as the reward `grounding` computes it."""
    accuracy = score_grounding(item).accuracy
    return _scored(item, lambda answer: accuracy)


def text(item: RewardInput) -> RewardResult:
    """An open answer: `bmas` of its token embeddings and the truth's.

    Raises ConfigError without embeddings, DataError for a truth without text.
    """
    check_text(item.truth)
    return _scored(item, lambda answer: bmas(embeddings().of(answer.strip()), embeddings().of(item.truth.strip())))


check_match = vqa.check_truth
check_boxes = grounding.check_truth


def check_chart(truth: str, extra_info: object, truth_size: object) -> None:
    """Raises DataError if the truth is not a number."""
    true_number(truth)


def check_text(truth: str, extra_info: object = None, truth_size: object = None) -> None:
    """Raises DataError for a truth without text."""
    if not has_visible(truth):
        raise DataError(f"truth: got {truth[:80]!r}; want a text")


def true_number(truth: str) -> float:
    number = read_number(truth)
    if number is None:
        raise DataError(f"truth: got {truth[:80]!r}; want a number")
    return number


def bmas(answer: np.ndarray, truth: np.ndarray) -> float:
    """Bidirectional max-average similarity of two texts: (mean_i max_j cosine + mean_j max_i cosine) / 2, in [0, 1].

    answer: [i, size], truth: [j, size]: one row of norm 1 per token. A negative result becomes 0. 0 without tokens.

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
    """The number in an answer, without currency sign, commas and %; None if the answer is not just one number.

    >>> read_number("$1,250.5"), read_number(" 30 %"), read_number("−US$5"), read_number("30 or 40"), read_number("<5")
    (1250.5, 30.0, -5.0, None, None)
    """
    found = _NUMBER.fullmatch(plain_minus(answer))
    if found is None or (found[1] and found[3]) or (found[2] and unicodedata.category(found[2]) != "Sc"):
        return None
    return float(f"{found[1] or found[3]}{found[4].replace(',', '')}")


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
