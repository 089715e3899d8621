"""`ImageTransform`, and references to transformed images.

An image is decoded and resized. Then transforms change its pixels, but not its size.

    masked = transformed(prompt.images, "masked", 1.0, run_seed, step, prompt.prompt_id)

gives one reference for each image. Engine and trainer make the same pixels from it in any process. A reference can be
transformed again. `recipe.transforms` names the functions; mars/data/pixels/transforming.py applies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from mars.types import ImageRef

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class ImageTransform(Protocol):
    """image: 8-bit RGB, as decoded and resized. rng: from the seed of the `TransformCall`, the same in every process.

    strength: that of the `TransformCall`.
    """

    def __call__(self, image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image: ...


@dataclass(frozen=True)
class TransformCall:
    """One use of a transform. name: its key in `recipe.transforms`. seed: of its random numbers.

    strength: for the transforms of mars from 0 (no change) to 1 (full change). A user's transform may use other values.
    """

    name: str
    seed: int
    strength: float


@dataclass(frozen=True, kw_only=True)
class TransformedImage(ImageRef):
    """An image after `transforms`, applied in this order.

    It is not equal to the unchanged image, nor to one whose transforms have other seeds. So it has its own entry in
    every cache of images.
    """

    transforms: tuple[TransformCall, ...]

    @property
    def untransformed(self) -> ImageRef:
        return ImageRef(**{name: value for name, value in vars(self).items() if name != "transforms"})


def transformed(images: Sequence[ImageRef], name: str, strength: float, *key: object) -> tuple[TransformedImage, ...]:
    """For each image, a reference to the image as the transform `name` changes it.

    key: what the random numbers depend on, such as run.seed, step and prompt id; each part is written with `repr`. The
    seed of an image comes from `key`, `name` and the image's number, so images of one prompt are changed differently.
    """
    return tuple(
        transformed_image(image, TransformCall(name, transform_seed(name, number, *key), strength))
        for number, image in enumerate(images)
    )


def transformed_image(image: ImageRef, call: TransformCall) -> TransformedImage:
    """The image after one more transform. With the same seed, two images of one size get the same random numbers."""
    if isinstance(image, TransformedImage):
        return replace(image, transforms=(*image.transforms, call))
    return TransformedImage(**vars(image), transforms=(call,))


def transform_seed(*key: object) -> int:
    """64-bit seed from a key.

    >>> transform_seed("masked", 0, 7) == transform_seed("masked", 1, 7)
    False
    """
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big")
