"""The batches of a cold start: the rows that a step trains on, each with its view and its response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mars.batching.plan import plan_updates
from mars.config.actor_sections import SftSettings
from mars.data.order.stream import PromptStream
from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import num_image_tokens
from mars.data.prompts.chat import prompt_length
from mars.data.prompts.views import render_view
from mars.inputs import PromptFormat
from mars.supervised.views import chosen_view, response_of, usable_views
from mars.train_types import TrainBatch, TrainPrompt, TrainResponse
from mars.types import Prompt, View

Shown = tuple[Prompt, View]
"""A row and the view of it that is shown."""


@dataclass(frozen=True)
class Batches:
    """Makes a `TrainBatch` from rows. seed: of the choice of views."""

    form: PromptFormat
    sft: SftSettings
    seed: int

    def of_step(self, stream: PromptStream, step: int) -> TrainBatch:
        """The batch of a step; 1 is the first."""
        first = (step - 1) * stream.prompts_per_step
        rows = []
        for position, prompt in enumerate(stream.batch(step - 1), first):
            epoch = position // len(stream)
            rows.append((prompt, chosen_view(prompt, self.sft.mono_ratio, self.seed, epoch)))
        return self.of_rows(rows)

    def held_out(self, prompts: Sequence[Prompt]) -> Iterator[TrainBatch]:
        """The held-out rows in batches: each row with all its images; with `sft.mono_ratio` above 0 also with each of
        its `usable_views`."""
        shown: list[Shown] = []
        for prompt in prompts:
            shown.append((prompt, None))
            shown += [(prompt, view) for view in (usable_views(prompt) if self.sft.mono_ratio > 0 else ())]
        for first in range(0, len(shown), self.sft.batch_size):
            yield self.of_rows(shown[first : first + self.sft.batch_size])

    def of_rows(self, rows: Sequence[Shown]) -> TrainBatch:
        """One update with these rows."""
        sft, prompts = self.sft, tuple(self._train_prompt(prompt, view) for prompt, view in rows)
        # Padded rows are not sorted by length: sft.packing=padded is for short rows that all fit into one forward.
        updates = plan_updates(
            prompts, len(prompts), sft.num_workers, sft.tokens_per_forward, sft.forward_packing, by_length=False
        )
        return TrainBatch(prompts, updates)

    def _train_prompt(self, prompt: Prompt, view: View) -> TrainPrompt:
        messages, images = render_view(prompt, view, "single")
        token_ids = self.form.encoder.encode(messages, len(images))
        response = self.form.encoder.encode_response(response_of(prompt, view))
        sizes = [num_image_tokens(decoded_size(image), self.form.budget) for image in images]
        return TrainPrompt(
            prompt_id=prompt.prompt_id,
            prompt_token_ids=token_ids,
            num_prompt_tokens=prompt_length(token_ids, sizes),
            images=images,
            responses=(TrainResponse(response, (), advantage=1.0, weight=1.0),),
            temperature=1.0,  # the likelihood of the model itself
        )
