"""A token rule in the objective: terms by hand, what it never sees, and its totals."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.objective import Objective
from mars.actor.rule_passes import RulePasses, with_transform
from mars.actor.rule_terms import RuleInputs, measured_of, totals_of
from mars.actor.targets import RowTarget
from mars.actor.update_sums import UpdateSums
from mars.algorithms.token_rule import Measured, ScoringPass, TokenTerms
from mars.errors import ConfigError
from mars.train_types import MicroBatch, TrainBatch, TrainPrompt, TrainResponse, UpdatePlan
from mars.types import ImageRef
from tests.builders import altered, train_config
from tests.fakes.token_rule import Contrast

GRPO = train_config(kl_reference=None).algorithm
CPU = torch.device("cpu")


def row(advantage, length, weight=1.0):
    return RowTarget(
        TrainResponse((1,) * length, (-1.0,) * length, advantage, weight), weight, carried=False, with_images=True
    )


def inputs(apply, extra=None, totals=None, settings=None):
    return RuleInputs(SimpleNamespace(apply=apply), extra or {}, totals or {}, settings or {})


def loss_of(rows, logprobs, rule, objective=GRPO, denominator=None, ref=None):
    made = Objective(objective, truncation_nats=0.0)
    lengths = [len(r.response.token_ids) for r in rows]
    denominator = denominator or made.denominator([n for n, r in zip(lengths, rows, strict=True) if r.weight])
    loss, sums = made.loss(
        logprobs, torch.ones_like(logprobs), None, ref, torch.tensor(lengths), rows, denominator, False, rule
    )
    return loss, sums, made.metrics(sums.all_reduce())


def test_terms_by_hand(process_group):
    """Two responses, A = 1 with two tokens and A = -2 with one; ratios are 1. New advantages 3, 3, -1."""
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    rows = [row(1.0, 2), row(-2.0, 1, weight=0.5)]

    def apply(facts, totals):
        assert facts.advantages.tolist() == [1, 1, -2]
        assert (facts.extra["masked"].tolist(), dict(totals), dict(facts.settings)) == (
            [-3, -3, -3], {"mean": 4.0}, {"k": 2.0},
        )  # fmt: skip
        return TokenTerms(
            advantages=torch.tensor([3.0, 3.0, -1.0]),
            pg_weights=torch.tensor([1.0, 0.0, 2.0]),
            extra_loss=-0.1 * facts.logprobs,
            means={"gap": ((facts.old - facts.extra["masked"]).sum(), facts.layout.mask.sum())},
        )

    rule = inputs(apply, {"masked": torch.full((3,), -3.0)}, {"mean": 4.0}, {"k": 2.0})
    loss, sums, metrics = loss_of(rows, logprobs, rule)
    policy = (-3.0 + 0.0 + 0.5 * 2.0 * 1.0) / 3
    own = 0.1 * (1.0 + 2.0 + 0.5 * 0.5) / 3
    assert float(loss.detach()) == pytest.approx(policy + own)
    assert (float(sums.pg_loss), float(sums.rule_loss)) == (pytest.approx(policy), pytest.approx(own))
    assert metrics["recipe/gap"] == pytest.approx((2 + 1 + 2.5) / 3)
    loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-3.1 / 3, -0.1 / 3, (1.0 - 0.05) / 3])


def test_no_terms_change_no_bit(process_group):
    rows = [row(1.0, 3), row(-0.5, 2), row(2.0, 1, weight=0.0)]
    found = []
    for rule in (None, inputs(lambda facts, totals: TokenTerms())):
        logprobs = torch.tensor([-1.3, -0.2, -2.1, -0.7, -0.9, -5.0], requires_grad=True)
        objective = altered(GRPO, kl_coefficient=0.3, entropy_coefficient=0.1, reduction="seq_mean_token_mean")
        loss, _, metrics = loss_of(rows, logprobs, rule, objective, ref=logprobs.detach() + 0.1)
        loss.backward()
        found.append((float(loss.detach()), metrics, logprobs.grad.tolist()))
    assert found[0] == found[1]
    assert not [key for key in found[0][1] if key.startswith("recipe/")]


def test_tokens_that_are_not_trained_are_zero_for_the_rule_and_reach_nothing(process_group):
    logprobs = torch.tensor([-1.0, math.nan, -2.0], requires_grad=True)
    rows = [row(1.0, 1), row(7.0, 1, weight=0.0), row(1.0, 1)]

    def apply(facts, totals):
        for values in (facts.logprobs, facts.old, facts.extra["masked"], facts.advantages, facts.entropy):
            assert float(values[1]) == 0
        assert facts.layout.mask.tolist() == [True, False, True]
        nan = torch.where(facts.layout.mask, 1.0, math.nan)
        return TokenTerms(advantages=facts.advantages * nan, pg_weights=nan, extra_loss=facts.logprobs * nan)

    loss, _, _ = loss_of(rows, logprobs, inputs(apply, {"masked": torch.tensor([-1.0, math.inf, -1.0])}))
    loss.backward()
    assert float(loss) == pytest.approx((-2 - 3) / 2)
    assert logprobs.grad.tolist() == [0, 0, 0]  # -1/2 of the policy loss and 1/2 of the extra loss


def test_a_rule_knows_the_tokens_of_guests(process_group):
    """Guests are off_policy, bounded or not; those of anchors are told apart. Rows and tokens that are not trained
    on are neither."""
    responses = [
        TrainResponse((1,), (-1.0,), 1.0, 1.0),
        TrainResponse((1, 1), (-9.0, -9.0), 1.0, 1.0, off_policy=True),
        TrainResponse((1, 1), (-1.0, -9.0), 1.0, 1.0),
        TrainResponse((1,), (-9.0,), 1.0, 1.0, off_policy=True, bounded=True, is_guest=True),
        TrainResponse((1,), (-9.0,), 1.0, 0.0, off_policy=True, is_guest=True),
    ]
    rows, seen = [RowTarget(response, response.weight, carried=False, with_images=True) for response in responses], []

    def apply(facts, totals):
        seen.append([tokens.int().tolist() for tokens in (facts.layout.mask, facts.off_policy, facts.guests)])
        return TokenTerms()

    for cap, mask in [(None, [1, 1, 1, 1, 1, 1, 0]), (2.0, [1, 1, 1, 1, 0, 1, 0])]:
        objective = altered(GRPO, importance_mode="mask" if cap else "truncate", importance_cap=cap)
        loss_of(rows, torch.full((7,), -1.0, requires_grad=True), inputs(apply), objective)
        assert seen.pop() == [mask, [0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0]]


def test_a_masked_token_is_in_no_term_and_the_scale_counts_the_others(process_group):
    """importance_mode=mask leaves out the second token, exp(-1 + 3) = 7.4 times as likely as for the engine."""
    objective = altered(GRPO, importance_mode="mask", importance_cap=2.0)
    rows = [RowTarget(TrainResponse((1, 1), (-1.0, -3.0), 1.0, 1.0), 1.0, carried=False, with_images=True)]

    def apply(facts, totals):
        assert facts.layout.mask.tolist() == [True, False]
        return TokenTerms(extra_loss=torch.ones(2))

    _, sums, _ = loss_of(rows, torch.tensor([-1.0, -1.0], requires_grad=True), inputs(apply), objective)
    assert float(sums.rule_loss) == 0.5  # of two tokens, as all terms before `kept_scale`
    made = Objective(objective, truncation_nats=0.0)
    assert made.kept_scale(sums.all_reduce(), 2.0) == 2


def test_measure_and_apply_see_the_same_tokens(process_group):
    """The tokens of the test above: `measure` counts one, and its minimum is not that of the masked one."""
    rule = SimpleNamespace(passes=(), measures=True, measure=lambda facts: {
        "n": Measured("sum", facts.layout.mask.sum()), "low": Measured("min", facts.old.sum()),
    })  # fmt: skip
    response = TrainResponse((1, 1), (-1.0, -3.0), 1.0, 1.0)
    micro = MicroBatch(((0, 0),))
    plan = UpdatePlan(((micro,),))
    batch = TrainBatch((TrainPrompt("p", (1,), 1, (), (response,), 1.0),), (plan,))
    scores = {micro: (torch.tensor([-1.0, -1.0]), torch.zeros(2))}
    for cap, mode, wanted in [(2.0, "mask", (1, -1.0)), (2.0, "truncate", (2, -2.0)), (None, "truncate", (2, -2.0))]:
        objective = Objective(altered(GRPO, importance_mode=mode, importance_cap=cap), truncation_nats=0.0)
        passes = RulePasses(rule, {}, lambda *_: None, 0, CPU).start(batch, SimpleNamespace(), 0, objective)
        passes.score(scores)
        totals = passes.totals(batch, plan)
        assert (totals["n"], totals["low"]) == wanted


def test_only_the_extra_loss_of_a_rule_has_a_gradient_of_its_own(process_group):
    """Weights and advantages that are made of log-probs: the gradient is that of the same numbers."""
    found = []
    for of in (lambda values: values, torch.Tensor.detach):
        logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
        rule = inputs(lambda facts, totals, of=of: TokenTerms(
            advantages=of(facts.logprobs).exp(), pg_weights=of(facts.logprobs).exp(),
        ))  # fmt: skip
        loss, _, _ = loss_of([row(1.0, 2)], logprobs, rule)
        loss.backward()
        found.append(logprobs.grad.tolist())
    assert found[0] == found[1] == pytest.approx([-math.exp(-2.0) / 2, -math.exp(-4.0) / 2])


@pytest.mark.parametrize("name", ["advantages", "pg_weights", "extra_loss"])
def test_a_term_of_another_shape_is_refused(name, process_group):
    rule = inputs(lambda facts, totals: TokenTerms(**{name: torch.ones(3)}))
    with pytest.raises(ConfigError, match=rf"recipe\.tokens: {name} of apply has shape \(3,\); want \(2,\)"):
        loss_of([row(1.0, 2)], torch.zeros(2), rule)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda facts, totals: None, r"apply must return TokenTerms; got NoneType"),
        (lambda facts, totals: totals["gap"], r"apply of SimpleNamespace failed: KeyError: 'gap'"),
        (
            lambda facts, totals: TokenTerms(pg_weights=1.0),
            r"pg_weights of apply has shape none, as float; want \(2,\)",
        ),
        (lambda facts, totals: TokenTerms(means=None), r"means of apply must be a dictionary; got NoneType"),
        (lambda facts, totals: TokenTerms(means={"m": facts.old.sum()}), r"the mean 'm' of apply is no pair of scalar"),
        (lambda facts, totals: TokenTerms(means={"m": (facts.old, 2)}), r"the mean 'm' of apply is no pair of scalar"),
    ],
)
def test_what_the_loss_cannot_use_is_refused_by_the_name_of_the_setting(apply, message, process_group):
    with pytest.raises(ConfigError, match=rf"^recipe\.tokens: {message}"):
        loss_of([row(1.0, 2)], torch.zeros(2), inputs(apply))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda facts: None, r"measure must return a dictionary of Measured; got NoneType"),
        (lambda facts: facts["gap"], r"measure of SimpleNamespace failed: TypeError"),
        (lambda facts: {"m": torch.ones(())}, r"'m' of measure has no total; got tensor"),
        (lambda facts: {"m": Measured("sum", torch.ones(1))}, r"'m' of measure has no total; got Measured"),
        (lambda facts: {"m": Measured("mean", torch.ones(()))}, r"'m' of measure has no total; .* sum, min, max"),
    ],
)
def test_what_has_no_total_is_refused(measure, message):
    with pytest.raises(ConfigError, match=rf"^recipe\.tokens: {message}"):
        measured_of(SimpleNamespace(measure=measure), None)


def test_a_gpu_without_memory_in_a_rule_is_reported_as_such(process_group):
    def apply(facts, totals):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        loss_of([row(1.0, 2)], torch.zeros(2), inputs(apply))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "refrence"},
            r"model of the pass 'm' cannot be used; got 'refrence'; give \"policy\" or \"reference\"",
        ),
        ({"images": -1}, r"images of the pass 'm' cannot be used; got -1"),
        ({"images": "first"}, r"images of the pass 'm' cannot be used; got 'first'"),
        ({"images": True}, r"images of the pass 'm' cannot be used; got True"),
        ({"strength": math.nan}, r"strength of the pass 'm' cannot be used; got nan; give a finite number"),
        ({"strength": "1"}, r"strength of the pass 'm' cannot be used; got '1'"),
        ({"gradient": "no"}, r"gradient of the pass 'm' cannot be used; got 'no'"),
    ],
)
def test_a_pass_that_cannot_be_made_is_refused(settings, message):
    ScoringPass("m", None, "reference", strength=0, images=0, gradient=False)
    with pytest.raises(ConfigError, match=rf"^recipe\.tokens: {message}"):
        ScoringPass("m", "masked", **settings)


def contrast(totals, masked, noisy):
    return RuleInputs(Contrast(), {"masked": masked, "noisy": noisy}, totals, {})


LENGTHS = st.lists(st.integers(1, 4), min_size=2, max_size=5)


@given(LENGTHS, st.integers(0, 2**31 - 1))
def test_the_parts_add_up_however_the_rows_are_divided(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = [row(k - 1.0, n, weight=float(k != 2)) for k, n in enumerate(lengths)]
    values = [-torch.rand((3, n), generator=generator, dtype=torch.float64) for n in lengths]
    totals = {"gap": 2.0, "tokens": 7.0, "largest": 1.5, "smallest": -1.5}
    made = Objective(GRPO, truncation_nats=0.0)

    def part(indices):
        own, masked, noisy = torch.cat([values[i] for i in indices], dim=1)
        chosen = [rows[i] for i in indices]
        counts = torch.tensor([lengths[i] for i in indices])
        rule = contrast(totals, masked, noisy)
        return made.loss(own, torch.ones_like(own), None, None, counts, chosen, 5.0, False, rule)

    whole, sums = part(range(len(rows)))
    (one, first), (other, second) = part([0]), part(range(1, len(rows)))
    assert float(one + other) == pytest.approx(float(whole), rel=1e-9)
    merged = UpdateSums.zeros(CPU).merge(first).merge(second)
    assert float(merged.rule_loss) == pytest.approx(float(sums.rule_loss), rel=1e-9)
    assert merged.means["gap"].tolist() == pytest.approx(sums.means["gap"].tolist())


def test_a_forward_without_tokens_has_no_part(process_group):
    totals = {"gap": 2.0, "tokens": 7.0, "largest": 1.5, "smallest": -1.5}
    rule = contrast(totals, torch.zeros(0), torch.zeros(0))
    loss, sums, metrics = loss_of([row(0.0, 0, weight=0.0)], torch.zeros(0, requires_grad=True), rule, denominator=3.0)
    assert (float(loss), float(sums.rule_loss)) == (0, 0)
    assert "recipe/gap" not in metrics


def sums_of(*means):
    """Of a rank with one forward for each of `means`."""
    found = UpdateSums.zeros(CPU)
    for names in means:
        rule = inputs(lambda facts, totals, names=names: TokenTerms(means=dict.fromkeys(names, (torch.ones(()),) * 2)))
        found = found.merge(loss_of_one(rule))
    return found


def loss_of_one(rule):
    made = Objective(GRPO, truncation_nats=0.0)
    logprobs = torch.tensor([-1.0])
    return made.loss(logprobs, logprobs, None, None, torch.tensor([1]), [row(1.0, 1)], 1.0, False, rule)[1]


@pytest.mark.parametrize(
    "calls", [("a", "b"), ("a", ""), ("", "a"), ("ab", "a")], ids=["others", "none", "some", "fewer"]
)
def test_means_of_other_names_in_one_update_are_refused(process_group, calls):
    assert sums_of("a", "a").all_reduce()["a:sum"] == 2
    with pytest.raises(ConfigError, match=r"recipe\.tokens: means of apply must give the same names in every call"):
        sums_of(*calls).all_reduce()


def test_sums_without_a_rule_ask_no_rank_for_names(process_group, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_gather_object", None)
    assert UpdateSums.zeros(CPU).merge(loss_of_one(None)).all_reduce()["num_tokens"] == 1


def on_ranks(monkeypatch, *calls):
    """The errors of `calls`, one for each rank: each gets to `all_gather_object` and then sees what all have given."""
    given, errors = [], []

    def collect(parts, mine):
        given.append(mine)
        raise Arrived

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: len(calls))
    monkeypatch.setattr(torch.distributed, "all_gather_object", collect)
    for call in calls:
        with pytest.raises(Arrived):
            call()
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda parts, mine: parts.__setitem__(slice(None), given)
    )
    for call in calls:
        with pytest.raises(ConfigError) as error:
            call()
        errors.append(str(error.value))
    return errors


class Arrived(Exception):
    """A rank has reached the first collective call."""


def test_ranks_whose_names_differ_are_refused_on_all_ranks_before_numbers_are_added(monkeypatch):
    """A rank that has only fillers in an update: the bare collective would abort or mix up the sums."""
    one, none = sums_of("a", "a"), sums_of("", "")
    errors = on_ranks(monkeypatch, one.all_reduce, none.all_reduce)
    assert errors[0] == errors[1]
    assert errors[0].startswith("recipe.tokens: means of apply must give the same names in every call")
    assert "got [] and ['a'] in one update" in errors[0]
    a, b = ({"n": Measured(kind, torch.tensor(1.0))} for kind in ("sum", "max"))
    errors = on_ranks(monkeypatch, lambda: totals_of([a], CPU), lambda: totals_of([b, b], CPU))
    assert (
        errors
        == [
            "recipe.tokens: measure must give the same names in every call, also of a forward without trained "
            "tokens; got ['n (max)'] and ['n (sum)'] in one update; give 0 where there is nothing to count"
        ]
        * 2
    )


def test_totals_are_sums_minima_and_maxima_of_all_forwards(process_group):
    forwards = [
        {
            "n": Measured("sum", torch.tensor(n)),
            "low": Measured("min", torch.tensor(low)),
            "high": Measured("max", torch.tensor(high)),
        }
        for n, low, high in [(3, 0.5, 2.0), (0, math.inf, -math.inf), (4, -1.0, 1.0)]
    ]
    assert totals_of(forwards, CPU) == {"high": 2.0, "low": -1.0, "n": 7.0}
    with pytest.raises(ConfigError, match=r"recipe\.tokens: measure must give the same names in every call"):
        totals_of([*forwards, {"n": Measured("sum", torch.tensor(1))}], CPU)


def test_which_images_a_pass_changes():
    images = tuple(ImageRef(f"{i}.png", (8, 8)) for i in range(3))
    prompts = [TrainPrompt(str(i), (1,), 1, images[: i % 4], (), 1.0) for i in range(40)]
    batch = TrainBatch(tuple(prompts), ())

    def changed(which, key=(0, 1, "masked")):
        shown = with_transform(batch, "masked", 1.0, which, key).prompts
        return [[i for i, (a, b) in enumerate(zip(p.images, q.images, strict=True)) if a != b]
                for p, q in zip(prompts, shown, strict=True)]  # fmt: skip

    assert changed("all") == [list(range(i % 4)) for i in range(40)]
    assert changed(1) == [[1] if i % 4 > 1 else [] for i in range(40)]
    one = changed("one")
    assert [len(found) for found in one] == [int(i % 4 > 0) for i in range(40)]
    assert {found[0] for i, found in enumerate(one) if i % 4 == 3} == {0, 1, 2}
    assert changed("one", (0, 2, "masked")) != one == changed("one")
    assert with_transform(batch, None, 1.0, "all", ()) is batch
