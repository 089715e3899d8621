"""Nearest keys and verl's names."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mars.config.keys import leaves, nearest, sections_of
from mars.config.schema import TrainConfig
from mars.config.verl_names import NAMES, translation
from tests.examples import examples

KEYS = list(leaves(TrainConfig))


@st.composite
def misspelt_keys(draw):
    """(key, the key with one letter of its last part dropped, doubled, replaced or swapped with the next)."""
    key = draw(st.sampled_from([key for key in KEYS if len(key.rpartition(".")[2]) >= 5]))
    section, _, name = key.rpartition(".")
    i = draw(st.integers(0, len(name) - 2))
    wrong = draw(
        st.sampled_from(
            [
                name[:i] + name[i + 1 :],
                name[:i] + name[i] + name[i:],
                name[:i] + "x" + name[i + 1 :],
                name[:i] + name[i + 1] + name[i] + name[i + 2 :],
            ]
        )
    )
    return key, f"{section}.{wrong}"


@examples(100)
@given(misspelt_keys())
@example(("reward.functions", "reward.functiosn"))
@example(("reward.function", "reward.functin"))
def test_a_misspelt_name_is_recognised(pair):
    key, wrong = pair
    assume(wrong not in KEYS)
    assert key in nearest(wrong, KEYS)


@examples(100)
@given(st.sampled_from([key for key in KEYS if "." in key]), st.integers(0, 20))
def test_a_misspelt_section_is_recognised(key, position):
    section, _, name = key.rpartition(".")
    i = position % len(section)
    wrong = f"{section[:i]}{section[i + 1 :]}.{name}"
    assert nearest(wrong, KEYS)[0] == key


def test_a_name_without_its_section_finds_all_its_homes():
    assert sorted(nearest("top_p", KEYS)) == ["evaluation.top_p", "rollout.top_p"]


def test_a_key_in_the_wrong_one_of_nested_sections_is_recognised():
    assert nearest("rollout.block_size", KEYS) == ["rollout.vllm.block_size"]
    assert nearest("vllm.block_size", KEYS) == ["rollout.vllm.block_size"]
    assert nearest("rollout.vllm.max_num_seqs", KEYS) == ["rollout.max_num_seqs"]
    assert nearest("rollout.vllm.enforce_eagr", KEYS) == ["rollout.vllm.enforce_eager"]


def test_two_names_that_differ_by_a_letter_are_both_offered():
    assert nearest("reward.functiosn", KEYS) == ["reward.function", "reward.functions"]
    assert nearest("actor.learning_rte", KEYS) == ["actor.learning_rate"]
    assert nearest("a.plurasl", ["a.plural", "a.plurals", "a.singular"]) == ["a.plural", "a.plurals"]


def test_the_sections_of_a_key():
    assert sections_of("rollout.vllm.block_size") == ["rollout", "rollout.vllm"]
    assert sections_of("run.seed") == ["run"]
    assert sections_of("run") == []


def test_what_is_like_nothing_has_no_neighbour():
    assert nearest("quantum.flux", KEYS) == []
    assert nearest("x", []) == []


def test_every_translation_leads_to_a_key_that_exists():
    wrong = {
        name: entry
        for name, entry in NAMES.items()
        if not entry.startswith("- ") and not {entry.split()[0], *entry.split(" and ")[1:2]} <= set(KEYS)
    }
    assert wrong == {}


def test_no_name_of_ours_is_taken_for_verls():
    assert [key for key in KEYS if key in NAMES] == []


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("actor_rollout_ref.rollout.n", "rollout.samples_per_prompt"),
        ("worker.rollout.n", "rollout.samples_per_prompt"),
        ("rollout.n", "rollout.samples_per_prompt"),
        ("optim.lr", "actor.learning_rate"),
        ("data.rollout_batch_size", "data.prompts_per_step"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", "actor.prompts_per_update"),
        ("trainer.total_epochs", "run.num_epochs"),
        ("trainer.test_freq", "evaluation.every (0 is never, not -1)"),
        ("kl_loss_coef", "algorithm.kl_coefficient"),
    ],
)
def test_translations(name, ours):
    assert translation(name, KEYS) == ours


def test_an_end_that_could_be_two_names_is_not_translated():
    assert translation("n", KEYS) is None  # of the rollouts, or of the validation


def test_a_translation_to_a_key_that_the_program_lacks_is_none():
    assert translation("actor_rollout_ref.rollout.n", ["run.seed"]) is None
