"""Apply the transforms of `TransformedImage` references after decoding, and try each transform before a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from mars.data.pixels.images import DecodeImage
from mars.errors import ConfigError
from mars.image_transform import ImageTransform, TransformCall, TransformedImage
from mars.users_code import calling

if TYPE_CHECKING:
    from PIL import Image

    from mars.types import ImageRef

_KEY = "recipe.transforms"
_ADVICE = "a transform takes (image, rng, strength) and returns an 8-bit RGB image of the same size"


class TransformingDecoder:
    """A `DecodeImage` that decodes with `decode`, then applies the transforms that a `TransformedImage` names.

    load: returns the transforms by their names in `recipe.transforms`. It is called at the first transformed image, so
        that a process without such images runs no user's file.
    """

    def __init__(self, decode: DecodeImage, load: Callable[[], Mapping[str, ImageTransform]]) -> None:
        self._decode, self._load = decode, load
        self._lock = Lock()

    @cached_property
    def _transforms(self) -> Mapping[str, ImageTransform]:
        with self._lock:  # several threads decode
            return self._load()

    def __call__(self, ref: ImageRef) -> Image.Image:
        """Raises what `decode` raises, and ConfigError, which ends the run, if a transform is missing or fails."""
        if not isinstance(ref, TransformedImage):
            return self._decode(ref)
        image = self._decode(ref.untransformed)
        for call in ref.transforms:
            if call.name not in self._transforms:
                known = ", ".join(self._transforms) or "none"
                raise ConfigError(f"{_KEY}: has no transform {call.name!r}; got {known}; name it there")
            image = apply(self._transforms[call.name], image, call, ref.path)
        return image


def apply(transform: ImageTransform, image: Image.Image, call: TransformCall, name: str) -> Image.Image:
    """The changed image. name: the image's name in messages. Raises ConfigError if the transform fails."""
    import numpy as np
    from PIL import Image

    rng = np.random.Generator(np.random.Philox(key=call.seed))
    # A DataError is not passed on: it would say that the image cannot be read, and leave its prompt out of the run.
    with calling(f"{_KEY}.{call.name}: failed on {name}", _ADVICE, unchanged=ConfigError):
        changed = transform(image, rng, call.strength)
    if not isinstance(changed, Image.Image) or (changed.mode, changed.size) != ("RGB", image.size):
        got = f"{changed.mode} {changed.size}" if isinstance(changed, Image.Image) else type(changed).__name__
        raise ConfigError(f"{_KEY}.{call.name}: wrong result for {name}; got {got}, want RGB {image.size}; {_ADVICE}")
    return changed


def try_transforms(transforms: Mapping[str, ImageTransform]) -> None:
    """The self-test of all transforms on a small image. Raises ConfigError.

    Refuses a transform that changes its argument, or gives two results for the same seed: engine and trainer would see
    different pixels.
    """
    import numpy as np
    from PIL import Image

    pixels = np.arange(3 * 41 * 57, dtype=np.uint32) * 37 % 251
    image = Image.fromarray(pixels.astype(np.uint8).reshape(41, 57, 3))
    before = image.tobytes()
    for name, transform in transforms.items():
        call = TransformCall(name, 1, 1.0)
        first, second = (apply(transform, image, call, "the image of the self-test") for _ in range(2))
        if image.tobytes() != before:
            raise ConfigError(f"{_KEY}.{name}: changed the image that it got; work on a copy, image.copy()")
        if first.tobytes() != second.tobytes():
            raise ConfigError(
                f"{_KEY}.{name}: gave two different images for the same seed; draw all random numbers from rng"
            )
