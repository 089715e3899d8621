"""Compute the size at which the model sees an image, from the pixel budget of its source or of all images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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

_BICUBIC = 3  # Pillow's number of this filter: the default of image processors, and needed for data.source_image_pixels

SourcePixels = Mapping[str, Sequence[int]]
"""Source name -> [smallest, largest] width x height after resizing. Both numbers are within the limits of all images,
data.min_image_pixels and data.max_image_pixels."""


@dataclass(frozen=True)
class ImageBudget:
    """How large the model sees an image.

    min_pixels, max_pixels: limits of width x height after resizing.
    patch_size: side of a vision patch in pixels.
    merge_size: a model token covers merge_size x merge_size patches.
    sizing: how the model's family keeps the limits.
    resample: Pillow's number of the filter with which the image processor resizes.
    own_minimum: the lower limit in the model's own files, which `min_pixels` replaces; and, as text, the file and key
        that have it.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    merge_size: int
    sizing: ImageSizing = SMART_RESIZE
    resample: int | None = _BICUBIC
    own_minimum: tuple[int, str] = field(default=(0, ""), compare=False)  # only for messages

    @classmethod
    def from_pretrained(cls, model_path: str, min_pixels: int, max_pixels: int) -> ImageBudget:
        """Read the sizes of patches and tokens from the model's image processor file.

        Raises SetupError if they are missing or invalid, if the file names the image processor of another model or
        settings that mars cannot follow, or if the model's family is not supported.
        """
        config = read_json(model_path, "config.json")
        family = family_of(config.get("model_type"), f"model.path: {model_path}/config.json")
        processor = read_json(model_path, "processor_config.json")
        name, settings = "processor_config.json", processor.get("image_processor")
        if settings is None:  # transformers chooses between the files in the same way
            name, settings = "preprocessor_config.json", read_json(model_path, "preprocessor_config.json")
        if not isinstance(settings, dict) or not all(key in settings for key in family.sizing_keys):
            raise SetupError(
                f"model.path: no image processor with {' and '.join(family.sizing_keys)}; got {model_path}; "
                f"use a complete folder of a {family.name} model"
            )
        file = f"{model_path}/{name}"
        check_image_processor(settings, family, file)
        check_colours(settings, file)
        warn_of_smaller_images(settings, max_pixels, file)
        patch, merge, sizing = family.read_sizing(settings, processor, config, file)
        least, written = _limit(settings, "min_pixels", "shortest_edge")
        own = (least, f"{file} has {written}")
        return cls(min_pixels, max_pixels, patch, merge, sizing, settings.get("resample", _BICUBIC), own)

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest image after processing."""
        return self.sizing.max_bytes(self)

    def processor_settings(self) -> dict[str, Any]:
        """The arguments with which transformers' image processor keeps this budget."""
        return self.sizing.settings(self)


_SWITCHES = {
    "do_resize": (True, "images are resized to whole patches, within data.min_image_pixels and data.max_image_pixels"),
    "do_center_crop": (False, "the model sees whole images"),
    "do_pad": (False, "images are resized to whole patches"),
    "do_rescale": (True, "images have 8 bits, and the model reads numbers of about 1"),
}
"""Switches of image processors: key -> (the value that a run needs, the reason)."""


def check_image_processor(settings: Mapping[str, Any], family: Family, file: str) -> None:
    """Raises SetupError for another image processor than the family's, and for a switch that would change the pixels.

    A wrong processor is common: model folders from 2025 name Qwen2_5_VLImageProcessor, a class that transformers no
    longer has.
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
    for key, (wanted, reason) in _SWITCHES.items():
        if settings.get(key, wanted) not in ((True,) if wanted else (None, False)):
            raise SetupError(
                f"model.path: {file}: {key} must be {str(wanted).lower()}, because {reason}; got "
                f"{settings[key]!r:.40}; remove it"
            )


def check_colours(settings: Mapping[str, Any], file: str) -> None:
    """Raises SetupError if image_mean or image_std is not three numbers. This is accepted if do_normalize is false and
    the key do_rescale is there.

    For a missing key, the trainer would use transformers' default and vLLM another one: without image_mean and
    image_std, vLLM does not normalize (vllm/model_executor/layers/fusion/mm_input_norm.py).
    """
    wrong = [key for key in ("image_mean", "image_std") if not _are_three_numbers(settings.get(key))]
    if wrong and settings.get("do_normalize", True):
        raise SetupError(
            f"model.path: {file}: {wrong[0]} must be three numbers, because the engine and the trainer have different "
            f"defaults; got {settings.get(wrong[0])!r:.80}; use the processor files of this model"
        )
    if wrong and "do_rescale" not in settings:
        raise SetupError(
            f"model.path: {file}: do_rescale must be there, because the engine and the trainer have different defaults "
            "without image_mean; set it to true"
        )


def _are_three_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(type(one) in (int, float) for one in value)


@cache
def _warn_once(file: str, written: str, limit: int, max_pixels: int) -> None:
    logger.warning(
        "data.max_image_pixels: %s has %s, so the model may have been trained on smaller images; got %d, which "
        "counts; to follow the file, set it to %d",
        file,
        written,
        max_pixels,
        limit,
    )


def warn_of_smaller_images(settings: Mapping[str, Any], max_pixels: int, file: str) -> None:
    """Warns once if the limit in the model's own file is below `max_pixels` of the run, which replaces it.

    If the file has both max_pixels and size.longest_edge, transformers uses max_pixels.
    """
    limit, written = _limit(settings, "max_pixels", "longest_edge")
    if 0 < limit < max_pixels:
        _warn_once(file, written, limit, max_pixels)


def _limit(settings: Mapping[str, Any], name: str, edge: str) -> tuple[int, str]:
    """(limit in pixels, "key=value" as the file of the model's image processor has it); (0, "") if it has no limit.

    name: the limit's key, at the top level or, in files of 2024, in `size`. edge: its key in `size` in newer files.
    InternVL's limits are numbers of tiles. A minimum of one tile counts as no limit: every image has at least one.

    >>> _limit({"size": {"shortest_edge": 3136, "longest_edge": 1003520}}, "max_pixels", "longest_edge")
    (1003520, 'size.longest_edge=1003520')
    """
    size = settings.get("size")
    size = size if isinstance(size, Mapping) else {}
    limits = {name: settings.get(name), f"size.{edge}": size.get(edge), f"size.{name}": size.get(name)}
    for key, value in limits.items():
        if type(value) is int:
            return value, f"{key}={value}"
    key = name.replace("pixels", "patches")
    tiles, side = settings.get(key), size.get("height")
    if type(tiles) is int and type(side) is int and (tiles > 1 or name == "max_pixels"):
        return tiles * side**2, f"{key}={tiles}"
    return 0, ""


def warn_of_small_images(budget: ImageBudget, prompts: Iterable[Prompt]) -> None:
    """Warns if images are smaller than `own_minimum`, and the run's minimum (`min_pixels`) is lower than it too.

    In its training, the model saw small images enlarged to its own minimum; in the run they are enlarged less.
    Images of sources in data.source_image_pixels are not counted.
    """
    least, where = budget.own_minimum
    sizes = [source.image.size for prompt in prompts for source in prompt.sources if source.image.resized is None]
    num_small = sum(width * height < least for width, height in sizes)
    if budget.min_pixels < least and num_small:
        logger.warning(
            "data.min_image_pixels: %s, to which the model's own processor enlarges images, and %d of %d images are "
            "smaller; got %d, which counts; to follow the file, set it to %d",
            where,
            num_small,
            len(sizes),
            budget.min_pixels,
            least,
        )


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

    If `source_pixels` has limits, raises ConfigError for
    - a model that cuts images into tiles (InternVL): its image processor would resize the images again;
    - an image processor with another filter than bicubic.
    """
    if source_pixels and not budget.sizing.takes_resized:
        raise ConfigError(
            f"data.source_image_pixels: this model cuts every image into tiles by one limit; got limits for "
            f"{', '.join(source_pixels)}; set data.max_image_pixels alone"
        )
    if source_pixels and budget.resample != _BICUBIC:
        raise ConfigError(
            f"data.source_image_pixels: images with limits of their own are resized with a bicubic filter, and this "
            f"model's image processor has resample={budget.resample}; got limits for {', '.join(source_pixels)}; set "
            "data.max_image_pixels alone"
        )
    return {name: replace(budget, min_pixels=low, max_pixels=high) for name, (low, high) in source_pixels.items()}


def limit_images(prompt: Prompt, budgets: Mapping[str, ImageBudget]) -> tuple[Prompt, list[RowProblem]]:
    """Set `resized` in the images of sources in `budgets`; also returns a problem for each image that gets too narrow.

    The model's image processor leaves an image resized to `resized` as it is: the sides are multiples of patch_size x
    merge_size, and the size is within data.min_image_pixels and data.max_image_pixels, the limits of all images.
    Example: with [3136, 200704] for "infrared" and patches of 14, merge 2, an infrared image of 1280x1024 becomes
    476x392, 238 tokens, whatever the budget of the other sources.
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


def check_limits(source_pixels: SourcePixels, budget: ImageBudget, prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError if `source_pixels` names a source that no prompt has. Warns if the run enlarges images less
    than the model's own image processor would (`warn_of_small_images`).
    """
    warn_of_small_images(budget, prompts)
    known = list(dict.fromkeys(source.name for prompt in prompts for source in prompt.sources))
    unknown = [name for name in source_pixels if name not in known]
    if unknown:
        raise ConfigError(
            f"data.source_image_pixels: no row has such a source; got {', '.join(unknown)}; the rows' sources are "
            f"{', '.join(known) or 'none'}"
        )
