"""The edit distance: by hand, and against the table that defines it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mars.rewards.text_metrics import edit_distance

TEXT = st.lists(st.sampled_from([0, 1, 2, 150_000]), max_size=9)


def slow_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@given(TEXT, TEXT)
def test_the_edit_distance_is_that_of_the_table(a, b):
    assert edit_distance(a, b) == slow_distance(a, b)


def test_edit_distances_by_hand():
    assert edit_distance("kitten", "sitting") == 3
    assert (edit_distance((), (1, 2)), edit_distance((1, 2), ()), edit_distance((), ())) == (2, 2, 0)
    long = tuple(i * i % 7 for i in range(300))
    assert edit_distance(long, (*long[:100], *long[101:], 8)) == 2
