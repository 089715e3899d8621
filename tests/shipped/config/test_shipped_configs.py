"""Every configuration file of the repository composes, and docs/config.md is up to date."""

import itertools
from pathlib import Path

import pytest
import yaml

from mars.config.document import DOCUMENT, document, main
from mars.config.folders import groups, quoted, shipped_folder
from mars.config.keys import leaves
from mars.config.load import SCHEMAS, load_config

ROOT = Path(__file__).parents[3]
METHOD = ROOT / "docs" / "method.md"
EXPERIMENTS = sorted([*ROOT.glob("configs/experiment/*.yaml"), *ROOT.glob("recipe/*/experiment/*.yaml")])


def test_the_configs_beside_the_package_are_the_shipped_ones():
    assert shipped_folder() == ROOT / "configs"
    assert EXPERIMENTS


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_experiment_composes(path):
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    root = "sft" if "sft" in text else "train"
    overrides = [f"experiment={path.stem}"]
    if "train_files" not in text.get("data", {}):
        overrides.append("data.train_files=[given.parquet]")
    dirs = [] if path.is_relative_to(ROOT / "configs") else [str(path.parents[1])]
    assert load_config(root, overrides, dirs).run.name


@pytest.mark.parametrize("root", SCHEMAS)
def test_every_choice_of_every_group_composes(root):
    """The k-th choices of all groups together: groups do not depend on each other, and a composition takes 0.1 s.

    But schedule=asynchronous needs cluster=ray, the last choice of its group.
    """
    choices = {group: found for group, found in groups(root, [shipped_folder()]).items() if group != "experiment"}
    if "schedule" in choices:
        assert (choices["schedule"][0], choices["cluster"][-1]) == ("asynchronous", "ray")
        choices["schedule"].reverse()
    for together in itertools.zip_longest(
        *([f"{group}={choice}" for choice in found] for group, found in choices.items())
    ):
        overrides = [choice for choice in together if choice is not None]
        assert load_config(root, [*overrides, f"data.train_files=[{quoted('given.parquet')}]"], []).run.name, overrides


def test_the_table_of_presets_is_true_and_complete():
    """docs/method.md: every setting in which two presets differ, with each one's value."""
    rows = [line.strip("|").split("|") for line in METHOD.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    cells = [[cell.strip().strip("`") for cell in row] for row in rows]
    start = next(i for i, row in enumerate(cells) if row[1:2] == ["grpo"])
    names = cells[start][1:]
    presets = {}
    for name in groups("train", [shipped_folder()])["algorithm"]:
        config = load_config("train", [f"algorithm={name}", "data.train_files=[given.parquet]"], [])
        presets[name] = config.algorithm.model_dump()
    assert sorted(names) == sorted(presets)
    table = {}
    for key, *values in itertools.takewhile(lambda row: row[0].startswith("algorithm."), cells[start + 2 :]):
        table[key.removeprefix("algorithm.")] = [yaml.safe_load(value) for value in values]
    true = {key: [presets[name][key] for name in names] for key in presets["grpo"]}
    assert table == {key: true[key] for key in table}
    assert {key for key, values in true.items() if len(set(map(str, values))) > 1} <= set(table)


@pytest.mark.parametrize("root", SCHEMAS)
def test_every_value_has_one_home_in_the_files(root):
    """A key that a root file and a group's file both set would hide one of the two."""
    names = groups(root, [shipped_folder()])
    own = yaml.safe_load((shipped_folder() / f"{root}.yaml").read_text())
    sections = {key.partition(".")[0] for key in leaves(SCHEMAS[root])}
    assert set(own) - {"defaults"} == sections - set(names)


def test_the_config_reference_is_up_to_date():
    text = document()
    assert DOCUMENT.read_text(encoding="utf-8") == text, "run python -m mars.config.document"
    assert main(["--check"]) == 0
    for schema in SCHEMAS.values():
        assert [key for key in leaves(schema) if f"| `{key}` |" not in text] == []


def test_a_stale_config_reference_is_noticed(tmp_path, monkeypatch):
    names = tmp_path / "coming_from.md"
    names.write_bytes(DOCUMENT.with_name(names.name).read_bytes())
    monkeypatch.setattr("mars.config.document.DOCUMENT", tmp_path / "config.md")
    monkeypatch.setattr("mars.config.document.NAMES_DOCUMENT", names)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "config.md").write_text(document().replace("0.9", "0.8", 1))
    assert main(["--check"]) == 1
    assert main([]) == 0
    names.write_text(names.read_text(encoding="utf-8").replace("| num_generations |", "| generations |"))
    assert main(["--check"]) == 1
    assert main(["--chek"]) == 2
