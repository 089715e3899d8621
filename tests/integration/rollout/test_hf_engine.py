"""The transformers engine on a tiny model: sampling that depends on the request alone, and weights that are loaded."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars.actor.objective import truncation_nats
from mars.rollout.engine import EngineCounts, UnreadableRequest
from mars.rollout.hf_engine import HfEngine, _Sampler, _SeededNoise
from mars.types import RolloutRequest, Sampling, WeightUpdate
from tests.builders import completions, train_config
from tests.tiny_world import response_logprobs, sampled_prompt

FREE = Sampling(1.0, 1.0, 0, 6)
GREEDY = Sampling(0.0, 1.0, 0, 6)


def engine_of(world, folder=None, max_num_seqs=64, rules=None):
    config = train_config(path=str(folder or world.folder), max_num_seqs=max_num_seqs)
    return HfEngine(config, rules or world.rules, process=world.processor.process, fetch=lambda p: iter(p.items()))


@pytest.fixture(scope="module")
def engine(world):
    return engine_of(world)


@pytest.fixture(scope="module")
def requests(world, pictures):
    """Two images, none, one; prompts of different lengths; different samplings."""
    shown = {"a": pictures[:2], "text only, and rather longer than the others": [], "c": pictures[2:3]}
    return [
        RolloutRequest(name, None, world.prompt_ids(name, images), tuple(images), samples, 1000 * i, FREE)
        for i, ((name, images), samples) in enumerate(zip(shown.items(), (3, 2, 4), strict=True))
    ]


def tokens(completions):
    return [[c.token_ids for c in samples] for samples in completions]


def test_exactly_the_samples_asked_for_in_request_order(engine, requests):
    mixed = [requests[0], replace(requests[1], sampling=GREEDY), requests[2], replace(requests[0], sampling=GREEDY)]
    results = completions(engine, mixed)
    assert [len(samples) for samples in results] == [3, 2, 4, 3]
    for request, samples in zip(mixed, results, strict=True):
        for completion in samples:
            assert 1 <= len(completion.token_ids) <= 6
            ended = completion.token_ids[-1] in engine._rules.eos_ids
            assert completion.finish_reason == ("stop" if ended else "length")
            assert ended or len(completion.token_ids) == 6
            assert not set(completion.token_ids[:-1]) & set(engine._rules.eos_ids)
        if request.sampling == GREEDY:
            assert len({c.token_ids for c in samples}) == 1
        else:
            assert len({c.token_ids for c in samples}) == len(samples)
    assert completions(engine, []) == []


@pytest.mark.parametrize(("max_num_seqs", "encoder_runs"), [(64, 2), (2, 2 + 2 + 1)])
def test_work_is_counted_as_it_is_done(world, pictures, max_num_seqs, encoder_runs):
    """Every row of a batch computes its prompt for itself; a batch encodes each of its images once."""
    engine = engine_of(world, max_num_seqs=max_num_seqs)
    asked = [
        RolloutRequest("a", None, world.prompt_ids("a", pictures[:2]), tuple(pictures[:2]), 3, 1, FREE),
        RolloutRequest("a", ("s0",), world.prompt_ids("a", pictures[:1]), tuple(pictures[:1]), 2, 5, FREE),
    ]
    lengths = [len(world.processor.process(r.prompt_token_ids, r.images).input_ids) for r in asked]
    once = EngineCounts(images=2, encoder_runs=encoder_runs, prompt_tokens=3 * lengths[0] + 2 * lengths[1])
    completions(engine, asked)
    assert engine.counts() == once
    completions(engine, asked)
    assert engine.counts() - once == once


@pytest.mark.parametrize("max_num_seqs", [2, 64])
def test_a_request_that_cannot_be_read_costs_no_other_one(world, requests, tmp_path, max_num_seqs):
    """Its image is cut off, or replaced by text; the others' samples are those without it."""
    cut, text = tmp_path / "cut.png", tmp_path / "text.png"
    cut.write_bytes(Path(requests[2].images[0].path).read_bytes()[:100])
    text.write_text("no image")
    bad = [replace(requests[2], images=(replace(requests[2].images[0], path=str(path)),)) for path in (cut, text)]
    asked = [requests[0], bad[0], requests[1], bad[1], requests[2]]
    alone = tokens(completions(engine_of(world), requests))
    found = [item for finished in engine_of(world, max_num_seqs=max_num_seqs).generate(asked) for item in finished]
    refused = {item.request: item.reason for item in found if isinstance(item, UnreadableRequest)}
    assert list(refused) == [1, 3]
    assert len(found) == 2 + 3 + 2 + 4, "each is refused once"
    assert f"{cut}: cannot be decoded" in refused[1]
    assert f"{text}: cannot be decoded" in refused[3]
    samples = {(s.request, s.index): s.completion.token_ids for s in found if not isinstance(s, UnreadableRequest)}
    for number, place in enumerate((0, 2, 4)):
        assert [samples[place, k] for k in range(requests[number].num_samples)] == alone[number]


def test_samples_come_batch_by_batch(world, requests):
    sizes = [len(finished) for finished in engine_of(world, max_num_seqs=4).generate(requests)]
    assert sizes == [4, 4, 1]


def test_a_sample_depends_on_its_seed_alone_not_on_the_batch_around_it(world, engine, requests):
    together = tokens(completions(engine, requests))
    assert tokens(completions(engine, requests)) == together
    assert tokens(completions(engine, requests[::-1])) == together[::-1]
    for request, samples in zip(requests, together, strict=True):
        assert tokens(completions(engine, [request])) == [samples]
        for k in range(request.num_samples):  # sample k is drawn with seed + k
            assert tokens(completions(engine, [replace(request, seed=request.seed + k, num_samples=1)])) == [
                [samples[k]]
            ]
    assert tokens(completions(engine_of(world, max_num_seqs=2), requests)) == together
    other = tokens(completions(engine, [replace(request, seed=request.seed + 77) for request in requests]))
    assert all(one != another for one, another in zip(together, other, strict=True))


@pytest.mark.parametrize("family", ["world", "qwen3_world", "qwen3_5_world", "internvl_world"])
def test_rows_that_share_images_answer_as_rows_alone(family, pictures, request):
    """The views of a prompt show its images in other places; a batch of one row encodes its own."""
    world = request.getfixturevalue(family)
    views = {"both": pictures[:2], "second": pictures[1:2], "turned": pictures[1::-1], "none": []}
    asked = [
        RolloutRequest(name, None, world.prompt_ids("a", images), tuple(images), 2, 9, FREE)
        for name, images in views.items()
    ]
    shared, alone = engine_of(world), engine_of(world, max_num_seqs=1)
    assert tokens(completions(shared, asked)) == tokens(completions(alone, asked))
    assert (shared.counts().encoder_runs, alone.counts().encoder_runs) == (2, 2 * (2 + 1 + 2))


def test_two_calls_with_the_halves_of_a_prompt_give_the_samples_of_one(engine, requests):
    """As `anchor.allocation` asks for them. Log-probs may differ by rounding, because the batch is another."""
    whole = completions(engine, requests)
    first = [replace(request, num_samples=2) for request in requests]
    rest = [replace(r, num_samples=r.num_samples - 2, seed=r.seed + 2) for r in requests if r.num_samples > 2]
    later = {
        request.prompt_token_ids: samples for request, samples in zip(rest, completions(engine, rest), strict=True)
    }
    for request, samples, wanted in zip(requests, completions(engine, first), whole, strict=True):
        found = [*samples, *later.get(request.prompt_token_ids, [])]
        assert [c.token_ids for c in found] == [c.token_ids for c in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_greedy_takes_the_most_likely_token(world, engine, requests):
    model = world.plain_model()
    (sample,) = completions(engine, [replace(requests[0], sampling=GREEDY, num_samples=1)])[0]
    processed = world.processor.process(requests[0].prompt_token_ids, requests[0].images)
    for cut, token in enumerate(sample.token_ids):
        ids = torch.cat([processed.input_ids, torch.tensor(sample.token_ids[:cut], dtype=torch.long)]).unsqueeze(0)
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == world.rules.image_id).int(),
                pixel_values=torch.cat(processed.pixel_values),
                image_grid_thw=torch.tensor(processed.image_grid_thw),
            ).logits[0, -1]
        logits[list(world.rules.blocked_ids)] = -torch.inf
        assert token == int(logits.argmax())


@pytest.mark.parametrize("family", ["world", "qwen3_world", "tied_world"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_trainers(family, temperature, request, pictures):
    one = request.getfixturevalue(family)
    asked = [
        RolloutRequest(
            f"{i}", None, one.prompt_ids(f"{i}", images), tuple(images), 3, i, replace(FREE, temperature=temperature)
        )
        for i, images in enumerate([pictures[:2], [], pictures[3:]])
    ]
    results = completions(engine_of(one), asked)
    prompts = [sampled_prompt(r, [c.token_ids for c in row]) for r, row in zip(asked, results, strict=True)]
    scored = response_logprobs(one.trainer(temperature=temperature), prompts)
    for mine, completion in zip(scored, (c for samples in results for c in samples), strict=True):
        assert completion.logprobs == pytest.approx(mine, abs=1e-4)


def test_blocked_ids_are_never_sampled(world, requests):
    """With all but three ids blocked, nothing else comes, however it is sampled."""
    allowed = set(world.words[10:13])
    blocked = tuple(i for i in range(max(world.rules.blocked_ids) + 1) if i not in allowed)
    rules = replace(world.rules, blocked_ids=blocked)
    engine = engine_of(world, rules=rules)
    for sampling in (FREE, GREEDY, replace(FREE, top_p=0.5), replace(FREE, top_k=50), replace(FREE, temperature=5.0)):
        results = completions(engine, [replace(r, sampling=sampling, num_samples=4) for r in requests])
        seen = {token for samples in results for c in samples for token in c.token_ids}
        assert seen <= allowed
        logprobs = [x for samples in results for c in samples for x in c.logprobs]
        assert all(-50 < x <= 1e-6 for x in logprobs)


PROBABILITIES = [0.05, 0.4, 0.0, 0.25, 0.15, 0.1, 0.05]  # id 2 stands for a likely token that is blocked


def draw(sampling, seeds, batch=512):
    """One token for each seed from the distribution above: (ids, log-probs)."""
    logits = torch.tensor(PROBABILITIES).log() * sampling.temperature
    logits[2] = 50.0
    ids, logprobs = [], []
    for first in range(0, len(seeds), batch):
        chunk = seeds[first : first + batch]
        sampler = _Sampler(sampling.temperature, sampling.top_p, sampling.top_k, [2], _SeededNoise(chunk))
        ids += sampler(torch.empty(0), logits.expand(len(chunk), -1).clone()).argmax(-1).tolist()
        logprobs += [row[0] for row in sampler.chosen_logprobs()]
    return ids, logprobs


@pytest.mark.parametrize(
    ("changes", "kept"),
    [({}, {0, 1, 3, 4, 5, 6}), ({"temperature": 0.3}, {0, 1, 3, 4, 5, 6}), ({"top_k": 2}, {1, 3}),
     ({"top_p": 0.6}, {1, 3}), ({"top_p": 0.7}, {1, 3, 4}), ({"top_p": 0.3}, {1}),
     ({"top_p": 0.7, "top_k": 2}, {1, 3})],
)  # fmt: skip
def test_tokens_come_as_often_as_the_cut_distribution_says(changes, kept):
    """Chi-square of 20,000 draws against the renormalised probabilities, and the log-probs that are reported."""
    ids, logprobs = draw(replace(FREE, **changes), range(900, 20_900))
    mass = sum(PROBABILITIES[i] for i in kept)
    assert set(ids) == kept
    for token, logprob in dict(zip(ids, logprobs, strict=True)).items():
        assert logprob == pytest.approx(math.log(PROBABILITIES[token] / mass), abs=1e-5)
    counts = Counter(ids)
    expected = {i: len(ids) * PROBABILITIES[i] / mass for i in kept}
    assert sum((counts[i] - expected[i]) ** 2 / expected[i] for i in kept) < 20.5  # 5 degrees at most, p = 0.001


def test_a_draw_is_that_of_its_seed_in_any_batch():
    ids, _ = draw(FREE, range(100))
    assert draw(FREE, range(100), batch=7)[0] == ids
    assert draw(FREE, range(100)[::-1])[0] == ids[::-1]


def test_a_nucleus_raises_log_probs_by_no_more_than_the_trainer_allows(engine, requests):
    peaked = replace(FREE, temperature=0.3)  # a random model is nearly uniform otherwise
    wide, narrow = (
        completions(
            engine, [replace(requests[0], sampling=replace(peaked, top_p=p, max_response_tokens=1), num_samples=64)]
        )
        for p in (1.0, 0.5)
    )
    free, cut = ({c.token_ids[0]: c.logprobs[0] for c in results[0]} for results in (wide, narrow))
    both = free.keys() & cut.keys()
    assert len(both) > 3
    assert len({c.token_ids for c in narrow[0]}) < len({c.token_ids for c in wide[0]})
    for token in both:
        assert 0.5 < cut[token] - free[token] <= truncation_nats(0.5, top_k=0) + 1e-5


def test_the_model_folders_own_sampling_defaults_do_not_leak_in(world, engine, requests, tmp_path):
    """Qwen2.5-VL ships a repetition penalty, which would silently bend what is sampled."""
    shutil.copytree(world.folder, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    defaults = json.loads(path.read_text()) | {
        "repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "min_new_tokens": 5, "max_length": 3, "num_beams": 2,
        "temperature": 0.1, "top_k": 2, "suppress_tokens": [5, 6, 7], "do_sample": True,
    }  # fmt: skip
    path.write_text(json.dumps(defaults))
    assert completions(engine_of(world, tmp_path / "model"), requests) == completions(engine, requests)


@pytest.mark.parametrize("family", ["world", "tied_world"])
def test_new_weights_change_what_is_generated(family, request, pictures):
    one = request.getfixturevalue(family)
    engine, trainer = engine_of(one), one.trainer(learning_rate=0.05)
    asked = [RolloutRequest("a", None, one.prompt_ids("a", pictures[:1]), tuple(pictures[:1]), 3, 0, FREE)]
    before = completions(engine, asked)
    engine.load_weights(trainer.publish_weights())
    again = completions(engine, asked)
    assert [[c.version for c in group] for group in (*before, *again)] == [[0] * 3, [1] * 3]
    assert [[replace(c, version=0) for c in group] for group in again] == before  # the same weights
    trainer.update(one.batch([one.train_prompt("a", pictures[:1], [4, 6])]))
    engine.load_weights(trainer.publish_weights())
    after = completions(engine, asked)
    assert tokens(after) != tokens(before)
    scored = response_logprobs(trainer, [sampled_prompt(asked[0], [c.token_ids for c in after[0]])])
    for mine, completion in zip(scored, after[0], strict=True):
        assert completion.logprobs == pytest.approx(mine, abs=1e-4)


@pytest.mark.parametrize("family", ["world", "tied_world"])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.language_model.norm.weight"])
def test_incomplete_weights_are_refused(family, name, request):
    """The head too, tied or not: without it an engine would go on with the old one."""
    one = request.getfixturevalue(family)
    engine, state = engine_of(one), one.trainer().publish_weights().payload
    missing = {key: value for key, value in state.items() if key != name}
    with pytest.raises(RuntimeError, match=name):
        engine.load_weights(WeightUpdate(1, missing))
    with pytest.raises(RuntimeError, match="surplus"):
        engine.load_weights(WeightUpdate(1, state | {"surplus": torch.zeros(1)}))
    with pytest.raises(RuntimeError, match=name):
        engine.load_weights(WeightUpdate(1, state | {name: torch.zeros(3)}))


def test_prompts_of_any_length_share_a_batch(world, engine, pictures):
    """Left padding moves nothing: each prompt alone gives the same first log-probs to rounding."""
    names = ["x" * n for n in (1, 40, 200)]
    random.Random(0).shuffle(names)
    asked = [
        RolloutRequest(n, None, world.prompt_ids(n, pictures[:1]), tuple(pictures[:1]), 1, 3, GREEDY) for n in names
    ]
    together = completions(engine, asked)
    for request, (completion,) in zip(asked, together, strict=True):
        ((alone,),) = completions(engine, [request])
        assert alone.token_ids == completion.token_ids
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-5)
