"""recipe/mixed_r1: the four rewards by hand, and the embeddings of a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError, DataError
from tests.shipped.recipes.embedding_files import write_embeddings
from tests.shipped.recipes.recipe_files import answer, item, module_of

module = module_of("mixed_r1")


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXED_R1_EMBEDDINGS", write_embeddings(tmp_path))
    module.embeddings.cache_clear()
    yield
    module.embeddings.cache_clear()


@pytest.mark.parametrize(
    ("name", "text", "truth", "accuracy"),
    [
        ("match", "B", "B", 1),
        ("match", "C", "B", 0),
        ("chart", "90", "100", 0.9),
        ("chart", "$1,100", "1000", 0.9),
        ("chart", "30 %", "30", 1),
        ("chart", "300", "100", 0),
        ("chart", "many", "100", 0),
        ("chart", "0", "0", 1),
        ("chart", "0.1", "0", 0),
        ("chart", "-5", "-10", 0.5),
        ("chart", "−5", "5", 0),
        ("chart", "5", "−5", 0),
        ("chart", "−5", "-5", 1),
        ("chart", "–0.5", "-0.5", 1),
        ("chart", "-$5", "-5", 1),
        ("chart", "$-5", "-5", 1),
        ("chart", "US$ 5", "5", 1),
        ("chart", "€5", "5", 1),
        ("chart", "£ 1,250.50", "1250.5", 1),
        ("chart", "no 5", "5", 0),
        ("chart", "not 5", "5", 0),
        ("chart", "<5", "5", 0),
        ("chart", "~5", "5", 0),
        ("chart", "x=5", "5", 0),
        ("chart", "US5", "5", 0),
        ("chart", "--5", "5", 0),
        ("chart", "-$-5", "5", 0),
        ("chart", "5-10", "5", 0),
        ("boxes", json.dumps([[0, 0, 10, 5]]), json.dumps([[0, 0, 10, 10], [20, 0, 30, 10]]), 0.25),
    ],
)
def test_rewards_by_hand(name, text, truth, accuracy):
    result = getattr(module, name)(item(answer(text), truth))
    assert (result.accuracy, result.parts["accuracy"]) == (pytest.approx(accuracy), result.accuracy)
    assert result.score == pytest.approx(accuracy + 1)
    assert getattr(module, name)(item(f"<answer>{text}</answer>", truth)).score == pytest.approx(accuracy)


def test_bmas_by_hand(embeddings):
    assert module.text(item(answer("red car"), "car red")).accuracy == pytest.approx(1)
    # dark is 0.6 from red and 0.8 from car. Answer to truth: 0.8; truth to answer: (0.6 + 0.8) / 2.
    assert module.text(item(answer("dark"), "red car")).accuracy == pytest.approx((0.8 + 0.7) / 2, abs=1e-3)
    assert module.text(item(answer("sky"), "red")).accuracy == 0
    assert module.text(item(answer(" "), "red")).score == 0


vectors = st.lists(st.floats(0, 6.3), min_size=1, max_size=4).map(
    lambda angles: np.column_stack([np.cos(angles), np.sin(angles)])
)


@given(vectors, vectors)
def test_bmas_is_symmetric_and_1_for_the_same_words_in_any_order(one, other):
    assert module.bmas(one, other) == pytest.approx(module.bmas(other, one))
    assert 0 <= module.bmas(one, other) <= 1
    assert module.bmas(one, one[::-1]) == pytest.approx(1)


def test_what_cannot_be_scored(monkeypatch):
    for truth in ("one or two", "not 5", "<5", ""):
        with pytest.raises(DataError, match="want a number"):
            module.chart(item(answer("1"), truth))
    monkeypatch.delenv("MIXED_R1_EMBEDDINGS", raising=False)
    module.embeddings.cache_clear()
    with pytest.raises(ConfigError, match="MIXED_R1_EMBEDDINGS"):
        module.text(item(answer("red"), "red"))


def test_a_model_without_embeddings_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no tensor embed_tokens\.weight"):
        module_of("mixed_r1", "build.py").input_embeddings(tmp_path)


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["only"], 2), (["none", "out"], 3)])
def test_the_command_ends_with_a_message_alone(arguments, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        module_of("mixed_r1", "build.py").command(arguments)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith("usage: " if code == 2 else "none: no tensor")
    assert not list(tmp_path.iterdir())
