"""Every loss, reduction and extra term of the trainer on a real tiny model, against plain transformers and autograd."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import pytest
import torch

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.data.synthetic.tiny_model import build_tiny
from mars.train_types import MicroBatch, TrainBatch, TrainPrompt, UpdatePlan
from tests.builders import altered
from tests.tiny_world import GRPO, TinyWorld, at_temperature, distance, gradients, with_algorithm

TEMPERATURE = 0.7
KINDS = {
    "clip": {"loss": "clip", "clip_low": 0.2, "clip_high": 0.28},
    "dual": {"loss": "clip", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 1.3},
    "gspo": {"loss": "gspo", "clip_low": 0.1, "clip_high": 0.15},
    "cispo": {"loss": "cispo", "clip_low": 0.5, "clip_high": 0.4},
}
WEIGHTS = {(0, 1): 0.5, (1, 1): 0.0, (2, 0): 1.75}
REDUCTIONS = ["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"]


@dataclass(frozen=True)
class Scored:
    """One row as plain transformers sees it; float64 [tokens]. logprobs and entropy have a gradient."""

    logprobs: torch.Tensor
    entropy: torch.Tensor
    old: torch.Tensor
    rollout: torch.Tensor
    ref: torch.Tensor
    advantage: float
    weight: float
    off_policy: bool


@dataclass(frozen=True)
class Scene:
    world: TinyWorld
    reference: str
    prompts: tuple[TrainPrompt, ...]
    model: torch.nn.Module
    rows: dict[tuple[int, int], Scored]
    plain: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    trainers: dict[int, FsdpTrainer] = field(default_factory=dict)


@pytest.fixture(scope="module")
def scene(world, pictures, tmp_path_factory) -> Scene:
    """Four prompts of one update, a fifth of another; one response is off-policy, and three have a weight of their own.

    The old log-probs are off by up to half a nat, so that all bounds decide somewhere.
    """
    draw, reference = random.Random(5), build_tiny(tmp_path_factory.mktemp("reference") / "model", seed=77)
    made = [
        world.train_prompt("a", pictures[:2], [5, 9, 2], anchors=[0.5, 2.0]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("bb", [pictures[1]], [4, 12, 6], rewards=[0.0, 1.0, 0.25]),
        world.train_prompt("c", [pictures[2]], [3, 1], anchors=[0.125]),
        world.train_prompt("z", [pictures[0]], [2, 2]),
    ]
    model, ref_model = world.plain_model(), world.plain_model(reference)
    prompts, rows = [], {}
    for p, prompt in enumerate(at_temperature(made, TEMPERATURE)):
        responses = []
        for k, response in enumerate(prompt.responses):
            args = (prompt.prompt_id, prompt.images, response.token_ids, TEMPERATURE)
            logprobs, entropy = (x.double() for x in world.plain_scores(model, *args))
            with torch.no_grad():
                ref = world.plain_logprobs(ref_model, *args).double()
            shift, noise = draw.uniform(-0.3, 0.3), torch.tensor([draw.uniform(-0.3, 0.3) for _ in ref]).double()
            old = logprobs.detach() + shift + noise
            rollout = old + torch.tensor([draw.uniform(-0.4, 0.4) for _ in ref]).double()
            off_policy = (p, k) == (2, 2)
            own = {"weight": WEIGHTS.get((p, k), 1.0), "off_policy": off_policy}
            responses.append(replace(response, rollout_logprobs=tuple(rollout.tolist()), **own))
            rows[p, k] = Scored(logprobs, entropy, old, rollout, ref, response.advantage, **own)
        prompts.append(replace(prompt, responses=tuple(responses)))
    return Scene(world, str(reference), tuple(prompts), model, rows)


def token_loss(settings, row, t, ratio_of_row):
    """Of token t, in scalars. Written from the papers, not from the code."""
    advantage, logprob = row.advantage, row.logprobs[t]
    if settings.loss == "gspo":
        ratio = ratio_of_row * (logprob - logprob.detach()).exp()
    else:
        ratio = (logprob - row.old[t]).exp()
    low, high = 1 - settings.clip_low, 1 + settings.clip_high
    if settings.loss == "cispo":
        weight = ratio.item() if row.off_policy else min(max(ratio.item(), low), high)
        return -weight * advantage * logprob
    if row.off_policy:
        return -ratio * advantage
    gain = min(ratio * advantage, ratio.clamp(low, high) * advantage)
    if settings.dual_clip is not None and advantage < 0:
        gain = max(gain, torch.tensor(settings.dual_clip * advantage))
    return -gain


def importance_weight(objective, row, t):
    ratios = [math.exp(o - e) for o, e in zip(row.old.tolist(), row.rollout.tolist(), strict=True)]
    power = 1 / len(ratios) if objective.importance_level == "sequence_mean" else 1
    return ratios[t] if objective.importance_level == "token" else math.prod(ratios) ** power


def kept_tokens(objective, row):
    tokens = range(len(row.old))
    if objective.importance_cap is None or objective.importance_mode == "truncate" or row.off_policy:
        return list(tokens)
    bounds = objective.importance_floor or 0.0, objective.importance_cap
    return [t for t in tokens if bounds[0] <= importance_weight(objective, row, t) <= bounds[1]]


def kl(estimator, d):
    return {"k1": d, "abs": abs(d), "k2": d * d / 2, "k3": (-d).exp() - 1 + d}[estimator]


def plain_gradient(scene, objective):
    """`computed_gradient`, once for each objective."""
    key = objective.model_dump_json()
    if key not in scene.plain:
        scene.plain[key] = computed_gradient(scene, objective)
    return scene.plain[key]


def computed_gradient(scene, objective):
    """The loss of the four prompts' update, token by token in float64, and its gradient by the model's own autograd."""
    weighted = [row for (p, _), row in scene.rows.items() if p < 4 and row.weight > 0]
    kept = [(row, kept_tokens(objective, row)) for row in weighted]
    rows = [(row, tokens) for row, tokens in kept if tokens]
    num_tokens = sum(len(tokens) for _, tokens in rows)
    loss = 0.0
    for row, tokens in rows:
        size = len(tokens)
        ratio_of_row = math.exp(sum((row.logprobs[t] - row.old[t]).item() for t in tokens) / size)
        share = {
            "token_mean": 1 / num_tokens,
            "seq_mean_token_sum": 1 / len(rows),
            "seq_mean_token_mean": 1 / len(rows) / size,
            "seq_mean_token_sum_norm": 1 / len(rows) / (objective.reduction_tokens or 1),
        }[objective.reduction]
        for t in tokens:
            term = token_loss(objective, row, t, ratio_of_row)
            if objective.importance_cap is not None and not row.off_policy:
                term = term * min(importance_weight(objective, row, t), objective.importance_cap)
            if objective.kl_coefficient and not row.off_policy:
                term = term + objective.kl_coefficient * kl(objective.kl_estimator, row.logprobs[t] - row.ref[t])
            loss = loss + share * row.weight * (term - objective.entropy_coefficient * row.entropy[t])
    named = dict(scene.model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def trainer_gradient(scene, objective, tokens_per_forward=100_000, chunk_tokens=1000, fillers=()):
    """Of the same update in the trainer, with the scene's old log-probs."""
    world = scene.world
    batch = world.batch(scene.prompts, per_update=4, tokens_per_forward=tokens_per_forward)
    if fillers:
        ranks = [tuple(MicroBatch((*m.rows, *fillers), m.num_fillers + len(fillers)) for m in plan.ranks[0])
                 for plan in batch.updates]  # fmt: skip
        batch = TrainBatch(batch.prompts, tuple(UpdatePlan((rank,)) for rank in ranks))
    # The first update's old log-probs are always its own: it is the other one, and moves no weight.
    batch = TrainBatch(batch.prompts, batch.updates[::-1])
    trainer = with_algorithm(trainer_of(scene, chunk_tokens), objective)
    micros = [micro for plan in batch.updates for micro in plan.ranks[0]]
    old = {micro: torch.cat([scene.rows[row].old.float() for row in micro.rows]) for micro in micros}
    trainer._old_logprobs = lambda *_: old
    return gradients(trainer, batch)[-1]  # of the other there is none if masks leave out all of its tokens


def trainer_of(scene, chunk_tokens):
    """One for all objectives, since its steps are too small to move a weight."""
    if chunk_tokens not in scene.trainers:
        scene.trainers[chunk_tokens] = scene.world.trainer(
            objective=altered(GRPO, kl_coefficient=1.0, kl_reference=scene.reference),
            temperature=TEMPERATURE, logprob_chunk_tokens=chunk_tokens, learning_rate=1e-30,
        )  # fmt: skip
    return scene.trainers[chunk_tokens]


def check(scene, objective):
    """In several forwards, each with a filler."""
    cut = trainer_gradient(scene, objective, tokens_per_forward=450, chunk_tokens=13, fillers=((3, 1),))
    assert distance(cut, plain_gradient(scene, objective)) < 2e-5


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_policy_losses(scene, kind, reduction):
    constant = 12 if reduction == "seq_mean_token_sum_norm" else None
    check(scene, altered(GRPO, **KINDS[kind], reduction=reduction, reduction_tokens=constant))


def test_the_losses_differ_here(scene):
    """So that the tests above tell them apart: each bound decides for some token."""
    found = [plain_gradient(scene, altered(GRPO, **KINDS[kind])) for kind in KINDS]
    free = plain_gradient(scene, altered(GRPO, loss="clip", clip_low=0.99, clip_high=99.0))
    for i, one in enumerate(found):
        assert all(distance(one, other) > 0.02 for other in (free, *found[:i]))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_kl_in_the_loss(scene, estimator):
    objective = altered(GRPO, kl_coefficient=0.7, kl_estimator=estimator, reduction="seq_mean_token_mean")
    check(scene, objective)
    assert distance(plain_gradient(scene, objective), plain_gradient(scene, altered(objective, kl_coefficient=0))) > 0.1


def test_kl_in_the_reward_is_no_term_of_the_loss(scene):
    """The driver has taken it off the rewards before; the trainer would count it twice."""
    objective = altered(GRPO, kl_coefficient=0.7, kl_placement="reward")
    assert distance(trainer_gradient(scene, objective), plain_gradient(scene, GRPO)) < 2e-5


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_entropy_bonus(scene, reduction):
    constant = 12 if reduction == "seq_mean_token_sum_norm" else None
    objective = altered(GRPO, entropy_coefficient=0.8, reduction=reduction, reduction_tokens=constant)
    check(scene, objective)
    plain = plain_gradient(scene, altered(objective, entropy_coefficient=0.0))
    assert distance(plain_gradient(scene, objective), plain) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_importance_weights(scene, kind):
    objective = altered(GRPO, **KINDS[kind], importance_cap=1.2)
    check(scene, objective)
    without = plain_gradient(scene, altered(objective, importance_cap=None))
    assert distance(plain_gradient(scene, objective), without) > 0.05


@pytest.mark.parametrize("mode", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence", "sequence_mean"])
def test_levels_and_masks_of_importance_weights(scene, level, mode):
    bounds = {"importance_cap": 1.2, "importance_floor": 0.75 if mode == "mask" else None}
    extra = {"reduction": "seq_mean_token_mean", "kl_coefficient": 0.3, "entropy_coefficient": 0.2}
    objective = altered(GRPO, **KINDS["gspo"], **extra, **bounds, importance_level=level, importance_mode=mode)
    check(scene, objective)
    weighted = [row for row in scene.rows.values() if row.weight > 0 and not row.off_policy]
    lost = [len(row.old) - len(kept_tokens(objective, row)) for row in weighted]
    assert (0 < sum(lost) < sum(len(row.old) for row in weighted)) is (mode == "mask")


def test_all_terms_at_once_however_the_work_is_cut(scene):
    everything = {"kl_coefficient": 0.3, "kl_estimator": "k2", "entropy_coefficient": 0.2, "importance_cap": 1.1}
    objective = altered(GRPO, **KINDS["gspo"], reduction="seq_mean_token_mean", **everything)
    check(scene, objective)
    wanted = plain_gradient(scene, objective)
    assert distance(trainer_gradient(scene, objective), wanted) < 2e-5
    rows_alone = trainer_gradient(scene, objective, tokens_per_forward=1, chunk_tokens=2, fillers=((0, 1), (3, 0)))
    assert distance(rows_alone, wanted) < 2e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_ratios_are_exactly_one_at_the_first_update(scene, kind, dtype):
    """Its old log-probs are its own; those of a second update have a pass before. Text-only rows have fillers."""
    narrow = {"loss": kind, "clip_low": 1e-9, "clip_high": 1e-9}
    objective = altered(GRPO, **narrow, entropy_coefficient=0.1, importance_cap=1.5)
    for per_update in (4, 100):
        trainer = scene.world.trainer(objective=objective, dtype=dtype, gradient_checkpointing=True)
        seen, passes = [], []
        metrics_of, old_of = trainer._objective.metrics, trainer._old_logprobs
        trainer._objective.metrics = lambda sums: seen.append(metrics_of(sums)) or seen[-1]  # noqa: B023
        trainer._old_logprobs = lambda batch, plans, prompts: passes.append(len(plans)) or old_of(batch, plans, prompts)  # noqa: B023
        own = [replace(p, responses=tuple(replace(r, off_policy=False) for r in p.responses)) for p in scene.prompts]
        trainer.update(scene.world.batch(own, per_update=per_update))
        assert (seen[0]["actor/pg_clipfrac"], seen[0]["actor/ppo_kl"]) == (0, 0)
        assert passes == [per_update == 4]
        if per_update == 4:
            assert seen[1]["actor/ppo_kl"] != 0
