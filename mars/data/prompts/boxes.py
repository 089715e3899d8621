"""The frames that boxes are written in: pixels of an image, or thousandths."""

from __future__ import annotations

from dataclasses import dataclass

from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import ImageBudget, model_image_size
from mars.families.family import BoxSpace
from mars.types import THOUSANDTHS, Prompt, View

Size = tuple[int, int]


@dataclass(frozen=True)
class BoxFrames:
    """(truth_size, response_size) of a view, both (width, height); None for a prompt without images.

    Truth: stored pixels of the first source, or thousandths if the row's box_space says so. Response: pixels of the
    first shown image after smart_resize (Qwen2.5-VL), with the budget of its source, or
    thousandths (Qwen3-VL). All sources show the same scene, so boxes are converted relative to width and height.

    Example: 1280x1024 images and at most 1280 image tokens: truth (1280, 1024), response (1120, 896).
    """

    box_space: BoxSpace
    budget: ImageBudget

    def __call__(self, prompt: Prompt, view: View) -> tuple[Size | None, Size | None]:
        if not prompt.sources:
            return None, None
        shown = next(source for source in prompt.sources if view is None or source.name in view)
        truth = truth_frame(prompt)
        if self.box_space == "norm_1000":
            return truth, THOUSANDTHS
        return truth, model_image_size(decoded_size(shown.image), self.budget)


def truth_frame(prompt: Prompt) -> Size | None:
    """(width, height) of the frame of the truth's boxes; see BoxFrames."""
    if not prompt.sources:
        return None
    return THOUSANDTHS if prompt.extra_info.get("box_space") == "norm_1000" else prompt.sources[0].image.size
