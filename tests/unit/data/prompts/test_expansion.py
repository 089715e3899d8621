"""Image placeholders become as many tokens as the image has."""

from dataclasses import replace

import pytest

from mars.data.prompts.chat import expand, prompt_length
from mars.errors import DataError
from mars.types import TokenRules

RULES = TokenRules(image_id=9, eos_ids=(1,), pad_id=0, blocked_ids=())


def test_expansion_by_hand():
    assert expand([5, 9, 6, 9], [2, 3], RULES) == (5, 9, 9, 6, 9, 9, 9)
    assert expand([5, 6], [], RULES) == (5, 6)
    assert prompt_length([5, 9, 6, 9], [2, 3]) == len(expand([5, 9, 6, 9], [2, 3], RULES)) == 7
    for tokens in ([2], [2, 3, 4], []):
        with pytest.raises(DataError, match="2 image placeholders"):
            expand([5, 9, 6, 9], tokens, RULES)


def test_the_tokens_around_an_image_are_put_around_each():
    framed = replace(RULES, image_start=(7,), image_end=(8, 8))
    assert expand([5, 9, 9], [2, 1], framed) == (5, 7, 9, 9, 8, 8, 7, 9, 8, 8)
