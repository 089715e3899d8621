"""Compute the size at which the model sees an image, from its source's pixel budget or the one for every image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mars.data.pixels.images import MAX_ASPECT
from mars.data.prompts.tokenizer import read_json
from mars.data.rows.problems import RowProblem
from mars.errors import ConfigError, SetupError
from mars.types import Prompt, Source

SourcePixels = Mapping[str, Sequence[int]]
"""Source name -> [smallest, largest] width x height after resizing, within the limits for every image."""


@dataclass(frozen=True)
class ImageBudget:
    """How large the model sees an image.

    min_pixels, max_pixels: limits of width x height after resizing. patch_size: side of a vision patch in pixels.
    merge_size: a model token covers merge_size x merge_size patches.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    merge_size: int

    @classmethod
    def from_pretrained(cls, model_path: str, min_pixels: int, max_pixels: int) -> ImageBudget:
        """Read patch_size and merge_size from the model's image processor file.

        Raises SetupError if they are missing or invalid.
        """
        for name in ("processor_config.json", "preprocessor_config.json"):
            settings = read_json(model_path, name)
            settings = settings.get("image_processor", settings)
            if isinstance(settings, dict) and "patch_size" in settings and "merge_size" in settings:
                _check_patches(model_path, name, settings)
                return cls(min_pixels, max_pixels, settings["patch_size"], settings["merge_size"])
        raise SetupError(
            f"model.path: no image processor with patch_size and merge_size; got {model_path}; use a Qwen-VL model"
        )


def _check_patches(model_path: str, name: str, settings: Mapping[str, Any]) -> None:
    """Compare the image processor's file `name` with config.json's vision_config. Raises SetupError."""
    vision = read_json(model_path, "config.json").get("vision_config")
    keys = {
        "patch_size": "patch_size",
        "merge_size": "spatial_merge_size",
        "temporal_patch_size": "temporal_patch_size",
    }
    for key, model_key in keys.items():
        if key not in settings:  # temporal_patch_size has a default
            continue
        value = settings[key]
        if type(value) is not int or value < 1:
            raise SetupError(
                f"model.path: {model_path}/{name}: {key} must be a whole number, at least 1; got {value!r}; "
                "download the file again"
            )
        model_value = vision.get(model_key, value) if isinstance(vision, dict) else value
        if model_value != value or type(model_value) is not int:
            raise SetupError(
                f"model.path: {model_path}/{name}: {key} must be {model_value!r}, as config.json's "
                f"vision_config.{model_key}; got {value}; use the processor files of this model"
            )


def model_image_size(size: tuple[int, int], budget: ImageBudget) -> tuple[int, int]:
    """(width, height) the model sees: Qwen-VL's smart_resize (Wang et al. 2024, arXiv 2409.12191, section 2.1).

    Both sides become the nearest multiple of patch_size * merge_size. If the area is then outside the budget, both
    sides are scaled by the same factor and rounded to multiples that are inside.
    Example: 1280x1024 with patches of 14, merge 2 and at most 1280 * 28 * 28 pixels -> (1120, 896), 1280 tokens.
    """
    width, height = size
    unit = budget.patch_size * budget.merge_size
    new_width, new_height = (round(side / unit) * unit for side in size)
    if new_width * new_height > budget.max_pixels:
        shrink = math.sqrt((height * width) / budget.max_pixels)
        new_width, new_height = (max(unit, math.floor(side / shrink / unit) * unit) for side in size)
    elif new_width * new_height < budget.min_pixels:
        grow = math.sqrt(budget.min_pixels / (height * width))
        new_width, new_height = (math.ceil(side * grow / unit) * unit for side in size)
    return new_width, new_height


def num_image_tokens(size: tuple[int, int], budget: ImageBudget) -> int:
    """Number of tokens of one image in the language model. Example: (112, 112) with patches of 14 and merge 2 -> 16."""
    width, height = model_image_size(size, budget)
    return width * height // (budget.patch_size * budget.merge_size) ** 2


def source_budgets(source_pixels: SourcePixels, budget: ImageBudget) -> dict[str, ImageBudget]:
    """Source name -> budget with the limits of that source and the patch sizes of `budget`."""
    return {name: replace(budget, min_pixels=low, max_pixels=high) for name, (low, high) in source_pixels.items()}


def limit_images(prompt: Prompt, budgets: Mapping[str, ImageBudget]) -> tuple[Prompt, list[RowProblem]]:
    """Set `resized` in the images of sources in `budgets`; also returns a problem for each image that gets too narrow.

    The model's image processor has the limits for every image, `data.min_image_pixels` and `data.max_image_pixels`. It
    does not resize these images again, because their sides are already multiples of its patches and within its limits.
    Example: with [3136, 200704] for "infrared" and patches of 14, merge 2, an infrared image of 1280x1024 becomes
    476x392, 238 tokens, whatever the budget of the others.
    """
    if not budgets:
        return prompt, []
    problems: list[RowProblem] = []

    def limit(source: Source) -> Source:
        if source.name not in budgets:
            return source
        size = model_image_size(source.image.size, budgets[source.name])
        if max(size) > MAX_ASPECT * min(size):  # rounding can make a narrow image even narrower
            shown = f"source {source.name}: {size[0]}x{size[1]} with data.source_image_pixels"
            problems.append(RowProblem(prompt.row, "image_size", f"{shown}; sides must be within {MAX_ASPECT}:1"))
        return replace(source, image=replace(source.image, resized=size))

    return replace(prompt, sources=tuple(map(limit, prompt.sources))), problems


def check_names(source_pixels: SourcePixels, prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError if no prompt has a source that `source_pixels` names: the name must be misspelt."""
    known = list(dict.fromkeys(source.name for prompt in prompts for source in prompt.sources))
    unknown = [name for name in source_pixels if name not in known]
    if unknown:
        raise ConfigError(
            f"data.source_image_pixels: no row has such a source; got {', '.join(unknown)}; the rows' sources are "
            f"{', '.join(known) or 'none'}"
        )
