"""What holds for every folder of recipe/, and the table of docs/recipes.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache

import pytest
import yaml

from mars.config.schema import TrainConfig
from mars.errors import DataError
from mars.plugin import find, is_spec
from mars.rewards.functions import RewardsBySet, load_reward, truth_check
from tests.shipped.recipes.embedding_files import write_embeddings
from tests.shipped.recipes.recipe_files import FOLDERS, ROOT, compose, experiments, item
from tests.unit.rewards.judge_server import judge_server

TABLE = ROOT / "docs" / "recipes.md"
MAX_LINES = 150
# Recipes that are settings of GRPO and DAPO: tests/shipped/config/test_recipe_values.py has all of their values.
OF_THE_PAPER = ("dapo", "mars")
# Truths of recipes whose rewards are not for boxes, and whose rows are built from the quick start's.
TRUTHS = {"jigsaw_r1": "2 4\n3 1", "ssl4rl": "2\n1", "vicrit": "left"}
METHODS = [folder for folder in FOLDERS if folder.name not in OF_THE_PAPER]

folders = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
methods = pytest.mark.parametrize("folder", METHODS, ids=lambda folder: folder.name)


def rows() -> dict[str, list[str]]:
    """The table: folder -> cells."""
    found = re.findall(r"^\| \[`(\w+)`\]\(\.\./recipe/(\w+)/README\.md\) \| (.+) \|$", TABLE.read_text(), re.MULTILINE)
    assert all(name == target for name, target, _ in found)
    return {name: cells.split(" | ") for name, _, cells in found}


def own_rewards(config: TrainConfig) -> set[str]:
    return {name for name in (config.reward.function, *config.reward.functions.values()) if is_spec(name)}


def hooks_of(config: TrainConfig) -> set[str]:
    """What a configuration takes from users' files, and the schedules of values."""
    recipe = config.recipe.model_dump()
    used = {name for name, value in recipe.items() if value and name != "settings"}
    ramps = {"ramps"} if getattr(config, "ramps", None) else set()
    return used | ramps | ({"reward"} if own_rewards(config) else set())


def test_the_table_has_every_recipe_in_order():
    assert list(rows()) == [folder.name for folder in FOLDERS]


@folders
def test_a_row_of_the_table_is_true(folder):
    _, hooks, status = rows()[folder.name]
    used = set().union(*(hooks_of(compose(folder, name)) for name in experiments(folder, tiny=True)))
    assert set(re.findall(r"`(\w+)`", hooks)) == used
    readme = (folder / "README.md").read_text()
    if folder.name not in OF_THE_PAPER:
        marks = set(re.findall(r"\| ([VPN]) \|$", readme, re.MULTILINE))
        assert set(status.split(", ")) == marks, "the status of each formula is in the README"


@folders
def test_every_experiment_can_be_combined_with_anchors(folder):
    """docs/recipes.md says so."""
    for name in experiments(folder, tiny=True) + experiments(folder, tiny=False):
        assert compose(folder, name, "anchor=mono").anchor.kind == "mono"


@folders
def test_a_readme_begins_with_one_line_about_the_method(folder):
    """`mars recipe ls` shows it."""
    lines = (folder / "README.md").read_text().splitlines()
    assert lines[0].startswith("# ")
    if folder.name not in OF_THE_PAPER:
        assert (lines[1], lines[3], lines[5]) == ("", "", "")
        assert lines[4] == "Words of this project: [terms](../../docs/terms.md)."
        assert re.fullmatch(r"[A-Z].{20,118}\.", lines[2])


@methods
def test_a_recipe_is_short_and_has_both_sizes(folder):
    assert experiments(folder, tiny=True)
    assert experiments(folder, tiny=False)
    for path in folder.glob("*.py"):
        assert path.read_text().count("\n") <= MAX_LINES


@methods
def test_the_readme_shows_the_values(folder):
    """Each row "| `key` | value | source |" has the value of the experiment in "Of `name`" above it."""
    readme = (folder / "README.md").read_text()
    (name,) = re.findall(r"^Of `(\w+)`", readme, re.MULTILINE)
    assert name in experiments(folder, tiny=False)
    found = compose(folder, name).dotted()
    shown = re.findall(r"^\| `([a-z_]+\.[\w.]+)` \| `?([^|`]*)`? \| ([^|]+) \|$", readme, re.MULTILINE)
    assert {key: yaml.safe_load(value) for key, value, _ in shown} == {key: found[key] for key, _, _ in shown}
    assert len(shown) >= 5
    for name in experiments(folder, tiny=True) + experiments(folder, tiny=False):
        assert f"{name}" in readme


@methods
def test_rewards_and_templates_are_found_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in experiments(folder, tiny=True) + experiments(folder, tiny=False):
        config = compose(folder, name)
        load_reward(RewardsBySet(config.reward.function, config.reward.functions), config.reward.scorer)
        if config.data.template.endswith(".jinja"):
            assert find(config.data.template).is_file()


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """What some rewards need: a service that stands in for a judge model, and embeddings of words."""
    folder = write_embeddings(tmp_path_factory.mktemp("embeddings"))
    with judge_server() as server, pytest.MonkeyPatch.context() as patch:
        given = {"JUDGE_URL": server.url, "JUDGE_MODEL": "m", "NO_PROXY": "127.0.0.1", "MIXED_R1_EMBEDDINGS": folder}
        for name, value in given.items():
            patch.setenv(name, value)
        yield


def rows_of(folder) -> Iterator[tuple[str, str, dict]]:
    """(reward, truth, extra_info): the own rows of a recipe's tiny experiments, or one row, for its own rewards."""
    for name in experiments(folder, tiny=True):
        config = compose(folder, name)
        files = [ROOT / file for file in config.data.train_files]
        own = [file for file in files if file.is_relative_to(ROOT / "recipe")]
        lines = [json.loads(line) for file in own for line in file.read_text().splitlines()]
        for reward in own_rewards(config):
            for line in lines or [{"answer": TRUTHS.get(folder.name, "[[0, 0, 9, 9]]")}]:
                named = line.get("data_source")
                if named and config.reward.functions and config.reward.functions[named] != reward:
                    continue
                truth = line["answer"] if isinstance(line["answer"], str) else json.dumps(line["answer"])
                yield reward, truth, line.get("extra_info") or {}


@methods
def test_a_reward_scores_any_text_without_failing(folder, services):
    """With the truth of each of the recipe's own rows, if it has some."""
    load = cache(load_reward)
    for reward, truth, extra_info in rows_of(folder):
        score = load(reward, "strict")
        for text in ("", "<answer>", "<think>a</think><answer>b</answer>", f"<answer>{truth}</answer>"):
            result = score(item(text, truth, extra_info))
            assert (result.failed, 0 <= result.accuracy <= 1) == (None, True)


@methods
def test_malformed_truths_are_named_when_rows_are_read_and_fail_whatever_the_response(folder, services):
    """Each is an error of the row (DataError), never one that a response can avoid, such as by having no answer."""
    load, check = cache(load_reward), cache(truth_check)
    for reward, truth, extra_info in rows_of(folder):
        assert check(reward)(truth, extra_info, None) is None
        score = load(reward, "strict")
        if extra_info.get("map", {}).get("kind") == "planning":
            continue  # the truth of a route is not read
        for wrong in ("", " \n"):
            problem = check(reward)(wrong, extra_info, None)
            assert problem is not None, (reward, wrong)
            assert problem.startswith("truth: ")
            for text in ("", "nothing", f"<think>a</think><answer>{truth}</answer>"):
                with pytest.raises(DataError, match=r"^truth: "):
                    score(item(text, wrong, extra_info))
