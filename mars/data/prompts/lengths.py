"""Prompt lengths including image tokens, computed from image headers."""

from __future__ import annotations

from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import ImageBudget, num_image_tokens
from mars.data.prompts.chat import PromptEncoder, prompt_length
from mars.data.prompts.views import ImageLayout
from mars.types import Prompt


def longest_view(prompt: Prompt, encoder: PromptEncoder, budget: ImageBudget, image_layout: ImageLayout) -> int:
    """Number of tokens in the prompt's longest view, images expanded.

    With the layout "single", views have a part of the multi view's text and images, so only the multi view and views
    with their own wording (`view_messages`) are measured. With "repeated", the longest view has the image with the most
    tokens in all slots: give "single" for a prompt whose multi view alone is shown.
    Raises DataError for texts that the encoder refuses.
    """
    tokens = [num_image_tokens(decoded_size(source.image), budget) for source in prompt.sources]
    ids = encoder.encode(prompt.messages, len(tokens))
    if image_layout == "repeated" and tokens:
        tokens = [max(tokens)] * len(tokens)
    by_name = {source.name: number for source, number in zip(prompt.sources, tokens, strict=True)}
    lengths = [prompt_length(ids, tokens)]
    for view, messages in prompt.view_messages.items():
        shown = [by_name[name] for name in view or ()]
        lengths.append(prompt_length(encoder.encode(messages, len(shown)), shown))
    return max(lengths)
