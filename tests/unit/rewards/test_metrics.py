"""Measures of boxes and texts, with numbers worked out by hand and slow references."""

from __future__ import annotations

import itertools
from math import exp, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.rewards.box_metrics import (
    average_precision,
    giou_matrix,
    iou_matrix,
    mean_average_precision,
    union_iou,
)
from mars.rewards.parsing import read_blocks
from mars.rewards.text_metrics import bleu, repetition, rouge_l

corner = st.integers(0, 12)
box = st.tuples(corner, corner, st.integers(1, 8), st.integers(1, 8)).map(
    lambda s: (s[0], s[1], s[0] + s[2], s[1] + s[3])
)


def cells(boxes) -> set[tuple[int, int]]:
    """The unit squares that whole-numbered boxes cover."""
    return {(x, y) for x1, y1, x2, y2 in boxes for x in range(x1, x2) for y in range(y1, y2)}


@given(box, box)
def test_iou_and_giou_of_a_pair_are_those_of_its_squares(one, other):
    shared, union = len(cells([one]) & cells([other])), len(cells([one, other]))
    hull = (max(one[2], other[2]) - min(one[0], other[0])) * (max(one[3], other[3]) - min(one[1], other[1]))
    assert iou_matrix([one], [other])[0, 0] == pytest.approx(shared / union)
    assert giou_matrix([one], [other])[0, 0] == pytest.approx(shared / union - (hull - union) / hull)


@given(st.lists(box, min_size=1, max_size=4), st.lists(box, min_size=1, max_size=4))
def test_the_iou_of_unions_is_that_of_their_squares(ours, true):
    one, other = cells(ours), cells(true)
    assert union_iou(ours, true) == pytest.approx(len(one & other) / len(one | other))
    assert union_iou(ours, []) == union_iou([], true) == 0


def test_average_precision_by_hand():
    a, b, far = (0, 0, 10, 10), (20, 0, 30, 10), (50, 0, 60, 10)
    assert average_precision([a, b], [a, b], 0.5) == pytest.approx(1)
    # A wrong box first: precision 1/2 at recall 1/2, 2/3 at recall 1, and the best at or above a recall counts.
    assert average_precision([far, a, b], [a, b], 0.5) == pytest.approx(2 / 3)
    # A wrong box last costs nothing, because recall 1 is reached before it.
    assert average_precision([a, b, far], [a, b], 0.5) == pytest.approx(1)
    # A true box is found once: the second answer for it is wrong.
    assert average_precision([a, a, b], [a, b], 0.5) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert average_precision([], [a], 0.5) == 0
    assert mean_average_precision([(0, 0, 10, 6)], [a]) == pytest.approx(0.3)  # IoU 0.6: thresholds 0.5, 0.55, 0.6


@given(st.lists(box, min_size=1, max_size=4), st.lists(box, min_size=1, max_size=4))
def test_average_precision_falls_with_the_threshold(ours, true):
    found = [average_precision(ours, true, threshold) for threshold in (0.3, 0.5, 0.7, 0.9)]
    assert all(0 <= later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))


def test_bleu_by_hand():
    answer, reference = ["the", "red", "car", "stops", "here"], ["the", "red", "car", "is", "here"]
    # 4 of 5 words; 2 of 4 pairs; 1 of 3 triples; 0.1 instead of 0 of 2 quadruples; equal lengths.
    assert bleu(answer, reference, 4) == pytest.approx((4 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25)
    assert bleu(["a", "b"], ["a", "b", "c", "d"], 2) == pytest.approx(exp(1 - 2))  # half as long
    assert bleu(["a", "b"], ["a", "b"], 4) == pytest.approx(sqrt(0.1))  # 0.1 of 1 triple and of 1 quadruple
    assert bleu([], reference, 4) == bleu(["x"], reference, 4) == bleu(answer, [], 4) == 0


words = st.lists(st.sampled_from("abc"), max_size=6)


@given(words, words)
def test_rouge_l_is_the_longest_common_subsequence(one, other):
    def subsequences(text):
        return {c for n in range(len(text) + 1) for c in itertools.combinations(text, n)}

    longest = max(map(len, subsequences(one) & subsequences(other)))
    wanted = 2 * longest / (len(one) + len(other)) if longest else 0
    assert rouge_l(one, other) == pytest.approx(wanted)
    assert rouge_l(one, other) == rouge_l(other, one)


@given(st.lists(st.sampled_from("ab"), max_size=8), st.integers(1, 4))
def test_repetition_counts_what_came_before(text, n):
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    seen = [gram in grams[:i] for i, gram in enumerate(grams)]
    assert repetition(text, n) == pytest.approx(np.mean(seen) if seen else 0)


@pytest.mark.parametrize(
    ("text", "tags", "found"),
    [
        (" <a>1</a>\n<b></b> ", ("a", "b"), ("1", "")),
        ("<a>1</a><b>2</b><a>3</a>", ("a", "b", "a"), ("1", "2", "3")),
        ("<b>2</b><a>1</a>", ("a", "b"), None),
        ("<a>1</a> and <b>2</b>", ("a", "b"), None),
        ("<a><b></a><b>2</b>", ("a", "b"), None),
        ("<a>1</a><b>2", ("a", "b"), None),
        ("x<a>1</a>", ("a",), None),
        ("", ("a",), None),
        ("<a>1</a></a>", ("a",), None),
    ],
)
def test_blocks_in_order(text, tags, found):
    assert read_blocks(text, tags) == found
