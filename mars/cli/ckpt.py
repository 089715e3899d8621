"""`mars ckpt ...`: the checkpoints of a run."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mars.cli.completion import complete_run
from mars.cli.examples import example
from mars.cli.groups import AsJson, group
from mars.cli.paths import RunDir, path_argument

if TYPE_CHECKING:
    from mars.checkpoint.catalogue import Catalogue, Checkpoint

ckpt = group("List, verify, export and remove the checkpoints of a run.")

Step = Annotated[int | None, typer.Option(help="The checkpoint of this step.")]
_DAMAGED = 7  # CheckpointError.exit_code


@ckpt.command("ls", epilog=example("mars ckpt ls runs/mars"))
def list_(run_dir: RunDir, as_json: AsJson = False) -> None:
    """List the checkpoints: step, size, time and metrics. Reads their manifests only."""
    from mars.output.text import aligned

    entries = checkpoint_entries(_catalogue(run_dir))
    if as_json:
        typer.echo(json.dumps(entries, indent=1))
        return
    rows = [("step", "size", "saved", "score", "evaluation", "")]
    for entry in entries:
        metrics = entry["metrics"]
        shown = [_number(metrics.get(name)) for name in ("critic/score/mean", "eval/multi/mean")]
        rows.append((str(entry["step"]), _size(entry["bytes"]), entry["saved"], *shown, entry["problem"] or ""))
    typer.echo("\n".join(aligned(rows)))


@ckpt.command(epilog=example("mars ckpt verify runs/mars --step 50"))
def verify(run_dir: RunDir, step: Step = None, as_json: AsJson = False) -> None:
    """Compare every file with its SHA-256 sum. Names each that is damaged, missing or unreadable;
    exits with 7 if there is one."""
    from mars.checkpoint.catalogue import MANIFEST_FILE
    from mars.errors import CheckpointError
    from mars.output.text import visible

    catalogue = _catalogue(run_dir)
    found: list[dict[str, Any]] = []
    for number in catalogue.steps() if step is None else [_known(catalogue, step)]:
        try:
            catalogue.load(number)
            found.append({"step": number, "problem": None})
        except CheckpointError as error:
            found.append({"step": number, "problem": str(error)})
    for folder in catalogue.without_manifest() if step is None else ():
        number = int(folder.name.rpartition("_")[2])
        found.append({"step": number, "problem": f"{folder}/{MANIFEST_FILE}: missing; the folder is never loaded"})
    found.sort(key=lambda entry: entry["step"])
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        for entry in found:
            typer.echo(f"step {entry['step']}: {visible(entry['problem'] or 'every file is as it was written')}")
    if any(entry["problem"] for entry in found):
        raise typer.Exit(_DAMAGED)


@ckpt.command(epilog=example("mars ckpt export runs/mars policy_at_50 --step 50"))
def export(
    run_or_checkpoint: Annotated[
        Path,
        path_argument(
            metavar="RUN_OR_CHECKPOINT",
            help="Folder of a run (run.dir), or of one of its checkpoints.",
            autocompletion=complete_run,
        ),
    ],
    out: Annotated[Path, path_argument(metavar="OUT", help="New folder for the model.")],
    step: Step = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the LoRA adapters, in peft's format.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the policy of a checkpoint as a Hugging Face folder. Default: the newest that is undamaged. Without
    --adapter: checks that OUT makes the same tokens and image tensors of a prompt as model.path; prints how to serve
    OUT."""
    from mars.checkpoint.saver import SHARDS_FOLDER
    from mars.config.folders import CONFIG_FILE
    from mars.config.load import load_saved_config
    from mars.config.schema import SftConfig
    from mars.errors import ConfigError
    from mars.output.files import cannot_write
    from mars.output.text import visible
    from mars.run_dir.attempt import enter_working_directory

    run_dir, step = _run_of(run_or_checkpoint.absolute(), step)  # absolute: the working directory changes below
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"OUT: want a new or an empty folder; got {out}")
    checkpoint = _undamaged(_catalogue(run_dir), step)
    config = load_saved_config(run_dir / CONFIG_FILE, [])
    section, training = ("sft", config.sft) if isinstance(config, SftConfig) else ("actor", config.actor)
    lora = training.lora
    if adapter and not lora.rank:
        raise ConfigError(f"--adapter: the run has no LoRA adapters ({section}.lora.rank=0); leave out --adapter")
    enter_working_directory(run_dir)
    from mars.actor.export import export_adapter, export_policy
    from mars.checks.exported import check_exported
    from mars.cli.serving import image_settings, serve_command, serving_notes

    images = None if adapter else image_settings(config)  # raises before anything is written
    draft = out.with_name(f".tmp-{out.name}")  # renamed at the end, so that OUT is never incomplete
    try:
        shutil.rmtree(draft, ignore_errors=True)
        write = export_adapter if adapter else export_policy
        write(str(checkpoint.folder / SHARDS_FOLDER), config.model, lora, str(draft))
        if not adapter:
            check_exported(draft, config)
        draft.replace(out)
    except OSError as error:
        raise cannot_write(out, error, "OUT") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    result = {"step": checkpoint.manifest.step, "folder": str(out)}
    lines = [f"the {'adapter' if adapter else 'policy'} after step {result['step']} is in {out}"]
    if images is not None:
        result["serve"] = serve_command(out, config, images)
        lines += serving_notes(result["serve"], config)
    typer.echo(json.dumps(result) if as_json else "\n".join(map(visible, lines)))


@ckpt.command(
    epilog=example("mars ckpt prune runs/mars --keep-last 1 --keep-best eval/multi/mean \\", "      --dry-run")
)
def prune(
    run_dir: RunDir,
    keep_last: Annotated[int, typer.Option(min=1, help="Newest checkpoints that stay.")],
    keep_best: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="The one with the largest value of this metric stays too; of a metric in /loss, the smallest.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove all checkpoints that the options do not keep. The newest undamaged one always stays. Refused while the run
    trains."""
    from mars.output.files import cannot_write
    from mars.run_dir.lock import RunLock

    catalogue = _catalogue(run_dir)
    with RunLock(run_dir) as lock:
        lock.take()
        if keep_best is not None:
            _check_metric(catalogue, keep_best)
        removed = _removable(catalogue, keep_last, keep_best)
        try:
            catalogue.remove([] if dry_run else removed)
        except OSError as error:
            raise cannot_write(catalogue.folder, error, "RUN") from error
    kept = [step for step in catalogue.steps() if step not in removed]
    if as_json:
        typer.echo(json.dumps({"removed": removed, "kept": kept, "dry_run": dry_run}))
    else:
        verb = "would be removed" if dry_run else "removed"
        typer.echo(f"{verb}: {_steps(removed)}\nkept: {_steps(kept)}")


def checkpoint_entries(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Step, bytes and metrics of each checkpoint, and when its manifest was written; a problem if that is damaged."""
    from mars.checkpoint.catalogue import MANIFEST_FILE
    from mars.checkpoint.manifest import read_manifest
    from mars.errors import CheckpointError

    entries = []
    for step in catalogue.steps():
        folder = catalogue.path(step)
        entry = {"step": step, "folder": str(folder), "bytes": None, "metrics": {}, "problem": None}
        try:
            manifest = read_manifest(folder)
            entry |= {"bytes": manifest.size(), "metrics": dict(manifest.metrics)}
            saved = (folder / MANIFEST_FILE).stat().st_mtime
            entry["saved"] = datetime.fromtimestamp(saved, UTC).isoformat(timespec="seconds")
        except (CheckpointError, OSError) as error:
            entry |= {"saved": "", "problem": str(error)}
        entries.append(entry)
    return entries


def _run_of(path: Path, step: int | None) -> tuple[Path, int | None]:
    """(run.dir, step) of a run or of one of its checkpoints. Raises ConfigError for a checkpoint that is in no run."""
    from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, MANIFEST_FILE
    from mars.checkpoint.manifest import read_manifest
    from mars.config.folders import CONFIG_FILE
    from mars.errors import ConfigError

    if not (path / MANIFEST_FILE).exists():
        return path, step
    if step is not None:
        raise ConfigError(f"--step: {path} is a checkpoint already; got --step {step}; give the run, or leave it out")
    found, run_dir = read_manifest(path).step, path.parents[1]
    inside = path.parent.name == CHECKPOINTS_FOLDER and (run_dir / CONFIG_FILE).exists()
    if not inside:
        raise ConfigError(
            f"RUN_OR_CHECKPOINT: {CONFIG_FILE} of the run says which model the checkpoint is of; got {path}; "
            f"give a checkpoint inside of its run, RUN/{CHECKPOINTS_FOLDER}/{path.name}"
        )
    return run_dir, found


def _catalogue(run_dir: Path) -> Catalogue:
    """Raises ConfigError for a folder without checkpoints."""
    from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
    from mars.errors import ConfigError

    catalogue = Catalogue(run_dir / CHECKPOINTS_FOLDER)
    if not catalogue.steps() and not catalogue.without_manifest():
        raise ConfigError(f"RUN: {catalogue.folder} has no checkpoint; give the run.dir of a run that has saved one")
    return catalogue


def _known(catalogue: Catalogue, step: int) -> int:
    from mars.errors import ConfigError

    if step not in catalogue.steps():
        raise ConfigError(f"--step: no such checkpoint; got {step}; there are those of {_steps(catalogue.steps())}")
    return step


def _undamaged(catalogue: Catalogue, step: int | None) -> Checkpoint:
    """Raises CheckpointError."""
    from mars.errors import CheckpointError

    checkpoint = catalogue.newest() if step is None else catalogue.load(_known(catalogue, step))
    if checkpoint is None:
        raise CheckpointError(f"{catalogue.folder}: no checkpoint has a manifest; none can be exported")
    return checkpoint


def _removable(catalogue: Catalogue, keep_last: int, keep_best: str | None) -> list[int]:
    """The steps that `Catalogue.prune` would remove, except the newest undamaged checkpoint.

    Empty if no checkpoint can be loaded.
    """
    from mars.errors import CheckpointError

    superfluous = catalogue.superfluous(keep_last, keep_best)
    for step in reversed(catalogue.steps()) if superfluous else ():
        try:
            catalogue.load(step)
        except CheckpointError:
            continue
        return [other for other in superfluous if other != step]
    return []


def _check_metric(catalogue: Catalogue, metric: str) -> None:
    from mars.checkpoint.best import is_of_evaluation, near_metrics
    from mars.errors import ConfigError

    known = {name for entry in checkpoint_entries(catalogue) for name in entry["metrics"]}
    if metric not in known:
        close = near_metrics(metric, known)
        has_evaluation = any(map(is_of_evaluation, known))
        evaluated = "a checkpoint has it if its step was evaluated, so set evaluation.every, and checkpoint.every to a "
        raise ConfigError(
            f"--keep-best: no checkpoint has this metric; got {metric!r}; "
            + (f"{evaluated}multiple of it; or " if is_of_evaluation(metric) and not has_evaluation else "")
            + f"give {' or '.join(close) or 'a metric of the run'}"
        )


def _steps(steps: list[int]) -> str:
    return f"step {', '.join(map(str, steps))}" if steps else "none"


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "?"
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
