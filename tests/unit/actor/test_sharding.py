"""Which rows a rank holds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.sharding import local_rows, rows_of


@given(num_rows=st.integers(1, 40), places=st.integers(1, 12))
def test_rows_are_split_as_torch_chunk_splits_them(num_rows, places):
    chunks = [chunk.tolist() for chunk in torch.arange(num_rows).chunk(places)]
    found = [list(range(*rows_of(num_rows, place, places))) for place in range(places)]
    assert found == chunks + [[]] * (places - len(chunks))


def test_all_rows_of_a_tensor_that_is_not_sharded_are_here():
    assert local_rows(torch.zeros(3, 2)) == (0, 3)
