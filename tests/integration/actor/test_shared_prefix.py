"""Packs against rows, and against plain transformers one sequence at a time: log-probs, entropies and gradients.

Hot weights (0.12 instead of the usual 0.02 in every matrix): with the usual ones a wrong mask hardly shows.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mars.actor.batch import forward_batch
from mars.actor.model import ScoringSettings, load_policy
from mars.actor.shared_prefix import pack_groups
from tests.tiny_world import distance

FAMILIES = ["world", "qwen3_world", "tied_world", "internvl_world", "qwen3_5_world", "qwen2_world"]
LOGPROBS, GRADIENTS, WRONG = 1e-5, 5e-6, 1e-2
# A gated delta rule rounds more: with chunks of 32 tokens instead of 64, padded rows differ from themselves by 1.4e-5.
ROUNDING = {"qwen3_5": 3}


class Models:
    """The same hot weights twice, for rows and for packs; and groups of a world's prompts."""

    def __init__(self, world, pictures, checkpointing=False):
        self.world, self.pictures = world, pictures
        self.padded, self.shared = (self.load(packing, checkpointing) for packing in ("padded", "shared_prefix"))
        self.positions = self.padded.positions
        self.rounding = ROUNDING.get(self.padded.family.model_type, 1)

    def load(self, packing, checkpointing):
        scoring = ScoringSettings(1.0, self.world.rules.blocked_ids, 16)
        policy = load_policy(self.world.config().model, scoring, packing, checkpointing)
        noise = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.12, generator=noise)
        return policy

    def prompt(self, name, images, lengths):
        return self.world.train_prompt(name, [self.pictures[i] for i in images], lengths)

    def group(self, prompt):
        processed = self.world.processor.process(prompt.prompt_token_ids, prompt.images)
        return processed, [response.token_ids for response in prompt.responses]

    def pack(self, groups):
        return pack_groups(groups, self.positions)

    def rows(self, groups):
        rows = [(prompt, response) for prompt, responses in groups for response in responses]
        return forward_batch(rows, self.positions, self.world.rules.pad_id)


@pytest.fixture(scope="module")
def models(request, pictures):
    made = {}

    def get(family, checkpointing=False):
        if (family, checkpointing) not in made:
            made[family, checkpointing] = Models(request.getfixturevalue(family), pictures, checkpointing)
        return made[family, checkpointing]

    return get


def scored(model, batches):
    """Log-probs and entropies of all tokens, and the gradient of a sum with a weight for each token."""
    model.zero_grad()
    logprobs, entropies = zip(*(model(batch, entropy_gradient=True) for batch in batches), strict=True)
    logprobs, entropies = torch.cat(logprobs), torch.cat(entropies)
    objective(logprobs + 0.1 * entropies).backward()
    named = model.named_parameters()
    return logprobs.detach(), entropies.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


def objective(values):
    return (values * torch.linspace(-1, 1, len(values)).cos()).sum()


def assert_same(mine, wanted, rounding=1):
    for one, other in zip(mine[:2], wanted[:2], strict=True):
        torch.testing.assert_close(one, other, atol=rounding * LOGPROBS, rtol=0)
    assert distance(mine[2], wanted[2]) <= rounding * GRADIENTS


CASES = {  # prompts of (name, pictures, lengths of the responses)
    "one group": [("a", [0, 1], [5, 9, 1, 30])],
    "ragged groups of 0 to 3 images": [
        ("a", [0, 1], [5, 9, 1]), ("text", [], [7, 3]), ("b", [1], [4, 33]), ("c", [2, 0, 3], [20]), ("d", [3, 3], [6]),
    ],
    "text only": [("text", [], [7, 3, 1]), ("tt", [], [2])],
    "single responses": [("a", [0], [8]), ("b", [1], [1]), ("text", [], [1])],
    "answers of one token": [("a", [0, 1], [1] * 6), ("b", [2], [1, 1])],
    "the same pictures in two groups": [("a", [0, 1], [4, 4]), ("b", [1, 0], [4, 2]), ("c", [1], [3])],
    "empty responses": [("a", [0], [3, 2]), ("b", [2], [2])],
}  # fmt: skip


def described(models, case):
    groups = [models.group(models.prompt(*one)) for one in CASES[case]]
    if case == "empty responses":
        groups[0][1].insert(1, ())
        groups[1][1].append(())
    return groups


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_packs_are_rows(models, family, case):
    both = models(family)
    groups = described(both, case)
    pack, rows = both.pack(groups), both.rows(groups)
    assert pack.input_ids.shape == (1, sum(len(p.input_ids) + sum(map(len, rs)) for p, rs in groups))
    assert torch.equal(pack.targets, rows.targets)
    assert torch.equal(pack.lengths, rows.lengths)
    assert_same(scored(both.shared, [pack]), scored(both.padded, [rows]), both.rounding)


@pytest.mark.parametrize("family", FAMILIES)
def test_packs_are_plain_transformers_one_sequence_at_a_time(models, family):
    both = models(family)
    prompts = [both.prompt(*one) for one in CASES["ragged groups of 0 to 3 images"]]
    logprobs, _ = both.shared(both.pack([both.group(prompt) for prompt in prompts]))
    both.shared.zero_grad()
    objective(logprobs).backward()
    named = both.shared.backbone.named_parameters()
    mine = {n: p.grad for n, p in named if p.grad is not None}

    plain = both.world.plain_model()
    plain.load_state_dict(both.shared.backbone.state_dict())
    wanted = torch.cat(both.world.plain_batch_logprobs(plain, both.world.batch(prompts)))
    torch.testing.assert_close(logprobs, wanted, atol=both.rounding * LOGPROBS, rtol=0)
    objective(wanted).backward()
    expected = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    assert distance(mine, expected) <= both.rounding * GRADIENTS


@pytest.mark.parametrize("cuts", [[1, 3], [2], [1, 2, 3, 4]])
def test_a_group_may_be_split_over_packs_and_share_them_with_others(models, cuts):
    both = models("world")
    whole, other = both.group(both.prompt("a", [0, 1], [5, 9, 1, 17, 6])), both.group(both.prompt("b", [1], [4]))
    edges = [0, *cuts, 5]
    parts = [(whole[0], whole[1][first:last]) for first, last in pairwise(edges)]
    packs = [both.pack([*parts[:1], other]), *(both.pack([part]) for part in parts[1:])]
    rows = [both.rows([*parts[:1], other]), *(both.rows([part]) for part in parts[1:])]
    assert_same(scored(both.shared, packs), scored(both.padded, rows))


@pytest.mark.parametrize("family", ["world", "qwen3_world"])
def test_hidden_states_agree_to_the_last_digits_of_float64(models, family, request, pictures):
    both = Models(request.getfixturevalue(family), pictures)
    both.padded.double()
    both.shared.double()
    groups = described(both, "ragged groups of 0 to 3 images")
    with torch.no_grad():
        mine, wanted = (
            model._hidden_states(batch)[batch.token_rows, batch.token_columns]
            for model, batch in ((both.shared, both.pack(groups)), (both.padded, both.rows(groups)))
        )
    torch.testing.assert_close(mine, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", ["world", "qwen3_world", "qwen3_5_world"])
def test_with_gradient_checkpointing(models, family):
    """Backward calls the attention again, after another pack's forward: each has its own layout."""
    plain, checkpointed = models(family), models(family, checkpointing=True)
    groups = described(plain, "ragged groups of 0 to 3 images")
    packs, rows = ([make(groups[:2]), make(groups[2:])] for make in (plain.pack, plain.rows))
    mine = scored(checkpointed.shared, packs)
    assert_same(mine, scored(plain.padded, rows), plain.rounding)
    again = scored(plain.shared, packs)
    assert torch.equal(mine[0], again[0])
    assert distance(mine[2], again[2]) < 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["world", "qwen3_world", "qwen3_5_world"])
def test_without_gradient_the_same_bits(models, family, checkpointing):
    both = models(family, checkpointing)
    pack = both.pack(described(both, "ragged groups of 0 to 3 images"))
    logprobs, entropy = both.shared(pack)
    with torch.no_grad():
        again = both.shared(pack)
    assert torch.equal(logprobs, again[0])
    assert torch.equal(entropy, again[1])


@pytest.mark.parametrize("family", ["world", "qwen3_world", "qwen3_5_world"])
def test_under_autocast_queries_keys_and_values_meet_in_one_type(models, family):
    both = models(family)
    groups = described(both, "ragged groups of 0 to 3 images")
    with torch.autocast("cpu", torch.bfloat16):
        mine, rows = both.shared(both.pack(groups))[0], both.padded(both.rows(groups))[0]
        objective(mine).backward()
    exact = both.padded(both.rows(groups))[0]
    assert mine.dtype == torch.float32
    assert (mine - exact).abs().mean() < 2 * (rows - exact).abs().mean() + 1e-3


def test_an_image_passes_the_vision_tower_once_per_pack(models):
    both, seen = models("world"), []
    pack = both.pack(described(both, "the same pictures in two groups"))
    handle = both.shared.backbone.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    both.shared(pack)
    handle.remove()
    assert seen == [2]
    assert pack.image_index == (0, 1, 1, 0, 1)


# --- what must show


@pytest.fixture(params=["world", "qwen3_world", "qwen3_5_world"])
def right(models, request):
    both = models(request.param)
    groups = described(both, "ragged groups of 0 to 3 images")
    pack = both.pack(groups)
    with torch.no_grad():
        return both, groups, pack, both.shared(pack)[0]


def difference(model, batch, logprobs):
    with torch.no_grad():
        return float((model(batch)[0] - logprobs).abs().max())


def test_a_plain_causal_mask_is_wrong(right):
    both, _, pack, logprobs = right
    assert difference(both.padded, replace(pack, layout=None), logprobs) > WRONG


def test_positions_by_place_are_wrong(right):
    both, _, pack, logprobs = right
    by_place = torch.arange(pack.input_ids.shape[1]).expand(3, 1, -1)
    assert difference(both.shared, replace(pack, position_ids=by_place), logprobs) > WRONG


def test_responses_one_after_the_other_are_wrong(right):
    """Positions that go on from one response to the next; the mask is right."""
    both, groups, pack, logprobs = right
    positions, start = pack.position_ids.clone(), 0
    for prompt, responses in groups:
        end = start + len(prompt.input_ids)
        length = sum(map(len, responses))
        positions[:, 0, end : end + length] = positions[:, 0, start:end].max() + 1 + torch.arange(length)
        start = end + length
    assert difference(both.shared, replace(pack, position_ids=positions), logprobs) > WRONG


def test_a_neighbours_prompt_is_wrong(right):
    both, groups, _, _ = right
    (one, mine), (other, theirs) = groups[0], groups[2]
    with torch.no_grad():
        own = both.shared(both.pack([(one, mine[:1]), (other, theirs[:1])]))[0]
        crossed = both.shared(both.pack([(one, theirs[:1]), (other, mine[:1])]))[0]
    first, second = len(mine[0]), len(theirs[0])
    assert (own[:first] - crossed[second:]).abs().max() > WRONG
    assert (own[first:] - crossed[:second]).abs().max() > WRONG


def test_another_image_is_wrong(right):
    both, _, pack, logprobs = right
    swapped = (pack.image_index[1], pack.image_index[0], *pack.image_index[2:])  # two of the same size
    assert difference(both.shared, replace(pack, image_index=swapped), logprobs) > WRONG


def test_what_a_pack_cannot_express_is_refused(models, monkeypatch):
    both = models("world")
    pack = both.pack(described(both, "one group"))
    attention = both.shared.backbone.model.language_model.layers[0].self_attn
    monkeypatch.setattr(attention, "attention_dropout", 0.1)
    with pytest.raises(NotImplementedError, match="dropout"):
        both.shared(pack)
    monkeypatch.undo()
    monkeypatch.setattr(attention, "sliding_window", 8)
    with pytest.raises(NotImplementedError, match="sliding window"):
        both.shared(pack)
