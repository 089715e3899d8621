"""What anchors cannot do, as docs/method.md says it."""

from __future__ import annotations

import itertools

import pytest
import torch

from mars.algorithms.advantages import AdvantageSettings, group_advantages

DR_GRPO = AdvantageSettings("group_norm", False, "mean_and_std", True, 0.0, 1e-6)
RLOO = AdvantageSettings("leave_one_out", False, "mean_and_std", True, 0.0, 1e-6)


def expected_gradient(logits, rewards, anchors, size, settings):
    """The policy gradient, averaged over every group of `size` answers with its probability."""
    logprobs = torch.log_softmax(logits, 0)
    one_hot = torch.eye(len(logits), dtype=torch.float64)
    total = torch.zeros_like(logits)
    anchor_index = torch.zeros(len(anchors), dtype=torch.long)
    for group in itertools.product(range(len(logits)), repeat=size):
        answers = torch.tensor(group)
        index = torch.zeros(size, dtype=torch.long)
        values = group_advantages(rewards[answers], index, anchors, anchor_index, 1, settings).values
        scores = one_hot[answers] - logprobs.exp()  # gradient of each answer's log-prob
        total += logprobs[answers].sum().exp() * (values[:, None] * scores).mean(0)
    return total


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("anchors", [[], [0.3], [1.0, -2.0, 0.25]])
def test_anchors_are_a_baseline(size, anchors):
    """Exactly the gradient of the expected reward with RLOO, and 1 - 1/N of it where r_i is in its own mean."""
    logits = torch.tensor([0.4, -1.0, 0.9], dtype=torch.float64)
    rewards = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    probs = torch.softmax(logits, 0)
    true = probs * (rewards - (probs * rewards).sum())
    given = torch.tensor(anchors, dtype=torch.float64)
    number = size + len(anchors)
    assert torch.allclose(expected_gradient(logits, rewards, given, size, RLOO), true, atol=1e-12)
    pooled = expected_gradient(logits, rewards, given, size, DR_GRPO)
    assert torch.allclose(pooled, true * (1 - 1 / number), atol=1e-12)


def test_the_division_is_where_anchors_take_effect():
    """With the spread of the pool the expected gradient is another one: not a multiple of the plain one's."""
    grpo = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
    logits = torch.tensor([0.4, -1.0, 0.9], dtype=torch.float64)
    rewards = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    plain, anchored = (
        expected_gradient(logits, rewards, torch.tensor(anchors, dtype=torch.float64), 3, grpo)
        for anchors in ([], [1.0, 1.0])
    )
    assert abs(float(torch.cosine_similarity(plain, anchored, dim=0))) < 0.999
