"""The run scripts: four positional arguments become settings, exactly; anything else is refused with the usage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from mars.errors import ConfigError
from tests.fakes.python import call_script

ROOT = Path(__file__).parents[2]
EXPERIMENTS = {
    "recipe/dapo/run_dapo_qwen2.5_3b.sh": "mars_dapo_qwen2_5_vl_3b",
    "recipe/mars/run_mars_qwen2.5_3b.sh": "mars_grpo_qwen2_5_vl_3b",
    "examples/grpo_trainer/run_qwen2_5_vl-3b.sh": "mars_grpo_qwen2_5_vl_3b",
}
ONE = "recipe/dapo/run_dapo_qwen2.5_3b.sh"
scripts = pytest.mark.parametrize("script", EXPERIMENTS)


@pytest.fixture
def call(tmp_path):
    """script, arguments -> what it runs, started from a folder that is not the project's."""
    (tmp_path / "here").mkdir()
    return partial(call_script, folder=tmp_path, cwd=tmp_path / "here")


def data_set(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        (folder / f"{part}.parquet").touch()
    return folder


@scripts
def test_the_four_arguments_become_settings(call, tmp_path, script):
    data = data_set(tmp_path / "here" / "llvip")
    done = call(script, "vllm", "llvip", "grounding", "2")
    assert done.returncode == 0
    config = done.config
    assert config.run.name == EXPERIMENTS[script]
    assert (config.rollout.engine, config.rollout.tensor_parallel_size) == ("vllm", 4)
    assert (config.data.train_files, config.data.eval_files) == (["llvip/train.parquet"], ["llvip/test.parquet"])
    assert (config.reward.function, config.data.images_per_row) == ("grounding", 2)
    assert done.argv[0] == str(tmp_path / "here"), "relative paths are those of the folder it is started in"
    again = call(script, "hf", str(data), "vqa", "any").config
    assert (again.rollout.engine, again.rollout.tensor_parallel_size) == ("hf", 1)
    assert again.data.train_files == [f"{data}/train.parquet"]
    assert (again.reward.function, again.data.images_per_row) == ("vqa", None)


@scripts
def test_a_link_to_a_script_finds_the_checkout(call, tmp_path, script):
    data_set(tmp_path / "here" / "d")
    link = tmp_path / "bin" / "train"
    link.parent.mkdir()
    link.symlink_to(ROOT / script)
    assert call(str(link), "vllm", "d", "grounding", "2").config.run.name == EXPERIMENTS[script]


@scripts
def test_settings_come_last_and_win(call, tmp_path, script):
    data_set(tmp_path / "here" / "d")
    settings = ["run.name=a b", "anchor=none", "rollout.engine=hf", "rollout.tensor_parallel_size=1",
                "data.eval_files=[]", "reward.function=vqa", "data.images_per_row=null", "--dry-run"]  # fmt: skip
    done = call(script, "vllm", "d", "grounding", "2", *settings)
    config = done.config
    assert done.argv[-len(settings) :] == settings
    assert (config.run.name, config.anchor.kind, config.rollout.engine) == ("a b", "none", "hf")
    assert (config.data.eval_files, config.reward.function, config.data.images_per_row) == ([], "vqa", None)
    tiny = "mars_dapo_tiny" if "dapo" in script else "grpo_tiny"
    assert call(script, "vllm", "d", "grounding", "2", f"experiment={tiny}").config.run.name == tiny


@pytest.mark.parametrize(
    "name",
    ["plain", "two words", "it's, here", "[x]={y}", "back\\slash", "\\'", "end\\", "end\\\\", "a\\\\'b'", "ünï #%&;*"],
)
def test_any_path_arrives_as_it_is(call, tmp_path, name):
    data = data_set(tmp_path / name)
    reward = data / "my reward.py"
    reward.touch()
    config = call(ONE, "vllm", str(data), str(reward), "any").config
    assert config.data.train_files == [f"{data}/train.parquet"]
    assert config.data.eval_files == [f"{data}/test.parquet"]
    assert config.reward.function == f"{reward}:compute_score"
    assert call(ONE, "vllm", str(data), f"{reward}:f", "any").config.reward.function == f"{reward}:f"


def test_a_data_set_is_a_folder_a_name_or_a_file(call, tmp_path):
    home = tmp_path / "sets"
    data_set(home / "llvip")
    named = call(ONE, "vllm", "llvip", "grounding", "2", MARS_DATA=str(home)).config
    assert named.data.train_files == [f"{home}/llvip/train.parquet"]
    data_set(tmp_path / "here" / "llvip")
    here = call(ONE, "vllm", "llvip", "grounding", "2", MARS_DATA=str(home)).config
    assert here.data.train_files == ["llvip/train.parquet"], "what is here comes first"
    (tmp_path / "here" / "rows.jsonl").touch()
    file = call(ONE, "vllm", "rows.jsonl", "grounding", "2").config
    assert (file.data.train_files, file.data.eval_files) == (["rows.jsonl"], [])


@scripts
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "four arguments are needed; got 0"),
        (["vllm", "d", "grounding"], "four arguments are needed; got 3"),
        (["sglang", "d", "grounding", "2"], "ENGINE is vllm or hf; got 'sglang'"),
        (["", "d", "grounding", "2"], "ENGINE is vllm or hf; got ''"),
        (["vllm", "nowhere", "grounding", "2"], "DATASET: no such folder or file; got 'nowhere'"),
        (["vllm", "", "grounding", "2"], "DATASET: no such folder or file; got ''"),
        (["vllm", "half", "grounding", "2"], "DATASET has no train.parquet; got 'half'"),
        (["vllm", "d", "i o u", "2"], "REWARD is a built-in reward, file.py or file.py:function; got 'i o u'"),
        (["vllm", "d", "", "2"], "REWARD is a built-in reward, file.py or file.py:function; got ''"),
        (["vllm", "d", "gone.py", "2"], "REWARD: no such file; got 'gone.py'"),
        (["vllm", "d", "gone.py:f", "2"], "REWARD: no such file; got 'gone.py'"),
        (["vllm", "d", "there.py:", "2"], "got 'there.py:'"),
        (["vllm", "d", "grounding", "0"], "IMAGES is a whole number from 1, or any; got '0'"),
        (["vllm", "d", "grounding", "two"], "got 'two'"),
        (["vllm", "d", "grounding", "2.0"], "got '2.0'"),
        (["vllm", "d", "grounding", "-1"], "got '-1'"),
        (["vllm", "d", "grounding", ""], "got ''"),
        (["vllm", "d", "grounding", "null"], "got 'null'"),
        (["vllm", "d", "grounding", "run.num_steps=3"], "got 'run.num_steps=3'"),
    ],
)
def test_wrong_arguments_are_refused_with_the_usage(call, tmp_path, script, arguments, message):
    data_set(tmp_path / "here" / "d")
    (tmp_path / "here" / "there.py").touch()
    (data_set(tmp_path / "here" / "half") / "train.parquet").unlink()
    done = call(script, *arguments)
    assert (done.returncode, done.stdout, done.argv) == (2, "", None)
    assert message in done.stderr
    assert "ENGINE DATASET REWARD IMAGES" in done.stderr
    assert Path(script).name in done.stderr


def test_a_name_that_no_built_in_reward_has_is_refused_by_the_settings(call, tmp_path):
    data_set(tmp_path / "here" / "d")
    with pytest.raises(
        ConfigError, match=r"^reward\.function: no such reward; got 'iou'; want one of grounding, vqa or"
    ):
        _ = call(ONE, "vllm", "d", "iou", "2").config


@scripts
def test_help_is_no_mistake(call, script):
    done = call(script, "--help")
    assert (done.returncode, done.stderr, done.argv) == (0, "", None)
    assert "ENGINE DATASET REWARD IMAGES" in done.stdout


EXAMPLES = sorted(
    str(path.relative_to(ROOT)) for name in ("llvip", "spatialqa", "nuscenes", "ocr_vqa")
    for path in (ROOT / "examples" / name).glob("*.sh")
)  # fmt: skip


@pytest.mark.parametrize("script", EXAMPLES)
def test_an_example_says_what_it_takes_itself(call, script):
    """Not the four arguments of the script behind it."""
    assert len(EXAMPLES) == 16
    wrong = [call(script), call(script, "nowhere"), call(script, "--dry-run")]
    for done in wrong:
        assert (done.returncode, done.stdout, done.argv) == (2, "", None)
        assert "DATASET: no such folder or file" in done.stderr
    done = call(script, "--help")
    assert (done.returncode, done.stderr, done.argv) == (0, "", None)
    for text in (done.stdout, *(done.stderr for done in wrong)):
        assert f"{Path(script).name} DATASET [--dry-run] [key=value ...]" in text
        assert "ENGINE" not in text


def test_a_python_without_mars_is_named(call, tmp_path):
    data_set(tmp_path / "here" / "d")
    done = call(ONE, "vllm", "d", "grounding", "2", MARS_PYTHON="no-such-python")
    assert done.returncode == 4
    assert "'no-such-python' has no mars" in done.stderr
    assert "setup.sh" in done.stderr
