"""vLLM, transformers and the trainer agree, before and after a weight update."""

import json
from pathlib import Path

import pytest

from tests.integration.forked import VLLM_RUN
from tests.integration.workshop import run

FAMILIES, BRIEF = ["qwen2_5_vl", "qwen3_vl", "internvl"], "qwen2_vl"
PARAMETERS = [FAMILIES[0], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])]


@pytest.fixture(scope="module", params=PARAMETERS)
def parity(request, tmp_path_factory):
    return run_job(tmp_path_factory.mktemp(request.param), request.param)


def run_job(folder, *arguments):
    job = Path(__file__).with_name("engine_parity_job.py")
    result = run([str(job), str(folder), *arguments], folder, VLLM_RUN)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_log_probs_of_engines_and_trainer_agree(parity):
    assert parity["vllm_trainer"] < 1e-4
    assert parity["hf_trainer"] < 1e-4


@pytest.mark.slow
def test_an_older_family_agrees_before_and_after_an_update(tmp_path):
    parity = run_job(tmp_path, BRIEF, "brief")
    test_log_probs_of_engines_and_trainer_agree(parity)
    test_a_weight_update_reaches_engine_and_caches(parity)
    assert parity["greedy_equal"]


def test_a_weight_update_reaches_engine_and_caches(parity):
    assert parity["stale_difference"] > 1e-2, "the update must matter for this test to mean anything"
    assert parity["vllm_trainer_after"] < 1e-4
    assert parity["hf_trainer_after"] < 1e-4
    assert parity["version"] == 1


def test_an_update_that_breaks_off_is_an_error_and_leaves_nothing_in_the_next(parity):
    """The engine's log-probs after the next one are compared above."""
    assert parity["interrupted"] == "rank 0 has left"


def test_what_vllm_does_not_restore_after_a_sleep_is_restored(parity):
    assert parity["after_lost_tensors"]


def test_every_distinct_image_passes_the_vision_encoder_once(parity):
    """Four images in six requests of four samples: two prompts with multi and mono views that share one image."""
    for images, runs, hit_rate in (parity["reuse"], parity["reuse_after"]):
        assert (images, runs) == (4, 4)
        assert 0.3 < hit_rate < 1


def test_an_image_is_decoded_and_processed_once_for_all_views_and_samples(parity):
    assert parity["image_work"] == {"decoded": [1, 1, 1, 1], "processed": 4}


def test_samples_come_when_they_are_finished(parity):
    assert parity["as_finished"]


def test_a_call_that_is_given_up_leaves_nothing_to_the_next(parity):
    assert parity["nothing_left"]
    assert parity["after_giving_up"]


def test_images_read_ahead_change_no_answer_and_fail_where_they_are_used(parity):
    assert parity["hints_change_nothing"] == [True] * 3
    ((number, reason),) = parity["bad_image"]
    assert (number, "broken.png: cannot be decoded" in reason) == (1, True)
    assert parity["beside_bad_image"]
    assert parity["after_bad_image"]
    assert parity["threads_left"] == []


def test_requests_get_their_samples_whatever_the_order(parity):
    assert parity["samples"] == [4] * 6
    assert parity["order_independent"]


def test_greedy_answers_are_those_of_the_reference(parity):
    assert parity["greedy_equal"]


def test_blocked_tokens_are_never_sampled(parity):
    assert parity["blocked_emitted"] == []
