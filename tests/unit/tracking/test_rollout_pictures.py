"""Pictures of rollouts: boxes at hand-computed pixels, in an image drawn from references."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from mars.errors import DataError
from mars.output import fonts
from mars.tracking.pictures import MAX_PICTURES, RolloutPictures
from mars.tracking.sources import source_curves
from mars.types import ImageRef
from tests.builders import make_prompt, make_rollouts

BLUE, ORANGE, GREEN, GREY = (0, 114, 178), (230, 159, 0), (0, 158, 115), (153, 153, 153)
WHITE = (255, 255, 255)
HEADING, MARGIN = 18, 6
SIZES = {"a": (100, 50), "b": (680, 340)}


def decode(ref: ImageRef) -> Image.Image:
    return Image.new("RGB", ref.size, "white")


def frames(prompt, view):
    return (100, 50), (100, 50)


def rollouts_of(text: str, **prompt):
    refs = [ImageRef(path, size) for path, size in SIZES.items()]
    truth = {"truth": "[[10, 10, 50, 40]]"}
    asked = make_prompt("p", refs, ["left", "right"], **{**truth, **prompt})
    return make_rollouts(asked, [1.0], text=text, right=[0.5])


def test_boxes_are_where_they_belong_on_the_reduced_images() -> None:
    """The second image is halved to 340 x 170, so the truth of 0.1 to 0.5 of its width is at 34 to 169."""
    (picture,) = RolloutPictures(frames, lambda request: 1, decode)([rollouts_of("[[60, 10, 90, 40]]")], 1)
    image = picture.image
    assert picture.tag == "rollouts/prompt_1"
    assert image.size == (100 + MARGIN + 340, HEADING + 170)
    assert image.getpixel((10, HEADING + 10)) == BLUE
    assert image.getpixel((49, HEADING + 39)) == BLUE
    assert image.getpixel((50, HEADING + 40)) == WHITE
    assert image.getpixel((60, HEADING + 20)) == ORANGE
    left = 100 + MARGIN
    assert image.getpixel((left + 34, HEADING + 34)) == BLUE
    assert image.getpixel((left + 169, HEADING + 135)) == BLUE
    assert "multi 0, score 1: [[60, 10, 90, 40]]" in picture.caption
    assert "right 0, score 0.5" in picture.caption


def test_answers_to_one_source_are_drawn_on_that_source_alone() -> None:
    item, alone = rollouts_of("[[60, 10, 90, 40]]"), rollouts_of("[[5, 5, 8, 45]]")
    (picture,) = RolloutPictures(frames, lambda request: 1, decode)([replace(item, anchors=alone.anchors)], 1)
    tiles = {"left": (0, HEADING, 100, 68), "right": (106, HEADING, 446, 188)}
    colours = {name: {colour for _, colour in picture.image.crop(box).getcolors()} for name, box in tiles.items()}
    assert colours == {"left": {BLUE, ORANGE, WHITE}, "right": {BLUE, ORANGE, GREEN, WHITE}}


def test_an_image_that_cannot_be_read_is_grey_and_named() -> None:
    def broken(ref: ImageRef) -> Image.Image:
        if ref.path == "b":
            raise DataError("b: gone")
        return decode(ref)

    (picture,) = RolloutPictures(frames, lambda request: 1, broken)([rollouts_of("no box", truth="yes")], 1)
    assert picture.image.size == (446, 188)
    assert picture.image.getpixel((300, 100)) == GREY
    assert "not read: right: b: gone" in picture.caption


def test_names_of_sources_in_any_script_are_drawn_without_a_warning(recwarn) -> None:
    refs = [ImageRef("a", (100, 50))]
    asked = make_prompt("p", refs, ["红外 📷 \x1b"], text="<image>\n在哪里？")
    (picture,) = RolloutPictures(frames, lambda request: 1, decode)([make_rollouts(asked, [1.0], text="x")], 1)
    assert "在哪里" in picture.caption
    assert not recwarn.list


def test_a_prompt_without_images_and_many_prompts() -> None:
    many = [make_rollouts(make_prompt(f"p{number}"), [1.0], text="x") for number in range(20)]
    found = RolloutPictures(frames, lambda request: 1, decode)(many, 1)
    assert [picture.tag for picture in found] == [f"rollouts/prompt_{number}" for number in range(1, MAX_PICTURES + 1)]
    assert found[0].image.size == (1, 1)


def test_a_character_that_no_font_has_becomes_its_escape(monkeypatch) -> None:
    from matplotlib.font_manager import findfont

    assert fonts.drawable("红 a", [findfont(fonts.LATIN)]) == "\\u7ea2 a"


@pytest.mark.parametrize("installed", [[], ["WenQuanYi Zen Hei", "Noto Sans CJK JP"]])
def test_a_font_with_cjk_is_used_if_there_is_one(monkeypatch, installed) -> None:
    from matplotlib import font_manager

    listed = [font_manager.FontEntry(fname="x", name=name) for name in [fonts.LATIN, *installed]]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    fonts.families.cache_clear()
    try:
        assert fonts.families() == (fonts.LATIN, *(["Noto Sans CJK JP"] if installed else []))
    finally:
        fonts.families.cache_clear()


def test_curves_of_sources_are_in_one_group() -> None:
    metrics = {"eval/multi/mean": 0.5, "eval/mono/rgb+depth/mean": 0.25, "critic/score/mean": 1.0}
    assert source_curves(metrics) == {"sources/eval/multi": 0.5, "sources/eval/rgb+depth": 0.25}
    assert source_curves({"critic/score/mean": 1.0}) == {}
