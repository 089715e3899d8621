"""Which anchor responses make sense as answers to the multi prompt."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mars.errors import ConfigError
from mars.hooks.guest_filter import GuestCheck, load_filter, refers_alike
from mars.types import ImageRef, RolloutGroup
from tests.builders import make_group, make_prompt, make_rollouts
from tests.examples import some

VISIBLE, INFRARED, DEPTH = (ImageRef(f"{name}.png", (56, 56)) for name in ("visible", "infrared", "depth"))
BOTH = (VISIBLE, INFRARED)


def in_frames(**sizes):
    """Frames of boxes: the size of the first shown source."""
    return lambda prompt, view: (None, sizes[view[0] if view else next(iter(sizes))])


@pytest.mark.parametrize(
    ("text", "of_first", "of_second"),
    [
        ("The image shows a dog.", True, True),
        ("The infrared image shows a dog, and so does the other image.", True, True),
        ("In image 1 there is a dog.", True, False),
        ("Image 2 shows it", False, False),  # which the anchor did not see
        ("Picture 1: a dog", True, False),
        ("picture #1", True, False),
        ("photo no. 1", True, False),
        ("Figure one", True, False),
        ("images 1 and 2 agree", False, False),
        ("The first image is dark", True, False),
        ("the 1st infrared image", True, False),
        ("the second image", False, False),
        ("the last picture", False, True),
        ("Both images show a dog", True, True),
        ("the two images agree", True, True),
        ("all three images agree", False, False),
        ("the only image", False, False),
        ("a single image", False, False),
        ("the sole infrared picture", False, False),
        ("imagine 1 dog and 2 figurines", True, True),
        ("2 people; the image is 640 x 480", True, True),
        ("image 0", False, False),
        ("In the image one person walks.", True, True),
        ("There is one image", False, False),
        ("the second, infrared image", False, False),
        ("the left image", False, False),
        ("第一张图", True, False),
        ("das letzte Bild", False, True),
        ("image 77", False, False),
    ],
)
def test_references_to_images_by_number_order_and_count(text, of_first, of_second):
    assert refers_alike(text, BOTH[:1], BOTH) is of_first
    assert refers_alike(text, BOTH[1:], BOTH) is of_second


def test_views_of_several_images_and_of_all():
    three = (*BOTH, DEPTH)
    assert refers_alike("image 1 and image 2", three[:2], three)
    assert not refers_alike("image 1", three[1:], three)
    assert refers_alike("the last image", three[1:], three)
    assert not refers_alike("both images", three[1:], three)
    assert not refers_alike("image 1", (three[1],) * 3, three)  # image_layout=repeated
    assert refers_alike("image 2", (three[1],) * 3, three)
    assert refers_alike("image 9, the only image", three, three)  # as a multi rollout may say


@pytest.mark.parametrize(("repeats", "limit_s"), some([(5_000, 5), (20_000, 20)], 1))
def test_long_texts_take_no_time(repeats, limit_s):
    started = time.monotonic()
    for piece in ("image 1 and ", "[1, 2, ", "first ", "both of the ", "[[[[", "image  ", "(1.1.1.1"):
        refers_alike(piece * repeats, BOTH[1:], BOTH)
        check()(*one(piece * repeats))
    assert time.monotonic() - started < limit_s


def check(own=None, **sizes):
    return GuestCheck(in_frames(**(sizes or {"visible": (56, 56), "infrared": (28, 28)})), own)


def one(text, source="infrared", reason="stop"):
    """A prompt of two images, the anchor group of a source with one response, and the response."""
    prompt = make_prompt("p", BOTH, ("visible", "infrared"))
    item = make_rollouts(prompt, [0.0])
    multi = replace(item.multi, request=replace(item.multi.request, images=BOTH))
    group = make_group("p", (source,), [1.0], text)
    rollout = replace(group.rollouts[0], completion=replace(group.rollouts[0].completion, finish_reason=reason))
    request = replace(group.request, images=(dict(zip(("visible", "infrared"), BOTH, strict=True))[source],))
    group = RolloutGroup(request, (rollout,))
    return replace(item, multi=multi, anchors=(group,)), group, rollout


def test_a_response_that_was_cut_is_no_guest():
    assert check()(*one("It is a dog."))
    assert not check()(*one("It is a dog.", reason="length"))


@pytest.mark.parametrize(
    "boxes",
    ['[{"bbox_2d": [1, 2, 3, 4]}]', '{"x1": 1, "y1": 2, "x2": 3, "y2": 4}', "<box>1, 2, 3, 4</box>", "(1, 2)"],
)
def test_boxes_in_the_frame_of_another_size_are_refused(boxes):
    assert not check()(*one(f"<answer>{boxes}</answer>"))
    assert check()(*one(f"<answer>{boxes}</answer>", source="visible"))  # the frame of the multi view
    same = check(visible=(1000, 1000), infrared=(1000, 1000))
    assert same(*one(f"<answer>{boxes}</answer>"))
    assert check()(*one("three dogs [sic] (and 4 cats)"))


def test_a_users_function_is_asked_last(tmp_path):
    (tmp_path / "own.py").write_text(
        "def named(text, view, prompt):\n    return view[0] in text and prompt.prompt_id == 'p'\n"
    )
    own = load_filter(f"{tmp_path}/own.py:named")
    assert check(own)(*one("infrared: a dog"))
    assert not check(own)(*one("a dog"))
    assert not check(own)(*one("infrared: image 1"))


def test_a_users_function_that_cannot_be_used_is_named(tmp_path):
    assert load_filter(None) is None
    file = tmp_path / "own.py"
    file.write_text(
        "def two(text, view): return True\ndef raises(a, b, c): return 1 / 0\ndef text(a, b, c): return 'yes'\n"
    )
    with pytest.raises(ConfigError, match=r"anchor\.guide_filter: .*own\.py:two takes \(text, view\)"):
        load_filter(f"{file}:two")
    with pytest.raises(ConfigError, match=r"anchor\.guide_filter: .*own\.py has no 'none'"):
        load_filter(f"{file}:none")
    with pytest.raises(ConfigError, match=r"filter: .*own\.py:raises on a response to rows\.jsonl:p failed: Zero"):
        check(load_filter(f"{file}:raises"))(*one("a dog"))
    with pytest.raises(ConfigError, match=r"is no bool; got 'yes'; return True or False"):
        check(load_filter(f"{file}:text"))(*one("a dog"))
