"""Encode each image of a batch once, however many rows of the batch show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mars.families.family import Grid, ModelForward
from mars.types import ImageRef

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DistinctImages:
    """The images of a batch, each once. index: for each image in the rows, in order, its place among these images."""

    pixel_values: Sequence[Tensor]
    grids: Sequence[Grid]
    index: Sequence[int]

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[ImageRef], Any]]) -> DistinctImages:
        """rows: the images of each row, and its processed prompt, with pixels and grids in the same order."""
        shown: dict[ImageRef, tuple[Tensor, Grid]] = {}
        for images, prompt in rows:
            shown |= zip(images, zip(prompt.pixel_values, prompt.image_grid_thw, strict=True), strict=True)
        places = {image: place for place, image in enumerate(shown)}
        index = [places[image] for images, _ in rows for image in images]
        return cls([pixels for pixels, _ in shown.values()], [grid for _, grid in shown.values()], index)

    @contextmanager
    def encoded_once(self, forward: ModelForward, model: Any) -> Iterator[None]:
        """In the block, the first forward of `model` with images computes the features of each distinct image once.

        It repeats them for the rows that show the image. Give this forward the `pixel_values` of this object.

        model: `.model` of the whole model.
        """
        import torch

        encode = model.get_image_features

        def features(pixel_values: Tensor, *_: Any, **__: Any) -> Any:
            model.get_image_features = encode  # `image_features` calls it
            grids = torch.tensor(self.grids, device=pixel_values.device)
            return forward.image_features(model, pixel_values, grids, self.index)

        model.get_image_features = features
        try:
            yield
        finally:
            del model.get_image_features
