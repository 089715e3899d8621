"""Image placeholders become as many tokens as the image has."""

import pytest

from mars.data.prompts.chat import expand, prompt_length
from mars.errors import DataError


def test_expansion_by_hand():
    assert expand([5, 9, 6, 9], [2, 3], image_id=9) == (5, 9, 9, 6, 9, 9, 9)
    assert expand([5, 6], [], image_id=9) == (5, 6)
    assert prompt_length([5, 9, 6, 9], [2, 3]) == len(expand([5, 9, 6, 9], [2, 3], image_id=9)) == 7
    for tokens in ([2], [2, 3, 4], []):
        with pytest.raises(DataError, match="2 image placeholders"):
            expand([5, 9, 6, 9], tokens, image_id=9)
