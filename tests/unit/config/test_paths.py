"""Paths in settings as users write them: homes, shell variables, and what a list of files leaves at their ends."""

from pathlib import Path

import pytest
import yaml

from mars.config.load import load_config, load_saved_config
from mars.errors import ConfigError

ROOT = Path(__file__).parents[3]
FILES = "data.train_files=[/d/train.parquet]"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MARS_SET", "here")
    return str(tmp_path)


def load(*overrides):
    return load_config("train", ["model.path=/m", "run.dir=/r", FILES, *overrides], [])


def test_a_home_is_found_in_every_setting_that_is_a_path(home):
    config = load(
        "run.dir=~/runs/1",
        "model.path=~/m-3.5_b",
        "data.train_files=[~/a.parquet, /b.parquet,~/c@train]",
        "data.eval_files=['~/d e.parquet']",
        "data.image_root=~",
        'data.template="~/t.jinja"',
        "algorithm.kl_coefficient=0.1",
        "algorithm.kl_reference=~/reference",
        "run.name=~/not_a_path",
    )
    assert (config.run.dir, config.model.path) == (f"{home}/runs/1", f"{home}/m-3.5_b")
    assert config.data.train_files == [f"{home}/a.parquet", "/b.parquet", f"{home}/c@train"]
    assert config.data.eval_files == [f"{home}/d e.parquet"]
    assert (config.data.image_root, config.data.template) == (home, f"{home}/t.jinja")
    assert (config.algorithm.kl_reference, config.run.name) == (f"{home}/reference", "~/not_a_path")


def test_recipes_of_mars_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("train", ["model.path=recipe/papo", "experiment=papo_tiny"], ["recipe/papo"])
    assert config.data.train_files == [str(ROOT / "recipe/papo/tiny.jsonl")]
    assert config.data.image_root == "runs/quickstart/data", "no path of a recipe"
    assert config.model.path == "recipe/papo", "recipes have no models"


def test_a_home_in_a_file_of_settings_is_found_too(home, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndata:\n  image_root: ~/images\n")
    config = load_config("train", ["model.path=/m", FILES, "experiment=mine"], [str(tmp_path)])
    assert config.data.image_root == f"{home}/images"
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_saved_config(saved, ["data.image_root=~/other"]).data.image_root == f"{home}/other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.dir='$HOME/runs'", "run.dir: a shell variable that no shell has replaced; got '.HOME/runs'; write"),
        (
            "data.train_files=['$DATA/a.parquet']",
            "data.train_files: a shell variable .* ~ for \\$HOME, or \\./\\$… for a file",
        ),
        ("run.dir='/scratch/$SOME_NAME/1'", "run.dir: a shell variable that no shell has replaced"),
        ("run.dir=runs/of_$MARS_SET", "run.dir: a shell variable that no shell has replaced"),
        ("data.train_files=[/d/part-$MARS_SET.parquet]", "data.train_files: a shell variable"),
        ("run.dir=s3://bucket/runs", "run.dir: an address, and only paths are read; got 's3://bucket/runs'; download"),
        ("run.dir=file:///runs/1", "run.dir: an address, .*; give the path alone"),
        ("data.image_root=hdfs://images", "data.image_root: an address"),
        ("data.eval_files=[https://host/a.parquet]", "data.eval_files: an address"),
        ("model.path=https://huggingface.co/Qwen/Qwen3-VL-4B-Instruct", "model.path: an address.* is owner/name"),
        ("run.dir='C:\\\\runs\\\\1'", "run.dir: a path of Windows; .* WSL"),
        ("model.path=~nobody_here/m", "model.path: no user has this home; got '~nobody_here/m'"),
        ("data.eval_files=['/a.parquet\\r']", "data.eval_files: white space .* Windows line ends"),
        ("data.image_root=''", "data.image_root: empty; got ''; give a path"),
        ("data.train_files=[/a.parquet,'']", "data.train_files: empty; got ''; give a path"),
        ("data.image_root='/images '", "data.image_root: white space before or after the path"),
    ],
)
def test_what_is_no_path_is_refused_with_the_remedy(override, message):
    with pytest.raises(ConfigError, match=message):
        load(override.replace("\\r", "\r"))


@pytest.mark.parametrize(
    "path",
    [
        "./$x/a.jsonl", "cost$5.parquet", "a_$not_set_anywhere", "/d/100$/a", "a:b",
        "/a b/é [x] = ,y.parquet", "./~x", "a$b", "/d/it's.parquet", "rel/../a.parquet", "/d//a.parquet/",
    ],
)  # fmt: skip
def test_any_other_name_is_left_as_it_is(path):
    quoted = path.replace("'", "\\'")
    assert load(f"data.train_files=['{quoted}']").data.train_files == [path]


@pytest.mark.parametrize(
    "path", ["/数据/训练.parquet", "/données/a.parquet", "/a/π-2@train", "/d/（1）.jsonl", "~/é/a.jsonl", "~/a.jsonl"]
)
def test_letters_beyond_ascii_need_no_quotes(home, path):
    expected = path.replace("~", home)
    config = load(f"run.dir={path}", f"data.train_files=[/a.parquet, {path},{path}x]", f"data.eval_files=[{path}]")
    assert (config.run.dir, config.data.eval_files) == (expected, [expected])
    assert config.data.train_files == ["/a.parquet", expected, f"{expected}x"]
    assert load(f"reward.functions={{a: grounding, b: {path}:f}}").reward.functions["b"] == f"{path}:f"


def test_an_environment_variable_is_written_as_the_remedy_says(home):
    assert load("run.dir=${oc.env:HOME}/runs").run.dir == f"{home}/runs"


def test_a_folder_of_such_a_name_is_found(tmp_path):
    (tmp_path / "of$MARS_SET").mkdir()
    assert load(f"data.image_root={tmp_path}/of$MARS_SET").data.image_root == f"{tmp_path}/of$MARS_SET"
    assert load(f"run.dir={tmp_path}/of$MARS_SET/new").run.dir == f"{tmp_path}/of$MARS_SET/new"
    with pytest.raises(ConfigError, match=r"run\.dir: a shell variable"):
        load(f"run.dir={tmp_path}/of$MARS_SET/$MARS_SET")


@pytest.mark.parametrize("written", ["${MARS_SET}", "${env:MARS_SET}", "/d/${MARS_SET}/1"])
def test_a_variable_as_in_a_shell_is_refused_with_the_way_to_write_it(written):
    name = "NAME" if "env:" in written else "MARS_SET"
    with pytest.raises(ConfigError, match=rf"run\.dir: cannot be resolved .*; write \$\{{oc\.env:{name}\}} for an env"):
        load(f"run.dir={written}")
