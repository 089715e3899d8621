"""Compute the size at which the model sees an image, from its source's pixel budget or the one for every image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from mars.data.pixels.images import MAX_ASPECT
from mars.data.prompts.tokenizer import read_json
from mars.data.rows.problems import RowProblem
from mars.errors import ConfigError, SetupError
from mars.families.family import Family, ImageSizing
from mars.families.qwen_vl import SMART_RESIZE
from mars.families.table import family_of
from mars.types import Prompt, Source

logger = logging.getLogger(__name__)

SourcePixels = Mapping[str, Sequence[int]]
"""Source name -> [smallest, largest] width x height after resizing, within the limits for every image."""


@dataclass(frozen=True)
class ImageBudget:
    """How large the model sees an image.

    min_pixels, max_pixels: limits of width x height after resizing. patch_size: side of a vision patch in pixels.
    merge_size: a model token covers merge_size x merge_size patches. sizing: how the model's family keeps the limits.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    merge_size: int
    sizing: ImageSizing = SMART_RESIZE

    @classmethod
    def from_pretrained(cls, model_path: str, min_pixels: int, max_pixels: int) -> ImageBudget:
        """Read the sizes of patches and tokens from the model's image processor file.

        Raises SetupError if they are missing or invalid, if the file names the image processor of another model, or if
        the model's family is not supported.
        """
        config = read_json(model_path, "config.json")
        family = family_of(config.get("model_type"), f"model.path: {model_path}/config.json")
        processor = read_json(model_path, "processor_config.json")
        for name in ("processor_config.json", "preprocessor_config.json"):
            settings = processor if name == "processor_config.json" else read_json(model_path, name)
            settings = settings.get("image_processor", settings)
            if isinstance(settings, dict) and all(key in settings for key in family.sizing_keys):
                check_image_processor(settings, family, f"{model_path}/{name}")
                warn_of_smaller_images(settings, max_pixels, f"{model_path}/{name}")
                patch, merge, sizing = family.read_sizing(settings, processor, config, f"{model_path}/{name}")
                return cls(min_pixels, max_pixels, patch, merge, sizing)
        raise SetupError(
            f"model.path: no image processor with {' and '.join(family.sizing_keys)}; got {model_path}; "
            f"use a complete folder of a {family.name} model"
        )

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest image after processing."""
        return self.sizing.max_bytes(self)

    def processor_settings(self) -> dict[str, Any]:
        """The arguments with which transformers' image processor keeps this budget."""
        return self.sizing.settings(self)


def check_image_processor(settings: Mapping[str, Any], family: Family, file: str) -> None:
    """Raises SetupError for a class that transformers does not know, or that makes other pixels than the model reads.

    The first is common: folders of 2025 name Qwen2_5_VLImageProcessor, which transformers no longer has.
    """
    if "AutoImageProcessor" in str(settings.get("auto_map")):
        return  # a class of the folder's own code, which is loaded only with model.trust_remote_code
    named = settings.get("image_processor_type", family.image_processor)
    if not isinstance(named, str) or named.removesuffix("Fast").removesuffix("Pil") != family.image_processor:
        raise SetupError(
            f"model.path: {file}: image_processor_type must be {family.image_processor}, which makes the images of "
            f"{family.name}; got {named!r:.80}; write {family.image_processor} there, or use the processor files of "
            "this model"
        )


@cache
def _warn_once(file: str, key: str, limit: int, max_pixels: int) -> None:
    logger.warning(
        "data.max_image_pixels: %s has %s=%d, so the model may have been trained on smaller images; got %d, which "
        "counts; to follow the file, set it to %d",
        file,
        key,
        limit,
        max_pixels,
        limit,
    )


def warn_of_smaller_images(settings: Mapping[str, Any], max_pixels: int, file: str) -> None:
    """Warns once if the limit in the model's own file is below the run's, which replaces it.

    The file has max_pixels, or in newer versions size.longest_edge. In transformers the first counts if both are there.
    """
    size = settings.get("size")
    limits = {
        "max_pixels": settings.get("max_pixels"),
        "size.longest_edge": size.get("longest_edge") if isinstance(size, Mapping) else None,
    }
    key, limit = next(((key, value) for key, value in limits.items() if type(value) is int), ("", max_pixels))
    if 0 < limit < max_pixels:
        _warn_once(file, key, limit, max_pixels)


def model_image_size(size: tuple[int, int], budget: ImageBudget) -> tuple[int, int]:
    """(width, height) the model sees.

    Example: 1280x1024 with patches of 14, merge 2 and at most 1280 * 28 * 28 pixels -> (1120, 896), 1280 tokens.
    """
    return budget.sizing.size(size, budget)


def num_image_tokens(size: tuple[int, int], budget: ImageBudget) -> int:
    """Number of tokens of one image in the language model. Example: (112, 112) with patches of 14 and merge 2 -> 16."""
    return budget.sizing.num_tokens(size, budget)


def source_budgets(source_pixels: SourcePixels, budget: ImageBudget) -> dict[str, ImageBudget]:
    """Source name -> budget with the limits of that source and the patch sizes of `budget`.

    Raises ConfigError for a model whose image processor would resize the images again, because it cuts every image into
    tiles by one limit.
    """
    if source_pixels and not budget.sizing.takes_resized:
        raise ConfigError(
            f"data.source_image_pixels: this model cuts every image into tiles by one limit; got limits for "
            f"{', '.join(source_pixels)}; set data.max_image_pixels alone"
        )
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
    """Raises ConfigError if `source_pixels` names a source that no prompt has: the name must be misspelt."""
    known = list(dict.fromkeys(source.name for prompt in prompts for source in prompt.sources))
    unknown = [name for name in source_pixels if name not in known]
    if unknown:
        raise ConfigError(
            f"data.source_image_pixels: no row has such a source; got {', '.join(unknown)}; the rows' sources are "
            f"{', '.join(known) or 'none'}"
        )
