"""The trainer's log-probs against a plain transformers forward of every sequence alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mars.actor import token_scores
from mars.data.pixels.images import decode_image
from tests.tiny_world import at_temperature, distance, full, real_processor, response_logprobs

FAMILIES = ["world", "qwen3_world", "tied_world"]


def mixed_batch(world, pictures, tokens_per_forward):
    """0 to 3 images, shared and repeated ones, text-only rows beside image rows, responses of 1 to 20 tokens."""
    prompts = [
        world.train_prompt("a", pictures[:2], [5, 9, 1]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("b", [pictures[1]], [4, 12]),
        world.train_prompt("ccc", [pictures[2], pictures[0], pictures[3]], [20, 2]),
        world.train_prompt("dd", [pictures[3], pictures[3]], [6]),
    ]
    return world.batch(prompts, tokens_per_forward=tokens_per_forward)


@pytest.mark.parametrize(
    ("family", "tokens_per_forward"), [(f, 100_000) for f in FAMILIES] + [("world", 1), ("qwen3_world", 500)]
)
def test_logprobs_of_a_batch_equal_those_of_each_sequence_alone(family, tokens_per_forward, pictures, request):
    world = request.getfixturevalue(family)
    batch = mixed_batch(world, pictures, tokens_per_forward)
    batch = replace(batch, prompts=tuple(at_temperature(batch.prompts, 0.7)))
    trainer, model = world.trainer(temperature=0.7, logprob_chunk_tokens=3), world.plain_model()
    with torch.no_grad():
        wanted = world.plain_batch_logprobs(model, batch, temperature=0.7)
    old = {}
    for micro, values in trainer._old_logprobs(
        batch, batch.updates, trainer._reader.start(batch, batch.updates, rank=0)
    ).items():
        lengths = [len(batch.prompts[p].responses[k].token_ids) for p, k in micro.rows]
        old |= zip(micro.rows, values.split(lengths), strict=True)
    rows = [(p, k) for p, prompt in enumerate(batch.prompts) for k in range(len(prompt.responses))]
    assert sorted(old) == rows
    for row, expected in zip(rows, wanted, strict=True):
        torch.testing.assert_close(old[row], expected, atol=1e-5, rtol=0)
    for scored, expected in zip(response_logprobs(trainer, batch.prompts), wanted, strict=True):
        torch.testing.assert_close(torch.tensor(scored), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
def test_each_prompt_is_scored_at_the_temperature_of_its_responses(world, pictures, packing):
    """Two other temperatures than the setting, and the setting. Chunks of 3 tokens cut through responses."""
    temperatures = (0.5, 1.3, 0.7, 0.7, 0.5)
    prompts = mixed_batch(world, pictures, 100_000).prompts
    prompts = [replace(prompt, temperature=t) for prompt, t in zip(prompts, temperatures, strict=True)]
    batch = world.batch(prompts, tokens_per_forward=100_000, packing=packing)
    trainer, model = world.trainer(temperature=0.7, logprob_chunk_tokens=3, packing=packing), world.plain_model()
    found = trainer._old_logprobs(batch, batch.updates, trainer._reader.start(batch, batch.updates, rank=0))
    with torch.no_grad():
        wanted = {
            (p, k): world.plain_logprobs(model, prompt.prompt_id, prompt.images, response.token_ids, t)
            for p, (prompt, t) in enumerate(zip(prompts, temperatures, strict=True))
            for k, response in enumerate(prompt.responses)
        }
    for micro, values in found.items():
        assert len({temperatures[p] for p, _ in micro.rows}) > 1
        torch.testing.assert_close(values, torch.cat([wanted[row] for row in micro.rows]), atol=1e-5, rtol=0)


def test_prompts_are_laid_out_as_the_real_processor_does(world, qwen3_world, pictures):
    for one in (world, qwen3_world):
        processor = real_processor(one.folder)
        for images in (pictures[:1], pictures, []):
            mine = one.processor.process(one.prompt_ids("x", images), images)
            blocks = "<|vision_start|><|image_pad|><|vision_end|>\n" * len(images)
            text = (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
                f"{blocks}What is in picture x?<|im_end|>\n<|im_start|>assistant\n"
            )
            real = processor(text=[text], images=[decode_image(i) for i in images] or None, return_tensors="pt")
            assert mine.input_ids.tolist() == real["input_ids"][0].tolist()
            if images:
                assert torch.equal(torch.cat(mine.pixel_values), real["pixel_values"])
                assert [list(grid) for grid in mine.image_grid_thw] == real["image_grid_thw"].tolist()


def test_an_image_passes_the_vision_tower_once_per_forward(world, pictures):
    """Three rows of one prompt and one of another that shares a picture: two distinct images."""
    prompts = [world.train_prompt("a", pictures[:2], [4, 4, 4]), world.train_prompt("b", [pictures[1]], [4])]
    trainer, seen = world.trainer(), []
    visual = trainer._policy.backbone.model.visual
    handle = visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("grid_thw", args[1] if len(args) > 1 else None)),
        with_kwargs=True,
    )
    trainer._old_logprobs(
        batch := world.batch(prompts), batch.updates, trainer._reader.start(batch, batch.updates, rank=0)
    )
    handle.remove()
    assert [len(grid) for grid in seen] == [2]


def test_the_trainer_scores_chunks_of_the_size_that_is_set(world, pictures, monkeypatch):
    batch = world.batch([world.train_prompt("a", pictures[:1], [20, 15]), world.train_prompt("text", [], [10])])
    sizes, plain = [], token_scores._logits
    monkeypatch.setattr(
        token_scores, "_logits", lambda hidden, *rest: sizes.append(len(hidden)) or plain(hidden, *rest)
    )
    world.trainer(logprob_chunk_tokens=8).update(batch)
    assert max(sizes) == 8
    # Once forward, once again in backward.
    assert sum(sizes) == 2 * (20 + 15 + 10)


def test_entropy_is_that_of_the_masked_distribution(world, pictures):
    trainer, model = world.trainer(temperature=0.5), world.plain_model()
    prompt = world.train_prompt("a", pictures[:1], [6])
    processed = world.processor.process(prompt.prompt_token_ids, prompt.images)
    with torch.no_grad():
        _, entropy = trainer._policy(trainer._forward_batch([(processed, prompt.responses[0].token_ids)]))
        wanted = []
        for cut in range(6):  # the distribution after each prefix, from single-token log-probs of the whole vocabulary
            prefix = prompt.responses[0].token_ids[:cut]
            ids = torch.cat([processed.input_ids, torch.tensor(prefix, dtype=torch.long)]).unsqueeze(0)
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == world.rules.image_id).int(),
                pixel_values=torch.cat(processed.pixel_values),
                image_grid_thw=torch.tensor(processed.image_grid_thw),
            ).logits[0, -1]
            keep = [i for i in range(len(logits)) if i not in set(world.rules.blocked_ids)]
            wanted.append(torch.distributions.Categorical(logits=logits[keep] / 0.5).entropy())
    torch.testing.assert_close(entropy, torch.stack(wanted), atol=1e-5, rtol=0)


def test_the_entropy_has_a_gradient_only_on_demand(world, pictures):
    """Without one its [tokens, vocabulary] products are not kept for the backward pass."""
    prompt = world.train_prompt("a", pictures[:1], [6])
    trainer = world.trainer()
    processed = world.processor.process(prompt.prompt_token_ids, prompt.images)
    forward = trainer._forward_batch([(processed, prompt.responses[0].token_ids)])
    (logprobs, plain), (same, entropy) = trainer._policy(forward), trainer._policy(forward, entropy_gradient=True)
    assert (logprobs.requires_grad, plain.requires_grad, entropy.requires_grad) == (True, False, True)
    assert torch.equal(logprobs, same)
    assert torch.equal(plain, entropy)
    with torch.no_grad():
        assert not trainer._policy(forward, entropy_gradient=True)[1].requires_grad


def test_the_gradient_of_the_entropy_bears_any_weight(world, pictures):
    """Blocked ids have probability 0 and a very low logit: their product must stay finite in backward as well."""
    prompt = world.train_prompt("a", pictures[:1], [6])
    policy = (trainer := world.trainer())._policy
    processed = world.processor.process(prompt.prompt_token_ids, prompt.images)
    forward, found = trainer._forward_batch([(processed, prompt.responses[0].token_ids)]), []
    for weight in (1.0, 4096.0):
        policy.zero_grad()
        (weight * policy(forward, entropy_gradient=True)[1].sum()).backward()
        found.append({n: full(p.grad) / weight for n, p in policy.named_parameters() if p.grad is not None})
    assert distance(found[1], found[0]) < 1e-6


def test_an_empty_response_is_a_row_without_tokens(world, pictures):
    prompt = world.train_prompt("a", pictures[:1], [3])
    empty = replace(prompt.responses[0], token_ids=(), rollout_logprobs=())
    prompt = replace(prompt, responses=(empty, *prompt.responses))
    assert [len(row) for row in response_logprobs(world.trainer(), [prompt])] == [0, 3]
