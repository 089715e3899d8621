"""What is checked and made of settings before they are sent to a cluster."""

from __future__ import annotations

import json

import pytest
import yaml

from mars.cli import ray_submit
from mars.cli.submitted_settings import SentFiles, check_cluster, sent_overrides, sent_settings
from mars.cluster.job_package import files_of_job
from mars.config.load import load_config, load_saved_config
from mars.errors import ConfigError, SetupError

GIVEN = ["experiment=quickstart", "model.path=base", "data.train_files=[a.parquet,/shared/b.parquet]"]


def config(*overrides):
    return load_config("train", [*GIVEN, *overrides], [])


def sent_from(folder, *excludes, **variables):
    return SentFiles(folder, set(files_of_job(folder, excludes)), variables)


def test_relative_paths_start_in_the_users_folder(tmp_path):
    settings = sent_settings(
        config("run.dir=../runs/a", "data.eval_files=[]", "data.image_root=images"), sent_from(tmp_path)
    )
    assert settings["run"]["dir"] == str(tmp_path.parent / "runs" / "a")
    assert settings["data"]["train_files"] == [str(tmp_path / "a.parquet"), "/shared/b.parquet"]
    assert (settings["data"]["eval_files"], settings["data"]["image_root"]) == ([], str(tmp_path / "images"))
    assert settings["cluster"]["address"] == "auto"


@pytest.mark.parametrize("name", ["org/name@train", "org/name:small@test", "name@train"])
def test_a_data_set_of_the_hub_keeps_its_name(tmp_path, name):
    settings = sent_settings(config(f"data.train_files=['{name}',rows@x.parquet]"), sent_from(tmp_path))
    assert settings["data"]["train_files"] == [name, str(tmp_path / "rows@x.parquet")]


def test_a_model_is_a_folder_if_there_is_one(tmp_path):
    assert sent_settings(config(), sent_from(tmp_path))["model"]["path"] == "base"
    (tmp_path / "base").mkdir()
    assert sent_settings(config(), sent_from(tmp_path))["model"]["path"] == str(tmp_path / "base")


def test_files_of_the_user_are_those_of_the_jobs_folder(tmp_path):
    user = tmp_path / "user"
    (user / "lib").mkdir(parents=True)
    for file in ("lib/r.py", "p.jinja", "../shared.py"):
        (user / file).touch()
    given = [f"reward.function={user}/lib/r.py:score", "data.template=p.jinja"]
    settings = sent_settings(config(*given, "reward.functions={a: ../shared.py:score, b: vqa}"), sent_from(user))
    assert settings["reward"]["function"] == "lib/r.py:score"
    assert settings["reward"]["functions"] == {"a": f"{tmp_path}/shared.py:score", "b": "vqa"}
    assert settings["data"]["template"] == "p.jinja"
    for hidden in (".h/r.py", "runs/r.py", "lib/x.py"):
        (user / hidden).parent.mkdir(exist_ok=True)
        (user / hidden).touch()
        with pytest.raises(ConfigError, match=f"the file is not sent to the cluster; got {hidden}"):
            sent_settings(config(f"reward.function={hidden}:score"), sent_from(user, "lib/x.py"))
    with pytest.raises(ConfigError, match=r"reward\.function: no such file; got none\.py"):
        sent_settings(config("reward.function=none.py:score"), sent_from(user))


def test_functions_of_recipes_are_sent_and_those_of_mars_are_there(tmp_path):
    for file in ("own.py", "changes.py"):
        (tmp_path / file).touch()
    shipped = "recipe/vlm_r1/functions.py:score"
    given = [f"reward.function={shipped}", f"recipe.sampler={tmp_path}/own.py:Sampler", "recipe.requests=own.py:Asks"]
    given += ["recipe.shaping=[own.py:A,own.py:B]", f"recipe.advantage=[{tmp_path}/own.py:Rule]"]
    given += ["recipe.tokens=own.py:rule", "recipe.transforms={mixed: changes.py:mix}", "recipe.settings={own: {a: 1}}"]
    settings = sent_settings(config(*given), sent_from(tmp_path))
    assert settings["reward"]["function"] == shipped
    assert settings["recipe"] == {
        "sampler": "own.py:Sampler", "shaping": ["own.py:A", "own.py:B"], "advantage": ["own.py:Rule"],
        "requests": "own.py:Asks", "tokens": "own.py:rule", "transforms": {"mixed": "changes.py:mix"},
        "settings": {"own": {"a": 1}},
    }  # fmt: skip
    guided = ["anchor=mono", "anchor.guide=above_mean", f"anchor.guide_filter={tmp_path}/changes.py:sensible"]
    assert sent_settings(config(*guided), sent_from(tmp_path))["anchor"]["guide_filter"] == "changes.py:sensible"
    with pytest.raises(ConfigError, match=r"recipe\.sampler: no such file; got recipe/none/functions\.py"):
        sent_settings(config("recipe.sampler=recipe/none/functions.py:Sampler"), sent_from(tmp_path))


def test_ramps_are_sent(tmp_path):
    ramp = "{key: algorithm.clip_high, first: 0.2, last: 0.3, start: 1, steps: 10, shape: linear, slope: null}"
    sent = sent_settings(config(f"ramps=[{ramp}]"), sent_from(tmp_path))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sent))
    assert load_saved_config(tmp_path / "config.yaml", []).ramps == config(f"ramps=[{ramp}]").ramps


def test_all_other_settings_are_as_composed(tmp_path):
    given = config("run.dir=/run")
    sent = sent_settings(given, sent_from(tmp_path))
    expected = given.model_dump()
    expected["cluster"]["address"] = "auto"
    expected["data"]["train_files"] = [str(tmp_path / "a.parquet"), "/shared/b.parquet"]
    expected["data"]["eval_files"] = [str(tmp_path / "runs/quickstart/data/test.parquet")]
    assert sent == expected


def test_a_secret_among_the_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "abcdefgh1234")
    with pytest.raises(ConfigError, match=r"run\.name: .* MY_API_KEY") as refusal:
        sent_settings(config("run.name=abcdefgh1234"), sent_from(tmp_path))
    assert "abcdefgh1234" not in str(refusal.value)
    with pytest.raises(ConfigError, match=r"run\.name: .* LICENCE"):
        sent_settings(config("run.name=a-licence-text"), sent_from(tmp_path, LICENCE="a-licence-text"))


@pytest.mark.parametrize("wrong", ["cluster.address=host:1", "cluster=local"])
def test_a_job_is_on_its_own_cluster(wrong):
    check_cluster(config())
    with pytest.raises(ConfigError, match=r"^cluster\."):
        check_cluster(config(wrong, "actor.num_workers=1"))


def test_variables_are_named_and_never_given():
    assert ray_submit.environment_of(["A"], {"A": "1", "B": "2"}) == {"A": "1"}
    with pytest.raises(ConfigError, match="--env: A is not set here"):
        ray_submit.environment_of(["A"], {})
    with pytest.raises(ConfigError, match="give the name alone") as refusal:
        ray_submit.environment_of(["A=secret"], {"A": "1"})
    assert "secret" not in str(refusal.value)


def test_the_address_is_the_given_one_then_rays_variable_and_never_ray_address(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_submit, "default_folder", lambda: tmp_path)
    variables = {"RAY_API_SERVER_ADDRESS": "http://b:1", "RAY_ADDRESS": "c:1"}
    assert ray_submit.server_address("http://a:1", variables) == "http://a:1"
    assert ray_submit.server_address(None, variables) == "http://b:1"
    with pytest.raises(SetupError, match="--address"):
        ray_submit.server_address(None, {"RAY_ADDRESS": "c:1"})


def test_a_run_that_is_resumed_is_checked_where_its_folder_is(tmp_path):
    with pytest.raises(ConfigError, match=r"cluster\.address"):
        ray_submit._resumed(str(tmp_path / "run"), ["cluster.address=a:1"], sent_from(tmp_path))
    with pytest.raises(ConfigError, match="--dry-run: no option follows --resume RUN --"):
        ray_submit._resumed(str(tmp_path / "run"), ["--dry-run"], sent_from(tmp_path))
    with pytest.raises(ConfigError, match=r"run\.name: .* LICENCE"):
        ray_submit._resumed(str(tmp_path / "run"), ["run.name=long-text"], sent_from(tmp_path, LICENCE="long-text"))
    elsewhere = ray_submit._resumed(str(tmp_path / "run"), ["run.num_steps=7"], sent_from(tmp_path))
    assert elsewhere.run_dir == str(tmp_path / "run")
    assert elsewhere.grace_s == 600
    (text,) = elsewhere.texts.values()
    assert '"overrides": ["run.num_steps=7", "cluster.address=auto"]' in text


def test_settings_that_change_at_a_resume_are_checked_and_converted(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    saved = config("run.dir=/elsewhere", "data.eval_files=[]", "actor.num_workers=1")
    (run / "config.yaml").write_text(yaml.safe_dump(saved.model_dump()))
    (tmp_path / "r.py").touch()
    sent = sent_from(tmp_path)
    given = ["data.eval_files=[e.parquet,org/name@test]", f"reward.function={tmp_path}/r.py:score", "run.num_steps=7"]
    (text,) = ray_submit._resumed(str(run), given, sent).texts.values()
    overrides = json.loads(text)["overrides"]
    assert overrides[2:] == ["run.num_steps=7", "cluster.address=auto"]
    again = load_saved_config(run / "config.yaml", overrides)
    assert again.data.eval_files == [str(tmp_path / "e.parquet"), "org/name@test"]
    assert again.reward.function == "r.py:score"
    with pytest.raises(ConfigError, match=r"reward\.function: no such file"):
        ray_submit._resumed(str(run), ["reward.function=none.py:score"], sent)
    with pytest.raises(ConfigError, match=r"cluster\.kind: a submitted run uses the cluster"):
        ray_submit._resumed(str(run), ["cluster.kind=local"], sent)


def test_paths_in_overrides_are_written_as_they_are_read(tmp_path):
    functions = "reward.functions={a:'r.py:score',c:vqa}"
    (tmp_path / "r.py").touch()
    given = [functions, "data.image_root=null", "run.dir='it\\'s here'"]
    changed = config(*given)
    (first, second, third) = sent_overrides(given, changed, sent_from(tmp_path))
    again = config(first, second, third)
    assert again.reward.functions == {"a": "r.py:score", "c": "vqa"}
    assert (again.data.image_root, again.run.dir) == (None, str(tmp_path / "it's here"))
