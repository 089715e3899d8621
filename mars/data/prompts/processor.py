"""Turn prompt ids and images into the tensors of a forward."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.chat import expand
from mars.types import ImageRef, TokenRules

if TYPE_CHECKING:
    import torch
    from PIL import Image

_BLANK = "blank"  # no image that is read has this encoding, so none has the key of a blank image


@dataclass(frozen=True)
class ProcessedPrompt:
    """One prompt as a forward takes it.

    input_ids: int64 [P], every image placeholder repeated once per image token.
    pixel_values: one float32 tensor per image, as the model's image processor makes it.
    image_grid_thw: one (t, h, w) per image: t frames or tiles of h x w patches.
    image_keys: identity of each image. Images with equal keys have equal pixels.
    """

    input_ids: torch.Tensor
    pixel_values: tuple[torch.Tensor, ...]
    image_grid_thw: tuple[tuple[int, int, int], ...]
    image_keys: tuple[ImageRef, ...]


class PromptProcessor:
    """Runs the model's own image processor, and caches its output for the images used last.

    decode: turns a reference into an RGB image (mars/data/pixels/images.py). budget: how large the model sees images.
    rules: say which tokens stand for an image.
    """

    def __init__(
        self,
        model_path: str,
        *,
        decode: Callable[[ImageRef], Image.Image],
        budget: ImageBudget,
        rules: TokenRules,
        cache_bytes: int,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoImageProcessor

        self._processor = AutoImageProcessor.from_pretrained(model_path, trust_remote_code=trust_remote_code)
        # Passed in each call: old preprocessor_config.json files have limits (min_pixels, max_pixels) that would
        # replace limits passed to from_pretrained.
        self._settings = budget.processor_settings()
        self._decode, self._budget, self._rules = decode, budget, rules
        self._free_bytes = cache_bytes
        self._cache: OrderedDict[ImageRef, tuple[Any, tuple[int, int, int]]] = OrderedDict()

    def process(
        self, prompt_token_ids: Sequence[int], images: Sequence[ImageRef], blank: bool = False
    ) -> ProcessedPrompt:
        """The tensors of one prompt. blank: use white images of the same sizes, and open no image of the prompt.

        Raises DataError if placeholders and images differ in number, or if an image cannot be read.
        """
        import torch

        processed = [self._blank(image) if blank else self._process_image(image) for image in images]
        tokens_per_image = [t * h * w // self._budget.merge_size**2 for _, (t, h, w) in processed]
        ids = expand(prompt_token_ids, tokens_per_image, self._rules)
        return ProcessedPrompt(
            input_ids=torch.tensor(ids, dtype=torch.long),
            pixel_values=tuple(pixels for pixels, _ in processed),
            image_grid_thw=tuple(grid for _, grid in processed),
            image_keys=tuple(replace(image, encoding=_BLANK) if blank else image for image in images),
        )

    def _process_image(self, ref: ImageRef) -> tuple[Any, tuple[int, int, int]]:
        if ref in self._cache:
            self._cache.move_to_end(ref)
            return self._cache[ref]
        processed = self._features(self._decode(ref))
        self._cache[ref] = processed
        self._free_bytes -= processed[0].nbytes
        while self._free_bytes < 0:
            _, (dropped, _) = self._cache.popitem(last=False)
            self._free_bytes += dropped.nbytes
        return processed

    def _blank(self, ref: ImageRef) -> tuple[Any, tuple[int, int, int]]:
        from PIL import Image

        return self._features(Image.new("RGB", decoded_size(ref), "white"))

    def _features(self, image: Image.Image) -> tuple[Any, tuple[int, int, int]]:
        features = self._processor(images=[image], return_tensors="pt", **self._settings)
        return features["pixel_values"], self._budget.sizing.grid(features, self._budget)
