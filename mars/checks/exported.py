"""Check that an exported folder gives the same prompt tokens, image tensors and special token ids as model.path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mars.config.schema import TrainConfig
from mars.errors import SetupError
from mars.inputs import prompt_format, prompt_processor
from mars.types import IMAGE_MARKER, ImageRef, Message

_QUESTION = (Message("user", f"{IMAGE_MARKER}{IMAGE_MARKER}What do the images show?"),)
_IMAGES = (ImageRef("wide", (320, 240)), ImageRef("high", (112, 168)))


def check_exported(folder: Path, config: TrainConfig) -> None:
    """Build one prompt with two images twice: with the files of `folder` and with those of model.path.

    Raises SetupError if the results differ.
    """
    exported = config.model_copy(update={"model": config.model.model_copy(update={"path": str(folder)})})
    for (what, wanted), (_, found) in zip(_reading(config), _reading(exported), strict=True):
        if wanted != found:
            raise SetupError(
                f"{folder}: its {what} differ from those of model.path; got {config.model.path}; compare the "
                "tokenizer's, the processor's and the generation settings' files of the two folders"
            )


def _reading(config: TrainConfig) -> list[tuple[str, Any]]:
    """(what, value): the special token ids, and the tokens and image tensors of one prompt with two images."""
    encoder = prompt_format(config).encoder
    rules, token_ids = encoder.token_rules(), encoder.encode(_QUESTION, len(_IMAGES))
    prompt = prompt_processor(config, rules, cached_images=0).process(token_ids, _IMAGES, blank=True)
    return [
        ("token rules", rules),
        ("prompt tokens", prompt.input_ids.tolist()),
        ("image sizes", prompt.image_grid_thw),
        ("image tensors", [pixels.tolist() for pixels in prompt.pixel_values]),
    ]
