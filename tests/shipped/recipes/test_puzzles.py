"""The rewards of jigsaw_r1 and vicrit: scores worked out by hand, and the perfect answer to rows as they are built."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from mars.rewards.functions import perfect_answer
from tests.examples import examples
from tests.shipped.recipes.recipe_files import answer, item, module_of, reward_of
from tests.unit.data.build.coloured import build, make_rows

GRID = "2 4\n3 1"


@pytest.mark.parametrize(
    ("text", "patches", "connections", "format_", "accuracy"),
    [
        ("2 4\n3 1", 1, 1, 1, 1),
        ("2, 4; 3, 1", 1, 1, 1, 1),
        ("`2 4 3 1`", 1, 1, 1, 1),
        ("4 2\n3 1", 0.5, 0.25, 1, 0),  # 2 and 4 are right; 3-1 side by side is the only right connection
        ("3 1\n2 4", 0, 0.5, 1, 0),  # both lines are right, but the other way up
        ("2 2 2 2", 0.25, 0, 1, 0),
        ("2 4 3", 0, 0, 0, 0),
        ("2 4 3 1 1", 0, 0, 0, 0),
        ("2 4 3 5", 0, 0, 0, 0),
        ("2 4 3 0", 0, 0, 0, 0),
        ("two 4 3 1", 0, 0, 0, 0),
        ("2 4 3 ¹", 0, 0, 0, 0),
        ("-2 4 3 1", 0, 0, 0, 0),
        ("2 " * 3000, 0, 0, 0, 0),
    ],
)
def test_grids(text, patches, connections, format_, accuracy):
    for name, share in (("patches", patches), ("connections", connections)):
        result = reward_of("jigsaw_r1", name)(item(answer(text), GRID))
        assert result.parts == {name: share, "format": format_}
        assert (result.score, result.accuracy) == (share + 0.5 * format_, accuracy)


def test_a_grid_without_a_thought_or_without_tags():
    bare = reward_of("jigsaw_r1", "patches")(item(f"<answer>{GRID}</answer>", GRID))
    assert (bare.score, bare.accuracy, bare.parts["format"]) == (1, 1, 0)
    assert reward_of("jigsaw_r1", "patches")(item(GRID, GRID)).score == 0


@examples(60)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), data=st.data())
def test_connections_against_a_slow_count(rows, columns, data):
    count = rows * columns
    if count < 2:
        return
    right, given_ = (data.draw(st.permutations(range(1, count + 1))) for _ in "ab")
    place = {number: divmod(i, columns) for i, number in enumerate(right)}
    found = total = 0
    for i in range(rows):
        for j in range(columns):
            for down, across in ((0, 1), (1, 0)):
                if i + down < rows and j + across < columns:
                    one, other = given_[i * columns + j], given_[(i + down) * columns + j + across]
                    (y1, x1), (y2, x2) = place[one], place[other]
                    found, total = found + ((y2 - y1, x2 - x1) == (down, across)), total + 1
    assert total == 2 * count - rows - columns
    share = module_of("jigsaw_r1").right_connections(given_, right, rows, columns)
    assert share == pytest.approx(found / total)
    assert (share == 1) == (given_ == right)


@pytest.mark.parametrize("truth", ["", "1", "1 2\n3", "1 1", "2 3", "a b", "0 1"])
def test_truths_that_are_no_grid(truth):
    for name in ("patches", "connections"):
        with pytest.raises(DataError, match="truth: want"):
            reward_of("jigsaw_r1", name)(item(answer("1 2"), truth))


@pytest.mark.parametrize(
    ("text", "exact", "first_word"),
    [
        ("blue car", 1, 1),
        ('"Blue car."', 1, 1),
        ("The words are \\boxed{blue  car}", 1, 1),
        ("\\boxed{blue}", 0, 1),
        ("the blue car", 0, 1),
        ("red car", 0, 0),
        ("\\boxed{blue car} or \\boxed{red}", 0, 0),
        ("bluest car", 0, 0),
        ("", 0, 0),
        ("blue car " * 100, 0, 0),
    ],
)
def test_wrong_words(text, exact, first_word):
    result = reward_of("vicrit", "span")(item(answer(text), "Blue car"))
    form = 0.5 if text else 0.25
    assert result.parts == {"exact": exact, "first_word": first_word, "format": form}
    assert (result.score, result.accuracy) == (exact + form, exact)


@pytest.mark.parametrize(
    ("task", "options", "method", "reward"),
    [
        ("jigsaw", ["--grid", "3x2"], "jigsaw_r1", "patches"),
        ("jigsaw", ["--pieces"], "jigsaw_r1", "connections"),
        ("caption_swap", [], "vicrit", "span"),
    ],
)
def test_the_perfect_answer_to_a_built_row(tmp_path, task, options, method, reward):
    source = make_rows(tmp_path / "in", 4, answer="A red car on the left of a small house.")
    for row in build(tmp_path / "out", task, source, *options):
        asked = item("", row["truth"])
        response = perfect_answer(f"{method}.py:{reward}", asked)
        result = reward_of(method, reward)(item(response, row["truth"]))
        assert (result.score, result.accuracy) == (1.5, 1)


@pytest.mark.parametrize("truth", ["", "!", " ", '"."'])
def test_a_truth_without_words_is_an_error(truth):
    for text in ("red", ""):
        with pytest.raises(DataError, match="truth"):
            reward_of("vicrit", "span")(item(answer(text), truth))


def test_descriptions_of_the_quick_starts_scenes():
    describe = module_of("vicrit", "describe.py").describe
    assert describe("night", [14, 42, 28, 56], 56) == (
        "The visible image is dark and misleads. One person is standing on the left, near the bottom."
    )
    assert describe("both", [42, 0, 56, 28], 56).endswith("on the right, near the top.")
