"""Pass image features that are computed already to a Hugging Face model, in every supported version of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any

from torch import Tensor, nn

_ENCODED = "mm_encoder_outputs"


@contextmanager
def encoded_images(model: nn.Module, pixel_values: Tensor | None, features: Any) -> Iterator[dict[str, Any]]:
    """Yields the arguments with which `model` computes one forward from encoded images.

    model: `backbone.model`, a model without its head. pixel_values: of the images; None if there are none.
    features: the output of `model.get_image_features`.

    Some versions of transformers have no argument `mm_encoder_outputs`, and would ignore the images. With these
    versions, the model gets the pixels, and its `get_image_features` returns `features` until the block ends.
    """
    if pixel_values is None:
        yield {}
    elif _takes_encoded(type(model)):
        yield {_ENCODED: {"image": features}}
    else:
        model.get_image_features = lambda *args, **options: features
        try:
            yield {"pixel_values": pixel_values}
        finally:
            del model.get_image_features


@cache
def _takes_encoded(kind: type[nn.Module]) -> bool:
    return _ENCODED in signature(kind.forward).parameters
