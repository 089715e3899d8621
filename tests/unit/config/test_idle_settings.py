"""Settings of the command line that another setting switches off."""

from __future__ import annotations

import pytest
import yaml

from mars.config.load import composed_yaml, load_config, load_saved_config
from mars.errors import ConfigError

TRAIN_FILES = "data.train_files=[a.parquet]"
HELD_OUT = "data.eval_files=[held_out.parquet]"
NO_BUFFER = "algorithm.overlong_buffer_tokens"
TRANSFORM = "recipe.transforms={masked: mask.py:masked}"


def refusals(*overrides, root="train"):
    with pytest.raises(ConfigError) as refused:
        load_config(root, [TRAIN_FILES, *overrides], [])
    return str(refused.value).splitlines()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["algorithm=dr_grpo", "algorithm.unbiased_std=false"],
            "algorithm.unbiased_std: has no effect with algorithm.normalize_std=false and recipe.advantage=[]; got "
            "false; leave it out, or divide by the standard deviation (algorithm.normalize_std=true)",
        ),
        (
            ["algorithm=rloo", "algorithm.epsilon=0.1"],
            "algorithm.epsilon: has no effect with algorithm.normalize_std=false; got 0.1; leave it out, or divide by "
            "the standard deviation (algorithm.normalize_std=true)",
        ),
        (
            ["algorithm.overlong_factor=2"],
            f"algorithm.overlong_factor: has no effect with {NO_BUFFER}=null; got 2.0; set that, or leave this out",
        ),
        (
            ["algorithm.kl_coefficient=0", "algorithm.kl_placement=reward"],
            "algorithm.kl_placement: has no effect with algorithm.kl_coefficient=0.0; got 'reward'; set "
            "algorithm.kl_coefficient above 0, or leave it out",
        ),
        (
            ["algorithm=dapo", "algorithm.kl_estimator=k1"],
            "algorithm.kl_estimator: has no effect with algorithm.kl_coefficient=0.0 and "
            "algorithm.reference_every=null; got 'k1'; set algorithm.kl_coefficient above 0, or leave it out",
        ),
        (
            ["evaluation.every=5"],
            "evaluation.every: has no effect with data.eval_files=[]; got 5; set data.eval_files, or leave it out",
        ),
        (
            ["rollout.weight_bucket_bytes=1000"],
            "rollout.weight_bucket_bytes: has no effect with rollout.weight_transfer='object_store'; got 1000; give "
            "broadcast or cuda_ipc, or leave it out",
        ),
        (
            ["tracking.rollouts_every=0", "tracking.rollout_prompts=3"],
            "tracking.rollout_prompts: has no effect with tracking.rollouts_every=0; got 3; set that to 1 or more, or "
            "leave this out",
        ),
        (
            [TRANSFORM],
            "recipe.transforms: has no effect with recipe.shaping=[] and recipe.requests=null and recipe.tokens=null; "
            "got {'masked': 'mask.py:masked'}; set one of these, whose hooks can use transforms, or leave it out",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(overrides, line):
    assert refusals(*overrides) == [line]


def test_a_setting_of_a_cold_start_without_effect_is_refused():
    (line,) = refusals("sft.eval_every=5", root="sft")
    assert line.startswith("sft.eval_every: has no effect with data.eval_files=[]; got 5; ")


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=dr_grpo", "algorithm.unbiased_std=false", "recipe.advantage=[rule.py:Rule]"],
        ["algorithm.unbiased_std=false", "algorithm.epsilon=0.1"],
        ["algorithm=dapo", "algorithm.overlong_factor=2"],
        ["algorithm=rloo", "algorithm.kl_coefficient=0"],  # the preset sets kl_placement and kl_estimator
        ["algorithm=dapo", "algorithm.kl_estimator=k1", "algorithm.reference_every=10"],
        ["algorithm=dapo", "algorithm.kl_placement=loss"],  # the default
        ["evaluation.every=5", HELD_OUT],
        ["evaluation.every=0"],
        ["rollout.weight_bucket_bytes=1000", "rollout.weight_transfer=broadcast"],
        [TRANSFORM, "recipe.tokens=rule.py:Rule"],
    ],
)
def test_settings_with_an_effect_and_defaults_are_accepted(overrides):
    load_config("train", [TRAIN_FILES, *overrides], [])


def test_a_file_may_set_what_is_switched_off(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nalgorithm: {kl_coefficient: 0.0, kl_placement: reward}\n"
    )
    config = load_config("train", [TRAIN_FILES, "experiment=mine"], [str(tmp_path)])
    assert config.algorithm.kl_placement == "reward"


def test_what_a_resumed_run_is_given_is_looked_at_but_not_its_record(tmp_path):
    content = yaml.safe_load(composed_yaml("train", [TRAIN_FILES, "evaluation.every=5"], []))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    assert load_saved_config(file, []).evaluation.every == 5
    with pytest.raises(ConfigError, match=r"^evaluation\.every: has no effect with data\.eval_files=\[\]; got 7; "):
        load_saved_config(file, ["evaluation.every=7"])


def test_a_setting_that_is_refused_anyway_is_named_once():
    (line,) = refusals("evaluation.every=-1")
    assert line.startswith("evaluation.every: out of range")
