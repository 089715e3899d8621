"""What mars needs to know of a family of vision-language models. Each family has a file; table.py lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
"""(width, height) in pixels."""

Grid = tuple[int, int, int]
"""(t, h, w) of a processed image: t frames or tiles of h x w vision patches."""

BoxSpace = Literal["resized_pixels", "norm_1000"]


class ImageLimits(Protocol):
    """Limits of the size at which the model sees an image (mars.data.prompts.budget.ImageBudget)."""

    @property
    def min_pixels(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def merge_size(self) -> int: ...


class ImageSizing(Protocol):
    """How a family's image processor resizes an image.

    takes_resized: whether an image that already has the size `size(...)` stays unchanged when it is processed again
        with limits that allow this size.
    """

    @property
    def takes_resized(self) -> bool: ...

    def size(self, size: Size, limits: ImageLimits) -> Size:
        """The size at which the model sees an image of this size."""
        ...

    def num_tokens(self, size: Size, limits: ImageLimits) -> int:
        """Number of an image's tokens in the language model, with those that the processor adds before and after it."""
        ...

    def max_bytes(self, limits: ImageLimits) -> int:
        """Bytes of the largest image after processing, in float32."""
        ...

    def settings(self, limits: ImageLimits) -> dict[str, Any]:
        """The arguments for transformers' image processor that set these limits."""
        ...

    def grid(self, features: Mapping[str, Any], limits: ImageLimits) -> Grid:
        """The grid of an image. features: the image processor's output for this image alone."""
        ...


class ModelForward(Protocol):
    """The family's part of a forward.

    model: the Hugging Face model without its head: `backbone.model` of mars/actor/model.py.
    """

    def positions(self, model: Any, input_ids: Tensor, image_id: int, grids: Sequence[Grid]) -> Tensor:
        """Positions of a prompt: int64 [A, P], with A = 3 axes (time, height, width) for M-RoPE, else 1.

        input_ids: int64 [P]. grids: of the images in the prompt.
        """
        ...

    def image_features(self, model: Any, pixel_values: Tensor, grids: Tensor, image_index: Sequence[int]) -> Any:
        """The output of `model.get_image_features` with the features of one image for each item of `image_index`.

        image_index: indices among the distinct images. An image may occur several times there, but is encoded once.

        pixel_values: float32, the distinct images one after the other. grids: int64 [distinct images, 3].
        """
        ...

    def generate_inputs(self, input_ids: Tensor, image_id: int, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """Inputs of `generate` besides ids, mask and pixels. input_ids: int64 [B, L]."""
        ...


@dataclass(frozen=True)
class ModelParts:
    """Where the parts of a Hugging Face model are: paths of modules, and names of classes.

    Every weight is below `vision`, `projector` or `language`. A projector may be inside the vision tower; its weights
    then belong to the projector.
    tied: name of a weight -> name of the weight it is shared with, if config.json's tie_word_embeddings is true.
    layer_classes: names of the classes of vision blocks and decoder layers, the units of FSDP.
    patch_embedding: a `Conv3d` whose kernel is as large as a patch of the image processor; None if there is none.
    vision_segments: whether the vision tower attends to each window or image separately, so that it can use
        mars/actor/vision_attention.py.
    linear_attention: names of the classes of layers with linear attention. mars/actor/linear_attention.py changes
        these layers so that they accept packs.
    not_loaded: beginnings of the names of weights that transformers leaves out of the model.
    """

    vision: tuple[str, ...]
    projector: tuple[str, ...]
    language: tuple[str, ...]
    tied: Mapping[str, str]
    layer_classes: frozenset[str]
    patch_embedding: str | None
    vision_segments: bool
    linear_attention: frozenset[str]
    not_loaded: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One family.

    model_type: in config.json. name: for messages.
    language_types: possible values of text_config's model_type, if the family has several language models.
    box_space: the frame in which its models write boxes.
    media_tokens: special tokens of media, besides those that have "image", "video", "vision" or "audio" in their name.
    image_start, image_end: the tokens that transformers' processor adds before and after an image; none if the chat
        template adds them.
    image_processor: transformers' class that makes the pixels, without the ending Fast or Pil of its variants.
    sizing_keys: settings of the image processor that `read_sizing` needs.
    read_sizing: (image processor's settings, processor_config.json or nothing, config.json, name of the settings' file)
        -> (patch_size, merge_size, sizing): the side of a vision patch in pixels, and the side of the square of patches
        that becomes one token. Raises SetupError for wrong settings.
    tokenizer_class: transformers' class of its tokenizers; None if tokenizer_config.json names the class.
    template_arguments: arguments of the chat template.
    image_settings: settings of config.json that must be equal for two models to read the same pixels.
    vllm_on_cpu: whether vLLM can run its models in float32 on a CPU. Its log-probs then equal the trainer's.
    """

    model_type: str
    name: str
    language_types: tuple[str, ...]
    box_space: BoxSpace
    media_tokens: tuple[str, ...]
    image_start: tuple[str, ...]
    image_end: tuple[str, ...]
    image_processor: str
    sizing_keys: tuple[str, ...]
    read_sizing: Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], str], tuple[int, int, ImageSizing]]
    tokenizer_class: str | None
    template_arguments: Mapping[str, Any]
    image_settings: tuple[str, ...]
    vllm_on_cpu: bool
    forward: ModelForward
    parts: ModelParts
