"""Every vector of tests/data/oracles, or of the folder MARS_ORACLES, computed with another library in float64."""

import json
import os
from pathlib import Path

import pytest
import torch

from mars.algorithms.advantages import AdvantageSettings, group_advantages
from mars.algorithms.kl import kl_estimate
from mars.algorithms.penalties import overlong_penalty
from mars.algorithms.policy_loss import PolicyLossSettings, policy_loss
from mars.algorithms.reduction import loss_counts, loss_denominator, reduce_loss
from mars.algorithms.token_layout import TokenLayout

FOLDER = Path(os.environ.get("MARS_ORACLES", Path(__file__).parents[2] / "data" / "oracles"))
KINDS = ("advantages", "losses", "overlong")

GROUP_NORM = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
# name of the expected numbers -> (estimator, normalize_std, unbiased_std, whether the anchors take part)
ADVANTAGES = {
    "grpo": ("group_norm", True, True, False),
    "dr_grpo": ("group_norm", False, True, False),
    "rloo": ("leave_one_out", False, True, False),
    "mars": ("group_norm", True, True, True),
    "mars_biased_std": ("group_norm", True, False, True),
    "mars_no_std": ("group_norm", False, True, True),
}


def vectors(kind):
    return [
        pytest.param(item, id=f"{path.stem}-{i}")
        for path in sorted(FOLDER.glob(f"{kind}*.json"))
        for i, item in enumerate(json.loads(path.read_text()))
    ]


def close(actual, expected):
    actual = torch.as_tensor(actual)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_every_file_is_one_we_know():
    files = [path.name for path in FOLDER.glob("*.json")]
    assert files
    assert [name for name in files if not name.startswith(KINDS)] == []


def grouped(groups):
    values = torch.tensor([value for group in groups for value in group], dtype=torch.float64)
    return values, torch.tensor([i for i, group in enumerate(groups) for _ in group], dtype=torch.int64)


def flat(expected):
    return [x for row in expected for x in (row if isinstance(row, list) else [row])]


@pytest.mark.parametrize("vector", vectors("advantages"))
def test_advantages(vector):
    prompts = vector["prompts"]
    rewards, index = grouped([prompt["multi_rewards"] for prompt in prompts])
    anchors = grouped([prompt["mono_rewards"] for prompt in prompts])
    nobody = grouped([])
    assert rewards.tolist() == vector["rewards_in_prompt_order"]
    assert set(vector["expected"]) <= set(ADVANTAGES)
    for name, expected in vector["expected"].items():
        estimator, normalize_std, unbiased, anchored = ADVANTAGES[name]
        settings = AdvantageSettings(estimator, normalize_std, "mean_and_std", unbiased, 0.0, vector["epsilon"])
        result = group_advantages(rewards, index, *(anchors if anchored else nobody), len(prompts), settings)
        close(result.values, flat(expected))
    result = group_advantages(rewards, index, *anchors, len(prompts), GROUP_NORM)
    close(result.gain, vector["information_gain"])
    close(result.multi_share, vector["lambda"])


def tensors(vector, packed):
    mask = torch.tensor(vector["response_mask"]).bool()
    keep = (lambda x: x[mask]) if packed else (lambda x: x)
    names = ("logprobs", "old_logprobs", "ref_logprobs")
    values = [keep(torch.tensor(vector[name], dtype=torch.float64)) for name in names]
    layout = TokenLayout.packed(mask.sum(1)) if packed else TokenLayout.padded(mask)
    return *values, layout, mask


def reduced_loss(vector, case, packed):
    """(value, gradient in the shape of the mask, `PolicyLoss`); a row without a token is no sequence."""
    logprobs, old, _, layout, mask = tensors(vector, packed)
    logprobs.requires_grad_()
    settings = PolicyLossSettings(
        case["loss"],
        case["clip_low"],
        case["clip_high"],
        case["dual_clip"] if case["loss"] == "clip" else None,
    )
    advantages = layout.spread(torch.tensor(vector["advantages"], dtype=torch.float64))
    loss = policy_loss(logprobs, old, advantages, layout, settings)
    reduction = case["reduction"].replace("-", "_")
    denominator = loss_denominator(reduction, *loss_counts(layout.lengths().tolist()), mask.shape[1])
    value = reduce_loss(loss.token_losses, layout, reduction, denominator)
    value.backward()
    gradient = logprobs.grad
    if packed:
        gradient = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, logprobs.grad)
    return value.detach(), gradient, loss


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("vector", vectors("losses"))
def test_policy_losses(vector, packed):
    for case in vector["cases"]:
        value, gradient, loss = reduced_loss(vector, case, packed)
        close(value, case["value"])
        close(gradient, case["grad_logprobs"])
        close(loss.num_clipped.double() / loss.num_tokens, case["clip_fraction"])
        close(loss.kl_sum / loss.num_tokens, case["approx_kl"])


ROWS = ("old_logprobs", "logprobs", "ref_logprobs", "advantages", "response_mask")


def with_empty_row(vector, place):
    """The vector with a row more in which nothing is counted."""
    width = len(vector["response_mask"][0])
    empty = dict.fromkeys(ROWS, [-0.5] * width) | {"advantages": 3.0, "response_mask": [0] * width}
    return vector | {name: [*vector[name][:place], empty[name], *vector[name][place:]] for name in ROWS}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize("vector", vectors("losses"))
def test_a_row_without_a_token_changes_nothing(vector, place, packed):
    place %= len(vector["response_mask"]) + 1
    extended = with_empty_row(vector, place)
    for case in vector["cases"]:
        value, gradient, loss = reduced_loss(extended, case, packed)
        wanted = list(case["grad_logprobs"])
        wanted.insert(place, [0.0] * len(wanted[0]))
        close(value, case["value"])
        close(gradient, wanted)
        close(loss.num_clipped.double() / loss.num_tokens, case["clip_fraction"])
        close(loss.kl_sum / loss.num_tokens, case["approx_kl"])


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("emptied", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("has_empty_row", [False, True], ids=["as_it_is", "with_an_empty_row"])
@pytest.mark.parametrize("vector", vectors("losses"))
def test_a_row_that_loses_its_tokens_leaves_the_denominators(vector, has_empty_row, emptied, packed):
    """The other rows keep their loss; what it is divided by loses the row's tokens, and one sequence.

    emptied: which of the rows with tokens. A row that is empty already was never in the denominators.
    """
    before = vector["response_mask"]
    if has_empty_row:
        vector = with_empty_row(vector, 0)
    mask = [list(row) for row in vector["response_mask"]]
    lengths = [sum(row) for row in mask]
    present = [i for i, length in enumerate(lengths) if length > 0]
    assert len(present) >= 2, "a vector of one response has no loss without it"
    row, sequences = present[emptied], len(present)
    mask[row] = [0] * len(mask[row])
    shrunk = {
        "token-mean": sum(lengths) / (sum(lengths) - lengths[row]),
        "seq-mean-token-sum": sequences / (sequences - 1),
        "seq-mean-token-mean": sequences / (sequences - 1),
        "seq-mean-token-sum-norm": sequences / (sequences - 1),
    }
    for case in vector["cases"]:
        gradient_before = [[0.0] * len(mask[0])] * (len(mask) - len(before)) + case["grad_logprobs"]
        _, gradient, _ = reduced_loss(vector | {"response_mask": mask}, case, packed)
        wanted = [[x * shrunk[case["reduction"]] for x in gradients] for gradients in gradient_before]
        wanted[row] = [0.0] * len(mask[row])
        close(gradient, wanted)


@pytest.mark.parametrize("vector", vectors("losses"))
def test_kl_estimators(vector):
    logprobs, _, ref_logprobs, _, mask = tensors(vector, packed=False)
    for name, expected in vector["kl"].items():
        estimate = kl_estimate(logprobs, ref_logprobs, name)
        close(estimate[mask], torch.tensor(expected, dtype=torch.float64)[mask].tolist())


@pytest.mark.parametrize("vector", vectors("overlong"))
def test_overlong_penalty(vector):
    penalty = overlong_penalty(
        torch.tensor([vector["response_tokens"]]),
        vector["max_response_tokens"],
        vector["buffer_tokens"],
        vector["penalty_factor"],
    )
    close(penalty, [vector["penalty"]])
