"""Token rules in the trainer: the gradient of plain transformers on the same pixels, for any packing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.trainer import Rendezvous
from mars.algorithms.scoring import ScoringSpec
from mars.algorithms.token_rule import ScoringPass, TokenTerms
from mars.build import EngineSpec, TrainerSpec
from mars.checks.hooks import checked_hooks
from mars.data.pixels.images import BadImage, decode_image
from mars.data.pixels.transforming import TransformingDecoder
from mars.data.pixels.transforms import blank_patches, gaussian_diffusion
from mars.data.prompts.processor import PromptProcessor
from mars.hooks.load import resolved
from mars.image_transform import TransformCall, transform_seed, transformed, transformed_image
from mars.types import ImageRef, RolloutRequest, Sampling
from mars.weights.object_store import in_memory
from tests.fakes.token_rule import Contrast
from tests.tiny_world import distance, gradients, response_logprobs, sampled_prompt

TRANSFORMS = {"masked": blank_patches(0.5, 14), "noisy": gaussian_diffusion(500)}
STEP, SEED = 3, 0
DECODE = TransformingDecoder(decode_image, lambda: TRANSFORMS)


def process_of(world, lost=()):
    def decode(ref):
        if getattr(ref, "transforms", None) and ref.path in lost:
            raise BadImage("missing", "gone for the pass")
        return DECODE(ref)

    return PromptProcessor(
        str(world.folder), decode=decode, budget=world.budget, rules=world.rules, cache_bytes=0
    ).process


def trainer_with(world, rule, lost=(), **config):
    made = world.config(**config)
    return FsdpTrainer(made, world.rules, Rendezvous(0, 1, None, 60.0), process_of(world, lost), in_memory(), rule)


def prompts_of(world, pictures):
    return [
        world.train_prompt("a", pictures[:2], [5, 9]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("bb", [pictures[2]], [4, 6]),
    ]


def batch_of(world, prompts, **named):
    return replace(world.batch(prompts, **named), step=STEP)


def as_file(ref, name, seed, folder):
    """The changed image as a file of its own."""
    path = folder / f"{name}-{seed}.png"
    image = DECODE(transformed_image(ref, TransformCall(name, seed, 1.0)))
    image.save(path)
    return ImageRef(str(path), image.size)


def shown(prompt, name, images, folder):
    """The prompt's images as the pass `name` shows them, as files."""
    key = (SEED, STEP, name, prompt.prompt_id)
    changed = [as_file(ref, name, transform_seed(name, i, *key), folder) for i, ref in enumerate(prompt.images)]
    if images == "one" and changed:
        chosen = transform_seed(*key) % len(changed)
        return [changed[i] if i == chosen else ref for i, ref in enumerate(prompt.images)]
    return changed


def plain_gradients(world, prompts, folder):
    """By autograd over whole sequences, each scored alone, with the terms of `Contrast` in scalars."""
    model = world.plain_model()
    rows = []
    for prompt in prompts:
        for response in prompt.responses:
            own = world.plain_logprobs(model, prompt.prompt_id, prompt.images, response.token_ids)
            with torch.no_grad():
                masked = world.plain_logprobs(
                    model, prompt.prompt_id, shown(prompt, "masked", "all", folder), response.token_ids
                )
            noisy = world.plain_logprobs(
                model, prompt.prompt_id, shown(prompt, "noisy", "one", folder), response.token_ids
            )
            rows.append((response.advantage, own, masked, noisy))
    gaps = torch.cat([own.detach() - masked for _, own, masked, _ in rows])
    mean, largest, loss = gaps.abs().mean(), gaps.abs().max(), 0.0
    for advantage, own, masked, noisy in rows:
        gap = own.detach() - masked
        weights = (gap.abs() >= mean).float() + 0.5
        policy = -advantage * (1 + mean) * (own - own.detach()).exp() * weights
        difference = noisy - own
        loss = loss + (policy + 0.3 * (difference.exp() - 1 - difference) - 0.1 * gap / largest * own).sum() / len(gaps)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, float(mean)


@pytest.mark.parametrize(("packing", "tokens"), [("shared_prefix", 600), ("shared_prefix", 1), ("padded", 600)])
def test_gradients_are_those_of_plain_transformers(world, pictures, tmp_path, packing, tokens):
    prompts = prompts_of(world, pictures)
    wanted, mean = plain_gradients(world, prompts, tmp_path)
    trainer = trainer_with(world, Contrast(), packing=packing)
    update, seen = trainer.update, []
    trainer.update = lambda batch: seen.append(update(batch)) or seen[-1]
    (found,) = gradients(trainer, batch_of(world, prompts, tokens_per_forward=tokens, packing=packing))
    assert distance(found, wanted) < 2e-4
    assert seen[0].metrics["recipe/gap"] == pytest.approx(mean, rel=1e-4)
    assert math.isfinite(seen[0].metrics["actor/rule_loss"])


class Only:
    """One pass, recorded; no term. passes, measures: given."""

    measures = False

    def __init__(self, *passes):
        self.passes, self.facts = passes, []

    def apply(self, facts, totals):
        self.facts.append(facts)
        return TokenTerms()


def test_a_rule_without_terms_changes_no_bit_of_the_update(world, pictures):
    prompts = prompts_of(world, pictures)
    batch = batch_of(world, prompts, per_update=1)
    plain, rule = world.trainer(), Only(ScoringPass("masked", "masked"), ScoringPass("again", None, gradient=True))
    without, metrics = gradients(plain, batch), plain.update(batch).metrics
    trainer = trainer_with(world, rule)
    with_rule = gradients(trainer, batch)
    for one, other in zip(without, with_rule, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert trainer.update(batch).metrics == {**metrics, "actor/rule_loss": 0.0}
    # The pass with gradient sees the weights of its update; that without, those of the step's first.
    for facts in rule.facts[:3]:
        assert torch.equal(facts.extra["again"], facts.logprobs.detach())
    assert not torch.equal(rule.facts[2].old, rule.facts[2].logprobs)


def test_a_masked_pass_differs_only_where_there_are_pictures(world, pictures):
    rule = Only(ScoringPass("masked", "masked"))
    trainer = trainer_with(world, rule)
    trainer.update(batch_of(world, prompts_of(world, pictures), per_update=1))
    same = [torch.equal(facts.extra["masked"], facts.old) for facts in rule.facts]
    assert same == [False, True, False]


def test_a_prompt_that_only_the_pass_cannot_read_is_left_out(world, pictures):
    prompts = prompts_of(world, pictures)
    batch = batch_of(world, prompts)
    trainer = trainer_with(world, Contrast(), lost={pictures[2].path})
    stats = trainer.update(batch)
    assert stats.unreadable == {"bb": "gone for the pass"}
    rest = trainer_with(world, Contrast()).update(batch_of(world, prompts[:2])).metrics
    for key in ("actor/grad_norm", "recipe/gap", "actor/rule_loss", "actor/pg_loss"):
        assert stats.metrics[key] == pytest.approx(rest[key], rel=1e-3), key


def test_scores_of_spans_and_changed_pictures_are_those_of_plain_transformers(world, pictures, tmp_path):
    prompts = prompts_of(world, pictures)
    trainer, model = trainer_with(world, None), world.plain_model()
    spans = [[(1, 4), (0, 9)], [(2, 7), (0, 0)], [(3, 4), (0, 6)]]
    with torch.no_grad():
        wanted = [
            [
                world.plain_logprobs(model, p.prompt_id, shown(p, "masked", "all", tmp_path), r.token_ids)[a:b]
                for r, (a, b) in zip(p.responses, of_prompt, strict=True)
            ]
            for p, of_prompt in zip(prompts, spans, strict=True)
        ]
    batch = batch_of(world, prompts, tokens_per_forward=20)
    for value in ("sum", "mean"):
        found = trainer.score_responses(batch, ScoringSpec("masked", value, transform="masked"), spans).values
        for row, expected in zip(found, wanted, strict=True):
            assert list(row) == pytest.approx(
                [float(getattr(x, value)()) for x in expected], rel=1e-4, abs=1e-5, nan_ok=True
            )
    assert math.isnan(found[1][1])  # the mean of no token


def test_the_files_of_this_test_hold_the_changed_pixels(pictures, tmp_path):
    ref = transformed_image(pictures[0], TransformCall("masked", 5, 1.0))
    path = as_file(pictures[0], "masked", 5, tmp_path).path
    assert Image.open(path).tobytes() == DECODE(ref).tobytes() != decode_image(pictures[0]).tobytes()


def test_the_rule_of_the_page_through_the_builders_of_a_run(world, pictures, tmp_path):
    """The engine and the trainer see the same changed pixels, and the update has the page's metric."""
    page = (Path(__file__).parents[3] / "docs" / "token_rules.md").read_text()
    (tmp_path / "my_rule.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    names = {
        "tokens": f"{tmp_path}/my_rule.py:LookAtTheImage",
        "transforms": {"masked": f"{tmp_path}/my_rule.py:masked"},
    }
    config = world.config()
    recipe = config.recipe.model_copy(update={**names, "settings": {"my_rule": {"share": 0.6, "weight": 0.01}}})
    rollout = config.rollout.model_copy(update={"engine": "hf"})
    config = config.model_copy(update={"recipe": resolved(recipe), "rollout": rollout})
    checked_hooks(config)
    trainer = TrainerSpec(config, world.rules)(Rendezvous(0, 1, None, 60.0), in_memory())
    assert isinstance(trainer, FsdpTrainer)
    engine = EngineSpec(config, world.rules, 2)(lambda payload: list(payload.items()))
    engine.load_weights(trainer.publish_weights())
    ids, scores = world.prompt_ids("a", pictures[:2]), []
    for images in (tuple(pictures[:2]), transformed(pictures[:2], "masked", 1.0, 0, 1, "a")):
        request = RolloutRequest("a", None, ids, images, 2, 7, Sampling(1.0, 1.0, 0, 8))
        found = [sample.completion for part in engine.generate([request]) for sample in part]
        (own, other) = response_logprobs(trainer, [sampled_prompt(request, [one.token_ids for one in found])])
        assert own + other == pytest.approx([x for one in found for x in one.logprobs], abs=1e-4)
        scores.append(own)
    assert scores[0] != scores[1]
    metrics = trainer.update(batch_of(world, prompts_of(world, pictures))).metrics
    assert metrics["recipe/lost"] > 0
    assert metrics["actor/rule_loss"] > 0
