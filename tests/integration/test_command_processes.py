"""What only a process of its own shows: its streams, its exit code, and scripts that start mars."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.evaluation.result_files import hostile_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return hostile_folder(tmp_path)


def shell(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MARS_PYTHON": sys.executable, "COLUMNS": "120"}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip


def python(code, *arguments):
    """Run `code` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_the_script_prints_both_scorers_side_by_side(folder):
    done = shell("eval.sh", folder, "grounding", "0.4")
    assert done.returncode == 0, done.stderr
    rows = {cells[1]: cells[2:4] for text in done.stdout.splitlines() if len(cells := re.split(r"\s*│\s*", text)) > 3}
    assert rows["Multi"][0].startswith("100.0 [")
    assert rows["Mono visible"][0].startswith("50.0 [")
    assert rows["Information gain"][0].startswith("+75.0 [")
    assert "Share with IoU > 0.4" in rows
    assert rows["Unparseable answers"] == ["1", "1"]
    assert "run, strict" in done.stdout
    assert "run, compat" in done.stdout


def test_json_is_all_that_is_on_stdout(folder, tmp_path):
    done = shell("eval.sh", folder, "grounding", "--json", "--html", tmp_path / "page.html")
    result = json.loads(done.stdout)
    assert (result["multi"]["mean"], result["share_over_threshold"]["threshold"]) == (1.0, 0.5)
    assert result["compat"]["mono"]["visible"]["mean"] == 0.5
    assert (tmp_path / "page.html").is_file()


def test_a_fault_ends_the_script_with_its_exit_code(tmp_path):
    (tmp_path / "bad.json").write_text("[1, 2]")
    done = shell("eval.sh", tmp_path / "bad.json", "vqa")
    assert (done.returncode, done.stdout) == (3, "")
    assert "2 of 2 entries cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["model", "questions"], ["model", "questions", ""], ["", "questions", "out"]])
def test_infer_without_its_arguments_says_how(arguments):
    """An empty OUT, of a variable that is not set, would be the folder one stands in."""
    done = shell("infer.sh", *arguments)
    assert done.returncode == 2
    assert "MODEL QUESTIONS OUT" in done.stderr


def test_merge_says_what_it_needs(tmp_path):
    done = shell("merge.sh", tmp_path)
    assert (done.returncode, "RUN_OR_CHECKPOINT OUT" in done.stderr) == (2, True)
    done = shell("merge.sh", tmp_path, tmp_path / "out", "--adapter")
    assert (done.returncode, "has no checkpoint" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_negative_number_is_the_scripts_threshold_and_no_option(folder):
    done = shell("eval.sh", folder, "grounding", "-.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("--threshold: must be at least 0 and below 1")


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="the scripts find the checkout's Python")
def test_a_script_works_through_a_link(folder, tmp_path):
    link = tmp_path / "a link.sh"
    link.symlink_to(ROOT / "scripts" / "eval.sh")
    environment = {name: value for name, value in os.environ.items() if name != "MARS_PYTHON"}
    command = ["bash", str(link), str(folder), "grounding", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
    assert json.loads(done.stdout)["n"] == 1, done.stderr


def test_what_a_reward_prints_is_not_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("WORD = 'scoring'")
    (tmp_path / "noisy.py").write_text(
        "print('loading')\ndef f(item):\n    import helper\n    print(helper.WORD)\n    return 1.0\n"
    )
    arguments = [f"{tmp_path / 'noisy.py'}:f", "--text", "a", "--truth", "b", "--json"]
    command = [sys.executable, "-m", "mars.cli.main", "reward", "try", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    noisy = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=buffered)
    assert (noisy.returncode, len(noisy.stdout.splitlines())) == (0, 1)
    assert noisy.stderr.splitlines() == ["loading", "scoring"]


def test_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    code = "from mars.cli.main import main; main()"
    command = [sys.executable, "-c", code, "reward", "try", "vqa", "--text", "数", "--truth", "x"]
    result = subprocess.run(command, capture_output=True, env={"PYTHONIOENCODING": "ascii"}, timeout=60, check=False)
    assert (result.returncode, b"\\u2026" in result.stdout) == (0, True)


def test_a_terminal_that_lacks_characters_gets_the_rest():
    code = (
        "import sys; from mars.process import run_command; run_command(lambda: sys.stdout.write('B \u2212 A\\n') and 0)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert (result.returncode, result.stdout) == (0, "B \\u2212 A\n"), result.stderr


def test_the_code_is_that_of_the_process():
    assert python("from mars.process import run_command; run_command(lambda: 75)").returncode == 75


@pytest.mark.parametrize(("returned", "code"), [(0, 0), (None, 0), (75, 75)])
def test_exit_hooks_that_hang_are_skipped(returned, code):
    lines = [
        "import atexit, os",
        "from mars import interrupts",
        "from mars.process import run_command",
        "atexit.register(os._exit, 1)  # as Ray's does after it has hung",
        f"run_command(lambda: print('done') or interrupts.skip_exit_hooks() or {returned})",
    ]
    done = python("\n".join(lines))
    assert (done.returncode, done.stdout) == (code, "done\n")


def test_a_bad_configuration_ends_with_2_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "mars.main", "experiment=quickstart", "rolout.top_p=1", "--oops"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "rolout.top_p: unknown key; got 1; did you mean rollout.top_p?",
        "--oops: no such option; the options are --config-dir, --cfg and --dry-run; "
        "a setting is written key=value, without dashes",
    ]
    assert list(tmp_path.iterdir()) == []
