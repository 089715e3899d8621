"""What becomes of vLLM's answers. No vLLM: its outputs are stood in for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mars.rollout.vllm_engine import _completions, _num_drawn
from mars.types import Completion, RolloutRequest, Sampling


def request(temperature, samples):
    return RolloutRequest("p", None, (1,), (), samples, 0, Sampling(temperature, 1.0, 0, 4))


def output(*samples):
    """(index, token ids, finish reason) as vLLM gives them, in any order; log-prob of token t is -t."""
    return SimpleNamespace(
        outputs=[
            SimpleNamespace(
                index=index,
                token_ids=ids,
                logprobs=[{t: SimpleNamespace(logprob=-float(t))} for t in ids],
                finish_reason=reason,
            )
            for index, ids, reason in samples
        ]
    )


def test_samples_come_in_their_own_order():
    made = _completions(request(1.0, 3), output((2, [5], "stop"), (0, [3, 4], "length"), (1, [7, 9], "stop")))
    assert made == [
        Completion((3, 4), (-3.0, -4.0), "length"),
        Completion((7, 9), (-7.0, -9.0), "stop"),
        Completion((5,), (-5.0,), "stop"),
    ]


def test_greedy_samples_are_drawn_once_and_counted_as_often_as_asked():
    """vLLM refuses n > 1 without temperature; the engine still owes num_samples."""
    greedy = request(0.0, 3)
    assert (_num_drawn(greedy), _num_drawn(request(0.5, 3))) == (1, 3)
    assert _completions(greedy, output((0, [3], "stop"))) == [Completion((3,), (-3.0,), "stop")] * 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_another_number_of_samples_is_an_error(temperature):
    with pytest.raises(RuntimeError, match="vLLM returned 2 of"):
        _completions(request(temperature, 3), output((0, [3], "stop"), (1, [4], "stop")))
