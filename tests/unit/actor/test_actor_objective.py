"""The loss of a micro-batch and its metrics, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.objective import Objective, truncation_nats
from mars.actor.targets import RowTarget, compared_update, row_targets
from mars.actor.update_sums import UpdateSums
from mars.train_types import MicroBatch, TrainBatch, TrainPrompt, TrainResponse, UpdatePlan
from tests.builders import altered, train_config
from tests.examples import examples

GRPO = train_config(kl_reference=None).algorithm


def row(advantage, rollout_logprobs, weight=1.0, off_policy=False, carried=False, bounded=False):
    tokens = (1,) * len(rollout_logprobs)
    response = TrainResponse(tokens, tuple(rollout_logprobs), advantage, weight, off_policy, bounded)
    return RowTarget(response, weight, carried, with_images=True)


def evaluate(rows, logprobs, old, ref=None, objective=GRPO, entropy=None, denominator=None, compare=True, nats=0.0):
    """(loss, sums by name, metrics, gradient) of one micro-batch that is the whole update."""
    made = Objective(objective, nats)
    logprobs = torch.tensor(logprobs, requires_grad=True)
    lengths = torch.tensor([len(r.response.token_ids) for r in rows])
    weighted = [n for n, r in zip(lengths.tolist(), rows, strict=True) if r.weight]
    denominator = denominator or made.denominator(weighted)
    loss, sums = made.loss(
        logprobs,
        torch.ones_like(logprobs) if entropy is None else torch.tensor(entropy),
        None if old is None else torch.tensor(old),
        None if ref is None else torch.tensor(ref),
        lengths,
        rows,
        denominator,
        compare,
    )
    loss.backward()
    values = {name: float(value) for name, value in sums.scalars().items()}
    return float(loss.detach()), values, made.metrics(values), logprobs.grad.tolist()


def test_two_rows_by_hand():
    """Row 1, A = 1: ratios 1.5 (clipped to 1.2) and 1. Row 2, A = -2: ratios 0.5 (clipped to 0.8), 1.1 and 4 (dual)."""
    objective = altered(GRPO, dual_clip=3.0)
    old = [-1.0, -1.0, -2.0, -2.0, -2.0]
    ratios = [1.5, 1.0, 0.5, 1.1, 4.0]
    logprobs = [o + math.log(r) for o, r in zip(old, ratios, strict=True)]
    rollout = [-1.25, -1.0, -2.0, -2.5, -2.0]
    rows = [row(1.0, rollout[:2]), row(-2.0, rollout[2:])]
    loss, _, metrics, gradient = evaluate(rows, logprobs, old, objective=objective, entropy=[1.0, 2.0, 3.0, 4.0, 5.0])
    terms = [-1.2, -1.0, 1.6, 2.2, 6.0]  # the last: 2 * 4 = 8, bounded by 3 * 2
    assert loss == pytest.approx(sum(terms) / 5, rel=1e-6)
    assert gradient == pytest.approx([0, -1 / 5, 0, 2.2 / 5, 0], abs=1e-6)
    assert metrics == {
        "actor/pg_loss": pytest.approx(sum(terms) / 5, rel=1e-6),
        "actor/kl_loss": 0.0,
        "actor/entropy": 3.0,
        "actor/pg_clipfrac": pytest.approx(2 / 5),
        "actor/pg_clipfrac_lower": pytest.approx(1 / 5),
        "actor/ppo_kl": pytest.approx(-sum(map(math.log, ratios)) / 5, rel=1e-5),
        "rollout/logprob_diff_max": pytest.approx(0.5),
        "rollout/logprob_diff_mean": pytest.approx((0.25 + 0.5) / 5),
        # The engine's minus the trainer's: -0.25 and -0.5.
        "rollout/kl": pytest.approx((math.exp(0.25) - 1.25 + math.exp(0.5) - 1.5) / 5),
    }


def test_without_old_logprobs_the_ratio_is_one_and_the_gradient_flows():
    rows = [row(1.0, [-1.0]), row(-0.5, [-1.0, -1.0])]
    loss, _, metrics, gradient = evaluate(rows, [-3.0, -1.0, -2.0], None)
    assert loss == pytest.approx((-1 + 0.5 + 0.5) / 3)
    assert gradient == pytest.approx([-1 / 3, 0.5 / 3, 0.5 / 3])
    assert (metrics["actor/pg_clipfrac"], metrics["actor/ppo_kl"]) == (0, 0)
    # Compared with the engine are the trainer's log-probs of this forward.
    assert metrics["rollout/logprob_diff_max"] == pytest.approx(2.0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_the_kl_term_and_its_gradient(estimator):
    objective = altered(GRPO, kl_coefficient=0.5, kl_estimator=estimator)
    logprobs, ref = [-1.0, -2.0, -0.5], [-1.5, -1.0, -0.5]
    loss, _, metrics, gradient = evaluate([row(0.0, [0.0] * 3)], logprobs, logprobs, ref, objective)
    gaps = [a - b for a, b in zip(logprobs, ref, strict=True)]
    value = {"k1": lambda d: d, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(-d) - 1 + d, "abs": abs}[estimator]
    slope = {
        "k1": lambda d: 1, "k2": lambda d: d, "k3": lambda d: 1 - math.exp(-d), "abs": lambda d: (d > 0) - (d < 0),
    }[estimator]  # fmt: skip
    assert metrics["actor/kl_loss"] == pytest.approx(sum(map(value, gaps)) / 3, rel=1e-6)  # before its weight
    assert loss == pytest.approx(0.5 * sum(map(value, gaps)) / 3, rel=1e-6)
    assert gradient == pytest.approx([0.5 * slope(d) / 3 for d in gaps], abs=1e-6)


def test_off_policy_rows_are_left_out_of_clip_kl_and_comparison_but_trained_on():
    """METHOD: an off-policy row has no clip, no KL, no rollout-versus-trainer metric; the same token denominator."""
    objective = altered(GRPO, kl_coefficient=0.5)
    rows = [row(1.0, [-1.0]), row(1.0, [-9.0, -9.0], off_policy=True)]
    old, logprobs, ref = [-1.0, -2.0, -2.0], [-1.0, -1.0, -2.0], [-1.0, 0.0, 0.0]
    loss, sums, metrics, gradient = evaluate(rows, logprobs, old, ref, objective)
    assert loss == pytest.approx((-1 - math.e - 1) / 3, rel=1e-6)
    assert gradient == pytest.approx([-1 / 3, -math.e / 3, -1 / 3], rel=1e-6)
    assert metrics["actor/kl_loss"] == 0
    assert (sums["num_tokens"], sums["num_on_policy"]) == (3, 1)
    assert (metrics["actor/pg_clipfrac"], metrics["actor/ppo_kl"]) == (0, 0)
    assert metrics["rollout/logprob_diff_max"] == 0


def test_a_bounded_guest_is_clipped_and_still_left_out_of_kl_importance_and_comparison():
    """A = 1: the guest's ratios e and 1 are bounded to 1.2 and 1; its engine's log-probs (-9) are of another prompt."""
    objective = altered(GRPO, kl_coefficient=0.5, importance_cap=2.0)
    rows = [row(1.0, [-1.0]), row(1.0, [-9.0, -9.0], off_policy=True, bounded=True)]
    old, logprobs, ref = [-1.0, -2.0, -2.0], [-1.0, -1.0, -2.0], [-1.0, 0.0, 0.0]
    loss, sums, metrics, gradient = evaluate(rows, logprobs, old, ref, objective)
    assert loss == pytest.approx((-1 - 1.2 - 1) / 3, rel=1e-6)
    assert gradient == pytest.approx([-1 / 3, 0.0, -1 / 3], rel=1e-6)
    assert (sums["num_tokens"], sums["num_on_policy"], metrics["actor/kl_loss"]) == (3, 1, 0)
    assert (metrics["actor/pg_clipfrac"], metrics["rollout/logprob_diff_max"]) == (0, 0)
    assert metrics["rollout/importance_weight/mean"] == 1


def test_fillers_weigh_nothing_whatever_they_hold():
    rows = [row(1.0, [-1.0, -2.0]), row(5.0, [-7.0, -7.0], weight=0.0)]
    objective = altered(GRPO, kl_coefficient=0.5)
    args = {"old": [-1.0, -2.0, -1.0, -1.0], "ref": [-2.0, -2.0, -4.0, math.nan], "objective": objective}
    loss, sums, metrics, gradient = evaluate(rows, [-1.0, -2.0, math.nan, -math.inf], **args)
    alone = evaluate(rows[:1], [-1.0, -2.0], [-1.0, -2.0], [-2.0, -2.0], objective)
    assert (loss, metrics, gradient[:2]) == (alone[0], alone[2], alone[3])
    assert gradient[2:] == [0.0, 0.0]
    assert sums == alone[1]


def test_an_engine_that_sampled_from_a_nucleus_is_no_mismatch():
    old = [-1.0] * 5
    rollout = [-1.0, -0.9, -1 + 0.105, -0.5, -1.2]  # higher by 0, 0.1, 0.105, 0.5; lower by 0.2
    full_distribution = evaluate([row(1.0, rollout)], old, old)[2]
    assert full_distribution["rollout/logprob_diff_max"] == pytest.approx(0.5)
    nats = truncation_nats(0.9, top_k=0)
    assert nats == pytest.approx(0.10536, abs=1e-5)
    metrics = evaluate([row(1.0, rollout)], old, old, nats=nats)[2]
    assert metrics["rollout/logprob_diff_max"] == pytest.approx(0.5 - nats)
    assert metrics["rollout/logprob_diff_mean"] == pytest.approx((0.5 - nats + 0.2) / 5)
    metrics = evaluate([row(1.0, rollout)], old, old, nats=truncation_nats(1.0, top_k=5))[2]
    assert metrics["rollout/logprob_diff_max"] == pytest.approx(0.2)
    assert truncation_nats(1.0, top_k=0) == 0
    # What the engine says has no part in the loss.
    assert evaluate([row(1.0, rollout)], old, old)[0] == evaluate([row(1.0, [0.0] * 5)], old, old)[0]


def test_only_the_first_update_of_a_step_is_compared():
    _, sums, metrics, _ = evaluate([row(1.0, [-3.0])], [-1.0], [-1.0], compare=False)
    assert sums["num_compared"] == 0
    assert not [key for key in metrics if key.startswith("rollout/")]


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(-2, 2), st.booleans()), min_size=2, max_size=7), st.data())
@examples(60)
def test_sums_and_losses_add_up_over_any_split(described, data):
    generator = torch.Generator().manual_seed(len(described))
    changes = {"kl_coefficient": 0.1, "entropy_coefficient": 0.2, "importance_cap": 1.5}
    objective = Objective(altered(GRPO, reduction="seq_mean_token_mean", **changes), truncation_nats=0.1)
    rows = [row(a, [-1.0] * n, off_policy=off, carried=a > 1) for n, a, off in described]
    parts = [torch.randn(4, n, generator=generator, dtype=torch.float64) for n, _, _ in described]

    def loss_of(indices):
        lp, old, ref, entropy = torch.cat([parts[i] for i in indices], dim=1)
        lengths = torch.tensor([described[i][0] for i in indices])
        return objective.loss(lp, entropy, old, ref, lengths, [rows[i] for i in indices], 7.0, True)

    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(1, len(rows) - 1))
    whole, whole_sums = loss_of(range(len(rows)))
    (one, sums), (other, more) = loss_of(order[:cut]), loss_of(order[cut:])
    assert float(one + other) == pytest.approx(float(whole), rel=1e-9, abs=1e-12)
    merged = UpdateSums.zeros(torch.device("cpu")).merge(sums).merge(more)
    for name, value in whole_sums.scalars().items():
        assert float(getattr(merged, name)) == pytest.approx(float(value), rel=1e-9, abs=1e-12), name


def test_sums_are_reduced_over_the_ranks(process_group):
    objective = Objective(GRPO, truncation_nats=0.0)
    _, sums = objective.loss(
        torch.tensor([-1.0, -2.0]), torch.ones(2), None, None, torch.tensor([2]), [row(1.0, [-1.5, -2.0])], 2.0, True
    )
    reduced = sums.all_reduce()
    assert reduced == {name: pytest.approx(float(value)) for name, value in sums.scalars().items()}
    assert objective.metrics(UpdateSums.zeros(torch.device("cpu")).all_reduce())["actor/entropy"] == 0


def test_targets_of_rows_by_hand():
    def prompt(name, *responses, carried=False):
        made = tuple(TrainResponse((2,), (0.0,), advantage, weight) for advantage, weight in responses)
        return TrainPrompt(name, (1,), 1, (), made, 1.0, carried)

    batch = TrainBatch(
        (prompt("x", (1.0, 1.0), (-1.0, 0.5)), prompt("y", (0.25, 0.0)), prompt("z", (0.75, 2.0), carried=True)), ()
    )
    targets = row_targets(batch, MicroBatch(((2, 0), (1, 0), (0, 1), (0, 0)), num_fillers=1))
    assert [t.carried for t in targets] == [True, False, False, False]
    found = [(t.response.advantage, t.weight) for t in targets]
    assert found == [(0.75, 2.0), (0.25, 0.0), (-1.0, 0.5), (1.0, 0.0)]  # the last row is a filler


# --- entropy bonus, importance weights, carried rows


def test_the_entropy_bonus_by_hand():
    """Reduced like the policy loss, over the same tokens: off-policy rows too, fillers not."""
    rows = [row(1.0, [-1.0]), row(-1.0, [-1.0, -1.0], off_policy=True), row(1.0, [-1.0], weight=0.0)]
    old, entropy = [-1.0] * 4, [3.0, 1.0, 2.0, math.nan]
    base = {
        "token_mean": ((-1 + 1 + 1) / 3, (3 + 1 + 2) / 3),
        "seq_mean_token_sum": ((-1 + 2) / 2, (3 + 3) / 2),
        "seq_mean_token_mean": ((-1 + 1) / 2, (3 + 1.5) / 2),
    }
    for reduction, (pg_loss, bonus) in base.items():
        objective = altered(GRPO, reduction=reduction, entropy_coefficient=0.25)
        loss, sums, metrics, _ = evaluate(rows, old, old, objective=objective, entropy=entropy)
        assert loss == pytest.approx(pg_loss - 0.25 * bonus, abs=1e-6)
        assert sums["loss"] == pytest.approx(loss)
        assert metrics["actor/pg_loss"] == pytest.approx(pg_loss, abs=1e-6)
        assert metrics["actor/entropy"] == 2.0  # the mean over tokens, whatever the reduction
    # Without a coefficient the entropy has no part in the loss.
    assert evaluate(rows, old, old, entropy=[9.0] * 4)[0] == pytest.approx(1 / 3)


def test_importance_weights_by_hand():
    """Weights 2 (bounded to 1.5), 0.5 and, of the off-policy row, 1; on the policy loss alone."""
    objective = altered(GRPO, kl_coefficient=0.5, entropy_coefficient=0.1, importance_cap=1.5)
    rows = [row(1.0, [-1 - math.log(2), -1 + math.log(2)]), row(-2.0, [-7.0], off_policy=True)]
    old, ref, entropy = [-1.0] * 3, [-2.0, -1.0, -1.0], [1.0, 2.0, 3.0]
    loss, _, metrics, gradient = evaluate(rows, old, old, ref, objective, entropy)
    pg_loss, kl = (-1.5 - 0.5 + 2.0) / 3, (math.exp(-1) - 1 + 1) / 3
    assert metrics["actor/pg_loss"] == pytest.approx(pg_loss, abs=1e-6)
    assert metrics["actor/kl_loss"] == pytest.approx(kl, rel=1e-6)
    assert loss == pytest.approx(pg_loss + 0.5 * kl - 0.1 * 2.0, abs=1e-6)
    assert gradient == pytest.approx([-1.5 / 3 + 0.5 * (1 - math.exp(-1)) / 3, -0.5 / 3, 2 / 3], abs=1e-6)
    assert metrics["rollout/importance_weight/mean"] == pytest.approx((1.5 + 0.5) / 2)
    assert metrics["rollout/importance_weight/capped"] == 0.5
    assert not [key for key in evaluate(rows, old, old)[2] if "importance_weight" in key]


def test_clip_and_importance_weight_are_of_two_ratios_of_three_policies():
    """l - o is clipped, o - e is truncated: e of the weights that sampled, o of those before the update, l of now."""
    engine = [-2.0, -2.0, -2.0, -2.0]
    weights, ratios = [1.25, 0.5, 4.0, 1.25], [1.5, 1.5, 1.0, 0.5]
    old = [e + math.log(w) for e, w in zip(engine, weights, strict=True)]
    now = [o + math.log(r) for o, r in zip(old, ratios, strict=True)]
    loss, _, _, gradient = evaluate([row(1.0, engine)], now, old, objective=altered(GRPO, importance_cap=2.0))
    # The third weight becomes 2. Ratios above 1.2 are clipped and have no gradient; below 0.8 the loss is not clipped.
    assert loss == pytest.approx(-(1.25 * 1.2 + 0.5 * 1.2 + 2.0 * 1.0 + 1.25 * 0.5) / 4, rel=1e-6)
    assert gradient == pytest.approx([0, 0, -2.0 * 1.0 / 4, -1.25 * 0.5 / 4], abs=1e-6)


def test_importance_weights_are_of_the_engines_own_log_probs():
    """What a nucleus explains is forgiven in the comparison, not in the weights; a difference of 0 is not capped."""
    objective = altered(GRPO, importance_cap=1.0)
    metrics = evaluate([row(1.0, [-0.9, -1.0])], [-1.0, -1.0], None, objective=objective, nats=0.2)[2]
    assert metrics["rollout/logprob_diff_max"] == 0
    assert metrics["rollout/importance_weight/mean"] == pytest.approx((math.exp(-0.1) + 1) / 2, rel=1e-6)
    assert metrics["rollout/importance_weight/capped"] == 0
    assert metrics["rollout/kl"] == pytest.approx((math.exp(-0.1) - 1 + 0.1) / 2, rel=1e-4)


def test_carried_rows_are_trained_on_but_not_compared_with_the_engine():
    fresh, old, logprobs = row(1.0, [-1.5]), [-1.0, -2.0], [-1.0, -1.9]
    objective = altered(GRPO, importance_cap=2.0)
    carried = evaluate([fresh, row(1.0, [-9.0], carried=True)], logprobs, old, objective=objective)
    ordinary = evaluate([fresh, row(1.0, [-9.0])], logprobs, old, objective=objective)
    assert (carried[0], carried[3]) == (ordinary[0], ordinary[3])
    for key in ("rollout/importance_weight/mean", "rollout/importance_weight/capped", "actor/ppo_kl"):
        assert carried[2][key] == ordinary[2][key]
    assert carried[2]["rollout/logprob_diff_max"] == pytest.approx(0.5)
    assert carried[2]["rollout/logprob_diff_mean"] == pytest.approx(0.5)
    assert carried[2]["rollout/kl"] == pytest.approx(math.exp(0.5) - 1.5, rel=1e-6)
    assert ordinary[2]["rollout/logprob_diff_max"] == pytest.approx(7.0)
    nothing_fresh = evaluate([row(1.0, [-9.0], carried=True)], [-1.0], [-1.0])[2]
    assert not [key for key in nothing_fresh if key.startswith("rollout/")]


@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_the_ratio_is_exactly_one_where_the_old_log_probs_are_the_same(kind):
    """With the narrow bounds of GSPO too, and with importance weights: nothing is clipped, and the gradient is -A."""
    rows = [row(1.0, [-1.3, -2.0, -1.0]), row(-0.5, [-1.0, -1.0])]
    logprobs = [-1.1, -2.7, -0.3, -17.3, -0.01]
    for cap, weights in [(None, [1.0] * 5), (1.5, [math.exp(0.2), math.exp(-0.7), 1.5, math.exp(-16.3), 1.5])]:
        objective = altered(GRPO, loss=kind, clip_low=1e-7, clip_high=1e-7, importance_cap=cap)
        for old in (None, logprobs):
            _, _, metrics, gradient = evaluate(rows, logprobs, old, objective=objective)
            assert (metrics["actor/pg_clipfrac"], metrics["actor/ppo_kl"]) == (0, 0)
            wanted = [-a * w / 5 for a, w in zip([1, 1, 1, -0.5, -0.5], weights, strict=True)]
            assert gradient == pytest.approx(wanted, rel=1e-5)


def test_the_compared_update_is_the_first_with_fresh_rows():
    def prompt(name, carried=False, weight=1.0, tokens=(2,), off_policy=False):
        response = TrainResponse(tokens, (0.0,) * len(tokens), 1.0, weight, off_policy)
        return TrainPrompt(name, (1,), 1, (), (response, response), 1.0, carried)

    def compared(*prompts):
        plans = tuple(
            UpdatePlan(((MicroBatch(tuple((p, k) for k in range(len(prompt.responses)))),),))
            for p, prompt in enumerate(prompts)
        )
        batch = TrainBatch(prompts, plans)
        return compared_update(batch)

    assert compared(prompt("a"), prompt("b")) == 0
    assert compared(prompt("a", carried=True), prompt("b"), prompt("c")) == 1
    assert compared(prompt("a", weight=0.0), prompt("b", tokens=()), prompt("c", off_policy=True), prompt("d")) == 3
    assert compared(prompt("a", carried=True)) is None


# --- weights

ALL_TERMS = {"kl_coefficient": 0.5, "entropy_coefficient": 0.25, "importance_cap": 1.5}
REDUCTIONS = ["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"]
WEIGHTED = {
    "logprobs": [-1.0, -2.0, -0.5, -1.5, -3.0, -0.25], "old": [-1.2, -1.7, -0.5, -2.5, -2.0, -0.5],
    "ref": [-1.5, -2.5, -0.75, -1.0, -2.0, -0.5],
}  # fmt: skip


def gradients_with(weight, reduction, kind):
    """(loss, sums, gradient of the log-probs, gradient of the entropy) with all terms of the loss.

    Row 1 of three has the weight; None leaves it out.
    """
    loss = {"loss": kind, "clip_low": 0.2, "clip_high": 0.28}
    made = Objective(altered(GRPO, **loss, reduction=reduction, reduction_tokens=8, **ALL_TERMS), truncation_nats=0.0)
    middle = [] if weight is None else [row(-1.5, [-0.6, -2.0, -1.9], weight=weight)]
    rows = [row(1.0, [-1.0, -2.0]), *middle, row(0.5, [-0.4])]
    lengths = [len(r.response.token_ids) for r in rows]
    keep = [0, 1, 5] if weight is None else range(6)
    logprobs, old, ref = (torch.tensor([WEIGHTED[name][i] for i in keep]) for name in ("logprobs", "old", "ref"))
    entropy = torch.tensor([[1.0, 2.0, 0.5, 1.5, 3.0, 0.75][i] for i in keep], requires_grad=True)
    logprobs.requires_grad_()
    counted = [n for n, r in zip(lengths, rows, strict=True) if r.weight > 0]
    value, sums = made.loss(
        logprobs, entropy, old, ref, torch.tensor(lengths), rows, made.denominator(counted), compare_rollout=True
    )
    value.backward()
    return value.detach(), {name: float(x) for name, x in sums.scalars().items()}, logprobs.grad, entropy.grad


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_weight_half_halves_the_gradient_of_its_response_alone(kind, reduction):
    """To the bit, of every term of the loss; and the loss is linear in the weight."""
    (one, sums, *whole), (half, half_sums, *halved) = (gradients_with(w, reduction, kind) for w in (1.0, 0.5))
    factor = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.5, 1.0])
    for before, after in zip(whole, halved, strict=True):
        assert torch.equal(after, before * factor)
        assert (before != 0).any()
    double = gradients_with(2.0, reduction, kind)[0]
    assert float(double - one) == pytest.approx(2 * float(one - half), rel=1e-5)
    # What is measured, not minimised, does not know of the weight.
    minimised = {"loss", "pg_loss", "kl_loss"}
    assert {k: v for k, v in sums.items() if k not in minimised} == {
        k: v for k, v in half_sums.items() if k not in minimised
    }
    assert all(sums[name] != half_sums[name] for name in minimised)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
def test_weight_0_removes_a_response_from_loss_metrics_and_denominators(kind, reduction):
    (loss, sums, *gradients), (wanted, wanted_sums, *without) = (
        gradients_with(weight, reduction, kind) for weight in (0.0, None)
    )
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
    assert sums == pytest.approx(wanted_sums, rel=1e-6)
    for found, expected in zip(gradients, without, strict=True):
        assert found[2:5].tolist() == [0.0] * 3
        assert torch.equal(found[[0, 1, 5]], expected)
