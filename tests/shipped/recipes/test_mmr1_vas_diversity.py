"""recipe/mmr1_vas: how much responses differ, by hand and against slow references."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shipped.recipes.recipe_files import module_of

DIVERSITY = module_of("mmr1_vas", "diversity.py")
distinct_ngrams, self_bleu = DIVERSITY.distinct_ngrams, DIVERSITY.self_bleu
mean_edit_distance = DIVERSITY.mean_edit_distance

TEXT = st.lists(st.sampled_from([0, 1, 2, 150_000]), max_size=9)
TEXTS = st.lists(TEXT, min_size=2, max_size=5)


def grams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


@pytest.mark.parametrize(
    ("responses", "n", "expected"),
    [
        ([(1, 2, 3, 4), (1, 2, 3, 5)], 3, 3 / 4),  # 123, 234, 123, 235
        ([(1, 1, 1, 1, 1)], 3, 1 / 3),
        ([(1, 2), (3,), ()], 3, 0.0),
        ([], 3, 0.0),
        ([(1, 2), (2, 1)], 1, 2 / 4),
    ],
)
def test_distinct_ngrams_by_hand(responses, n, expected):
    assert distinct_ngrams(responses, n) == pytest.approx(expected, abs=1e-15)


@given(TEXTS, st.integers(1, 4))
def test_distinct_ngrams_are_those_of_a_set(responses, n):
    """N-grams do not reach over the end of a response."""
    every = [gram for text in responses for gram in grams(text, n)]
    assert distinct_ngrams(responses, n) == (len(set(every)) / len(every) if every else 0.0)


def test_self_bleu_by_hand():
    assert self_bleu([(1, 2, 3), (1, 2, 3)]) == pytest.approx(1.0)
    # Against 1 2 4: unigrams 2 of 3, bigrams 1 of 2, no trigram, which counts 0.1 of 1. Both have this value.
    assert self_bleu([(1, 2, 3), (1, 2, 4)]) == pytest.approx((2 / 3 * 1 / 2 * 0.1) ** (1 / 3))
    # "1 1": one of its two 1 counts; no bigram, and no trigram. "1 2 3" against it: 1 of 3, 0.1 of 2, 0.1 of 1. The
    # shorter one is multiplied by exp(1 - 3/2).
    short, long = math.exp(1 - 3 / 2) * (1 / 2 * 0.1 / 1 * 0.1 / 1) ** (1 / 3), (1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 3)
    assert self_bleu([(1, 1), (1, 2, 3)]) == pytest.approx((short + long) / 2)
    assert self_bleu([(1, 2), (3, 4)]) == 0
    assert (self_bleu([(1, 2)]), self_bleu([]), self_bleu([(), ()])) == (0, 0, 0)


def slow_bleu(hypothesis, references):
    if not set(hypothesis) & {token for text in references for token in text}:
        return 0.0
    logs = []
    for n in (1, 2, 3):
        own = Counter(grams(hypothesis, n))
        most = Counter()
        for text in references:
            most |= Counter(grams(text, n))
        matched = (own & most).total()
        logs.append(math.log((matched or 0.1) / max(own.total(), 1)))
    closest = sorted(len(text) for text in references)
    closest = min(closest, key=lambda length: abs(length - len(hypothesis)))
    brevity = 1.0 if len(hypothesis) > closest else math.exp(1 - closest / len(hypothesis))
    return brevity * math.exp(sum(logs) / 3)


@given(TEXTS)
def test_self_bleu_is_that_of_a_slow_reference(responses):
    expected = [slow_bleu(text, responses[:i] + responses[i + 1 :]) for i, text in enumerate(responses)]
    assert self_bleu(responses) == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def test_mean_edit_distances_by_hand():
    # 1 2 and 1 3: 1. 1 2 and nothing: 2. 1 3 and nothing: 2.
    assert mean_edit_distance([(1, 2), (1, 3), ()]) == (1 + 2 + 2) / 3
    assert mean_edit_distance([(1, 2)]) == 0
