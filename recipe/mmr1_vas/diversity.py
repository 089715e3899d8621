"""How much several responses to one prompt differ in their token ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mars.rewards.text_metrics import edit_distance

Tokens = Sequence[int]
BLEU_ORDERS = 3
_NO_MATCH = 0.1  # the count that stands for no matching n-gram of an order


def distinct_ngrams(responses: Sequence[Tokens], n: int) -> float:
    """Number of different n-grams in all responses / number of all n-grams; 0 without n-grams.

    >>> distinct_ngrams([(1, 2, 3, 4), (1, 2, 3)], 3)  # 123, 234 and 123 again
    0.6666666666666666
    """
    names = np.concatenate(_ngram_names(responses, n)) if responses else np.empty(0)
    return len(np.unique(names)) / len(names) if len(names) else 0.0


def self_bleu(responses: Sequence[Tokens]) -> float:
    """Mean BLEU of a response against the others, with n-grams of 1 to 3 tokens weighted equally. Equal responses of at
    least 3 tokens give 1; fewer than two responses give 0.

    Smoothing method 1 of Chen and Cherry (2014): an order without a match counts 0.1 matches. A response that shares no
    token with the others has BLEU 0.
    """
    if len(responses) < 2:
        return 0.0
    orders = [_matches(_ngram_names(responses, n)) for n in range(1, BLEU_ORDERS + 1)]
    lengths = [len(tokens) for tokens in responses]
    scores = []
    for i, length in enumerate(lengths):
        matches = [matched[i] for matched, _ in orders]
        if matches[0] == 0:
            scores.append(0.0)
            continue
        precisions = [
            max(count, _NO_MATCH) / max(total[i], 1) for count, (_, total) in zip(matches, orders, strict=True)
        ]
        closest = min((other for k, other in enumerate(lengths) if k != i), key=lambda n: (abs(n - length), n))
        brevity = 1.0 if length > closest else float(np.exp(1 - closest / length))
        scores.append(brevity * float(np.exp(np.mean(np.log(precisions)))))
    return sum(scores) / len(scores)


def mean_edit_distance(responses: Sequence[Tokens]) -> float:
    """Mean edit distance in tokens over the pairs of responses; 0 for fewer than two responses."""
    pairs = list(combinations(responses, 2))
    return sum(edit_distance(a, b) for a, b in pairs) / len(pairs) if pairs else 0.0


def _ngram_names(responses: Sequence[Tokens], n: int) -> list[np.ndarray]:
    """For each response, the ids of its n-grams: int64 [max(length - n + 1, 0)]. Ids are equal where n-grams are equal,
    also in different responses."""
    tokens = np.array([token for response in responses for token in response], dtype=np.int64)
    _, tokens = np.unique(tokens, return_inverse=True)
    ends = np.cumsum([len(response) for response in responses])
    texts = np.split(tokens, ends[:-1])
    names = texts
    for length in range(2, n + 1):
        # Each pair (number of the shorter n-gram, next token) gets a number, which is below the count of all n-grams.
        pairs = [
            before[: max(len(text) - length + 1, 0)] * (len(tokens) + 1) + text[length - 1 :]
            for before, text in zip(names, texts, strict=True)
        ]
        _, numbers = np.unique(np.concatenate(pairs), return_inverse=True)
        names = np.split(numbers, np.cumsum([len(pair) for pair in pairs])[:-1])
    return names


def _matches(names: list[np.ndarray]) -> tuple[list[int], list[int]]:
    """For each response: the number of its n-grams that occur in another response, and the number of all its n-grams.
    In the first number, an n-gram counts min(c, m) times. c: its count in this response. m: its largest count in
    any other response."""
    width = 1 + max((int(name.max()) for name in names if len(name)), default=0)
    counts = np.stack([np.bincount(name, minlength=width) for name in names])
    top = np.partition(counts, -2, axis=0)[-2:]  # the second largest and the largest count
    others = np.where(counts == top[1], top[0], top[1])  # equal if two responses share the largest count
    return np.minimum(counts, others).sum(axis=1).tolist(), counts.sum(axis=1).tolist()
