"""Jigsaw puzzles: pieces to the pixel, truths worked out by hand, and the truth puts the image together again."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.data.build.jigsaw import WAYS, cut_up, grid, rearranged, shuffled, way, whole_pieces
from mars.data.rows.problems import RowError
from mars.errors import ConfigError, DataError
from tests.examples import examples
from tests.unit.data.build.coloured import SIZE, build, make_rows, plane


def put_together(pieces: list[np.ndarray], truth: str) -> np.ndarray:
    """What someone makes of the shown pieces who follows the truth: at each place, the piece with this number."""
    return np.vstack([np.hstack([pieces[int(n) - 1] for n in line.split()]) for line in truth.splitlines()])


def pieces_of(image: np.ndarray, rows: int, columns: int) -> list[np.ndarray]:
    return [piece for band in np.vsplit(image, rows) for piece in np.hsplit(band, columns)]


def test_four_pieces_to_the_pixel():
    """The example of the module: a b / c d, shown as d a / c b."""
    image = plane((16, 16))
    a, b, c, d = image[:8, :8], image[:8, 8:], image[8:, :8], image[8:, 8:]
    shown = np.asarray(rearranged(Image.fromarray(image), 2, 2, [3, 0, 2, 1]))
    assert np.array_equal(shown, np.vstack([np.hstack([d, a]), np.hstack([c, b])]))
    assert grid([3, 0, 2, 1], 2) == "2 4\n3 1"
    assert grid([1, 0], 1) == "2\n1"


@examples(30)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    width=st.integers(8, 11),
    height=st.integers(8, 11),
    data=st.data(),
)
def test_the_truth_puts_the_image_together(rows, columns, width, height, data):
    order = data.draw(st.permutations(range(rows * columns)))
    image = plane((width * columns, height * rows))
    shown = np.asarray(rearranged(Image.fromarray(image), rows, columns, order))
    assert np.array_equal(put_together(pieces_of(shown, rows, columns), grid(order, columns)), image)
    assert [np.asarray(piece).tolist() for piece in cut_up(Image.fromarray(image), rows, columns)] == [
        piece.tolist() for piece in pieces_of(image, rows, columns)
    ]


def test_pieces_are_equal_and_the_rest_is_cut_off():
    image = Image.fromarray(plane((50, 35)))
    whole = whole_pieces(image, 2, 3, "image")
    assert whole.size == (48, 34)
    assert np.array_equal(np.asarray(whole), plane((50, 35))[:34, :48])
    with pytest.raises(RowError, match="7x35"):
        whole_pieces(image, 1, 7, "image")


@pytest.mark.parametrize("count", [2, 3])
def test_every_order_is_drawn_alike(count):
    """The original order too: of two pieces, the other one would be the only one."""
    chance = np.random.default_rng(0)
    drawn = Counter(tuple(shuffled(count, chance)) for _ in range(600))
    assert set(drawn) == set(permutations(range(count)))
    assert min(drawn.values()) > 600 / factorial(count) * 0.7


@pytest.mark.parametrize(
    ("options", "truths"),
    [
        (["--grid", "2x1"], {"1\n2", "2\n1"}),
        (["--grid", "1x2", "--pieces"], {"1 2", "2 1"}),
        (["--grid", "1x2", "--question", "pair"], {"left", "right"}),
    ],
)
def test_puzzles_of_two_pieces_have_both_answers(tmp_path, options, truths):
    rows = build(tmp_path / "out", "jigsaw", make_rows(tmp_path / "in"), *options, "--copies", "20")
    count = Counter((tuple(row["origin"].get("pair", ())), row["truth"]) for row in rows)
    assert {truth for _, truth in count} == truths
    assert len(count) == 2 * len({pair for pair, _ in count})
    assert min(count.values()) > 15, "none of them can be told without looking"


def test_pieces_that_look_the_same_have_no_answer(tmp_path):
    """The right half of an image is twice the same piece. With a second image in which they differ, there is one."""
    source = make_rows(tmp_path / "in", 2)
    for row in range(2):
        image = np.full((32, 48, 3), 7, dtype=np.uint8)
        image[:, :24] = plane((24, 32))
        Image.fromarray(image).save(tmp_path / "in" / f"{row}_visible.png")
    rows = build(tmp_path / "out", "jigsaw", source, "--sources", "all")
    assert len(rows) == 2
    for options in ([], ["--pieces"], ["--question", "pair"]):
        with pytest.raises(DataError, match="two pieces of the image are the same to the pixel"):
            build(tmp_path / "none", "jigsaw", source, "--sources", "visible", *options)


def test_ways_between_places_of_a_grid():
    """From the middle of a 3 x 3 grid all eight ways, in reading order."""
    assert [way(place, 4, 3) for place in (0, 1, 2, 3, 5, 6, 7, 8)] == list(WAYS)
    assert way(0, 8, 3) == "upper left"
    assert way(5, 3, 3) == "right"


@pytest.mark.parametrize("options", [[], ["--sources", "all"], ["--grid", "2x3", "--swap"], ["--grid", "1x3"]])
def test_a_built_puzzle_has_its_answer(tmp_path, options):
    rows = build(tmp_path / "out", "jigsaw", make_rows(tmp_path / "in"), *options)
    assert len(rows) == 6
    seen = set()
    for number, row in enumerate(rows):
        drawn = row["origin"]
        seen.add(((drawn["rows"], drawn["columns"]), drawn["sources"][0]))
        assert drawn["sources"] == row["extra_info"]["sources"]
        assert len(drawn["sources"]) == (2 if "all" in options else 1)
        for name, pixels in zip(drawn["sources"], row["pixels"], strict=True):
            made = put_together(pieces_of(pixels, drawn["rows"], drawn["columns"]), row["truth"])
            original = plane(SIZE, 10 * number + (name == "infrared"))
            assert np.array_equal(made, original[: made.shape[0], : made.shape[1]])
        assert (row["data_source"], row["extra_info"]["id"]) == ("jigsaw", f"r{number}")
        assert f"{drawn['rows']} row" in row["text"]
    if "--swap" in options:
        assert {shape for shape, _ in seen} == {(2, 3), (3, 2)}
    if not options:
        assert {name for _, name in seen} == {"visible", "infrared"}


def test_pieces_as_images_of_their_own(tmp_path):
    rows = build(tmp_path / "out", "jigsaw", make_rows(tmp_path / "in"), "--pieces", "--sources", "infrared")
    for number, row in enumerate(rows):
        assert row["extra_info"]["sources"] == ["piece_1", "piece_2", "piece_3", "piece_4"]
        assert row["text"].startswith("<image>" * 4)
        assert np.array_equal(put_together(row["pixels"], row["truth"]), plane(SIZE, 10 * number + 1))


def test_pairs_of_pieces(tmp_path):
    rows = build(tmp_path / "out", "jigsaw", make_rows(tmp_path / "in"), "--question", "pair", "--grid", "2x2")
    for row in rows:
        first, second = row["origin"]["pair"]
        corner = [pieces_of(row["pixels"][0], 2, 2)[piece - 1][0, 0] for piece in (first, second)]
        (x1, y1), (x2, y2) = [(int(pixel[0]), int(pixel[1])) for pixel in corner]
        up, side = {-1: "upper", 0: "", 1: "lower"}[np.sign(y1 - y2)], {-1: "left", 0: "", 1: "right"}[np.sign(x1 - x2)]
        words = f"{up} {side}".strip()
        assert row["truth"] == {"upper": "above", "lower": "below"}.get(words, words)
        assert row["extra_info"]["choices"] == list(WAYS)
        assert f"where is piece {first}, seen from piece {second}?" in row["text"]


@pytest.mark.parametrize("grid", ["2", "2x", "0x3", "1x1", "17x1", "axb", "²x2"])
def test_grids_that_are_none(tmp_path, grid):
    with pytest.raises(ConfigError, match="--grid"):
        build(tmp_path / "out", "jigsaw", tmp_path, "--grid", grid)


def test_the_pieces_of_several_images_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--pieces: shows the pieces of one image"):
        build(tmp_path / "out", "jigsaw", tmp_path, "--pieces", "--sources", "all")
