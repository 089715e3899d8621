"""How a process ends: messages, exit codes, and where tracebacks go. And the command lines of mars."""

import errno
import json
import logging
import sys
from types import SimpleNamespace

import pytest

from mars.config.command_line import parse_command_line
from mars.errors import ConfigError, DataError, MarsError, NumericalError, SetupError, WorkerError
from mars.process import LOG_FILE, log_to, run_command


@pytest.fixture
def end_with(ended):
    """What run_command makes of a main that logs to `log_dir` and then calls `last`."""

    def run(last, log_dir=None):
        def main():
            if log_dir is not None:
                log_to(str(log_dir))
            logging.getLogger("mars.part").info("the run begins")
            return last()

        return ended(lambda: run_command(main))

    return run


def raising(failure):
    def last():
        raise failure

    return last


@pytest.mark.parametrize("failure", [MarsError, ConfigError, DataError, SetupError, WorkerError, NumericalError])
def test_a_known_failure_is_its_message_and_its_code(end_with, failure):
    result = end_with(raising(failure("rollout.top_p: too much")))
    assert result.returncode == failure.exit_code
    assert result.stderr.endswith("rollout.top_p: too much\n")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_code_that_main_returns_is_that_of_the_command(end_with, code):
    assert end_with(lambda: code).returncode == code


def test_an_interruption_is_130(end_with):
    result = end_with(raising(KeyboardInterrupt()))
    assert (result.returncode, "Traceback" in result.stderr) == (130, False)


@pytest.mark.parametrize(("failure", "code"), [(DataError, 3), (ZeroDivisionError, 1)])
def test_the_traceback_is_in_the_log_of_the_run(end_with, tmp_path, failure, code):
    result = end_with(raising(failure("what happened")), tmp_path)
    log = (tmp_path / LOG_FILE).read_text()
    assert result.returncode == code
    assert "what happened" in result.stderr
    assert str(tmp_path / LOG_FILE) in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in log
    assert f"{failure.__name__}: what happened" in log
    assert "INFO mars.part: the run begins" in log


def test_an_unknown_error_without_a_run_folder_keeps_its_traceback(end_with, tmp_path):
    result = end_with(raising(ZeroDivisionError("what happened")), tmp_path / "nothing")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert not (tmp_path / "nothing").exists()


def read_below_a_file(folder):
    (folder / "rows.jsonl").touch()
    (folder / "rows.jsonl" / "events.jsonl").read_bytes()


def read_a_loop(folder):
    (folder / "loop").symlink_to("loop")
    (folder / "loop").read_bytes()


def read_what_is_private(folder):
    raise PermissionError(errno.EACCES, "Permission denied", str(folder / "events.jsonl"))


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (read_below_a_file, "/rows.jsonl/events.jsonl: cannot be used (Not a directory); a part of the path is a file"),
        (read_a_loop, "/loop: cannot be used (Too many levels of symbolic links); correct the link"),
        (
            read_what_is_private,
            "/events.jsonl: cannot be used (Permission denied); change the permissions; if an option or a setting",
        ),
        (lambda folder: folder.read_bytes(), ": cannot be used (Is a directory); remove this folder; if an"),
        (lambda folder: (folder / ("x" * 300)).touch(), "x: cannot be used (File name too long); give a shorter path"),
    ],
)
def test_a_path_that_the_system_refuses_is_named_with_the_reason(end_with, tmp_path, refused, said):
    result = end_with(lambda: refused(tmp_path))
    assert result.returncode == 4
    assert f"{tmp_path}" in result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_the_traceback_of_a_refused_path_is_in_the_log_of_the_run(end_with, tmp_path):
    result = end_with(lambda: read_below_a_file(tmp_path), tmp_path)
    assert result.returncode == 4
    assert "NotADirectoryError" in (tmp_path / LOG_FILE).read_text()


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/nothing"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # as of a signal to another user's process
        OSError("no number"),
    ],
)
def test_an_error_of_the_system_that_refuses_no_path_keeps_its_traceback(end_with, failure):
    result = end_with(raising(failure))
    assert (result.returncode, "Traceback" in result.stderr) == (1, True)


def test_the_log_is_appended_to(end_with, tmp_path):
    for _ in range(2):
        end_with(lambda: 0, tmp_path)
    assert (tmp_path / LOG_FILE).read_text().count("the run begins") == 2


def test_options_may_stand_among_the_overrides():
    argv = ["a=1", "--config-dir", "x", "b=2", "--dry-run", "--config-dir=y", "~c", "--oops"]
    line = parse_command_line("train", "mars", argv)
    assert line.overrides == ("a=1", "b=2", "~c", "--oops")
    assert line.config_dirs == ("x", "y")
    assert (line.dry_run, line.show_config) == (True, False)
    assert parse_command_line("train", "mars", ["--cfg", "job"]).show_config


def test_the_composed_configuration_is_shown_whole(mars):
    import yaml

    result = mars("train", "--cfg", "job", "run.seed=5")
    assert result.returncode == 0
    assert yaml.safe_load(result.stdout)["run"] == {
        **{"name": "mars", "dir": "runs/mars", "seed": 5},
        **{"num_steps": None, "num_epochs": 2, "resume": False},
    }


def test_help_lists_the_groups(mars):
    result = mars("train", "--help")
    assert result.returncode == 0
    assert "anchor=all_but_one|forced_source|mono|none" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [
        (["--help"], 0, "doctor"),
        (["data", "convert", "--help"], 0, "llvip"),
        (["nonsense"], 2, "nonsense"),
        (["report", "/no/such/run"], 3, "/no/such/run"),
        (["train", "rolout.top_p=1"], 2, "did you mean rollout.top_p?"),
        (["train", "--help"], 0, "--dry-run"),
        (["eval", "run", "a model", "d.parquet", "rolout.top_p=1"], 2, "did you mean rollout.top_p?"),
        (["eval", "run", "model"], 2, "DATA"),
    ],
)
def test_the_mars_command(mars, arguments, code, output):
    result = mars(*arguments)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False)
    assert output in result.stdout + result.stderr


def test_an_evaluation_takes_its_model_and_data_literally(monkeypatch, tmp_path, capsys):
    """Names with spaces, quotes and commas reach the configuration as they are."""
    from mars.cli.eval import run as evaluate_command
    from mars.evaluation.summary import EvalRecord, summarize

    seen = []

    def run_evaluation(config, name, step, out):
        seen.append((config, name, step, out))
        records = [EvalRecord("p", "llvip", None, 1.0, False, metric="accuracy")]
        result = summarize(records, name=name, step=0, model="m", threshold=None)
        return result | {"reward": None, "cut_off": None}

    monkeypatch.setitem(sys.modules, "mars.run", SimpleNamespace(run_evaluation=run_evaluation))
    out = tmp_path / "x.json"
    evaluate_command("it's, a model", "/a [b], c.parquet", ["evaluation.max_samples=3"], "mine", 7, out, None)
    ((config, name, step, path),) = seen
    assert config.model.path == "it's, a model"
    assert config.data.eval_files == config.data.train_files == ["/a [b], c.parquet"]
    assert (config.evaluation.max_samples, name, step, path) == (3, "mine", 7, out)
    assert "mine" in capsys.readouterr().out


def test_data_is_made_and_converted(mars, tmp_path):
    sizes = ["--train", "2", "--test", "1", "--cold-start", "1"]
    result = mars("data", "synth", str(tmp_path), "--seed", "3", *sizes, "--bias", "0.5")
    assert (result.returncode, result.stderr) == (0, "")
    result = mars("data", "convert", "llvip", str(tmp_path), str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert {"train.parquet", "test.parquet", "cold_start.parquet"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "what",
    [
        ("--train", "1", "--test", "1", "--cold-start", "1", "--bias", "0.5"),
        ("--train", "1", "--test", "1", "--cold-start", "0", "--scenes", "benchmark"),
        ("--model", "tiny"),
        ("--model", "real-vocabulary"),
    ],
)
def test_made_data_that_cannot_be_written_names_the_place(mars, tmp_path, what):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for out, said in [
        ("file", "want a folder; got "),
        ("file/inside", "file/inside: cannot be written (Not a directory)"),
        ("loop/inside", "loop/inside: cannot be written (Too many levels of symbolic links)"),
    ]:
        refused = mars("data", "synth", str(tmp_path / out), "--seed", "0", *what)
        assert (refused.returncode, "Traceback" in refused.stderr) == (4, False)
        assert refused.stderr.startswith("OUT: ")
        assert said in refused.stderr


def test_made_data_names_the_file_in_the_way(mars, tmp_path):
    (tmp_path / "visible").touch()
    sizes = ["--train", "1", "--test", "1", "--cold-start", "1"]
    refused = mars("data", "synth", str(tmp_path), "--seed", "0", *sizes, "--bias", "0.5")
    assert refused.returncode == 4
    assert refused.stderr.startswith(f"OUT: {tmp_path}/visible/train: cannot be written (Not a directory)")


def test_the_doctor_ends_with_4_where_something_is_missing(mars, monkeypatch, tmp_path):
    from mars.cli import doctor

    installed = doctor.installed_version
    versions = {"ray": None, "torch": "2.0.0", "pyarrow": "99.0"}
    monkeypatch.setattr(doctor, "_torchvision", lambda: [])
    monkeypatch.setattr(doctor, "_devices", lambda: [])
    assert mars("doctor", str(tmp_path)).returncode == 0
    monkeypatch.setattr(doctor, "installed_version", lambda name: versions.get(name, installed(name)))
    found = json.loads(mars("doctor", str(tmp_path), "--json").stdout)
    result = mars("doctor", str(tmp_path))
    assert (result.returncode, found["ok"]) == (4, False)
    states = {finding["what"].split()[0]: (finding["state"], finding["do"]) for finding in found["findings"]}
    assert states["pyarrow"] == ("note", "tested with 26; if something fails, pip install -e .")
    assert {name for name, (state, _) in states.items() if state == "no"} == {"ray", "torch"}
    lines = [line for line in result.stdout.splitlines() if "│ no " in line]
    assert len(lines) == 2
    assert any("ray" in line and "not installed" in line and "pip install" in line for line in lines)
    assert any("torch" in line and "2.0.0" in line for line in lines)


def test_the_doctor_names_a_folder_that_ray_cannot_write_to(monkeypatch):
    from mars.cli import doctor

    monkeypatch.setenv("RAY_TMPDIR", "/proc/no/such/folder")
    finding = doctor._ray_folder()
    assert finding.state == "no"
    assert "RAY_TMPDIR" in finding.do
