"""The settings in a run's config.yaml, read again and changed by overrides."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mars.config.load import load_config, load_saved_config
from mars.errors import ConfigError
from tests.builders import train_config
from tests.examples import examples

GIVEN = ["data.train_files=[a.parquet]", "rollout=hf", "cluster.device=cpu"]


@pytest.fixture
def saved(tmp_path):
    """settings -> the config.yaml that a run writes."""

    def write(config, **changes):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump() | changes, sort_keys=False))
        return path

    return write


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["algorithm=dapo", "anchor=none", "actor.learning_rate=1e-7"],
        [
            "reward=vqa",
            "reward.functions={llvip: grounding, ocr: vqa}",
            "data.source_image_pixels={infrared: [3136, 6272]}",
        ],
    ],
)
def test_saved_settings_are_read_as_they_were(saved, overrides):
    config = load_config("train", [*GIVEN, *overrides], [])
    assert load_saved_config(saved(config), []) == config


@pytest.mark.parametrize(
    ("record", "override"),
    [
        ({"checkpoint": {"keep_best": "eval/multi/mean"}}, "data.eval_files=[]"),
        ({"evaluation": {"samples_per_prompt": 4, "temperature": 0.0}}, "evaluation.temperature=0.0"),
        ({"rollout": {"engine": "scripted", "tensor_parallel_size": 2}}, "rollout.tensor_parallel_size=2"),
    ],
)
def test_saved_settings_without_effect_are_refused_only_if_an_override_sets_them(tmp_path, record, override):
    content = load_config("train", GIVEN, []).model_dump()
    for section, values in record.items():
        content[section] |= values
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    load_saved_config(path, [])
    load_saved_config(path, ["run.name=again"])
    with pytest.raises(ConfigError):
        load_saved_config(path, [override])


@examples(20)
@example("${run.seed} \\${x} 'null'")
@given(st.lists(st.sampled_from(["${", "}", "\\", "a", "'"]), min_size=1).map("".join) | st.text(min_size=1))
def test_any_text_comes_back(text):
    import tempfile
    from pathlib import Path

    config = train_config({"run.name": text, "data.train_files": [text]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump()), encoding="utf-8")
        assert load_saved_config(path, []) == config


def test_overrides_change_single_keys(saved):
    config = load_config("train", [*GIVEN, "reward.functions={llvip: grounding}", "data.weights=[1.0]"], [])
    changed = load_saved_config(
        saved(config),
        ["run.num_steps=6", "reward.functions={ocr: vqa}", "data.eval_files=['b c.parquet']", "data.weights=null"],
    )
    before, now = config.dotted(), changed.dotted()
    assert {key: now[key] for key in now if now[key] != before[key]} == {
        "run.num_steps": 6,
        "reward.functions": {"ocr": "vqa"},
        "data.eval_files": ["b c.parquet"],
        "data.weights": None,
    }


def test_a_setting_that_the_run_did_not_have_has_its_default(saved):
    config = load_config("train", GIVEN, [])
    older = {k: v for k, v in config.checkpoint.model_dump().items() if k != "grace_s"}
    assert load_saved_config(saved(config, checkpoint=older), []) == config


def test_all_problems_are_in_one_message(saved):
    path = saved(load_config("train", GIVEN, []), rollots={"top_p": 1.0})
    with pytest.raises(ConfigError) as refusal:
        load_saved_config(path, ["run.num_stps=6", "algorithm=dapo", "rollout.temperature=0"])
    lines = str(refusal.value).splitlines()
    assert len(lines) == 4
    for start in ("run.num_stps: unknown key; got 6; did you mean run.num_steps", "algorithm: a section, not a value",
                  "rollots.top_p: unknown key", "rollout.temperature: "):  # fmt: skip
        assert any(line.startswith(start) for line in lines), (start, lines)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"- 1", b"", b"a: b: c"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml: "):
        load_saved_config(path, [])
