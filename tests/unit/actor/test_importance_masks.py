"""importance_mode=mask in the loss: what is masked is like a response of weight 0, however the update is split."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.objective import Objective
from mars.actor.targets import RowTarget
from mars.actor.update_sums import UpdateSums, scaled
from mars.train_types import TrainResponse
from tests.builders import altered, train_config
from tests.examples import examples

GRPO = train_config(kl_reference=None).algorithm
REDUCTIONS = ["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"]
ALL_TERMS = {"kl_coefficient": 0.5, "entropy_coefficient": 0.25}


def objective(level, cap=2.0, floor=0.5, **changes):
    mask = {"importance_mode": "mask", "importance_level": level, "importance_cap": cap, "importance_floor": floor}
    return Objective(altered(GRPO, **mask, **changes), truncation_nats=0.0)


def row(advantage, ratios, old, weight=1.0, off_policy=False, carried=False):
    """A response whose importance weights are `ratios`."""
    rollout = tuple(o - math.log(r) for o, r in zip(old, ratios, strict=True))
    return RowTarget(
        TrainResponse((1,) * len(old), rollout, advantage, weight, off_policy), weight, carried, with_images=True
    )


def update(made, micro_batches, logprobs, old, ref=None, entropy=None):
    """(loss, totals, gradient by row) of an update whose rows are split into `micro_batches`, lists of (index, row).

    The arguments after it are lists of the rows' token values. The gradient is what the optimizer gets.
    """
    rows = dict(pair for micro in micro_batches for pair in micro)
    weighted = [len(old[i]) for i, target in rows.items() if target.weight > 0]
    denominator = made.denominator(weighted)
    sums, gradients = UpdateSums.zeros(torch.device("cpu")), {}
    for micro in micro_batches:
        indices = [i for i, _ in micro]

        def flat(values, indices=indices):
            return torch.tensor([x for i in indices for x in values[i]], dtype=torch.float64)

        now = flat(logprobs).requires_grad_()
        lengths = torch.tensor([len(old[i]) for i in indices])
        loss, part = made.loss(
            now,
            flat(entropy or {i: [1.0] * len(old[i]) for i in indices}),
            flat(old),
            None if ref is None else flat(ref),
            lengths,
            [target for _, target in micro],
            denominator,
            True,
        )
        loss.backward()
        assert now.grad is not None
        gradients |= dict(zip(indices, now.grad.split(lengths.tolist()), strict=True))
        sums = sums.merge(part)
    totals = {name: float(value) for name, value in sums.scalars().items()}
    scale = made.kept_scale(totals, denominator)
    if scale is None:
        return None, totals, gradients
    totals = scaled(totals, scale)
    return totals["loss"], totals, {i: (g * scale).tolist() for i, g in gradients.items()}


OLD = {0: [-1.0, -1.0], 1: [-1.0], 2: [-1.0, -1.0, -1.0]}


def test_masked_tokens_by_hand():
    """Weights 1, (3) | (0.25) | 1, 2, 0.5 with A = 1, 7 and -1; the weights in brackets are out of [0.4, 2.5]."""
    rows = [(0, row(1.0, [1.0, 3.0], OLD[0])), (1, row(7.0, [0.25], OLD[1])), (2, row(-1.0, [1.0, 2.0, 0.5], OLD[2]))]
    by_hand = {
        "token_mean": (-1 + 3.5) / 4,  # four tokens are left
        "seq_mean_token_sum": (-1 + 3.5) / 2,  # in two responses
        "seq_mean_token_mean": (-1 + 3.5 / 3) / 2,
        "seq_mean_token_sum_norm": (-1 + 3.5) / (2 * 8),
    }
    for reduction, wanted in by_hand.items():
        constant = 8 if reduction == "seq_mean_token_sum_norm" else None
        made = objective("token", 2.5, 0.4, reduction=reduction, reduction_tokens=constant)
        loss, totals, gradient = update(made, [rows], OLD, OLD)
        assert loss == pytest.approx(wanted, rel=1e-9)
        share = {"token_mean": [4, 4], "seq_mean_token_sum": [2, 2], "seq_mean_token_mean": [2, 6]}
        first, last = share.get(reduction, [16, 16])
        assert gradient[0] == pytest.approx([-1 / first, 0])
        assert gradient[1] == [0]
        assert gradient[2] == pytest.approx([1 / last, 2 / last, 0.5 / last])
        metrics = made.metrics(totals)
        assert metrics["actor/pg_loss"] == pytest.approx(wanted)
        assert metrics["rollout/importance_weight/masked"] == pytest.approx(2 / 6)
        assert metrics["rollout/importance_weight/mean"] == pytest.approx((1 + 1 + 2 + 0.5) / 4)
        assert "rollout/importance_weight/capped" not in metrics
        # Compared with the engine are all tokens.
        assert metrics["rollout/logprob_diff_max"] == pytest.approx(math.log(4))
        assert totals["num_compared"] == 6


def test_masked_responses_by_hand():
    """Products 2.25 (out), 0.6 and 1; geometric means 1.5, 0.6 and 1."""
    rows = [(0, row(1.0, [1.5, 1.5], OLD[0])), (1, row(2.0, [0.6], OLD[1])), (2, row(-1.0, [4.0, 0.5, 0.5], OLD[2]))]
    loss, totals, gradient = update(objective("sequence"), [rows], OLD, OLD)
    assert loss == pytest.approx((-1.2 + 3) / 4)
    assert gradient == {0: [0, 0], 1: pytest.approx([-0.3]), 2: pytest.approx([0.25] * 3)}
    metrics = objective("sequence").metrics(totals)
    assert metrics["rollout/importance_weight/masked"] == pytest.approx(1 / 3)
    assert metrics["rollout/importance_weight/mean"] == pytest.approx((0.6 + 1) / 2)
    loss, totals, _ = update(objective("sequence_mean"), [rows], OLD, OLD)
    assert loss == pytest.approx((-3 - 1.2 + 3) / 6)
    assert objective("sequence_mean").metrics(totals)["rollout/importance_weight/masked"] == 0


def test_weights_of_responses_are_truncated_by_hand():
    """Products 4, cut to 3, and 0.5; an off-policy response keeps 1."""
    made = Objective(altered(GRPO, importance_level="sequence", importance_cap=3.0), truncation_nats=0.0)
    rows = [(0, row(1.0, [2.0, 2.0], OLD[0])), (1, row(1.0, [0.5], OLD[1])),
            (2, row(1.0, [9.0] * 3, OLD[2], off_policy=True))]  # fmt: skip
    loss, totals, gradient = update(made, [rows], OLD, OLD)
    assert loss == pytest.approx(-(3 + 3 + 0.5 + 3) / 6)
    assert gradient[0] == pytest.approx([-0.5, -0.5])
    metrics = made.metrics(totals)
    assert metrics["rollout/importance_weight/mean"] == pytest.approx((3 + 0.5) / 2)
    assert metrics["rollout/importance_weight/capped"] == 0.5
    assert "rollout/importance_weight/masked" not in metrics


def test_off_policy_responses_are_never_masked():
    rows = [(0, row(1.0, [9.0, 9.0], OLD[0], off_policy=True)), (1, row(1.0, [9.0], OLD[1]))]
    for level in ("token", "sequence", "sequence_mean"):
        loss, totals, _ = update(objective(level), [rows], OLD, OLD)
        assert loss == pytest.approx(-1.0)
        assert (totals["num_tokens"], totals["num_on_policy"], totals["num_masked"]) == (2, 0, 1)


def test_carried_responses_are_weighed_and_masked_like_others():
    """Weights 1.5 and, out of bounds, 3; then 1. The KL is 1 nat (k1) at every token that is left."""
    made = objective("token", kl_coefficient=0.5, kl_estimator="k1")
    rows = [(0, row(1.0, [1.5, 3.0], OLD[0], carried=True)), (1, row(1.0, [1.0], OLD[1]))]
    loss, totals, _ = update(made, [rows], OLD, OLD, ref={0: [-2.0, -2.0], 1: [-2.0]})
    assert loss == pytest.approx((-1.5 - 1.0) / 2 + 0.5 * 1.0)
    assert (totals["num_on_policy"], totals["num_compared"]) == (2, 1)


def test_with_everything_masked_there_is_no_update():
    rows = [(0, row(1.0, [9.0, 9.0], OLD[0])), (1, row(1.0, [0.1], OLD[1]))]
    made = objective("sequence", **ALL_TERMS)
    loss, totals, gradient = update(made, [rows], OLD, OLD, OLD)
    assert loss is None
    assert all(value == 0 for part in gradient.values() for value in part.tolist())
    assert made.rollout_metrics(totals)["rollout/importance_weight/masked"] == 1
    assert "rollout/importance_weight/mean" not in made.rollout_metrics(totals)
    assert made.rollout_metrics(totals)["rollout/logprob_diff_max"] == pytest.approx(math.log(10))


LOGPROBS = {0: [-1.5, -0.5], 1: [-1.2], 2: [-0.8, -1.1, -2.5]}
REF = {0: [-1.0, -2.0], 1: [-0.5], 2: [-1.5, -1.0, -0.7]}
ENTROPY = {0: [0.5, 1.0], 1: [2.0], 2: [1.5, 0.25, 3.0]}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["clip", "gspo", "cispo"])
@pytest.mark.parametrize("level", ["token", "sequence", "sequence_mean"])
def test_a_masked_response_is_like_one_of_weight_0(level, kind, reduction):
    """In loss, gradient, metrics and denominators, with all terms of the loss."""
    constant = 8 if reduction == "seq_mean_token_sum_norm" else None
    made = objective(level, loss=kind, reduction=reduction, reduction_tokens=constant, **ALL_TERMS)
    kept = [(1, row(1.0, [1.5], OLD[1])), (2, row(-0.5, [0.8, 1.2, 1.0], OLD[2], weight=0.5))]
    values = (LOGPROBS, OLD, REF, ENTROPY)
    loss, totals, gradient = update(made, [[(0, row(1.0, [4.0, 5.0], OLD[0])), *kept]], *values)
    wanted_loss, wanted, wanted_gradient = update(
        made, [[(0, row(1.0, [4.0, 5.0], OLD[0], weight=0.0)), *kept]], *values
    )
    assert loss == pytest.approx(wanted_loss, rel=1e-12)
    for i, found in gradient.items():
        assert found == pytest.approx(wanted_gradient[i], rel=1e-12)
    compared = {"num_masked", "num_compared", "difference", "difference_max", "rollout_kl"}  # these know of it
    assert totals["num_masked"] > 0
    for name in totals.keys() - compared:
        assert totals[name] == pytest.approx(wanted[name], rel=1e-12), name


@given(
    st.lists(st.tuples(st.integers(1, 4), st.floats(-2, 2), st.booleans()), min_size=2, max_size=6),
    st.sampled_from(["token", "sequence", "sequence_mean"]),
    st.sampled_from(REDUCTIONS),
    st.data(),
)
@examples(60)
def test_the_update_does_not_depend_on_its_split(described, level, reduction, data):
    constant = 8 if reduction == "seq_mean_token_sum_norm" else None
    made = objective(level, reduction=reduction, reduction_tokens=constant, **ALL_TERMS)
    generator = torch.Generator().manual_seed(len(described))

    def drawn():
        return {i: torch.randn(n, generator=generator).tolist() for i, (n, _, _) in enumerate(described)}

    logprobs, old, ref, entropy = drawn(), drawn(), drawn(), drawn()
    ratios = data.draw(st.lists(st.sampled_from([0.2, 0.9, 1.0, 1.3, 3.0]), min_size=24, max_size=24))
    rows = [
        (i, row(a, [ratios[4 * i + t] for t in range(n)], old[i], off_policy=off))
        for i, (n, a, off) in enumerate(described)
    ]
    order = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(1, len(rows) - 1))
    whole = update(made, [rows], logprobs, old, ref, entropy)
    parts = update(made, [order[:cut], order[cut:]], logprobs, old, ref, entropy)
    assert (whole[0] is None) == (parts[0] is None)
    assert parts[1] == pytest.approx(whole[1], rel=1e-9, abs=1e-12)
    if whole[0] is not None:
        for i, found in parts[2].items():
            assert found == pytest.approx(whole[2][i], rel=1e-9, abs=1e-12)


def test_truncation_never_scales_an_update():
    made = Objective(altered(GRPO, importance_cap=1.5), truncation_nats=0.0)
    assert made.kept_scale({"num_tokens": 3.0, "num_sequences": 1.0}, denominator=7.0) == 1.0
    assert Objective(GRPO, truncation_nats=0.0).kept_scale({"num_tokens": 0.0}, 7.0) == 1.0
    assert objective("token").kept_scale({"num_tokens": 8.0, "num_sequences": 2.0}, denominator=10.0) == 10 / 8
