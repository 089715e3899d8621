"""Compute the size at which the model sees an image, from the pixel budget of all images or of a source."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mars.data.pixels.images import MAX_ASPECT
from mars.data.rows.problems import RowProblem
from mars.errors import ConfigError, SetupError
from mars.types import Prompt, Source

SourcePixels = Mapping[str, Sequence[int]]
"""Source name -> [smallest, largest] width x height after resizing, within the budget of all images."""


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
        """Patch and merge size from the model's image processor file. Raises SetupError without one."""
        from transformers.utils import cached_file

        for name in ("processor_config.json", "preprocessor_config.json"):
            path = cached_file(model_path, name, _raise_exceptions_for_missing_entries=False)
            settings = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
            settings = settings.get("image_processor", settings)
            if "patch_size" in settings and "merge_size" in settings:
                return cls(min_pixels, max_pixels, settings["patch_size"], settings["merge_size"])
        raise SetupError(
            f"model.path: no image processor with patch_size and merge_size; got {model_path}; use a Qwen-VL model"
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
    """Tokens of one image in the language model. Example: (112, 112) with patches of 14 and merge 2 -> 16."""
    width, height = model_image_size(size, budget)
    return width * height // (budget.patch_size * budget.merge_size) ** 2


def source_budgets(source_pixels: SourcePixels, budget: ImageBudget) -> dict[str, ImageBudget]:
    """Source name -> budget with the limits of that source and the patch sizes of `budget`."""
    return {name: replace(budget, min_pixels=low, max_pixels=high) for name, (low, high) in source_pixels.items()}


def limit_images(prompt: Prompt, budgets: Mapping[str, ImageBudget]) -> tuple[Prompt, list[RowProblem]]:
    """The prompt with `resized` set in images of the sources in `budgets`; and images that cannot be shown so.

    The model's image processor, whose budget is that of all images, then finds multiples of its patch within its
    limits and leaves them as they are: the source gets the pixels of a processor with limits of its own.
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
        if max(size) > MAX_ASPECT * min(size):  # a strip; rounding made it narrower still
            shown = f"source {source.name}: {size[0]}x{size[1]} by data.source_image_pixels"
            problems.append(RowProblem(prompt.row, "image_size", f"{shown}; sides must be within {MAX_ASPECT}:1"))
        return replace(source, image=replace(source.image, resized=size))

    return replace(prompt, sources=tuple(map(limit, prompt.sources))), problems


def check_names(source_pixels: SourcePixels, prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError if no prompt has the source of a budget, because its name is then misspelt."""
    known = list(dict.fromkeys(source.name for prompt in prompts for source in prompt.sources))
    unknown = [name for name in source_pixels if name not in known]
    if unknown:
        raise ConfigError(
            f"data.source_image_pixels: no row has such a source; got {', '.join(unknown)}; the rows' sources are "
            f"{', '.join(known) or 'none'}"
        )
