"""Transforms of images: hand-computed pixels, the references to changed images, and what the decoder refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.data.pixels.images import decode_image
from mars.data.pixels.transforming import TransformingDecoder, try_transforms
from mars.data.pixels.transforms import (
    blank_patches,
    blank_source,
    gaussian_diffusion,
    kept_signal,
    mixup,
    rotate,
)
from mars.errors import ConfigError
from mars.image_transform import TransformCall, TransformedImage, transform_seed, transformed, transformed_image
from mars.types import ImageRef


def rng(seed=3):
    return np.random.Generator(np.random.Philox(key=seed))


class Scripted:
    """Random numbers that a test chooses."""

    def __init__(self, *numbers):
        self._numbers = list(numbers)

    def random(self, shape):
        return np.array(self._numbers, dtype=float).reshape(shape)

    def uniform(self, low, high):
        return low + (high - low) * self._numbers.pop(0)

    def integers(self, high):
        return self._numbers.pop(0)

    def standard_normal(self, shape):
        return np.full(shape, float(self._numbers[0]))


def grey(width, height, value=200):
    return Image.new("RGB", (width, height), (value, value, value))


def channel(image):
    """The red channel as lists of rows."""
    return np.asarray(image)[..., 0].tolist()


def test_patches_are_black_where_the_draw_is_below_share_times_strength():
    # 5 x 3 pixels in squares of 2: 3 columns and 2 rows of squares, the last ones narrower and lower.
    draws = Scripted(0.2, 0.5, 0.29, 0.9, 0.1, 0.31)
    image = blank_patches(0.6, 2)(grey(5, 3), draws, 0.5)  # black below 0.3
    assert channel(image) == [[0, 0, 200, 200, 0], [0, 0, 200, 200, 0], [200, 200, 0, 0, 200]]


def test_the_share_of_black_patches_is_the_share_asked_for():
    blank = np.asarray(blank_patches(0.6, 14)(grey(1400, 1400), rng(), 1.0))[..., 0] == 0
    assert abs(blank.mean() - 0.6) < 4 * math.sqrt(0.24 / 10_000)  # 10,000 squares
    assert (blank.reshape(100, 14, 100, 14).mean(axis=(1, 3)) % 1 == 0).all()  # whole squares


def test_a_blank_source_keeps_what_is_left_of_the_strength():
    assert channel(blank_source()(grey(2, 1), rng(), 1.0)) == [[0, 0]]
    assert channel(blank_source()(grey(2, 1), rng(), 0.25)) == [[150, 150]]


def test_diffusion_mixes_signal_and_noise_by_the_product_of_the_betas():
    first, second = 1 / (1 + math.exp(6)), 1 / (1 + math.exp(6 - 12 / 999))
    betas = [4.99e-3 * share + 1e-5 for share in (first, second)]
    assert kept_signal(0) == 1
    assert kept_signal(1) == pytest.approx((1 - betas[0]) * (1 - betas[1]), rel=1e-12)
    # The betas of all 1000 steps are symmetric about 2.505e-3, so their sum is 2.505.
    assert -math.log(kept_signal(1000)) == pytest.approx(2.505, rel=3e-3)
    assert kept_signal(1000) == kept_signal(999)
    assert kept_signal(450) == pytest.approx(0.8294, abs=5e-5), "that of NoisyRollout's code at t = 450"
    kept = kept_signal(300)
    wanted = 255 * (math.sqrt(kept) * 200 / 255 - math.sqrt(1 - kept) * 0.1)
    assert channel(gaussian_diffusion(600)(grey(1, 1), Scripted(-0.1), 0.5)) == [[round(wanted)]]
    assert channel(gaussian_diffusion(600)(grey(1, 1), Scripted(50.0), 1.0)) == [[255]]


def test_rotation_turns_counter_clockwise_and_fills_the_corners():
    image = Image.fromarray(np.array([[[10] * 3, [20] * 3], [[30] * 3, [40] * 3]], dtype=np.uint8))
    turned = rotate(90)(image, Scripted(1.0), 1.0)  # the largest angle
    assert channel(turned) == [[20, 40], [10, 30]]
    half = np.asarray(rotate(90, fill=(255, 0, 0))(grey(41, 41, 100), Scripted(1.0), 0.5))
    assert half[0, 0].tolist() == [255, 0, 0]
    assert half[20, 20].tolist() == [100, 100, 100]


def test_mixup_blends_with_the_image_drawn(tmp_path):
    for name, value in (("black", 0), ("white", 255)):
        Image.new("L", (3, 5), value).save(tmp_path / f"{name}.png")
    mix = mixup([str(tmp_path / "black.png"), str(tmp_path / "white.png")], 0.7, 0.9)
    # The second image, share 0.7 + 0.2 x 0.5 = 0.8: 0.8 x 100 + 0.2 x 255 = 131; at half the strength 115.5.
    assert channel(mix(grey(2, 2, 100), Scripted(1, 0.5), 1.0)) == [[131, 131], [131, 131]]
    assert channel(mix(grey(1, 1, 100), Scripted(1, 0.5), 0.5))[0][0] in (115, 116)


SHIPPED = {
    "patches": blank_patches(0.5, 3),
    "blank": blank_source(),
    "noise": gaussian_diffusion(450),
    "rotate": rotate(180, (255, 255, 255)),
}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**64 - 1), st.sampled_from(sorted(SHIPPED)))
def test_each_keeps_the_size_and_does_nothing_at_strength_0(width, height, seed, name):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(SHIPPED[name](image, rng(seed), 0.0)), pixels)
    changed = SHIPPED[name](image, rng(seed), 1.0)
    assert (changed.size, changed.mode) == (image.size, "RGB")
    assert np.array_equal(np.asarray(image), pixels)


def test_the_self_test_accepts_those_that_mars_has(tmp_path):
    grey(4, 4).save(tmp_path / "other.png")
    try_transforms({**SHIPPED, "mixup": mixup([str(tmp_path / "other.png")], 0.7, 0.9)})


REF = ImageRef("a.png", (8, 6), resized=(4, 3))


def test_a_changed_image_is_another_image():
    masked, again = transformed([REF, REF], "masked", 1.0, 7, 3, "prompt"), transformed([REF], "masked", 1.0, 7, 3, "p")
    noisy = transformed([REF], "noise", 1.0, 7, 3, "prompt")
    weaker = transformed([REF], "masked", 0.5, 7, 3, "prompt")
    same = transformed([replace(REF)], "masked", 1.0, 7, 3, "prompt")
    assert same[0] == masked[0]
    everything = [REF, *masked, *again, *noisy, *weaker]
    assert len({repr(ref) for ref in everything}) == len(set(everything)) == 6
    assert {ref.untransformed for ref in masked} == {REF}
    assert type(masked[0].untransformed) is ImageRef
    assert (masked[0].size, masked[0].resized) == (REF.size, REF.resized)


def test_seeds_are_those_of_the_key():
    assert transform_seed(1, "a") == transform_seed(1, "a") != transform_seed("1", "a")
    assert 0 <= transform_seed(1, "a") < 2**64


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return ImageRef(str(tmp_path / "a.png"), (8, 6), resized=(4, 3))


def test_the_decoder_applies_transforms_in_their_order_after_resizing(picture):
    seen = []

    def halved(image, rng, strength):
        seen.append((image.size, strength, rng.random()))
        return image.point(lambda value: value // 2)

    def plus_one(image, rng, strength):
        return image.point(lambda value: min(value + 1, 255))

    decode = TransformingDecoder(decode_image, lambda: {"halved": halved, "plus_one": plus_one})
    first = transformed_image(picture, TransformCall("halved", 11, 0.25))
    both = transformed_image(first, TransformCall("plus_one", 5, 1.0))
    plain = np.asarray(decode(picture))
    assert np.array_equal(np.asarray(decode(both)), plain // 2 + 1)
    assert seen == [((4, 3), 0.25, rng(11).random())]
    assert np.array_equal(np.asarray(decode(picture)), plain)


def test_the_plain_decoder_never_gives_an_unchanged_image_for_a_changed_one(picture):
    (masked,) = transformed([picture], "masked", 1.0, 0)
    with pytest.raises(TypeError, match="applies no transforms"):
        decode_image(masked)


def wrong_size(image, rng, strength):
    return image.resize((1, 1))


def wrong_type(image, rng, strength):
    return np.asarray(image)


def raises(image, rng, strength):
    raise ZeroDivisionError("no such patch")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (wrong_size, r"recipe.transforms.masked: wrong result for .*a.png; got RGB \(1, 1\), want RGB \(4, 3\); "),
        (wrong_type, r"got ndarray, want RGB \(4, 3\)"),
        (raises, r"recipe.transforms.masked: failed on .*a.png: ZeroDivisionError: no such patch .*; a transform"),
    ],
)
def test_a_wrong_transform_ends_the_run(picture, transform, message):
    (masked,) = transformed([picture], "masked", 1.0, 0)
    with pytest.raises(ConfigError, match=message):
        TransformingDecoder(decode_image, lambda: {"masked": transform})(masked)
    with pytest.raises(ConfigError, match=r"recipe.transforms.masked: .*the image of the self-test"):
        try_transforms({"masked": transform})


def test_an_unknown_transform_is_named(picture):
    (masked,) = transformed([picture], "masked", 1.0, 0)
    with pytest.raises(ConfigError, match=r"recipe\.transforms: has no transform 'masked'; got noise; name it there"):
        TransformingDecoder(decode_image, lambda: {"noise": raises})(masked)


def own_randomness(image, rng, strength):
    return gaussian_diffusion(450)(image, np.random.default_rng(), strength)


def in_place(image, rng, strength):
    image.putpixel((0, 0), (1, 2, 3))
    return image


@pytest.mark.parametrize(
    ("transform", "message"),
    [(own_randomness, "two different images for the same seed"), (in_place, "changed the image that it got")],
)
def test_the_self_test_refuses_what_would_differ_between_workers(transform, message):
    with pytest.raises(ConfigError, match=message):
        try_transforms({"masked": transform})


def test_a_transformed_image_cannot_be_made_without_transforms():
    with pytest.raises(TypeError):
        TransformedImage("a.png", (1, 1))  # type: ignore[call-arg]
