"""The size at which the model sees an image, against the two published versions of smart_resize."""

from __future__ import annotations

import qwen_vl_utils
from hypothesis import assume, example, given
from hypothesis import strategies as st
from transformers.models.qwen2_vl import image_processing_qwen2_vl as transformers_version

from mars.data.prompts.budget import ImageBudget, model_image_size
from tests.examples import examples

SIDES = st.integers(4, 4096)
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 200 * min(size))
LIMITS = st.tuples(st.sampled_from([784, 3136, 50_176]), st.sampled_from([1, 4, 16, 320])).map(
    lambda limits: (limits[0], limits[0] * limits[1])
)


@examples(300)
@given(SIZES, LIMITS, st.sampled_from([14, 16]))
@example((3795, 3777), (784, 784), 16)
@example((736, 16), (3136, 313_600), 16)
@example((10, 1200), (784, 12_544), 14)
def test_it_is_what_the_models_image_processor_does(size, limits, patch):
    budget = ImageBudget(*limits, patch_size=patch, merge_size=2)
    height, width = transformers_version.smart_resize(size[1], size[0], 2 * patch, *limits)
    assert model_image_size(size, budget) == (width, height)


@examples(300)
@given(SIZES, LIMITS, st.sampled_from([14, 16]))
def test_qwen_vl_utils_agrees_where_no_side_rounds_to_zero(size, limits, patch):
    assume(min(size) > patch)  # it makes a side of half a unit or less a whole one before it looks at the limits
    height, width = qwen_vl_utils.smart_resize(size[1], size[0], 2 * patch, *limits)
    assume(min(height, width) > 0)  # a large image in a small budget; the image processor keeps a unit
    budget = ImageBudget(*limits, patch_size=patch, merge_size=2)
    assert model_image_size(size, budget) == (width, height)


def test_where_qwen_vl_utils_differs_from_the_image_processor():
    """Why it cannot stand in for the arithmetic of the processor: the sizes are those of no image the model sees."""
    for size, limits, ours, theirs in (
        ((3824, 3597), (784, 784), (28, 28), (28, 0)),
        ((10, 20), (3136, 12_544), (56, 84), (56, 84)),
        ((13, 150), (784, 12_544), (28, 112), (28, 140)),
    ):
        budget = ImageBudget(*limits, patch_size=14, merge_size=2)
        assert model_image_size(size, budget) == ours
        assert qwen_vl_utils.smart_resize(size[1], size[0], 28, *limits)[::-1] == theirs
