"""Prompt lengths with images expanded, measured before any engine starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import ImageBudget, num_image_tokens
from mars.data.prompts.chat import PromptEncoder, prompt_length
from mars.data.prompts.views import ImageLayout
from mars.data.rows.dataset import PromptSet
from mars.data.rows.problems import OnBadSample, Problem
from mars.errors import DataError
from mars.types import Prompt


def drop_overlong(
    prompt_set: PromptSet,
    encoder: PromptEncoder,
    budget: ImageBudget,
    max_prompt_tokens: int,
    image_layout: ImageLayout,
    on_bad_sample: OnBadSample,
) -> PromptSet:
    """The set without prompts of which some view is longer than `max_prompt_tokens`; nothing is ever truncated.

    Prompts the encoder refuses (a special token in the text) are problems as well. Under "error" all of them are
    raised in one DataError, under "drop" they are counted as "overlong" and "special_token".
    """
    lengths, problems = measure(prompt_set.prompts, encoder, budget, image_layout)
    problems += overlong(lengths, max_prompt_tokens)
    return prompt_set.without(problems, on_bad_sample)


def measure(
    prompts: Sequence[Prompt], encoder: PromptEncoder, budget: ImageBudget, image_layout: ImageLayout
) -> tuple[dict[str, int], list[Problem]]:
    """Row -> tokens of its longest view, from image headers alone; and the rows that the encoder refuses."""
    lengths, problems = {}, []
    for prompt in prompts:
        try:
            lengths[prompt.row] = longest_view(prompt, encoder, budget, image_layout)
        except DataError as error:
            problems.append(Problem(prompt.row, "special_token", str(error)))
    return lengths, problems


def overlong(lengths: Mapping[str, int], max_prompt_tokens: int) -> list[Problem]:
    return [
        Problem(row, "overlong", f"{length} tokens, {max_prompt_tokens} are allowed (data.max_prompt_tokens)")
        for row, length in lengths.items()
        if length > max_prompt_tokens
    ]


def longest_view(prompt: Prompt, encoder: PromptEncoder, budget: ImageBudget, image_layout: ImageLayout) -> int:
    """Tokens of the prompt's longest view, images expanded.

    With the layout "single" that is the multi view: other views have a part of its text and images. With "repeated"
    it is the view of the source with the most tokens, in all slots.
    """
    tokens = [num_image_tokens(decoded_size(source.image), budget) for source in prompt.sources]
    ids = encoder.encode(prompt.messages, len(tokens))
    if image_layout == "repeated" and tokens:
        tokens = [max(tokens)] * len(tokens)
    return prompt_length(ids, tokens)
