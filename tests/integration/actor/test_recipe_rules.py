"""Token rules of recipes in the trainer: the gradient of plain transformers, with the formulas written out."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
import torch

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.trainer import Rendezvous
from mars.data.pixels.images import decode_image
from mars.data.pixels.transforming import TransformingDecoder
from mars.data.prompts.processor import PromptProcessor
from mars.image_transform import TransformCall, transform_seed, transformed_image
from mars.types import ImageRef
from mars.weights.object_store import in_memory
from tests.shipped.recipes.recipe_files import module_of
from tests.tiny_world import distance, gradients

PAPO, VPPO = module_of("papo"), module_of("vppo")
STEP, SEED = 3, 0


def papo(**changes):
    values = {
        "masked_share": 0.6, "images": "all", "gamma": 0.3, "cap": 10.0, "entropy": 0.05, "masked_entropy": 0.0,
        "through_masked": False,
    }  # fmt: skip
    return PAPO.Settings(**values | changes)


VPPO_SETTINGS = VPPO.Settings(masked_share=0.5, images="all", cap=10.0, kept_share=0.4, lowest_weight=0.5, entropy=0.06)


def k3(difference):
    return torch.exp(difference) - difference - 1


def papo_loss(rows, settings):
    total = 0.0
    for advantage, own, masked in rows:
        other = masked if settings.through_masked else masked.detach()
        policy = -advantage * (own - own.detach()).exp()
        terms = -settings.gamma * k3(other - own) - settings.entropy * own - settings.masked_entropy * other
        total = total + (policy + terms).sum()
    return total / sum(len(own) for _, own, _ in rows)


def vppo_loss(rows, settings):
    scores = [k3(masked - own).detach() for _, own, masked in rows]
    means = torch.stack([one.mean() for one in scores])
    shares = (means - means.min()) / (means.max() - means.min())
    weights = settings.lowest_weight + (1 - settings.lowest_weight) * shares / shares.mean()
    total = 0.0
    for (advantage, own, _), score, weight in zip(rows, scores, weights, strict=True):
        kept = torch.zeros(len(own))
        kept[score.topk(ceil(settings.kept_share * len(own))).indices] = 1
        policy = -advantage * weight * kept * (own - own.detach()).exp()
        total = total + (policy - settings.entropy * own).sum()
    return total / sum(len(own) for _, own, _ in rows)


CASES = {
    "papo": (PAPO, PAPO.PerceptionLoss, papo(), papo_loss),
    "papo_through_masked": (PAPO, PAPO.PerceptionLoss, papo(masked_entropy=0.04, through_masked=True), papo_loss),
    "vppo": (VPPO, VPPO.SeeingTokens, VPPO_SETTINGS, vppo_loss),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_plain_transformers(world, pictures, tmp_path, case):
    module, make, settings, loss_of = CASES[case]
    decode = TransformingDecoder(decode_image, lambda: {"masked": module.masked(settings)})

    def masked(prompt, number, ref):
        """The masked image as a file."""
        seed = transform_seed("masked", number, SEED, STEP, "masked", prompt.prompt_id)
        image = decode(transformed_image(ref, TransformCall("masked", seed, 1.0)))
        path = tmp_path / f"{prompt.prompt_id}-{number}.png"
        image.save(path)
        return ImageRef(str(path), image.size)

    prompts = [world.train_prompt("a", pictures[:2], [5, 9]), world.train_prompt("bb", [pictures[2]], [4, 6])]
    model, rows = world.plain_model(), []
    for prompt in prompts:
        changed = [masked(prompt, i, ref) for i, ref in enumerate(prompt.images)]
        for response in prompt.responses:
            scored = [
                world.plain_logprobs(model, prompt.prompt_id, images, response.token_ids)
                for images in (prompt.images, changed)
            ]
            rows.append((response.advantage, *scored))
    loss_of(rows, settings).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    process = PromptProcessor(
        str(world.folder), decode=decode, budget=world.budget, rules=world.rules, cache_bytes=0
    ).process
    trainer = FsdpTrainer(
        world.config(), world.rules, Rendezvous(SEED, 1, None, 60.0), process, in_memory(), make(settings)
    )
    batch = replace(world.batch(prompts, tokens_per_forward=1), step=STEP)
    (found,) = gradients(trainer, batch)
    assert distance(found, wanted) < 2e-4


@pytest.mark.parametrize("changes", [{}, {"masked_entropy": 0.2, "through_masked": True}])
def test_papo_changes_no_update_of_a_step_on_text_alone(world, changes):
    """With two updates, the masked pass and the second one have different weights. The perception terms stay 0."""
    prompts = [world.train_prompt("a", [], [5, 9]), world.train_prompt("bb", [], [4, 6])]
    decode = TransformingDecoder(decode_image, lambda: {})
    process = PromptProcessor(
        str(world.folder), decode=decode, budget=world.budget, rules=world.rules, cache_bytes=0
    ).process
    found = []
    for settings in (papo(**changes), papo(gamma=0.0)):
        rule = PAPO.PerceptionLoss(settings)
        trainer = FsdpTrainer(world.config(), world.rules, Rendezvous(SEED, 1, None, 60.0), process, in_memory(), rule)
        found.append(gradients(trainer, replace(world.batch(prompts, per_update=1), step=STEP)))
    assert [len(updates) for updates in found] == [2, 2]
    assert [distance(one, other) for one, other in zip(*found, strict=True)] == [0.0, 0.0]
