"""The common part of the Qwen-VL families."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mars.errors import SetupError
from mars.families.family import Family, Grid, ImageLimits, ModelParts, Size

if TYPE_CHECKING:
    from torch import Tensor

_FRAMES = 2  # the image processor's temporal_patch_size, if its file has none
_LIMITS = ("shortest_edge", "longest_edge", "min_pixels", "max_pixels")
_BYTES_PER_PIXEL = 24  # 3 channels x 2 frames (an image is processed as a video of two frames) x 4 bytes


@dataclass(frozen=True)
class SmartResize:
    """Images of any size, not cut into tiles. Each side becomes a multiple of the side of a merged patch.

    Source: Wang et al. 2024, arXiv 2409.12191, section 2.1.
    """

    takes_resized: bool = True

    def size(self, size: Size, limits: ImageLimits) -> Size:
        """Both sides become the nearest multiple of patch_size * merge_size. If their area is outside the limits, the
        original sides are instead scaled by one factor to the limit, and rounded to multiples: up if the area was too
        small; down, but to at least one multiple, if it was too large.

        Example: 1280x1024 with patches of 14, merge 2 and at most 1280 * 28 * 28 pixels -> (1120, 896), 1280 tokens.
        """
        width, height = size
        unit = limits.patch_size * limits.merge_size
        new_width, new_height = (round(side / unit) * unit for side in size)
        if new_width * new_height > limits.max_pixels:
            shrink = math.sqrt((height * width) / limits.max_pixels)
            new_width, new_height = (max(unit, math.floor(side / shrink / unit) * unit) for side in size)
        elif new_width * new_height < limits.min_pixels:
            grow = math.sqrt(limits.min_pixels / (height * width))
            new_width, new_height = (math.ceil(side * grow / unit) * unit for side in size)
        return new_width, new_height

    def num_tokens(self, size: Size, limits: ImageLimits) -> int:
        width, height = self.size(size, limits)
        return width * height // (limits.patch_size * limits.merge_size) ** 2

    def max_bytes(self, limits: ImageLimits) -> int:
        return limits.max_pixels * _BYTES_PER_PIXEL

    def settings(self, limits: ImageLimits) -> dict[str, Any]:
        return {"size": {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}}

    def grid(self, features: Mapping[str, Any], limits: ImageLimits) -> Grid:
        t, h, w = features["image_grid_thw"][0].tolist()
        return t, h, w


SMART_RESIZE = SmartResize()


def read_sizing(
    settings: Mapping[str, Any], processor: Mapping[str, Any], config: Mapping[str, Any], file: str
) -> tuple[int, int, SmartResize]:
    """See `Family.read_sizing`. Compares the image processor's settings with config.json's vision_config."""
    vision = config.get("vision_config")
    keys = {
        "patch_size": "patch_size",
        "merge_size": "spatial_merge_size",
        "temporal_patch_size": "temporal_patch_size",
    }
    for key, model_key in keys.items():
        value = settings.get(key, _FRAMES)  # only temporal_patch_size may be missing (`sizing_keys`)
        if type(value) is not int or value < 1:
            raise SetupError(
                f"model.path: {file}: {key} must be a whole number, at least 1; got {value!r}; download the file again"
            )
        model_value = vision.get(model_key, value) if isinstance(vision, dict) else value
        if model_value != value or type(model_value) is not int:
            raise SetupError(
                f"model.path: {file}: {key} must be {model_value!r}, as config.json's "
                f"vision_config.{model_key}; got {value}; use the processor files of this model"
            )
    size = settings.get("size")
    sides = [name for name in size if name not in _LIMITS and size[name] is not None] if isinstance(size, dict) else []
    if sides or not isinstance(size, dict | None):
        raise SetupError(
            f"model.path: {file}: size must have shortest_edge and longest_edge, because images keep their shape; got "
            f"{size!r:.80}; remove it, and set data.min_image_pixels and data.max_image_pixels"
        )
    return settings["patch_size"], settings["merge_size"], SMART_RESIZE


class MropeForward:
    """Positions in three axes, image features as a tuple with one tensor per image."""

    def positions(self, model: Any, input_ids: Tensor, image_id: int, grids: Sequence[Grid]) -> Tensor:
        import torch

        if not grids:
            return torch.arange(len(input_ids)).expand(3, -1)
        positions, _ = model.get_rope_index(
            input_ids.unsqueeze(0),
            mm_token_type_ids=(input_ids == image_id).int().unsqueeze(0),
            image_grid_thw=torch.tensor(grids),
        )
        return positions[:, 0]

    def image_features(self, model: Any, pixel_values: Tensor, grids: Tensor, image_index: Sequence[int]) -> Any:
        """See `ModelForward`. Qwen3-VL's deepstack features are given for each item of `image_index`, too.

        transformers 5.17 gives these features as one tensor per layer, with all images one after the other. Newer
        versions give one tensor per layer and image.
        """
        import torch

        features = model.get_image_features(pixel_values, grids, return_dict=True)
        images, layers = features.pooler_output, getattr(features, "deepstack_features", None)
        features.pooler_output = tuple(images[i] for i in image_index)
        if layers is not None and isinstance(layers[0], torch.Tensor):
            by_image = [layer.split([len(image) for image in images]) for layer in layers]
            features.deepstack_features = [torch.cat([layer[i] for i in image_index]) for layer in by_image]
        elif layers is not None:
            features.deepstack_features = [tuple(layer[i] for i in image_index) for layer in layers]
        return features

    def generate_inputs(self, input_ids: Tensor, image_id: int, grids: Sequence[Grid]) -> dict[str, Tensor]:
        import torch

        inputs = {"mm_token_type_ids": (input_ids == image_id).int()}
        return inputs | ({"image_grid_thw": torch.tensor(grids)} if grids else {})


QWEN_VL = Family(
    model_type="qwen_vl",  # replaced in each family, as are its name and layer_classes
    name="Qwen-VL",
    language_types=(),
    box_space="norm_1000",
    media_tokens=(),
    image_start=(),  # <|vision_start|> and <|vision_end|> are the chat template's
    image_end=(),
    image_processor="Qwen2VLImageProcessor",
    sizing_keys=("patch_size", "merge_size"),
    read_sizing=read_sizing,
    tokenizer_class=None,
    template_arguments={},
    image_settings=(
        "vision_config.patch_size",
        "vision_config.temporal_patch_size",
        "vision_config.spatial_merge_size",
    ),
    vllm_on_cpu=True,
    forward=MropeForward(),
    parts=ModelParts(
        vision=("model.visual",),
        projector=("model.visual.merger",),
        language=("model.language_model", "lm_head"),
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        layer_classes=frozenset(),
        patch_embedding="model.visual.patch_embed.proj",
        vision_segments=True,
        linear_attention=frozenset(),
        not_loaded=(),
    ),
)
"""What is the same in all of them. Each family is this with `dataclasses.replace`."""
