"""Overlap of two texts: BLEU and ROUGE in words, edit distance; and how much a text repeats itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import exp, log


def bleu(answer: Sequence[str], reference: Sequence[str], order: int) -> float:
    """BLEU (Papineni et al., 2002) of one sentence for 1- to `order`-grams with equal weights, in [0, 1].

    Smoothing: 0.1 shared n-grams where there are none (method 1 of Chen and Cherry, 2014, as in NLTK). But texts that
    share no word have a BLEU of 0. A text of fewer words than `order` has a BLEU below 1 with itself.

    >>> bleu("a b c d".split(), "a b c d".split(), 4)
    1.0
    >>> round(bleu("a b".split(), "a c".split(), 2), 6)  # sqrt(1/2 * 0.1/1)
    0.223607
    """
    if not answer or not reference:
        return 0.0
    total = 0.0
    for n in range(1, order + 1):
        ours, true = _ngrams(answer, n), _ngrams(reference, n)
        shared, count = sum((ours & true).values()), sum(ours.values())
        if n == 1 and not shared:
            return 0.0
        total += log((shared or 0.1) / max(count, 1))
    brevity = min(0.0, 1 - len(reference) / len(answer))
    return exp(total / order + brevity)


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L (Lin, 2004): F1 of the longest common subsequence, in [0, 1].

    >>> rouge_l("the red car".split(), "the car".split())  # 2 * 2/3 * 1 / (2/3 + 1)
    0.8
    """
    longest = [0] * (len(reference) + 1)
    for word in answer:
        before = longest
        longest = [0]
        for j, other in enumerate(reference):
            longest.append(before[j] + 1 if word == other else max(before[j + 1], longest[j]))
    shared = longest[-1]
    return 2 * shared / (len(answer) + len(reference)) if shared else 0.0


def rouge_n(answer: Sequence[str], reference: Sequence[str], n: int) -> float:
    """ROUGE-N (Lin, 2004): F1 of the n-grams, in [0, 1]. 0 if one of the two has fewer than `n` words.

    >>> rouge_n("the red car".split(), "the car".split(), 1)  # 2 * 2/3 * 1 / (2/3 + 1)
    0.8
    """
    ours, true = _ngrams(answer, n), _ngrams(reference, n)
    shared = sum((ours & true).values())
    return 2 * shared / (sum(ours.values()) + sum(true.values())) if shared else 0.0


def edit_distance(answer: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements that make one sequence of the other (Levenshtein, 1966).

    Bit-parallel (Myers 1999, in the form of Hyyrö 2001): bit i of an integer is row i of the table.

    >>> edit_distance("a red car".split(), "the red sports car".split())  # a -> the, + sports
    2
    """
    if not answer:
        return len(reference)
    where: dict[Hashable, int] = {}
    for i, item in enumerate(answer):
        where[item] = where.get(item, 0) | 1 << i
    full, last = (1 << len(answer)) - 1, 1 << (len(answer) - 1)
    # The rows whose value is above (up) or below (down) the value of the previous row.
    up, down, distance = full, 0, len(answer)
    for item in reference:
        equal = where.get(item, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        higher = down | (~(diagonal | up) & full)
        lower = up & diagonal
        distance += bool(higher & last) - bool(lower & last)
        higher = (higher << 1 | 1) & full
        lower = (lower << 1) & full
        up = lower | (~(diagonal | higher) & full)
        down = higher & diagonal
    return distance


def edit_similarity(answer: str, reference: str) -> float:
    """1 - Levenshtein distance / length of the longer text, in [0, 1]; 1 for two empty texts.

    >>> edit_similarity("stop", "shop")
    0.75
    """
    return 1 - edit_distance(answer, reference) / max(len(answer), len(reference), 1)


def repetition(words: Sequence[str], n: int) -> float:
    """The share of n-grams that have occurred before: 1 - different / all, in [0, 1). 0 for fewer than `n` words.

    >>> repetition("a b a b a b".split(), 2)  # ab, ba among five
    0.6
    """
    grams = _ngrams(words, n)
    count = sum(grams.values())
    return 1 - len(grams) / count if count else 0.0


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
