"""load_config: what composes, what is refused, and that everything wrong is said at once."""

import itertools
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.config.folders import quoted, shipped_folder
from mars.config.keys import leaves
from mars.config.load import SCHEMAS, composed_yaml, load_config
from mars.config.schema import SftConfig, TrainConfig
from mars.errors import ConfigError
from tests.examples import examples, some

FILES = "data.train_files=[a.parquet]"
EVERY = "algorithm.reference_every=10"


def problems(*overrides, root="train", dirs=(), files=FILES):
    """The lines of the refusal; `files` satisfies the only key without a default."""
    with pytest.raises(ConfigError) as refused:
        load_config(root, [files, *overrides] if files else list(overrides), dirs)
    assert refused.value.exit_code == 2
    return str(refused.value).split("\n")


def the_problem(*overrides, **options):
    (line,) = problems(*overrides, **options)
    return line


@pytest.fixture
def experiment(tmp_path):
    """Write an experiment in a recipe's folder; returns (overrides, dirs) that choose it."""

    def write(text, name="mine"):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
        return [f"experiment={name}"], [str(tmp_path)]

    return write


# --- what composes


def test_the_experiment_wins_over_the_defaults_and_the_command_line_over_the_experiment(experiment):
    chosen, dirs = experiment("# @package _global_\nrun: {num_epochs: 7, seed: 5}\nactor: {warmup_steps: 3}\n")
    config = load_config("train", [FILES, *chosen, "run.seed=9"], dirs)
    assert (config.run.num_epochs, config.run.seed, config.actor.warmup_steps) == (7, 9, 3)


@pytest.mark.parametrize("root", some(["train", "sft"], 1))
def test_a_mapping_on_the_command_line_replaces_that_of_the_experiment(experiment, root):
    chosen, dirs = experiment("# @package _global_\ndata: {source_image_pixels: {infrared: [3136, 9000]}}\n")
    assert load_config(root, [FILES], []).data.source_image_pixels == {}
    assert load_config(root, [FILES, *chosen], dirs).data.source_image_pixels == {"infrared": [3136, 9000]}
    depth = "data.source_image_pixels={cam.front-2: [3136, 3136]}"
    assert load_config(root, [FILES, *chosen, depth], dirs).data.source_image_pixels == {"cam.front-2": [3136, 3136]}
    nothing = "data.source_image_pixels={}"
    assert load_config(root, [FILES, *chosen, depth, nothing], dirs).data.source_image_pixels == {}
    assert "cam.front-2:\n" in composed_yaml(root, [FILES, *chosen, depth], dirs)
    lines = problems(*chosen, depth, "data.min_image_pixels=4000", root=root, dirs=dirs)
    assert lines == [f"data.source_image_pixels: {line}" for line in (
        "the limits of cam.front-2 are not within data.min_image_pixels=4000 to data.max_image_pixels=1003520; "
        "got {'cam.front-2': [3136, 3136]}; give narrower limits, or widen those for all images",
    )]  # fmt: skip


def test_a_group_on_the_command_line_wins_over_the_experiments_choice(experiment):
    chosen, dirs = experiment("# @package _global_\ndefaults:\n  - override /anchor: all_but_one\n")
    assert load_config("train", [FILES, *chosen], dirs).anchor.kind == "all_but_one"
    assert load_config("train", [FILES, *chosen, "anchor=none"], dirs).anchor.kind == "none"


def test_a_recipe_adds_choices_to_a_group(tmp_path):
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text("defaults: [grounding, _self_]\nfunction: f.py:score\n")
    config = load_config("train", [FILES, "reward=mine"], [str(tmp_path)])
    assert (config.reward.function, config.reward.timeout_s) == ("f.py:score", 10.0)


def test_interpolations_are_resolved():
    config = load_config("train", [FILES, "run.name=x", "data.image_root=${run.dir}/images"], [])
    assert (config.run.dir, config.data.image_root) == ("runs/x", "runs/x/images")


def test_of_two_values_for_a_key_or_group_the_last_counts():
    config = load_config("train", [FILES, "anchor=mono", "run.seed=1", "anchor=none", "run.seed=2"], [])
    assert (config.anchor.kind, config.run.seed) == ("none", 2)


def test_numbers_keep_their_type():
    config = load_config("train", [FILES, "actor.learning_rate=1e-6", "rollout.temperature=1"], [])
    assert config.actor.learning_rate == 1e-6
    assert type(config.rollout.temperature) is float
    assert type(config.run.seed) is int


@pytest.mark.parametrize(
    "override",
    ["rollout.vllm.block_size=32", "rollout.vllm={block_size: 32}", "rollout={vllm: {block_size: 32}}"],
)
def test_a_setting_of_a_nested_section(override, experiment):
    chosen, dirs = experiment("# @package _global_\nrollout: {vllm: {block_size: 16, enforce_eager: true}}\n")
    vllm = load_config("train", [FILES, *chosen, override], dirs).rollout.vllm
    assert (vllm.block_size, vllm.enforce_eager, vllm.gpu_memory_utilization) == (32, True, 0.5)


def test_the_dotted_values_of_a_configuration():
    values = load_config("train", [FILES, "data.source_image_pixels={infrared: [3136, 9000]}"], []).dotted()
    assert list(values) == list(leaves(TrainConfig))
    assert values["rollout.vllm.gpu_memory_utilization"] == 0.5
    assert values["data.source_image_pixels"] == {"infrared": [3136, 9000]}


def test_sft_has_its_own_settings():
    config = load_config("sft", [FILES, "sft.batch_size=3"], [])
    assert isinstance(config, SftConfig)
    assert config.sft.batch_size == 3


@examples(60)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20))
def test_quoted_is_read_back_exactly(text):
    if "${" in text or text == "???":  # these mean something in a configuration, quoted or not
        return
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"model.path={quoted(text)}").value() == text


def test_a_config_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "it's, [here] {a}=b"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nrun: {seed: 5}\n")
    assert load_config("train", [FILES, "experiment=mine"], [str(folder)]).run.seed == 5


# --- one line for each kind of mistake

REFUSALS = {
    # unknown keys
    "rollout.sample_per_prompt=8": "unknown key; got 8; did you mean rollout.samples_per_prompt?",
    "rolout.top_p=0.5": "rolout.top_p: unknown key; got 0.5; did you mean rollout.top_p?",
    "+rollout.top_pp=0.5": "rollout.top_pp: unknown key; got 0.5; did you mean rollout.top_p?",
    "++anker.kind=none": "anker.kind: unknown key; got 'none'; did you mean anchor.kind?",
    "rollout.top_p.x=1": "rollout.top_p.x: unknown key; got 1; did you mean rollout.top_p?",
    "rollout={top_q: 1}": "rollout.top_q: unknown key; got 1; did you mean rollout.top_p or rollout.top_k?",
    "algorthm=grpo": "algorthm: unknown key; got 'grpo'; did you mean algorithm?",
    "quantum.flux=1": "quantum.flux: unknown key; got 1; docs/config.md lists all keys",
    "ROLLOUT.TOP_P=1": "ROLLOUT.TOP_P: unknown key; got 1; did you mean rollout.top_p?",
    # nested sections
    "rollout.vllm.blok_size=8": "rollout.vllm.blok_size: unknown key; got 8; did you mean rollout.vllm.block_size?",
    "rollout.vlm.block_size=8": "rollout.vlm.block_size: unknown key; got 8; did you mean rollout.vllm.block_size?",
    "vllm.block_size=8": "vllm.block_size: unknown key; got 8; did you mean rollout.vllm.block_size?",
    "rollout={vllm: {blok_size: 8}}": "rollout.vllm.blok_size: unknown key; got 8; did you mean rollout.vllm.block",
    "rollout.vllm={blok_size: 8}": "rollout.vllm.blok_size: unknown key; got 8; did you mean rollout.vllm.block_size?",
    "rollout.vllm.quantum=1": "unknown key; got 1; the keys of rollout.vllm are enforce_eager, block_size, kv_cache",
    "rollout.quantum=1": "rollout.quantum: unknown key; got 1; the keys of rollout are engine, num_workers,",
    "rollout.vllm=3": "rollout.vllm: a section, not a value; got 3; set one of rollout.vllm.enforce_eager, rollout.vl",
    "~rollout.vllm": "rollout.vllm: cannot be removed, every key needs a value;",
    "rollout.vllm.block_size=0": "rollout.vllm.block_size: out of range; got 0; give an integer > 0 or null",
    "rollout.vllm.block_size={a: 1}": "rollout.vllm.block_size: a value, not a mapping; got {'a': 1}",
    "rollout.vllm.enforce_eager=???": "rollout.vllm.enforce_eager: not set; give true or false",
    # groups
    "algorithm=grop": "algorithm: no such choice; got 'grop'; did you mean grpo?",
    "anchor=null": "anchor: no such choice; got null;",
    "rollout=3": "rollout: no such choice; got 3; the choices are hf, scripted, vllm",
    "experiment=quikstart": "experiment: no such choice; got 'quikstart'; did you mean quickstart?",
    "run=3": "run: a section, not a value; got 3; set one of run.name, run.dir,",
    "rollout@x=vllm": "rollout@x: groups cannot be moved; got 'vllm'; write rollout=...",
    "+anchor=none": "anchor: exists already, and + adds new keys; got 'none'; leave out the +",
    "++anchor=none": "anchor: exists already, and + adds new keys; got 'none'; leave out the +",
    "hydra.run.dir=x": "hydra.run.dir: Hydra's own settings have no effect here;",
    "~rollout.top_p": "rollout.top_p: cannot be removed, every key needs a value;",
    "~anchor": "anchor: cannot be removed, every key needs a value;",
    # syntax
    "a b": "override 'a b': malformed",
    "x==": "override 'x==': malformed (extraneous input '='); write key=value;",
    "rollout.top_p": "override 'rollout.top_p': malformed (missing EQUAL at '<EOF>');",
    "run.name=a=b": "override 'run.name=a=b': malformed",
    "data.eval_files=[a": "override 'data.eval_files=[a': malformed",
    "=3": "override '=3': no key before =;",
    "--top_p=3": "--top_p=3: no such option; the options are --config-dir, --cfg and --dry-run;",
    "run.seed=int(a)": "override 'run.seed=int(a)': malformed (ValueError while evaluating 'int(a)'",
    "run.seed=1,2": "run.seed: several values (a sweep), but a run takes one;",
    # types
    "rollout.top_k=5.0": "rollout.top_k: wrong type; got 5.0; give an integer >= 0",
    "rollout.top_k=true": "rollout.top_k: wrong type; got true; give an integer >= 0",
    "rollout.top_p=true": "rollout.top_p: wrong type; got true; give a number > 0 and <= 1",
    "actor.learning_rate=1e-6x": "actor.learning_rate: wrong type; got '1e-6x'; give a number > 0",
    "run.name=3": "run.name: wrong type; got 3; give non-empty text",
    "run.name=null": "run.name: wrong type; got null; give non-empty text",
    "data.shuffle=1": "data.shuffle: wrong type; got 1; give true or false",
    "data.eval_files=b.parquet": "got 'b.parquet'; give a list of text, such as data.eval_files=[b.parquet]",
    "data.eval_files={a: b}": "data.eval_files: a value, not a mapping; got {'a': 'b'}; give one value",
    "run.seed=[1]": "run.seed: wrong type; got [1]; give an integer >= 0 and < 2147483648",
    "data.source_image_pixels={a: 9}": "data.source_image_pixels: wrong type at [a]; got 9; give a mapping of text to",
    "data.source_image_pixels={a: [9.0, 9]}": "data.source_image_pixels: wrong type at [a]; got 9.0; give a mapping",
    "data.source_image_pixels={1: [9, 9]}": "data.source_image_pixels: wrong type at [1]; got 1; give a mapping of",
    "data.source_image_pixels={a: {b: 1}}": "data.source_image_pixels: wrong type at [a]; got {'b': 1}; give a mapping",
    "data.source_image_pixels=[9,9]": "got [9, 9]; give a mapping, such as data.source_image_pixels={name: ...}",
    "data.source_image_pixels.a=[9,9]": "got [9, 9]; write data.source_image_pixels={a: ...}",
    "data={source_image_pixels: {a: [9, 9]}}": "got [9, 9]; write data.source_image_pixels={a: ...}",
    "+data.source_image_pixels={a: [9, 9]}": "data.source_image_pixels: exists already, and + adds new keys; got",
    "data.source_image_pixel={a: [9, 9]}": "unknown key; got {'a': [9, 9]}; did you mean data.source_image_pixels?",
    "data.eval_files=[b,3]": "data.eval_files: wrong type at [1]; got 3; give a list of text",
    # ranges
    "rollout.top_p=1.5": "rollout.top_p: out of range; got 1.5; give a number > 0 and <= 1",
    "data.source_image_pixels={a: [0, 9]}": "data.source_image_pixels: out of range at [a]; got 0; give a mapping of",
    "rollout.top_p=nan": "rollout.top_p: out of range; got nan; give a number > 0 and <= 1",
    "rollout.temperature=inf": "rollout.temperature: out of range; got inf; give a number > 0",
    "run.seed=-1": "run.seed: out of range; got -1; give an integer >= 0 and < 2147483648",
    "run.seed=2147483648": "run.seed: out of range; got 2147483648;",
    "algorithm.dual_clip=1": "algorithm.dual_clip: out of range; got 1; give a number > 1 or null",
    "run.name=''": "run.name: empty; got ''; give non-empty text",
    "anchor.kind=monno": "anchor.kind: not one of the choices; got 'monno'; did you mean mono? give one of none, mono,",
    "actor.freeze=[vison]": "actor.freeze: not one of the choices; got 'vison'; give a list of vision, projector, ",
    "tracking.to=[tensorbord]": "tracking.to: no such tracker: tensorbord; got ['tensorbord']; did you mean tensor",
    "tracking.to=[wandb,wandb]": "tracking.to: a tracker comes twice; got ['wandb', 'wandb']; give each once",
    "tracking.to=[wandb:online]": "tracking.to: no such tracker: wandb:online; got ['wandb:online']; did you mean wan",
    "tracking.project='a/b'": "tracking.project: no name of a project of wandb; got 'a/b'; give at most 128 characters",
    "tracking.to=console": "tracking.to: wrong type; got 'console'; give a list of text, such as tracking.to=[console]",
    "tracking.wandb=off": "tracking.wandb: renamed; got 'off'; use tracking.to (a list: [console,wandb], or [console]",
    # not set, not resolvable
    "data.prompts_per_step=???": "data.prompts_per_step: not set; give an integer > 0",
    "run.dir=${run.nme}": "run.dir: cannot be resolved (Interpolation key 'run.nme' not found);",
    "run.dir=${run.dir}": "run.dir: cannot be resolved (Recursive interpolation detected);",
    "run.name=${oc.env:MARS_SURELY_NOT_SET}": "run.name: cannot be resolved",
    # verl's names
    "actor_rollout_ref.rollout.n=8": "actor_rollout_ref.rollout.n: verl's name; got 8; use rollout.samples_per_prompt",
    "rollout.n=8": "rollout.n: verl's name; got 8; use rollout.samples_per_prompt",
    "data.train_batch_size=8": "data.train_batch_size: verl's name; got 8; use data.prompts_per_step",
    "data.max_response_length=8": "data.max_response_length: verl's name; got 8; use rollout.max_response_tokens",
    "+algorithm.adv_estimator=grpo": "algorithm.adv_estimator: verl's name; got 'grpo'; use algorithm.estimator (grpo",
    "actor_rollout_ref.rollout.enforce_eager=true": "verl's name; got true; use rollout.vllm.enforce_eager",
    "worker.rollout.gpu_memory_utilization=1": "verl's name; got 1; use rollout.vllm.gpu_memory_utilization",
    "trainer.save_freq=5": "trainer.save_freq: verl's name; got 5; use checkpoint.every",
    "num_generations=8": "num_generations: TRL's name; got 8; use rollout.samples_per_prompt",
    "beta=0.04": "beta: TRL's name; got 0.04; use algorithm.kl_coefficient",
    "num_iterations=2": "num_iterations: TRL's name, and mars has no such setting; got 2; leave it out: each rollout",
    "trainer.nnodes=2": "trainer.nnodes: verl's name, and mars has no such setting; got 2; leave it out: set the numbe",
    "worker.rollout.n=8": "worker.rollout.n: verl's name; got 8; use rollout.samples_per_prompt",
    "actor_rollout_ref.actor.clip_ratio=1": "verl's name; got 1; use algorithm.clip_low and algorithm.clip_high",
    # keys that must fit together
    "run.num_epochs=null": "run.num_steps: the run has no length: run.num_epochs is null too; got null;",
    "data.min_image_pixels=2000000": "data.min_image_pixels: larger than data.max_image_pixels=1003520; got 2000000;",
    "algorithm.reduction_tokens=9": "has no effect with algorithm.reduction=token_mean; got 9;",
    "algorithm.reduction=seq_mean_token_sum_norm": "algorithm.reduction_tokens: algorithm.reduction=",
    "data.prompts_per_step=100": "actor.prompts_per_update: does not divide data.prompts_per_step=100; got 32;",
    "actor.freeze=[vision,language,projector]": "actor.freeze: nothing is left to train; got ['vision', 'language', ",
    "actor.fsdp_size=2": "actor.fsdp_size: does not divide actor.num_workers=1; got 2; give a divisor, such as the GP",
    "actor.num_workers=33": "actor.num_workers: more ranks than the actor.prompts_per_update=32 prompts",
    "data.source_image_pixels={a: [9, 9, 9]}": "the limits of a are not [smallest, largest]; got {'a': [9,",
    "data.source_image_pixels={a: [5000, 4000]}": "the limits of a are not [smallest, largest]; got {'a': [",
    "data.source_image_pixels={a: [3136, 3136], b: [3135, 4000]}": "the limits of b are not within data.min_image_p",
    "data.source_image_pixels={a: [3136, 1003521]}": "to data.max_image_pixels=1003520; got {'a': [3136, 1003521]}",
    "rollout.max_model_len=12287": "max_response_tokens=8192; got 12287; give 12288 or more",
}


@pytest.mark.parametrize("option", ["--multirun", "-m", "--info", "--version", "--resolve", "--data.train_files=[a]",
                                    "--rollout.top_p=2", "-", "---"])  # fmt: skip
@pytest.mark.parametrize("root", ["train", "sft"])
def test_an_unknown_option_is_named_alone(root, option):
    """What is not set may be what the option was meant to set."""
    with pytest.raises(ConfigError) as caught:
        load_config(root, [option], [])
    do = "the options are --config-dir, --cfg and --dry-run; a setting is written key=value, without dashes"
    assert str(caught.value) == f"{option}: no such option; {do}"
    with pytest.raises(ConfigError) as caught:
        load_config(root, [option, "run.seed=-1"], [])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [option, "run.seed"]


@pytest.mark.parametrize(("override", "line"), some(REFUSALS.items(), 54), ids=list(REFUSALS))
def test_refusal(override, line):
    assert line in problems(override)[0]


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (
            ["rollout.samples_per_prompt=1", "anchor=none"],
            "rollout.samples_per_prompt: a single rollout has no advantage",
        ),
        (["cluster=local", "rollout.num_workers=2"], "rollout.num_workers: cluster.kind=local runs one engine"),
        (
            ["cluster=local", "cluster.device=cpu", "cluster.placement=colocated"],
            "cluster.placement: vLLM cannot sleep on a CPU",
        ),
        (
            ["cluster.placement=colocated", "actor.num_workers=2", "rollout.tensor_parallel_size=4"],
            "actor.num_workers: cluster.placement=colocated has one rank on each of the 4 GPUs of the engines "
            "(rollout.num_workers=1 x rollout.tensor_parallel_size=4); got 2; give 4",
        ),
        (
            ["cluster.placement=colocated", "rollout.weight_transfer=broadcast"],
            "rollout.weight_transfer: cluster.placement=colocated has both ends on one GPU",
        ),
        (
            ["rollout.weight_transfer=cuda_ipc"],
            "rollout.weight_transfer: a rank can share only memory of a GPU that the engine has too; got 'cuda_ipc'",
        ),
        (
            ["cluster.placement=colocated", "rollout.weight_transfer=cuda_ipc", "cluster.device=cpu", "rollout=hf"],
            "rollout.weight_transfer: a rank can share only memory of a GPU that the engine has too; got 'cuda_ipc'",
        ),
        (["cluster=local", "actor.num_workers=2"], "actor.num_workers: cluster.kind=local runs one engine"),
        (
            ["cluster=local", "rollout.weight_transfer=broadcast"],
            "rollout.weight_transfer: cluster.kind=local hands weights over within one process; got 'broadcast'; give",
        ),
        (
            ["rollout=scripted", "rollout.weight_transfer=broadcast"],
            "rollout.weight_transfer: rollout.engine=scripted takes no weights; got 'broadcast'; give object_store",
        ),
        (
            ["rollout.tensor_parallel_size=2", "rollout.weight_transfer=broadcast"],
            "rollout.weight_transfer: cannot reach the 2 processes of an engine",
        ),
        (
            ["rollout=hf", "rollout.tensor_parallel_size=2"],
            "rollout.tensor_parallel_size: rollout.engine=hf has no tensor parallelism; got 2; give 1",
        ),
        (
            ["rollout=scripted", "rollout.tensor_parallel_size=2"],
            "rollout.tensor_parallel_size: rollout.engine=scripted has no tensor parallelism; got 2; give 1",
        ),
        (["cluster.device=cpu", "model.attention=flash_attention_2"], "model.attention: needs a GPU"),
        (
            ["anchor=mono", "anchor.pooled_statistics=mean"],
            "anchor.pooled_statistics: if all multi rewards are equal, their standard deviation is 0",
        ),
        (
            ["anchor=mono", "anchor.pooled_statistics=mean", "algorithm.std_floor=0.1", "rollout.samples_per_prompt=1"],
            "anchor.pooled_statistics: a single multi rollout (rollout.samples_per_prompt=1) has no standard deviation",
        ),
        (["algorithm=rloo", "algorithm.std_floor=0.1"], "algorithm.std_floor: has no effect with algorithm.normalize"),
        (
            ["actor.freeze=[vision]", "actor.lora.rank=8"],
            "actor.freeze: with adapters (actor.lora.rank=8) only they are trained; got ['vision']; give []",
        ),
        (
            ["reward.concurrency=4", "reward.functions={x: /a/one.py:f, y: /b/two.py:f, z: vqa}"],
            "reward.concurrency: reward.functions has files in several folders (/a, /b), whose modules threads would",
        ),
        (
            ["reward.by_prompt=true", "reward.functions={x: grounding, y: vqa}", "reward.function=mine.py:f"],
            "reward.by_prompt: built-in rewards score one answer by itself; got true; give false, or a function of",
        ),
        (["reward.by_prompt=true"], "reward.by_prompt: built-in rewards score one answer by itself"),
        (["algorithm.kl_reference=null"], "algorithm.kl_coefficient: a KL term needs a reference model"),
        (["algorithm.kl_reference=''"], "algorithm.kl_reference: empty; got ''; give a path"),
        (
            ["algorithm=dapo", "algorithm.kl_reference=null", EVERY],
            "algorithm.reference_every: algorithm.kl_reference is empty: there is no model to update",
        ),
        (
            [EVERY, "actor.lora.rank=8"],
            "algorithm.reference_every: LoRA adapters have no weights of the whole policy to copy",
        ),
        (
            ["algorithm.reference_decay=0.9"],
            "algorithm.reference_decay: has no effect with algorithm.reference_every=null; got 0.9; set it to null",
        ),
    ],
)
def test_pairs_that_do_not_fit(overrides, start):
    assert the_problem(*overrides).startswith(start)


SMALL = "vLLM samples with 0.01 instead of a smaller temperature"


@pytest.mark.parametrize("key", ["rollout.temperature", "evaluation.temperature"])
def test_a_temperature_that_vllm_would_replace_is_refused(key):
    for value in ("1e-9", "1e-320"):
        small = the_problem(f"{key}={value}", "rollout=hf")
        assert "logits divided by it can be infinite in float32" in small
        assert "give 1e-06 or more" in small
    for value in ("0.0099", "1e-6"):
        assert the_problem(f"{key}={value}").startswith(f"{key}: {SMALL}")
        assert load_config("train", [FILES, f"{key}={value}", "rollout=hf"], []).dotted()[key] == float(value)
    assert load_config("train", [FILES, f"{key}=0.01"], []).dotted()[key] == 0.01
    assert load_config("train", [FILES, "evaluation.temperature=0"], []).evaluation.temperature == 0  # greedy
    ramp = "{key: rollout.temperature, first: 1.0, last: 0.001, start: 0, steps: 5, shape: linear, slope: null}"
    assert SMALL in the_problem(f"ramps=[{ramp}]")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("rollout.top_k=-1", "rollout.top_k: out of range; got -1; give an integer >= 0 and < 2147483648 (0: all)"),
        (
            "rollout.top_k=2147483648",
            "rollout.top_k: out of range; got 2147483648; give an integer >= 0 and < 2147483648",
        ),
        ("rollout.top_p=0", "rollout.top_p: out of range; got 0; give a number > 0 and <= 1 (1: all)"),
        ("rollout.temperature=0", "rollout.temperature: out of range; got 0; give a number > 0"),
    ],
)
def test_sampling_settings_that_mean_something_else_in_an_engine_are_refused(override, line):
    """vLLM reads top_p=0 as an error, top_k=-1 as all tokens, and temperature 0 as greedy, which explores nothing."""
    assert the_problem(override) == line


def test_anchors_give_a_single_rollout_its_signal():
    assert load_config("train", [FILES, "rollout.samples_per_prompt=1", "anchor=mono"], []).anchor.kind == "mono"


def test_without_anchors_it_does_not_matter_what_they_would_be_pooled_in():
    assert (
        load_config("train", [FILES, "anchor=none", "anchor.pooled_statistics=mean"], []).anchor.pooled_statistics
        == "mean"
    )


@pytest.mark.parametrize(("concurrency", "second"), [(4, "/a/two.py:f"), (4, "grounding"), (1, "/b/two.py:f")])
def test_threads_take_the_functions_of_one_folder(concurrency, second):
    given = [f"reward.concurrency={concurrency}", f"reward.functions={{x: /a/one.py:f, y: {second}}}"]
    assert load_config("train", [FILES, *given], []).reward.concurrency == concurrency


def test_what_has_no_default_must_be_given():
    line = "data.train_files: not set; give a non-empty list of text"
    assert problems(files=None) == [line]
    assert problems(root="sft", files=None) == [line]


# --- all at once, and nothing beside the point


def test_all_kinds_of_problems_are_in_one_message():
    lines = problems(
        "x==",  # syntax
        "algorithm=grop",  # group
        "+rollout.n=3",  # verl, with +
        "rolout.top_k=3",  # unknown
        "rollout.top_p=7",  # range
        "run.seed=a",  # type
        "run.dir=${nope}",  # interpolation
        "data.prompts_per_step=10",  # cross-field, beside bad fields of the same section
        "data.shuffle=maybe",
        "run.num_epochs=null",  # cross-field, beside a bad field of the same section
        "model.box_space=???",  # not set
    )
    keys = [line.partition(": ")[0] for line in lines]
    assert keys == [
        *["override 'x=='", "algorithm", "rollout.n", "rolout.top_k"],
        *["run.dir", "run.seed", "run.num_steps", "model.box_space", "data.shuffle", "rollout.top_p"],
        "actor.prompts_per_update",
    ]


def test_a_rule_is_silent_where_one_of_its_values_is_bad():
    assert the_problem("data.prompts_per_step=-7").startswith("data.prompts_per_step: out of range")


def test_a_misspelt_key_does_not_count_as_not_set():
    assert the_problem("data.train_file=[a]", files=None).endswith("did you mean data.train_files?")


def test_a_nested_section_that_is_no_section_does_not_leave_its_keys_not_set(experiment):
    chosen, dirs = experiment("# @package _global_\nrollout: {vllm: 3}\n")
    assert the_problem(*chosen, dirs=dirs).startswith("rollout.vllm: a section, not a value")


def test_a_misspelt_experiment_blames_only_itself_and_what_the_command_line_sets():
    lines = problems("experiment=quikstart", "rollout.top_p=7", "cluster.device=cpu", files=None)
    assert [line.partition(":")[0] for line in lines] == ["experiment", "rollout.top_p"]


def test_a_verl_name_keeps_rules_about_its_key_silent():
    assert "use data.prompts_per_step" in the_problem("data.train_batch_size=48", "actor.prompts_per_update=48")


@examples(10)
@given(st.data())
def test_every_wrong_value_is_reported_whatever_else_is_wrong(data):
    wrong = {
        "rollout.top_p=2": "rollout.top_p",
        "run.seed=x": "run.seed",
        "actor.betas=[0.9,1]": "actor.betas",
        "reward.functon=f": "reward.functon",
        "anchor=mno": "anchor",
        "cluster.kind=slurm": "cluster.kind",
        "evaluation.top_p=0": "evaluation.top_p",
        "a b": "override 'a b'",
        "data.min_image_pixels=9999999": "data.min_image_pixels",
        "rollout.max_model_len=1": "rollout.max_model_len",
        "trainer.nnodes=1": "trainer.nnodes",
    }
    chosen = data.draw(st.lists(st.sampled_from(sorted(wrong)), min_size=1, unique=True))
    lines = problems(*chosen)
    assert sorted(line.partition(": ")[0] for line in lines) == sorted(wrong[override] for override in chosen)


# --- files of recipes

BROKEN_EXPERIMENTS = {
    "rollout: {n: 3}": "rollout.n: verl's name; got 3; use rollout.samples_per_prompt",
    "rolout: {top_p: 0.5}": "rolout.top_p: unknown key; got 0.5; did you mean rollout.top_p?",
    "rollout: {top_p: {x: 1}}": "rollout.top_p.x: unknown key; got 1; did you mean rollout.top_p?",
    "rollout: {vllm: {blok_size: 8}}": "rollout.vllm.blok_size: unknown key; got 8; did you mean rollout.vllm.block_",
    "rollout: {vllm: 3}": "rollout.vllm: a section, not a value; got 3; set one of rollout.vllm.enforce_eager,",
    "rollout: {vllm: null}": "rollout.vllm: a section, not a value; got null; set one of rollout.vllm.enforce_eager,",
    "rollout: 3": "rollout: a section, not a value; got 3; set one of",
    "rollout: null": "rollout: a section, not a value; got null; set one of",
    "rollout: [1]": "configuration files: cannot be composed",
    "rollout: {top_p: [1}": "configuration files: cannot be composed",
    "rollout: {top_p: 1, top_p: 2}": "found duplicate key top_p",
    "rollout.top_p: 0.5": "rollout.top_p: keys in a file must not have a dot; write nested keys",
    "tracking: {wandb: off}": "tracking.wandb: renamed; got false; use tracking.to (a list: [console,wandb], or",
    "1: 2": "1: unknown key; got 2;",
    "x: !!python/object/apply:os.getcwd []": "could not determine a constructor for the tag",
    "defaults: [mine, _self_]": "mine.yaml: its `defaults` name the file itself; remove this entry",
    "defaults: 3": "configuration files: cannot be composed",
    "defaults: [override /algorithm: grop]": "names a file that does not exist; got 'algorithm/grop'; the choices are",
    "defaults: [override /algorthm: grpo]": "Could not override 'algorthm'",
    "defaults: [/algorithm: grpo]": "algorithm appears more than once",
    "defaults: [override /anchor: null]": "anchor.kind: not set; give one of none, mono, all_but_one",
}


@pytest.mark.parametrize(("text", "line"), some(BROKEN_EXPERIMENTS.items(), 7), ids=list(BROKEN_EXPERIMENTS))
def test_a_broken_experiment_is_refused_beside_a_wrong_override(experiment, text, line):
    chosen, dirs = experiment(f"# @package _global_\n{text}\n")
    lines = problems(*chosen, "actor.betas=[5,0.9]", dirs=dirs)
    assert any(line in found for found in lines)
    assert "actor.betas: out of range at [0]; got 5; give a non-empty list of number >= 0 and < 1" in lines


@pytest.mark.parametrize("text", ["rollout: {top_p: 0.5}\n", "", "- a\n"])
def test_an_experiment_that_would_be_put_aside_is_refused(experiment, text):
    chosen, dirs = experiment(text)
    assert "begin its file with the line # @package _global_" in the_problem(*chosen, dirs=dirs)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "mine.yaml: is not text in UTF-8" in the_problem("experiment=mine", dirs=[str(tmp_path)])


def test_a_recipe_cannot_silently_lose_its_file_to_a_shipped_one(experiment):
    chosen, dirs = experiment("# @package _global_\nrun: {seed: 5}\n", name="quickstart")
    line = the_problem(*chosen, dirs=dirs)
    assert str(shipped_folder() / "experiment" / "quickstart.yaml") in line
    assert "rename it" in line


def test_a_config_folder_that_is_not_there():
    assert the_problem(dirs=["/no/such"]) == "--config-dir: no such folder; got '/no/such'; give a folder of YAML files"


# --- shown, and cheap


def test_composed_yaml_is_resolved_and_not_validated():
    import yaml

    shown = yaml.safe_load(composed_yaml("train", ["rollout.top_p=7"], []))
    assert (shown["run"]["dir"], shown["rollout"]["top_p"]) == ("runs/mars", 7)
    assert shown["data"]["train_files"] == "???"
    assert "hydra" not in shown
    with pytest.raises(ConfigError, match=r"did you mean rollout\.top_p"):
        composed_yaml("train", ["rolout.top_p=7"], [])
    with pytest.raises(ConfigError, match=r"run\.dir: cannot be resolved"):
        composed_yaml("train", ["run.dir=${nope}"], [])


def test_loading_the_configuration_imports_nothing_heavy():
    code = (
        "import sys; from mars.config.load import load_config; "
        "load_config('train', ['experiment=quickstart'], []); "
        "print([name for name in ('torch', 'transformers', 'ray', 'vllm', 'numpy', 'scipy') if name in sys.modules])"
    )
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert time.monotonic() - start < 30  # a guard against hangs; scripts measure the three seconds


def test_configurations_are_frozen_and_checked_however_they_are_made():
    config = load_config("train", [FILES], [])
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 3
    values = config.model_dump()
    values["data"]["prompts_per_step"] = 100
    with pytest.raises(ValueError, match=r"does not divide data\.prompts_per_step=100"):
        TrainConfig.model_validate(values)


def test_at_most_150_leaves_and_every_one_has_a_description():
    fields = dict(itertools.chain.from_iterable(leaves(schema).items() for schema in SCHEMAS.values()))
    assert len(leaves(TrainConfig)) <= 150
    assert [key for key, field in fields.items() if not field.description] == []
    assert [key for key, field in fields.items() if not field.is_required()] == []


def test_adapter_settings_without_adapters_are_refused():
    lines = problems("actor.lora.alpha=64", "actor.lora.parts=[vision]")
    assert lines == [
        "actor.lora.alpha: has no effect with actor.lora.rank=0; got 64.0; set the rank to 16, say",
        "actor.lora.parts: has no effect with actor.lora.rank=0; got ['vision']; set the rank to 16, say",
    ]


def test_adapter_settings_of_a_file_are_refused_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nactor:\n  lora: {rank: 0, alpha: 64.0, parts: [language]}\n")
    assert the_problem("experiment=mine", dirs=[str(tmp_path)]) == (
        "actor.lora.alpha: has no effect with actor.lora.rank=0; got 64.0; set the rank to 16, say"
    )
    file.write_text("# @package _global_\nactor:\n  lora: {rank: 8, alpha: 64.0}\n")
    assert load_config("train", [FILES, "experiment=mine"], [str(tmp_path)]).actor.lora.alpha == 64


@pytest.mark.parametrize(
    ("file", "override", "shown"),
    [
        ("configs/experiment/mine.yaml", "experiment=mine", "configs/experiment/mine.yaml needs --config-dir configs"),
        ("configs/algorithm/own.yaml", "algorithm=own", "configs/algorithm/own.yaml needs --config-dir configs"),
        (
            "configs/algorithm/own.yaml",
            "algorithm=other",
            "algorithm/NAME.yaml of your own needs --config-dir with the",
        ),
        (None, "experiment=papo_tiny", "recipe/papo/experiment/papo_tiny.yaml needs --config-dir recipe/papo"),
        (None, "experiment=../mine", "experiment/NAME.yaml of your own needs --config-dir with the folder that"),
    ],
)
def test_a_choice_in_a_folder_that_is_not_given_is_refused_with_the_folder(
    tmp_path, monkeypatch, file, override, shown
):
    monkeypatch.chdir(tmp_path)
    if file is not None:
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.touch()
    (line,) = problems(override, "data.train_files=[x]")
    assert ": no such choice; got " in line
    assert f"; {shown}" in line
