"""What becomes of vLLM's answers. No vLLM: its outputs are stood in for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mars.rollout.engine import FinishedSample
from mars.rollout.vllm_call import ended, num_drawn, samples
from mars.rollout.vllm_engine import _image_name
from mars.rollout.vllm_worker import WorkerExtension
from mars.types import Completion, ImageRef, RolloutRequest, Sampling


def request(temperature, samples):
    return RolloutRequest("p", None, (1,), (), samples, 0, Sampling(temperature, 1.0, 0, 4))


def sample(index, ids, reason):
    """As vLLM gives it; log-prob of token t is -t."""
    logprobs = [{t: SimpleNamespace(logprob=-float(t))} for t in ids]
    return SimpleNamespace(index=index, token_ids=ids, logprobs=logprobs, finish_reason=reason)


def test_a_sample_keeps_its_place_and_its_numbers():
    (made,) = samples(1, request(1.0, 3), [sample(2, [3, 4], "length")], 7)
    assert made == FinishedSample(1, 2, Completion((3, 4), (-3.0, -4.0), "length", version=7))


def test_the_parts_of_a_sample_are_joined_in_order():
    """vLLM hands out a sample's first token, and the rest when it ends."""
    parts = [sample(0, [3], None), sample(0, [4, 3], None), sample(0, [2], "stop")]
    (made,) = samples(0, request(1.0, 1), parts, 0)
    assert made.completion == Completion((3, 4, 3, 2), (-3.0, -4.0, -3.0, -2.0), "stop")


def test_a_sample_is_handed_out_when_its_last_part_comes():
    """Parts belong to a request and an index; others may come between them."""
    first, other, alone = sample(0, [3], None), sample(1, [5], None), sample(0, [9], "stop")
    last, other_last = sample(0, [4], "length"), sample(1, [6], "stop")
    begun = {}
    one, two = SimpleNamespace(request_id="1", outputs=[first, other]), SimpleNamespace(request_id="2", outputs=[alone])
    assert list(ended([one, two], begun)) == [(two, [alone])]
    assert begun == {("1", 0): [first], ("1", 1): [other]}
    end = SimpleNamespace(request_id="1", outputs=[other_last, last])
    assert list(ended([end], begun)) == [(end, [other, other_last]), (end, [first, last])]
    assert begun == {}


def test_greedy_samples_are_drawn_once_and_counted_as_often_as_asked():
    """vLLM refuses n > 1 without temperature; the engine still owes num_samples."""
    greedy = request(0.0, 3)
    assert (num_drawn(greedy), num_drawn(request(0.5, 3))) == (1, 3)
    made = samples(0, greedy, [sample(0, [3], "stop")], 0)
    assert made == [FinishedSample(0, k, Completion((3,), (-3.0,), "stop")) for k in range(3)]


@pytest.mark.parametrize("reason", ["abort", "error", "repetition"])
def test_a_sample_that_ended_in_no_regular_way_is_an_error(reason):
    with pytest.raises(RuntimeError, match=f"prompt p: {reason}"):
        samples(0, request(1.0, 1), [sample(0, [3], reason)], 0)


def test_an_image_has_one_name_and_no_other_image_has_it():
    refs = [
        ImageRef("a.png", (28, 28)), ImageRef("a.png", (28, 56)), ImageRef("b.png", (28, 28)),
        ImageRef("a.png", (28, 28), "depth_mm"), ImageRef("a.png", (28, 28), "rgb", 0, 0),
        ImageRef("a.png", (28, 28), "rgb", 0, 1), ImageRef("a.png", (28, 28), "rgb", 1, 0),
    ]  # fmt: skip
    assert len({_image_name(ref) for ref in refs}) == len(refs)
    assert _image_name(refs[0]) == _image_name(ImageRef("a.png", (28, 28)))


def test_images_that_pass_the_encoder_are_counted_and_nothing_else_changes():
    model = SimpleNamespace(embed_multimodal=lambda pixel_values: [value + 1 for value in pixel_values])
    worker = WorkerExtension()
    worker.model_runner = SimpleNamespace(model=model)
    model.embed_multimodal(pixel_values=[0] * 5)  # warming up, before anybody counts
    worker.count_encoder_runs()
    assert worker.encoder_runs() == 0
    assert model.embed_multimodal(pixel_values=[1, 2, 3]) == [2, 3, 4]
    model.embed_multimodal(pixel_values=[1])
    assert worker.encoder_runs() == 4
