"""Image transforms for recipes. Each function here makes an `ImageTransform`, which a recipe's file returns like this:

    # functions.py of a recipe, named by recipe.transforms as {masked: path/to/functions.py:masked}
    def masked(settings: Settings) -> ImageTransform:
        return blank_patches(settings.masked_share, 14)

A transform returns an 8-bit RGB image of the same size, depends only on its arguments, and does not change them. At
strength 0 the transforms here return the image unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mars.image_transform import ImageTransform

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_DIFFUSION_STEPS = 1000
_FIRST_BETA, _LAST_BETA = 1e-5, 5e-3


def blank_patches(share: float, size: int) -> ImageTransform:
    """Each square of `size` x `size` pixels is black with probability share x strength (PAPO, arXiv 2507.06448).

    The grid of squares starts at the top left corner; squares at the right and lower edge may be smaller.
    """
    if not 0 <= share <= 1 or size < 1:
        raise ValueError(f"blank_patches: share must be within 0 to 1 and size at least 1; got {share} and {size}")

    def transform(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
        import numpy as np

        width, height = image.size
        blank = rng.random((math.ceil(height / size), math.ceil(width / size))) < share * strength
        pixels = np.array(image)
        pixels[blank.repeat(size, axis=0).repeat(size, axis=1)[:height, :width]] = 0
        return _image(pixels)

    return transform


def blank_source() -> ImageTransform:
    """Darkens the whole image: every pixel times 1 - strength."""

    def transform(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
        import numpy as np

        return _image(_bytes(np.asarray(image, dtype=np.float64) * (1 - strength)))

    return transform


def gaussian_diffusion(steps: int) -> ImageTransform:
    """Gaussian noise of the forward process of DDPM (arXiv 2006.11239) after t = int(steps x strength) of 1000 steps:

        x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,    a_t = product of 1 - beta_i for i = 0 to t

    x in [0, 1], e normal, beta_i from 1e-5 to 5e-3 along a sigmoid over [-6, 6] (as in NoisyRollout, arXiv 2504.13055,
    where a_t also has t + 1 factors). For t = 0 the formula is not used: a_0 = 1.
    """
    if not 0 <= steps <= _DIFFUSION_STEPS:
        raise ValueError(f"gaussian_diffusion: steps must be within 0 to {_DIFFUSION_STEPS}; got {steps}")

    def transform(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
        import numpy as np

        kept = kept_signal(int(steps * strength))
        pixels = np.asarray(image, dtype=np.float64) / 255
        noisy = math.sqrt(kept) * pixels + math.sqrt(1 - kept) * rng.standard_normal(pixels.shape)
        return _image(_bytes(noisy * 255))

    return transform


def kept_signal(step: int) -> float:
    """a_t of `gaussian_diffusion`: 1 at step 0.

    >>> round(kept_signal(450), 4)
    0.8294
    """
    import numpy as np

    grid = np.linspace(-6.0, 6.0, _DIFFUSION_STEPS)[: step + 1 if step > 0 else 0]
    betas = (_LAST_BETA - _FIRST_BETA) / (1 + np.exp(-grid)) + _FIRST_BETA
    return float(np.prod(1 - betas))


def rotate(max_degrees: float, fill: tuple[int, int, int] = (0, 0, 0)) -> ImageTransform:
    """Rotates an image about its centre by an angle drawn evenly from +-max_degrees x strength.

    The image keeps its size: corners that are rotated out of it are lost, and empty corners get the colour `fill`.
    Interpolation is bilinear.
    """

    def transform(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
        from PIL import Image

        angle = float(rng.uniform(-max_degrees, max_degrees)) * strength
        return image.rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=fill)

    return transform


def mixup(others: Sequence[str], low: float, high: float) -> ImageTransform:
    """Blends image x with image y of `others`: (1 - strength) x + strength (s x + (1 - s) y), s drawn from [low, high].

    others: files of 8-bit images. One is drawn and resized to the size of x. Every node with a worker must have them.
    """
    if not others or not 0 <= low <= high <= 1:
        raise ValueError(f"mixup: want files, and 0 <= low <= high <= 1; got {len(others)} files, {low} and {high}")

    def transform(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
        from PIL import Image

        with Image.open(others[int(rng.integers(len(others)))]) as opened:
            other = opened.convert("RGB").resize(image.size, Image.Resampling.BICUBIC)
        share = float(rng.uniform(low, high))
        return Image.blend(image, other, strength * (1 - share))

    return transform


def _bytes(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.rint(values.clip(0, 255)).astype(np.uint8)


def _image(pixels: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels)
