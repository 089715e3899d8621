"""Tiles of InternVL, by hand: tiles of 448 pixels and 256 tokens."""

from __future__ import annotations

import pytest
import torch

from mars.data.prompts.budget import ImageBudget, model_image_size, num_image_tokens, source_budgets
from mars.errors import ConfigError, SetupError
from mars.families.internvl import TiledForward, Tiles, read_sizing

TILE = 448 * 448
SETTINGS = {"size": {"height": 448, "width": 448}}
CONFIG = {"vision_config": {"image_size": [448, 448], "patch_size": [14, 14]}, "image_seq_length": 256}


def budget(least, most):
    """Limits in tiles."""
    return ImageBudget(int(least * TILE), int(most * TILE), 14, 2, Tiles(448))


@pytest.mark.parametrize(
    ("size", "limits", "columns", "rows"),
    [
        ((1280, 1024), (0.1, 5), 2, 2),  # 1.25 is nearest to 1; its pixels are more than half of those of four tiles
        ((1280, 1024), (0.1, 3), 1, 1),
        ((1600, 900), (0.1, 5), 2, 1),  # 1.78
        ((448, 448), (0.1, 5), 1, 1),  # 2 x 2 has the same shape, but four times the pixels
        ((900, 900), (0.1, 5), 2, 2),
        ((900, 900), (0.1, 3), 1, 1),
        ((100, 500), (0.1, 5), 1, 5),
        ((448, 448), (2, 5), 2, 2),  # 1 x 1 is too few
        ((448, 448), (0.1, 0.5), 1, 1),  # a tile is the least there is
    ],
)
def test_the_canvas(size, limits, columns, rows):
    made = budget(*limits)
    assert model_image_size(size, made) == (448 * columns, 448 * rows)
    tiles = columns * rows + (columns * rows > 1)  # and the whole image
    assert num_image_tokens(size, made) == 256 * tiles + 2  # <img> and </img>


def test_what_the_processor_is_told_and_needs():
    assert budget(0.1, 5.9).processor_settings() == {"crop_to_patches": True, "min_patches": 1, "max_patches": 5}
    assert budget(2, 5).processor_settings()["min_patches"] == 2
    assert budget(0.1, 0.5).processor_settings() == {"crop_to_patches": True, "min_patches": 1, "max_patches": 1}
    assert budget(0.1, 5).max_bytes == 6 * TILE * 3 * 4
    assert budget(0.1, 0.5).max_bytes == TILE * 3 * 4
    assert Tiles(448).grid({"num_patches": torch.tensor([6])}, budget(0.1, 5)) == (6, 32, 32)


def test_sizes_are_read_and_compared():
    assert read_sizing(SETTINGS, {}, CONFIG, "f") == (14, 2, Tiles(448))
    plain = {"vision_config": {"image_size": 448, "patch_size": 14}}
    assert read_sizing(SETTINGS, {}, plain, "f") == (14, 2, Tiles(448))
    wrong = {
        "f: size must be 448 x 448": ({"size": {"height": 448, "width": 224}}, CONFIG),
        "f: size must be None x None": (SETTINGS, {"vision_config": {"image_size": [448, 224]}}),
        "must divide the tile of 448 pixels; got 15": (SETTINGS, {"vision_config": {"patch_size": 15}}),
        "got 14 / 0.3": (SETTINGS, CONFIG | {"downsample_ratio": 0.3}),
        "got 14 / 0": (SETTINGS, CONFIG | {"downsample_ratio": 0}),
        "image_seq_length must be 256, as of tiles of 448 pixels; got 64": (
            SETTINGS,
            CONFIG | {"image_seq_length": 64},
        ),
        r"got \[448, 448\]; use": ({"size": [448, 448]}, CONFIG),
        r"got \{'height': \[448\], 'width': 448\}": ({"size": {"height": [448], "width": 448}}, CONFIG),
        "f: size must be None x None, as": (SETTINGS, {"vision_config": {"image_size": {"height": 448}}}),
        "f: size must be None x None, as c": (SETTINGS, {"vision_config": {"image_size": [[448], 448]}}),
    }
    for message, (settings, config) in wrong.items():
        with pytest.raises(SetupError, match=message):
            read_sizing(settings, {}, config, "f")


@pytest.mark.parametrize(
    ("written", "tile"), [({"image_seq_length": 64}, 448), ({"image_seq_length": "256"}, 448), ({}, 224)]
)
def test_the_processor_must_expand_an_image_to_as_many_tokens_as_the_model_makes(written, tile):
    """A tile of 224 pixels has 8 x 8 tokens; without image_seq_length transformers' processor writes 256."""
    settings = {"size": {"height": tile, "width": tile}}
    config = {"vision_config": {"image_size": tile, "patch_size": 14}}
    right = {"image_seq_length": (tile // 28) ** 2}
    assert read_sizing(settings, right, config, "f") == (14, 2, Tiles(tile))
    with pytest.raises(SetupError, match=r"processor_config\.json's image_seq_length must be (256|64), as of tiles of"):
        read_sizing(settings, written, config, "f")


def test_sources_have_no_limits_of_their_own():
    assert source_budgets({}, budget(0.1, 5)) == {}
    with pytest.raises(ConfigError, match=r"data\.source_image_pixels: .* tiles by one limit; got limits for infrared"):
        source_budgets({"infrared": [784, 50176]}, budget(0.1, 5))


class TilesAsFeatures:
    """Stands for a model: the features of a tile are its number."""

    def get_image_features(self, pixels, return_dict):
        return type("Output", (), {"pooler_output": pixels})()


def test_an_image_is_encoded_once_and_repeated_with_all_its_tiles():
    pixels, grids = torch.arange(4.0).view(4, 1), torch.tensor([[3, 32, 32], [1, 32, 32]])
    made = TiledForward().image_features(TilesAsFeatures(), pixels, grids, (1, 0, 1))
    assert made.pooler_output.flatten().tolist() == [3, 0, 1, 2, 3]
    assert TiledForward().positions(None, torch.tensor([5, 5, 7]), 5, [(1, 2, 2)]).tolist() == [[0, 1, 2]]
