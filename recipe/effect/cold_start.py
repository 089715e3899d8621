"""Make a cold start of the benchmark: rows of a noisy teacher, a random model, and supervised training.

    python -m recipe.effect.cold_start --dial 0.5 --seed 1 --out runs/effect/cold_0.5_1

The dial is the probability that the teacher goes by the visible image if a row shows both images. The seed decides
scenes, model and training. A second call reuses the stages that are complete.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mars.config.paths import given_path

ROWS = 8192


def make_cold_start(
    out: str | Path,
    *,
    dial: float,
    seed: int,
    names_source: bool = True,
    rows: int = ROWS,
    settings: Sequence[str] = (),
) -> Path:
    """Make a cold start in the folder `out` and return the folder of its policy, in float32.

    names_source: whether the teacher's thought names the image from which its answer comes. rows: number of the
    teacher's rows. settings: further `key=value` settings of mars.sft.

        policy/                          the policy; it appears when it is complete
        work/{data,random,run}/          scenes and rows, the random model, the training
        work/commands.json               the commands that made them

    Raises subprocess.CalledProcessError if a command fails.
    """
    out, work = Path(out).resolve(), Path(out).resolve() / "work"
    synth = [sys.executable, "-m", "mars.cli.main", "data", "synth"]
    scenes = ["--scenes", "benchmark", "--seed", str(seed)]
    sizes = ["--train", "0", "--test", "0", "--cold-start", str(rows), "--bias", str(dial)]
    unnamed = [] if names_source else ["--no-source-names"]
    train = [sys.executable, "-m", "mars.sft", "experiment=effect_sft", f"run.seed={seed}", f"run.dir='{work}/run'"]
    inputs = [f"model.path='{work}/random'", f"data.train_files=['{work}/data/cold_start.parquet']"]
    commands = {
        "data": [*synth, str(work / "data"), *scenes, *sizes, *unnamed],
        "random": [*synth, str(work / "random"), *scenes, "--model", "tiny"],
        "run": [*train, *inputs, *settings],
    }
    work.mkdir(parents=True, exist_ok=True)
    _refuse_others(work / "commands.json", commands)
    for name, command in commands.items():
        _stage(work / name, command)
    if not (out / "policy").exists():
        copy = shutil.copytree(work / "run" / "policy", work / "policy", dirs_exist_ok=True)
        Path(copy).rename(out / "policy")
    return out / "policy"


def store(policy: str | Path, target: str | Path) -> None:
    """Copy a policy into the folder `target` with its weights in bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    policy, target = Path(policy), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for file in policy.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, target / file.name)
    weights = load_file(policy / "model.safetensors")
    halved = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    save_file(halved, target / "model.safetensors", metadata={"format": "pt"})


def _stage(folder: Path, command: Sequence[str]) -> None:
    """Run a command that makes `folder`, unless it is complete. An incomplete folder is deleted first."""
    if (folder / ".complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(command, check=True)
    (folder / ".complete").touch()


def _refuse_others(record: Path, commands: dict[str, list[str]]) -> None:
    """Write the commands to the file `record`. Ends the process if the file exists and has other commands."""
    wanted = {name: command[1:] for name, command in commands.items()}  # whatever Python runs them
    if record.exists() and json.loads(record.read_text()) != wanted:
        raise SystemExit(f"{record}: made with other settings; give another --out, or delete the folder")
    record.write_text(json.dumps(wanted, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dial", type=float, required=True, help="probability that the teacher believes visible")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--out", type=lambda text: Path(given_path(text)), required=True, help="folder of all files that are made"
    )
    parser.add_argument("--no-source-names", action="store_true", help="responses do not name their source")
    parser.add_argument(
        "--store", type=lambda text: Path(given_path(text)), help="folder for a copy of the policy in bfloat16"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of mars.sft")
    given = parser.parse_args(arguments)
    policy = make_cold_start(
        given.out,
        dial=given.dial,
        seed=given.seed,
        names_source=not given.no_source_names,
        settings=given.settings,
    )
    if given.store:
        store(policy, given.store)


if __name__ == "__main__":
    main()
