"""Encoded images reach a model in versions of transformers with and without an argument for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mars.actor.encoded_images import encoded_images


class Model(nn.Module):
    """Adds up its images, encoded as `get_image_features` does: doubled."""

    def get_image_features(self, pixels, **options):
        return 2 * pixels


class Newer(Model):
    def forward(self, *, pixel_values=None, mm_encoder_outputs=None, **ignored):
        images = mm_encoder_outputs["image"] if mm_encoder_outputs else None
        return (self.get_image_features(pixel_values) if images is None else images).sum()


class Older(Model):
    def forward(self, *, pixel_values=None, **ignored):
        return (
            torch.zeros(()) if pixel_values is None else self.get_image_features(pixel_values, return_dict=True).sum()
        )


@pytest.mark.parametrize("kind", [Newer, Older])
def test_the_model_computes_with_the_given_features(kind):
    model, pixels, features = kind(), torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0, 7.0])
    with encoded_images(model, pixels, features) as images:
        assert model(**images) == 19
    assert model(pixel_values=pixels) == 6  # it encodes its own images again
    with pytest.raises(RuntimeError, match="out of memory"), encoded_images(model, pixels, features):
        raise RuntimeError("out of memory")
    assert model(pixel_values=pixels) == 6


def test_a_forward_without_images_has_no_argument_for_them():
    for kind in (Newer, Older):
        with encoded_images(kind(), None, None) as images:
            assert images == {}
