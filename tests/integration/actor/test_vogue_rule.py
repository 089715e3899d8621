"""The rule of recipe/vogue in the trainer, with guests: the gradient of plain transformers on the noisy files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.trainer import Rendezvous
from mars.data.pixels.images import decode_image
from mars.data.pixels.transforming import TransformingDecoder
from mars.data.prompts.processor import PromptProcessor
from mars.types import ImageRef
from mars.weights.object_store import in_memory
from tests.builders import make_prompt
from tests.hook_builders import step_facts
from tests.shipped.recipes.recipe_files import module_of
from tests.tiny_world import distance, gradients

VOGUE = module_of("vogue")
STEP, SEED = 3, 0
SETTINGS = VOGUE.Settings(samples=1, noisy_share=1.0, steps=1000, uncertainty=50.0, entropy=0.0, max_uncertainty=0.01)


def with_guest(prompt):
    """The second of its two responses is a noisy one."""
    first, second = prompt.responses
    return replace(prompt, responses=(first, replace(second, off_policy=True, bounded=True)))


def noisy_files(prompt, decode, folder):
    """The images that the request for noisy responses shows, as files."""
    facts, found = step_facts(SETTINGS, STEP, seed=SEED), []
    (extra,) = VOGUE.NoisyBranch().before(make_prompt(prompt.prompt_id, list(prompt.images)), facts)
    for number, ref in enumerate(extra.images):
        path = folder / f"{prompt.prompt_id}-{number}.png"
        decode(ref).save(path)
        found.append(ImageRef(str(path), ref.size))
    return found


def test_gradients_are_those_of_plain_transformers(world, pictures, tmp_path):
    decode = TransformingDecoder(decode_image, lambda: {"noise": VOGUE.noise(SETTINGS)})
    prompts = [
        with_guest(world.train_prompt("a", pictures[:2], [5, 9])),
        with_guest(world.train_prompt("bb", [pictures[2]], [4, 6])),
    ]
    model, losses, of_guests = world.plain_model(), [], []
    for prompt in prompts:
        noisy_images = noisy_files(prompt, decode, tmp_path)
        for response in prompt.responses:
            own = world.plain_logprobs(model, prompt.prompt_id, prompt.images, response.token_ids)
            with torch.no_grad():
                noisy = world.plain_logprobs(model, prompt.prompt_id, noisy_images, response.token_ids)
            bonus = 0.0
            if response.off_policy:
                d = own.detach() - noisy
                u = (0.5 * (torch.exp(d) - 1) * d).clamp(max=0.01)
                of_guests.append(u)
                bonus = 50.0 * u
            losses.append(-(response.advantage + bonus) * (own - own.detach()).exp())
    tokens = torch.cat(losses)
    (tokens.sum() / len(tokens)).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    process = PromptProcessor(
        str(world.folder), decode=decode, budget=world.budget, rules=world.rules, cache_bytes=0
    ).process
    trainer = FsdpTrainer(
        world.config(), world.rules, Rendezvous(SEED, 1, None, 60.0), process, in_memory(), VOGUE.NoisyBonus(SETTINGS)
    )
    update, seen = trainer.update, []
    trainer.update = lambda batch: seen.append(update(batch)) or seen[-1]
    batch = replace(world.batch(prompts, tokens_per_forward=1), step=STEP)
    (found,) = gradients(trainer, batch)
    assert distance(found, wanted) < 2e-4
    of_guests = torch.cat(of_guests)
    assert seen[0].metrics["recipe/uncertainty_noisy"] == pytest.approx(float(of_guests.mean()), rel=1e-3)
    assert 0 < int((of_guests == 0.01).sum()) < len(of_guests), "some are bounded, some are not"
