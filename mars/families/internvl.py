"""InternVL in the format of Hugging Face, such as InternVL3-2B-hf: images in square tiles, a Qwen language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mars.errors import SetupError
from mars.families.family import Family, Grid, ImageLimits, ModelParts, Size

if TYPE_CHECKING:
    from torch import Tensor

_BYTES_PER_PIXEL = 12  # 3 channels x 4 bytes
_PROCESSOR_TOKENS = 256  # image_seq_length of transformers' InternVLProcessor, if processor_config.json has none
_START, _END = ("<img>",), ("</img>",)


@dataclass(frozen=True)
class Tiles:
    """An image is scaled to a canvas of square tiles, which is chosen as in transformers' GotOcr2ImageProcessor.

    If there are several tiles, the whole image follows as another tile.
    """

    tile_size: int
    takes_resized: bool = False

    def size(self, size: Size, limits: ImageLimits) -> Size:
        """The canvas. The limits do not count the tile of the whole image.

        Example: 1280x1024 with tiles of 448 and at most 5 tiles -> (896, 896), which is 2 x 2 tiles. The ratio
        nearest to 1.25 is 1. Of 1 x 1 and 2 x 2 tiles, the larger has less than twice the image's pixels: it is taken.
        """
        columns, rows = self._canvas(size, limits)
        return columns * self.tile_size, rows * self.tile_size

    def num_tokens(self, size: Size, limits: ImageLimits) -> int:
        columns, rows = self._canvas(size, limits)
        return _with_whole(columns * rows) * self._tokens_per_tile(limits) + len(_START) + len(_END)

    def max_bytes(self, limits: ImageLimits) -> int:
        return _with_whole(self._most_tiles(limits)) * self.tile_size**2 * _BYTES_PER_PIXEL

    def settings(self, limits: ImageLimits) -> dict[str, Any]:
        least, most = self._fewest_tiles(limits), self._most_tiles(limits)
        return {"crop_to_patches": True, "min_patches": least, "max_patches": most}

    def grid(self, features: Mapping[str, Any], limits: ImageLimits) -> Grid:
        side = self.tile_size // limits.patch_size
        return int(features["num_patches"][0]), side, side

    def _most_tiles(self, limits: ImageLimits) -> int:
        return max(1, limits.max_pixels // self.tile_size**2)

    def _fewest_tiles(self, limits: ImageLimits) -> int:
        return min(-(-limits.min_pixels // self.tile_size**2), self._most_tiles(limits))

    def _tokens_per_tile(self, limits: ImageLimits) -> int:
        return (self.tile_size // (limits.patch_size * limits.merge_size)) ** 2

    def _canvas(self, size: Size, limits: ImageLimits) -> tuple[int, int]:
        """(columns, rows) whose ratio is nearest to width / height.

        If several are equally near: the one with the most tiles that has less than twice the image's pixels. If none
        has: the one with the fewest tiles.
        """
        (width, height), most = size, self._most_tiles(limits)
        sides = range(1, most + 1)
        canvases = [(c, r) for c in sides for r in sides if self._fewest_tiles(limits) <= c * r <= most]
        best, nearest = (1, 1), float("inf")
        for columns, rows in sorted(canvases, key=lambda canvas: canvas[0] * canvas[1]):
            distance = abs(width / height - columns / rows)
            fits = width * height > 0.5 * self.tile_size**2 * columns * rows
            if distance < nearest or (distance == nearest and fits):
                best, nearest = (columns, rows), distance
        return best


def _with_whole(tiles: int) -> int:
    return tiles + 1 if tiles > 1 else tiles


def read_sizing(
    settings: Mapping[str, Any], processor: Mapping[str, Any], config: Mapping[str, Any], file: str
) -> tuple[int, int, Tiles]:
    """See `Family.read_sizing`. Compares a tile's size with config.json's vision_config. Compares a tile's number of
    tokens with image_seq_length in config.json and in processor_config.json: the engine reserves so many for a tile."""
    vision = config.get("vision_config")
    vision = vision if isinstance(vision, dict) else {}
    tile, patch = _side(vision.get("image_size", 448)), _side(vision.get("patch_size", 14))
    size, ratio = settings["size"], config.get("downsample_ratio", 0.5)
    sides = [size.get("height"), size.get("width")] if isinstance(size, dict) else [size]
    if tile is None or any(side != tile for side in sides):
        raise SetupError(
            f"model.path: {file}: size must be {tile} x {tile}, as config.json's vision_config.image_size; got {size}; "
            "use the processor files of this model"
        )
    merge = round(1 / ratio) if isinstance(ratio, int | float) and 0 < ratio <= 1 else 0
    if patch is None or merge < 1 or merge * ratio != 1 or tile % (patch * merge):
        raise SetupError(
            f"model.path: {file}: config.json's vision_config.patch_size / downsample_ratio must divide the tile of "
            f"{tile} pixels; got {patch} / {ratio}; download the file again"
        )
    tokens = (tile // (patch * merge)) ** 2
    written = {
        "config.json": config.get("image_seq_length", tokens),
        "processor_config.json": processor.get("image_seq_length", _PROCESSOR_TOKENS),
    }
    for name, value in written.items():
        if value != tokens:
            raise SetupError(
                f"model.path: {file}: {name}'s image_seq_length must be {tokens}, as of tiles of {tile} pixels; "
                f"got {value}; use the files of one model"
            )
    return patch, merge, Tiles(tile)


def _side(value: Any) -> int | None:
    """The side of a square written as 14 or as [14, 14]; None for any other value."""
    sides = value if isinstance(value, list) else [value]
    is_side = bool(sides) and all(type(side) is int and side == sides[0] for side in sides) and sides[0] > 0
    return sides[0] if is_side else None


class TiledForward:
    """Positions in one axis, features as one tensor [tiles, tokens of a tile, H]."""

    def positions(self, model: Any, input_ids: Tensor, image_id: int, grids: Sequence[Grid]) -> Tensor:
        import torch

        return torch.arange(len(input_ids)).unsqueeze(0)

    def image_features(self, model: Any, pixel_values: Tensor, grids: Tensor, image_index: Sequence[int]) -> Any:
        import torch

        features = model.get_image_features(pixel_values, return_dict=True)
        images = features.pooler_output.split(grids[:, 0].tolist())
        features.pooler_output = torch.cat([images[i] for i in image_index])
        return features

    def generate_inputs(self, input_ids: Tensor, image_id: int, grids: Sequence[Grid]) -> dict[str, Tensor]:
        return {}


INTERNVL = Family(
    model_type="internvl",
    name="InternVL",
    language_types=("qwen2", "qwen3"),
    box_space="norm_1000",
    media_tokens=("<img>", "</img>", "<IMG_CONTEXT>"),
    image_start=_START,
    image_end=_END,
    image_processor="GotOcr2ImageProcessor",
    sizing_keys=("size",),
    read_sizing=read_sizing,
    tokenizer_class=None,
    template_arguments={},
    image_settings=("vision_config.patch_size", "vision_config.image_size", "downsample_ratio"),
    vllm_on_cpu=True,
    forward=TiledForward(),
    parts=ModelParts(
        vision=("model.vision_tower",),
        projector=("model.multi_modal_projector",),
        language=("model.language_model", "lm_head"),
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        layer_classes=frozenset({"InternVLVisionLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}),
        patch_embedding=None,  # a Conv2d over tiles
        vision_segments=False,
        linear_attention=frozenset(),
        not_loaded=(),
    ),
)
