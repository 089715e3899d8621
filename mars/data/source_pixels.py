"""Image budgets of single sources, by name: infrared or depth may get fewer tokens than visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mars.data.dataset import PromptSet
from mars.data.images import MAX_ASPECT, ImageBudget, model_image_size
from mars.data.problems import OnBadSample, Problem
from mars.errors import ConfigError
from mars.types import Prompt, Source

SourcePixels = Mapping[str, Sequence[int]]
"""Source name -> [smallest, largest] width x height after resizing, within the budget of all images."""


def limit_sources(
    prompt_set: PromptSet, source_pixels: SourcePixels, budget: ImageBudget, on_bad_sample: OnBadSample
) -> PromptSet:
    """The set with images `limited`. Rows it refuses are bad ones, treated as in load_prompts."""
    prompts, problems = limited(prompt_set.prompts, source_pixels, budget)
    return replace(prompt_set, prompts=prompts).without(problems, on_bad_sample)


def limited(
    prompts: Sequence[Prompt], source_pixels: SourcePixels, budget: ImageBudget
) -> tuple[tuple[Prompt, ...], list[Problem]]:
    """The prompts, with `resized` set in images of the named sources; and those whose image cannot be shown so.

    The model's image processor, whose budget is `budget`, then finds multiples of its patch within its limits and
    leaves them as they are: the source gets the pixels of a processor with limits of its own.
    Example: {"infrared": [3136, 200704]} and patches of 14, merge 2: an infrared image of 1280x1024 becomes 476x392,
    238 tokens, whatever the budget of the others.
    """
    budgets = {name: replace(budget, min_pixels=low, max_pixels=high) for name, (low, high) in source_pixels.items()}
    if not budgets:
        return tuple(prompts), []
    problems: list[Problem] = []

    def limit(prompt: Prompt, source: Source) -> Source:
        if source.name not in budgets:
            return source
        size = model_image_size(source.image.size, budgets[source.name])
        if max(size) > MAX_ASPECT * min(size):  # a strip; rounding made it narrower still
            shown = f"source {source.name}: {size[0]}x{size[1]} by data.source_image_pixels"
            problems.append(Problem(prompt.row, "image_size", f"{shown}; sides must be within {MAX_ASPECT}:1"))
        return replace(source, image=replace(source.image, resized=size))

    return tuple(replace(p, sources=tuple(limit(p, source) for source in p.sources)) for p in prompts), problems


def check_names(source_pixels: SourcePixels, prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError where a budget's source is in none of the prompts: its name is misspelt."""
    known = list(dict.fromkeys(source.name for prompt in prompts for source in prompt.sources))
    unknown = [name for name in source_pixels if name not in known]
    if unknown:
        raise ConfigError(
            f"data.source_image_pixels: no row has such a source; got {', '.join(unknown)}; the rows' sources are "
            f"{', '.join(known) or 'none'}"
        )
