"""Earlier names of keys and values: refused on the command line and in files, with the name to use instead."""

import pytest

from mars.config.folders import groups, shipped_folder
from mars.config.keys import expected, leaves
from mars.config.load import SCHEMAS, load_config
from mars.config.renamed import KEYS, VALUES, renamed_key
from mars.errors import ConfigError
from tests.examples import some

FILES = "data.train_files=[a.parquet]"
ALL_KEYS = {key for schema in SCHEMAS.values() for key in leaves(schema)}
TYPED = {"anchor.pooled": "mean", "rollout.enforce_eager": "true"}  # the others take any number


def refusal(*overrides, root="train", dirs=()):
    with pytest.raises(ConfigError) as refused:
        load_config(root, [FILES, *overrides], dirs)
    return str(refused.value).split("\n")


def root_of(key):
    return "sft" if key.startswith("sft.") else "train"


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def nested(key, value):
    """rollout.block_size, 3 -> the YAML {rollout: {block_size: 3}}."""
    first, _, rest = key.partition(".")
    return f"{{{first}: {nested(rest, value) if rest else value}}}"


def test_the_new_names_exist_and_the_old_ones_do_not():
    assert {new.partition(" ")[0] for new in KEYS.values()} <= ALL_KEYS
    assert set(KEYS) & ALL_KEYS == set()
    choices = groups("train", [shipped_folder()])
    for key, values in VALUES.items():
        possible = choices[key] if key in choices else expected(leaves(SCHEMAS["train"])[key])
        assert all(new in possible and old not in possible for old, new in values.items()), key


@pytest.mark.parametrize(("old", "new"), KEYS.items())
def test_an_old_key_on_the_command_line(old, new):
    (line,) = refusal(f"{old}={TYPED.get(old, 1)}", root=root_of(old))
    assert line.startswith(f"{old}: renamed; got ")
    assert line.endswith(f"; use {new}")


@pytest.mark.parametrize(("old", "new"), some(KEYS.items(), 5))
def test_an_old_key_in_an_experiment(old, new, tmp_path):
    write(tmp_path, "experiment/mine.yaml", f"# @package _global_\n{nested(old, TYPED.get(old, 1))}\n")
    (line,) = refusal("experiment=mine", root=root_of(old), dirs=[str(tmp_path)])
    assert line.startswith(f"{old}: renamed; got ")
    assert line.endswith(f"; use {new}")


@pytest.mark.parametrize(("old", "new"), some([pair for pair in KEYS.items() if root_of(pair[0]) == "train"], 4))
def test_an_old_key_in_a_choice_of_a_group(old, new, tmp_path):
    group, _, name = old.partition(".")
    base = {"actor": "fsdp", "algorithm": "grpo", "anchor": "mono", "rollout": "vllm", "tracking": "default"}[group]
    held = nested(name, TYPED.get(old, 1))[1:-1]
    write(tmp_path, f"{group}/mine.yaml", f"defaults: [{base}, _self_]\n{held}\n")
    (line,) = refusal(f"{group}=mine", dirs=[str(tmp_path)])
    assert line.startswith(f"{old}: renamed; got ")
    assert line.endswith(f"; use {new}")


def test_an_old_key_without_its_section_or_with_a_plus():
    assert refusal("clip_norm=1") == ["clip_norm: renamed; got 1; use actor.max_grad_norm"]
    assert refusal("clip_norm=1", root="sft") == ["clip_norm: renamed; got 1; use sft.max_grad_norm"]
    assert refusal("+anchor.pooled=mean") == ["anchor.pooled: renamed; got 'mean'; use anchor.pooled_statistics"]


def test_a_new_name_is_not_called_not_set_where_the_file_has_the_old_one(tmp_path):
    text = "mono_samples_per_source: 1\nkind: mono\nsampling: policy\nimage_layout: single\nwording: same\n"
    text += "pooled: mean_and_std\nguide: 'off'\nguide_filter: null\nshuffle: 'off'\nallocation: even\n"
    text += "forced_start: null\n"
    write(tmp_path, "anchor/mine.yaml", text)
    assert refusal("anchor=mine", dirs=[str(tmp_path)]) == [
        "anchor.mono_samples_per_source: renamed; got 1; use anchor.samples_per_view",
        "anchor.pooled: renamed; got 'mean_and_std'; use anchor.pooled_statistics",
    ]


def test_an_old_value_on_the_command_line():
    (line,) = refusal("anchor=leave_one_out")
    assert line.startswith("anchor: no such choice; got 'leave_one_out'; renamed to all_but_one; the choices are all_")
    (line,) = refusal("anchor.kind=leave_one_out")
    assert line.startswith("anchor.kind: not one of the choices; got 'leave_one_out'; renamed to all_but_one; give one")
    (line,) = refusal("actor.packing=naive")
    assert line.startswith("actor.packing: not one of the choices; got 'naive'; renamed to padded; give one of shared_")


def test_an_old_value_behind_a_sign_of_hydra():
    for key, old, new in (("actor.packing", "naive", "padded"), ("anchor", "leave_one_out", "all_but_one")):
        assert refusal(f"+{key}={old}") == [
            f"{key}: exists already, and + adds new keys; got {old!r}; write {key}={new}; {old} was renamed"
        ]
        (line,) = refusal(f"~{key}={old}")
        assert line.endswith(f"give it another value; {old} is now {new}")
    assert "renamed to padded" in refusal("++actor.packing=naive")[0]
    assert refusal("~actor.clip_norm")[0].endswith("use actor.max_grad_norm")


def test_an_old_value_in_a_file(tmp_path):
    write(tmp_path, "experiment/chosen.yaml", "# @package _global_\ndefaults: [override /anchor: leave_one_out]\n")
    write(tmp_path, "experiment/valued.yaml", "# @package _global_\n{anchor: {kind: leave_one_out}}\n")
    write(tmp_path, "actor/mine.yaml", "defaults: [fsdp, _self_]\npacking: naive\n")
    (line,) = refusal("experiment=chosen", dirs=[str(tmp_path)])
    assert (
        "names a file that does not exist; got 'anchor/leave_one_out'; renamed to all_but_one; the choices are" in line
    )
    (line,) = refusal("experiment=valued", dirs=[str(tmp_path)])
    assert line.startswith("anchor.kind: not one of the choices; got 'leave_one_out'; renamed to all_but_one; give one")
    (line,) = refusal("actor=mine", dirs=[str(tmp_path)])
    assert line.startswith("actor.packing: not one of the choices; got 'naive'; renamed to padded; give one of shared_")


def test_the_estimator_that_is_still_called_leave_one_out():
    assert load_config("train", [FILES, "algorithm.estimator=leave_one_out"], []).algorithm.kl_placement


def test_a_key_that_was_never_ours():
    assert renamed_key("rollout.top_q", ALL_KEYS) is None
    assert renamed_key("clip_norm", ALL_KEYS) is None  # the actor's, or the cold start's
    assert renamed_key("anchor.pooled", {"run.seed"}) is None
