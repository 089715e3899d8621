"""Added tokens of a model folder whose files have another form than a tokenizer's."""

import pytest

from mars.checks.architecture import _declared_tokens
from mars.checks.model import max_positions
from mars.errors import SetupError


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("tokenizer.json", '{"added_tokens": 5}', "want a list in added_tokens; got 5"),
        ("tokenizer.json", '{"added_tokens": {"a": 1}}', "want a list in added_tokens; got {'a': 1}"),
        ("tokenizer.json", '{"added_tokens": [1]}', "want objects in added_tokens; got 1"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "want an object in added_tokens_decoder; got [1]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": "x"}}', "want objects in added_tokens_decoder"),
    ],
)
def test_another_form_is_named(file, text, wrong, tmp_path):
    (tmp_path / file).write_text(text)
    with pytest.raises(SetupError) as refused:
        list(_declared_tokens(tmp_path, "model.path"))
    assert str(refused.value).startswith(f"model.path: {tmp_path / file}: {wrong}")


def test_an_id_of_other_digits_is_left_as_it_is(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"²": {"content": "x"}, "7": {}}}')
    assert list(_declared_tokens(tmp_path, "model.path")) == [
        ("tokenizer_config.json", "x", "²"),
        ("tokenizer_config.json", "", 7),
    ]


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), True, 0, -2, "2", None])
def test_a_factor_that_scales_nothing(factor):
    assert max_positions({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": factor}}) == 100
