"""Settings of guided groups and of their controls: what is accepted, and what does not go together."""

from __future__ import annotations

import pytest

from mars.config.load import load_config
from mars.errors import ConfigError

FILES = "data.train_files=[a.parquet]"


def anchor(*overrides):
    return load_config("train", [FILES, "anchor=mono", *overrides], []).anchor


def problems(*overrides):
    with pytest.raises(ConfigError) as refused:
        anchor(*overrides)
    return str(refused.value).split("\n")


def test_as_shipped_groups_are_not_guided():
    for kind in ("mono", "all_but_one", "none", "forced_source"):
        shipped = anchor(f"anchor={kind}")
        assert (shipped.kind, shipped.guide, shipped.guide_filter, shipped.shuffle) == (kind, "off", None, "off")
        assert shipped.forced_start == ("<think> {source}" if kind == "forced_source" else None)


@pytest.mark.parametrize("off", ["off", "false", "'off'"])
def test_off_may_be_written_without_quotes(off, tmp_path):
    """YAML reads off as false, on the command line and in a file."""
    assert anchor(f"anchor.guide={off}", f"anchor.shuffle={off}").guide == "off"
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\nanchor: {{guide: {off}, shuffle: {off}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert load_config("train", [FILES, "anchor=mono", "experiment=mine"], [str(tmp_path)]).anchor.shuffle == "off"


def test_true_is_no_rule():
    (line,) = problems("anchor.guide=true")
    assert line == "anchor.guide: not one of the choices; got true; give one of off, above_mean"


@pytest.mark.parametrize(
    "overrides",
    [
        ("anchor.guide=above_mean",),
        ("anchor.guide=above_mean", "anchor.sampling=greedy"),
        ("anchor.guide=above_mean", "anchor.shuffle=both"),
        ("anchor.shuffle=reward",),
        ("anchor.guide=above_mean", "anchor=all_but_one"),
        ("anchor=forced_source", "anchor.guide=above_mean", "anchor.shuffle=reward"),
        ("anchor.kind=forced_source", "anchor.forced_start='Look at the {source} image'"),
        ("anchor.guide=above_mean", "anchor.guide_filter=own.py:names"),
    ],
)
def test_what_goes_together(overrides):
    anchor(*overrides)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("anchor=none", "anchor.guide=above_mean"),
            "anchor.guide: without anchors there are no guests; got 'above_mean'; give off, or anchors (anchor=mono)",
        ),
        (
            ("anchor.guide=above_mean", "anchor.pooled_statistics=mean", "algorithm.std_floor=0.1"),
            "anchor.guide: guests are in the mean and in the standard deviation, and anchor.pooled_statistics is mean; "
            "got 'above_mean'; give off, or anchor.pooled_statistics=mean_and_std",
        ),
        (
            ("anchor.guide=above_mean", "algorithm.part_weights={accuracy: 1}"),
            "anchor.guide: guests are chosen by their scores, which algorithm.part_weights does not train on; "
            "got 'above_mean'; give off, or algorithm.part_weights={}",
        ),
        (
            ("anchor.guide_filter=own.py:names",),
            "anchor.guide_filter: has no effect with anchor.guide=off; got 'own.py:names'; give null, or "
            "anchor.guide=above_mean",
        ),
        (
            ("anchor=none", "anchor.shuffle=reward"),
            "anchor.shuffle: there are no anchors to shuffle; got 'reward'; give off, or anchors (anchor=mono)",
        ),
        (
            ("anchor.shuffle=both",),
            "anchor.shuffle: without guests only rewards are used, so both is the same as reward; got 'both'; give "
            "reward",
        ),
        (
            ("anchor.shuffle=reward", "data.prompts_per_step=1", "actor.prompts_per_update=1", "actor.num_workers=1"),
            "anchor.shuffle: a round of one prompt (data.prompts_per_step=1) has no other anchors; got 'reward'; give "
            "off, or more prompts",
        ),
        (
            ("anchor.kind=forced_source",),
            "anchor.forced_start: anchor.kind=forced_source needs the start of its responses; got null; give a text "
            'such as "<think> {source}"',
        ),
        (
            ("anchor.kind=forced_source", "anchor.forced_start=look"),
            "anchor.forced_start: anchor.kind=forced_source needs the start of its responses; got 'look'; give a text "
            'such as "<think> {source}"',
        ),
        (
            ("anchor.forced_start='{source}'",),
            "anchor.forced_start: has no effect with anchor.kind=mono; got '{source}'; set it to null",
        ),
    ],
)
def test_what_does_not_go_together(overrides, line):
    assert problems(*overrides) == [line]
