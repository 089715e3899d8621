"""Signals: which tokens count, which responses the trainer scores and when, and what a shaping gets of it."""

from __future__ import annotations

import json
import math
import random
import re
import threading
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.scoring import ScoringSpec
from mars.checkpoint.state import START
from mars.config.schema import TrainConfig
from mars.errors import ConfigError, DataError, WorkerLost
from mars.hooks.contract import Signal
from mars.hooks.load import resolved
from mars.hooks.requests import Injected
from mars.hooks.signals import TokenSpans, block_span
from mars.hooks.step_hooks import Named
from mars.quarantine import BadSamples, warn_of
from mars.rewards.parsing import read_each
from mars.step import train_step
from mars.step_async import Overlap, train_step_async
from mars.step_parts import SamplingState
from tests.builders import make_prompt, train_config
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, Rounds, one_step, parts
from tests.fakes.trainer import RecordingTrainer
from tests.hook_builders import hooks_of_config, loaded_hooks, step_hooks
from tests.unit.hooks.test_load import recipe
from tests.unit.rewards.test_reward_answer import CORPUS, corpus_text
from tests.unit.test_step import make_table

NOTHING = SamplingState(0, ())
MEAN = Signal(ScoringSpec("mean", "mean", model="reference"))
SUM = Signal(ScoringSpec("sum", "sum"))
WAIT_S = 20.0


# --- which tokens count


def spelled(pieces):
    """The text of token ids, of which each is a place in `pieces`."""
    return lambda ids: "".join(pieces[i] for i in ids)


def span_of(decode, num_tokens, tag):
    ids = range(num_tokens)
    return TokenSpans(decode).of(decode(ids), ids, tag)


@pytest.mark.parametrize(
    ("pieces", "span"),
    [
        (["so <", "answer", ">", "4", " km</", "answer", ">"], (3, 5)),
        (["<answer>4</answer>"], (0, 1)),
        (["<answer", ">4", "2", "</answer>", ""], (1, 3)),
        (["<answer>", "", "4", "", "</answer>"], (2, 4)),
        (["<answer>1</answer>", "<answer>", "2", "3", "</answer>", "<answer>"], (2, 4)),
        (["<answer>", "<answer>", "2", "</answer>"], (2, 3)),
        (["<answer>", "2", "</answer>", "3", "</answer>"], (1, 2)),
        (["<answer>", "</answer>"], (0, 0)),
        (["</answer>", "<answer>", "4"], (0, 0)),
        (["<answer>", "4"], (0, 0)),
        (["4"], (0, 0)),
        ([], (0, 0)),
    ],
)
def test_the_tokens_of_a_block_by_hand(pieces, span):
    assert span_of(spelled(pieces), len(pieces), "answer") == span


@given(st.lists(st.sampled_from(["<a>", "</a>", "<", "a", ">", "</", "x", "", "xy", "x</a>", "a>x"]), max_size=12))
def test_the_tokens_of_a_block_are_those_with_a_character_in_it(pieces):
    """Against a search over all characters."""
    text = "".join(pieces)
    owner = [i for i, piece in enumerate(pieces) for _ in piece]
    blocks = [range(match.start(1), match.end(1)) for match in re.finditer(r"(?=<a>(.*?)</a>)", text)]
    inside = blocks[-1] if blocks else range(0)
    wanted = sorted({owner[place] for place in inside})
    start, stop = span_of(spelled(pieces), len(pieces), "a")
    assert [i for i in range(start, stop) if pieces[i]] == wanted
    assert start == (wanted[0] if wanted else 0)


def check_blocks(text, tag):
    """A signal counts the tokens of the block that a reward reads last."""
    span, blocks = block_span(text, tag), read_each(text, tag)
    assert (None if span is None else text[slice(*span)]) == (blocks[-1] if blocks else None)


@given(
    st.lists(
        st.sampled_from(
            ["<a>", "</a>", "<a", "</a", "<A>", "< a>", "<ab>", "</ab>", "<", "</", "a", "/", ">", "\n", "é", "4"]
        ),
        max_size=14,
    )
)
def test_the_block_is_the_one_that_rewards_read(pieces):
    for tag in ("a", "ab"):
        check_blocks("".join(pieces), tag)


def test_the_block_of_an_awkward_response_is_the_one_that_rewards_read():
    texts = [corpus_text(json.loads(path.read_text(encoding="utf-8"))) for path in CORPUS]
    for text in texts:
        for tag in ("think", "answer"):
            check_blocks(text, tag)
    assert sum(block_span(text, "answer") is None for text in texts) > 5
    assert sum(len(read_each(text, "answer")) > 1 for text in texts) > 2


@given(st.text(alphabet="aé€😀", max_size=6), st.integers(1, 3), st.integers(1, 3))
def test_tokens_that_cut_a_character_are_found(content, size, other):
    """Tokens of one to three bytes, as of a byte-level tokenizer: an unfinished character is decoded as one mark."""
    before, inside, after = (
        [data[i : i + n] for i in range(0, len(data), n)]
        for data, n in (("é<a>".encode(), other), (content.encode(), size), ("</a>€".encode(), other))
    )
    pieces = before + inside + after
    decode = lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace")  # noqa: E731
    wanted = (len(before), len(before) + len(inside)) if content else (0, 0)
    assert span_of(decode, len(pieces), "a") == wanted


def test_each_token_is_decoded_once_for_all_responses():
    decoded = []

    def decode(ids):
        decoded.append(tuple(ids))
        return "".join("<a>xy</a>"[i] for i in ids)

    spans = TokenSpans(decode)
    for _ in range(3):
        assert spans.of("<a>xy</a>", range(9), "a") == (3, 5)
    assert decoded == [(), *((i,) for i in range(9))]


@pytest.mark.parametrize(
    ("pieces", "tag", "span"),
    [
        (["a car", "</think>", "<answer>", "4", "</answer>"], "think", (0, 1)),
        (["a", " car", "</think>", "<answer>", "4", "</answer>"], "think", (0, 2)),
        (["a car", "</think>", "<answer>", "4", "</answer>"], "answer", (3, 4)),
        (["</think>", "<answer>", "4", "</answer>"], "think", (0, 0)),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_the_tag_that_a_thinking_models_prompt_holds_has_no_tokens(pieces, tag, span, alone):
    """alone: whether each token alone decodes to its piece. Otherwise prefixes of the response are decoded."""

    def decode(ids):
        text = "".join(pieces[i] for i in ids)
        return "<think>\n" + (text.upper() if len(ids) == 1 and not alone else text)

    assert span_of(decode, len(pieces), tag) == span


# --- what a shaping gets


@dataclass
class Seeing:
    """Gives what it sees: the numbers of its first signal."""

    signals: tuple[Signal, ...]
    on: str = "multi"
    part: str = "seen"

    def __post_init__(self):
        self.facts = []

    def __call__(self, item, facts):
        self.facts.append({name: list(numbers) for name, numbers in facts.signals.items()})
        return facts.signals[self.signals[0].spec.name]


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * (1 + i % 2), extra_info={"name": f"p{i}"}) for i in range(4)]


def made_with(prompts, *shapings, trainer=None, table=None, **more):
    """Numbers by response: the number of its tokens, with 100 more for a reference and 1000 for a span."""
    trainer = trainer or RecordingTrainer()
    trainer.number = lambda spec, prompt, k, span: (
        len(prompt.responses[k].token_ids) + 100 * (spec.model == "reference") + 1000 * (span is not None)
    )
    hooks = step_hooks(shaping=tuple(Named(f"file:{s.part}", s, None) for s in shapings))
    table = table or make_table(prompts, random.Random(0))
    return replace(parts(table, trainer=trainer, **more), hooks=hooks)


def amounts(item, part):
    return [[r.reward.parts.get(part) for r in group.rollouts] for group in (item.multi, *item.anchors)]


def table_of(prompts):
    table = make_table(prompts, random.Random(0))
    table[prompts[0].prompt_id, None, 1] = None  # a failed response
    return table


def test_multi_responses_are_scored_for_a_shaping_of_multi_and_failed_ones_are_not(prompts):
    """Response k has k + 2 tokens."""
    made = made_with(prompts, Seeing((MEAN,)), table=table_of(prompts))
    result = one_step(made, prompts[:2])
    first, second = result.rollouts
    assert amounts(first, "seen") == [[102, None, 104, 105]]
    assert amounts(second, "seen") == [[102, 103, 104, 105], [0, 0], [0, 0]]
    (batch,) = made.trainer.scored
    assert [(p.prompt_id, p.images, len(p.responses)) for p in batch.prompts] == [
        ("p0", (IMAGE,), 3), ("p1", (IMAGE, IMAGE), 4),
    ]  # fmt: skip
    assert {r.weight for p in batch.prompts for r in p.responses} == {0}
    assert (batch.step, made.trainer.specs, made.trainer.spans) == (1, [MEAN.spec], [None])
    assert result.metrics["timing_s/signals"] >= 0
    (seen, _) = made.hooks.shaping[0].hook.facts
    assert math.isnan(seen["mean"][1])


def test_anchors_are_scored_for_a_shaping_of_all(prompts):
    made = made_with(prompts, Seeing((MEAN,), on="all"), table=table_of(prompts))
    result = one_step(made, prompts[:2])
    first, second = result.rollouts
    assert amounts(first, "seen") == [[102, None, 104, 105]]
    assert amounts(second, "seen") == [[102, 103, 104, 105], [102, 103], [102, 103]]
    assert len(made.trainer.scored[0].prompts) == 1 + 3


def test_a_signal_that_two_shapings_share_is_computed_once_for_all_that_one_of_them_needs(prompts):
    one, other = Seeing((MEAN,)), Seeing((SUM, MEAN), on="all", part="other")
    made = made_with(prompts, one, other)
    (item,) = one_step(made, prompts[1:2]).rollouts
    assert amounts(item, "seen") == [[102, 103, 104, 105], [0, 0], [0, 0]]
    assert amounts(item, "other") == [[2, 3, 4, 5], [2, 3], [2, 3]]
    assert one.facts == [{"mean": [102, 103, 104, 105]}]
    assert other.facts == [{"sum": [2, 3, 4, 5, 2, 3, 2, 3], "mean": [102, 103, 104, 105, 102, 103, 102, 103]}]
    assert made.trainer.specs == [MEAN.spec, SUM.spec]


def test_the_tokens_of_a_tag_reach_the_trainer(prompts):
    """The text of k fives is "5<a>5</a>", with each 5 of the tokens but the last before the tag."""
    made = made_with(prompts, Seeing((replace(MEAN, tag="a"),)))
    pieces = {5: "5", EOS: "<a>5</a>"}
    texts = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731

    class Scorer:
        def score(self, items):
            return made.scorer.score([replace(item, response=str(item.response.count("5") - 2)) for item in items])

    (item,) = one_step(replace(made, decode=texts, scorer=Scorer()), prompts[:1]).rollouts
    assert amounts(item, "seen") == [[1102, 1103, 1104, 1105]]
    assert made.trainer.spans == [[[(1, 2), (2, 3), (3, 4), (4, 5)]]]


def test_a_guest_is_scored_with_the_prompt_that_it_is_trained_with(prompts):
    class Asks:
        def before(self, prompt, facts):
            return [Injected("given", "55", score=1.0)]

        def after(self, item, facts):
            return ()

    shaping = Seeing((SUM,))
    hooks = step_hooks(shaping=(Named("file:seen", shaping, None),), requests=Named("file:Asks", Asks(), None))
    made = with_requests(made_with(prompts, shaping), hooks)
    one_step(made, prompts[1:2])
    (batch,) = made.trainer.scored
    assert [(p.images, len(p.responses)) for p in batch.prompts] == [((IMAGE, IMAGE), 4), ((IMAGE, IMAGE), 1)]
    assert len(shaping.facts[0]["sum"]) == 5


def test_nothing_is_scored_without_signals(prompts):
    @dataclass
    class Plain:
        part, on = "plain", "multi"

        def __call__(self, item, facts):
            assert facts.signals == {}
            return [0.5] * len(item.multi.rollouts)

    made = made_with(prompts, Plain())
    result = one_step(made, prompts)
    assert made.trainer.scored == []
    assert "timing_s/signals" not in result.metrics


def test_a_prompt_whose_images_are_gone_is_left_out_and_quarantined(prompts):
    shaping = Seeing((MEAN,), on="all")
    made = made_with(prompts, shaping)
    made.trainer.unreadable = {"p1": "p1.png: gone"}
    made = replace(made, bad_samples=BadSamples(1.0, 100, {p.prompt_id: p for p in prompts}, warn_of))
    result = one_step(made, prompts)
    assert [item.prompt.prompt_id for item in result.rollouts] == ["p0", "p2", "p3"]
    assert result.state.quarantine.prompt_ids == {"p1"}
    assert len(shaping.facts) == 3
    made.trainer.unreadable = {p.prompt_id: "gone" for p in prompts}
    with pytest.raises(DataError):
        one_step(replace(made, bad_samples=BadSamples(0.05, 4, {p.prompt_id: p for p in prompts}, warn_of)), prompts)


@given(seed=st.integers(0, 1000), on=st.sampled_from(["multi", "all"]), anchor=st.sampled_from(["none", "mono"]))
def test_each_rollout_gets_its_own_number(seed, on, anchor):
    """The number is the response's own tokens, whatever failed and however many groups there are."""
    made_prompts = [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(3)]
    rng = random.Random(seed)
    table = make_table(made_prompts, rng, anchor=anchor)
    table = {key: None if rng.random() < 0.3 else score for key, score in table.items()}
    made = made_with(made_prompts, Seeing((SUM,), on=on), table=table, anchor=anchor)
    for item in one_step(made, made_prompts).rollouts:
        for group in (item.multi, *(item.anchors if on == "all" else ())):
            for rollout in group.rollouts:
                wanted = len(rollout.completion.token_ids) if rollout.valid else None
                assert rollout.reward.parts.get("seen") == wanted


def test_carried_prompts_keep_the_numbers_of_the_step_that_sampled_them(prompts):
    """Step 1 keeps 3 of its 4 prompts and carries one; step 2 does not score it again."""
    table = make_table(prompts, random.Random(0))
    table = {key: 0.5 if key[0] == "p0" else score for key, score in table.items()}
    made = made_with(prompts, Constant((SUM,)), table=table, selection="nonzero_advantage", max_rounds=3)
    rounds = Rounds(prompts, 2)
    first = train_step(made, rounds, NOTHING, 1)
    assert [item.rollouts.prompt.prompt_id for item in first.state.carried] == ["p3"]
    scored = [p.prompt_id for batch in made.trainer.scored for p in batch.prompts if len(p.images) > 0]
    assert set(scored) == {"p0", "p1", "p2", "p3"}
    before = len(made.trainer.scored)
    train_step(made, rounds, first.state, 2)
    assert "p3" not in {p.prompt_id for batch in made.trainer.scored[before:] for p in batch.prompts}
    assert "p3" in {p.prompt_id for p in made.trainer.batches[1].prompts}


class Constant(Seeing):
    """Asks, and gives all responses the same."""

    def __call__(self, item, facts):
        super().__call__(item, facts)
        return [0.25] * len(facts.signals["sum"])


# --- the step that samples ahead


OVERLAP = Overlap(max_staleness=1, is_last=lambda step, state: False)


class OneThing(RecordingTrainer):
    """Refuses to score during an update. `calls`: what happened, in order."""

    def __init__(self):
        super().__init__()
        self.calls, self.busy, self.is_scoring = [], False, threading.Event()

    def update(self, batch):
        self.busy = True
        self.is_scoring.clear()
        self.calls.append("update")
        self.is_scoring.wait(0.05)  # time for a sampling that does not wait
        stats = super().update(batch)
        self.busy = False
        self.calls.append("updated")
        return stats

    def score_responses(self, batch, spec, spans=None):
        assert not self.busy
        self.is_scoring.set()
        self.calls.append("score")
        return super().score_responses(batch, spec, spans)

    def publish_weights(self):
        self.calls.append("publish")
        return super().publish_weights()


def test_a_sampling_beside_an_update_is_scored_after_it_and_before_weights_are_sent(prompts):
    made = made_with(prompts, Seeing((MEAN,)), trainer=OneThing())
    result = train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert made.trainer.calls == ["score", "update", "updated", "score", "publish"]
    assert amounts(result.state.ahead.rollouts[0], "seen")[0] == [102, 103, 104, 105]
    assert result.metrics["timing_s/signals"] >= 0


def test_what_is_trained_on_is_what_a_step_without_overlap_scores(prompts):
    plain, ahead = (made_with(prompts, Seeing((MEAN,), on="all")) for _ in range(2))
    state, state_ahead = START.sampling, START.sampling
    for step in (1, 2, 3):
        state = train_step(plain, Rounds(prompts, 2), state, step).state
        state_ahead = train_step_async(ahead, Rounds(prompts, 2), state_ahead, step, OVERLAP).state
    assert [b.prompts for b in ahead.trainer.batches] == [b.prompts for b in plain.trainer.batches]


def test_a_failed_update_ends_a_sampling_that_waits_for_it(prompts):
    class Trainer(OneThing):
        def update(self, batch):
            self.calls.append("update")
            raise WorkerLost("actor-0 died")

    made = made_with(prompts, Seeing((MEAN,)), trainer=Trainer())
    with pytest.raises(WorkerLost, match="actor-0 died"):
        train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert made.trainer.calls == ["score", "update"]


def test_a_failed_scoring_ends_the_step_after_the_update(prompts):
    class Trainer(OneThing):
        def score_responses(self, batch, spec, spans=None):
            if self.batches:
                raise WorkerLost("actor-0 died")
            return super().score_responses(batch, spec, spans)

    made = made_with(prompts, Seeing((MEAN,)), trainer=Trainer())
    with pytest.raises(WorkerLost, match="actor-0 died"):
        train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert made.trainer.calls == ["score", "update", "updated"]


def test_a_sampling_that_is_given_up_leaves_the_trainer_alone(prompts, monkeypatch):
    """The first pass of two has begun when the run must end: the step waits for it, and the second is not made."""
    begun, ended = threading.Event(), threading.Event()

    class Trainer(OneThing):
        def score_responses(self, batch, spec, spans=None):
            if not self.batches:
                return super().score_responses(batch, spec, spans)
            begun.set()
            ended.wait(0.2)  # nobody ends it
            return super().score_responses(batch, spec, spans)

    made = made_with(prompts, Seeing((MEAN, SUM)), trainer=Trainer())
    monkeypatch.setattr("mars.interrupts.is_urgent", begun.is_set)
    monkeypatch.setattr("mars.background._LOOK_S", 0.01)
    monkeypatch.setattr("mars.background._LEAVE_S", 0.01)  # the pass takes longer than the process waits
    result = train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert result.state.ahead is None
    assert made.trainer.calls == ["score", "score", "update", "updated", "score", "publish"]


# --- what is refused


FILE = """
from mars.algorithms.scoring import ScoringSpec
from mars.hooks.contract import Signal

class Bonus:
    part, on = "bonus", "multi"
    signals = SIGNALS

    def __call__(self, item, facts):
        return facts.signals["a"]
"""
A = 'Signal(ScoringSpec("a", "mean"))'


def loaded(tmp_path, signals, with_reference=False, **more):
    (tmp_path / "own.py").write_text(FILE.replace("SIGNALS", signals))
    given = recipe(shaping=[f"{tmp_path}/own.py:Bonus"], **more)
    return loaded_hooks(given, with_reference=with_reference)


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        (A, r"own:Bonus\.signals is no tuple of Signal; got Signal\("),
        ('("a",)', r"own:Bonus\.signals is no tuple of Signal; got \('a',\)"),
        ('(Signal("a"),)', "is no tuple of Signal"),
        (f"({A}, {A})", "has two signals of one name; got 'a'"),
        ('(Signal(ScoringSpec("a", "mean", model="reference")),)', r"'a' needs a reference model; none is loaded with"),
        ('(Signal(ScoringSpec("a", "kl")),)', "'a' needs a reference model"),
        ('(Signal(ScoringSpec("a", "mean", transform="dark")),)', "got 'dark'; the transforms are none"),
    ],
)
def test_signals_that_cannot_be_computed_are_refused_before_the_run(tmp_path, signals, message):
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, signals)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ('Signal(ScoringSpec("a", "average"))', r"value of the signal 'a' cannot be used; got 'average'; give \"sum\""),
        ('Signal(ScoringSpec("a", "mean", "ema"))', "model of the signal 'a' cannot be used; got 'ema'; give"),
        ('Signal(ScoringSpec("a", "mean", transform=1))', "transform of the signal 'a' cannot be used; got 1; give"),
        ('Signal(ScoringSpec("a", "mean", strength=float("nan")))', "strength of the signal 'a' .*; got nan; give"),
        ('Signal(ScoringSpec("a", "mean", strength=True))', "strength of the signal 'a' .*; got True; give"),
        ('Signal(ScoringSpec(7, "mean"))', "name of the signal 7 cannot be used; got 7; give"),
        ('Signal(ScoringSpec("a", "mean"), "<answer>")', "tag of a signal cannot be used; got '<answer>'; give"),
        ('Signal(ScoringSpec("a", "mean"), 7)', "tag of a signal cannot be used; got 7; give"),
        ('Signal(ScoringSpec("a", "mean"), "")', "tag of a signal cannot be used; got ''; give"),
        ('Signal(ScoringSpec("a", "mean"), "answer\\n")', "tag of a signal cannot be used; got"),
    ],
)
def test_a_signal_of_a_value_that_does_not_exist_is_refused(tmp_path, signal, message):
    """Else it would be another number, or a failure in a worker."""
    with pytest.raises(ConfigError, match=rf"recipe\.shaping: {message}"):
        loaded(tmp_path, f"({signal},)")


def test_signals_that_can_be_computed_are_not(tmp_path):
    (signal,) = loaded(tmp_path, '(Signal(ScoringSpec("a", "mean", model="reference"), "t"),)', True).signals
    assert signal == Signal(ScoringSpec("a", "mean", model="reference"), "t")
    transforms = {"dark": f"{tmp_path}/own.py:Bonus"}
    assert (
        len(loaded(tmp_path, '(Signal(ScoringSpec("a", "sum", transform="dark")),)', transforms=transforms).signals)
        == 1
    )


@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_run_knows_whether_a_reference_is_loaded(tmp_path, is_loaded):
    (tmp_path / "own.py").write_text(FILE.replace("SIGNALS", '(Signal(ScoringSpec("a", "kl")),)'))
    config: TrainConfig = train_config(
        {
            "recipe.shaping": [f"{tmp_path}/own.py:Bonus"],
            "algorithm.kl_coefficient": 0.0,
            "algorithm.reference_every": 1 if is_loaded else None,
        }
    )
    config = config.model_copy(update={"recipe": resolved(config.recipe)})
    if is_loaded:
        assert len(hooks_of_config(config).signals) == 1
    else:
        with pytest.raises(ConfigError, match="needs a reference model"):
            hooks_of_config(config)
