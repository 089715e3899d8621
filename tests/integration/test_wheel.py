"""The wheel, installed in an environment that has no checkout: commands, experiments, recipes and templates work."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.integration.workshop import ROOT

pytest.importorskip("hatchling", reason="no hatchling, which builds the wheel; it is in the extra dev")

_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
_OFFLINE = ["--no-deps", "--no-index", "--quiet"]


@dataclass(frozen=True)
class Installed:
    """python: of the environment with the wheel. folder: an empty one, in which commands run."""

    wheel: Path
    python: Path
    folder: Path

    def run(self, *command: str) -> str:
        """The output of a command, whose first word is `mars` or `python`."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
        program = str(self.python.with_name(command[0]))
        return _finished([program, *command[1:]], cwd=self.folder, env=environment)


def _finished(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The wheel in an environment of its own, beside the packages of this one but without its checkout."""
    home = tmp_path_factory.mktemp("wheel")
    _finished([*_PIP, "wheel", str(ROOT), *_OFFLINE, "--no-build-isolation", "--wheel-dir", str(home)], cwd=home)
    (wheel,) = home.glob("mars-*.whl")
    _finished([sys.executable, "-m", "venv", "--without-pip", str(home / "env")], cwd=home)
    python = home / "env" / "bin" / "python"
    _finished([*_PIP, "--python", str(python), "install", *_OFFLINE, "--no-compile", str(wheel)], cwd=home)
    packages = _finished([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=home)
    # Python does not read the .pth files of a folder that a .pth file names: mars of this environment is not found.
    (Path(packages.strip()) / "other_packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n{_torch_repair()}")
    (home / "empty").mkdir()
    return Installed(wheel, python, home / "empty")


def _torch_repair() -> str:
    """The line that scripts/repair_torch_companions.py has put into this environment, if torch needed it."""
    file = Path(sysconfig.get_path("purelib")) / "mars_torchvision_operators.pth"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def test_the_wheel_has_what_a_run_reads(installed):
    names = set(ZipFile(installed.wheel).namelist())
    recipes = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipe/*/*.py")}
    recipes |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipe/*/*.jinja")}
    configs = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*") if path.is_file()}
    assert {f"mars/{name}" for name in recipes | configs} <= names
    parts = [path for kind in ("j2", "css", "js") for path in ROOT.glob(f"mars/**/*.{kind}")]
    pages = {path.relative_to(ROOT).as_posix() for path in parts}
    assert len(pages) > 5, "templates, style and script of the pages"
    assert pages <= names
    project = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("mars/cli/project/**/*.*") if path.is_file()}
    assert "mars/cli/project/run.sh" in project, "what mars init copies"
    assert {name for name in project if "__pycache__" not in name} <= names
    assert not [name for name in names if not name.startswith(("mars/", "mars-")) or name.endswith(".pyc")]
    assert installed.wheel.stat().st_size < 3_000_000, "bytes: neither models nor images"


def test_nothing_is_imported_from_the_checkout(installed):
    found = installed.run("python", "-c", "import mars, sys; print(mars.__file__, *sys.path)")
    assert str(installed.python.parents[1]) in found.split()[0]
    assert str(ROOT) not in found.split()


def test_commands_work_in_an_empty_folder(installed):
    assert "quickstart" in installed.run("mars", "--help")
    listed = installed.run("mars", "recipe", "ls").splitlines()[1:]
    assert {line.split()[0] for line in listed} == {path.parent.name for path in ROOT.glob("recipe/*/README.md")}
    composed = installed.run("mars", "train", "experiment=effect", "--cfg", "job")
    assert "function: recipe/effect/reward.py:answer" in composed
    tried = ["recipe/srpo/functions.py:score", "--truth", "4", "--text", "<think>2</think><answer>4</answer>"]
    assert "score" in installed.run("mars", "reward", "try", *tried)
    assert list(installed.folder.iterdir()) == [], "nothing is written beside the user's files"


@pytest.mark.slow
def test_a_dry_run_of_an_experiment_finds_its_template(installed, workshop):
    rows = [f"data.train_files=['{workshop.data}/train.parquet']", f"data.eval_files=['{workshop.data}/test.parquet']"]
    few = ["data.prompts_per_step=4", "actor.prompts_per_update=4"]
    assert IN_ORDER in dry_run(installed, workshop, "experiment=quickstart", *rows, *few)


@pytest.mark.slow
def test_a_dry_run_of_a_recipe_finds_its_rows(installed, workshop):
    assert IN_ORDER in dry_run(installed, workshop, "--config-dir", "recipe/lmm_r1", "experiment=lmm_r1_tiny")


IN_ORDER = "dry run: settings, data and model files are in order"


def dry_run(installed, workshop, *settings: str) -> str:
    return installed.run("python", "-m", "mars.main", *settings, f"model.path='{workshop.model}'", "--dry-run")
