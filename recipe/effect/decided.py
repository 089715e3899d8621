"""The parts of a study on which its results depend. The folder of a study keeps them as they were for its first run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mars.config.overrides import flat
from mars.config.problem import shown
from mars.errors import ConfigError, DataError
from mars.output.files import write_atomically
from recipe.effect.plan import RUNS_FOLDER
from recipe.effect.record import RECORD_FILE, read_record
from recipe.effect.study import STUDY_COPY, Study

DECIDED_FILE = "study.json"
_TIMES_AND_PLACES = {"seconds_per_run", "seconds_per_stage", "keep_policies"}  # no number depends on these
_SHOWN = 10


def decided(study: Study) -> dict[str, Any]:
    """Dotted key -> value of each setting that the study's results depend on. The seeds of a dial are written
    out: "0-2" is [0, 1, 2]."""
    values = study.model_dump(mode="json", exclude=_TIMES_AND_PLACES | {"seeds", "dials"})
    found = {key: leaf for name, value in values.items() for key, leaf in flat(value, name).items()}
    return found | {_seeds_key(dial): study.seeds_of(dial) for dial in study.dials}


def check_decided(study: Study, out: Path) -> None:
    """Raises ConfigError if a value of `decided` has changed since the first run of the folder ended.

    A method must not be judged by a rule that was chosen after its result. Arms, dials and seeds may be added; the
    report then says so (`additions`).
    """
    if not _any_run_ended(out):
        return
    before, now = _read(out), decided(study)
    changed = [key for key in sorted({*before, *now}) if not _may_differ(key, before, now)]
    if changed:
        lines = [
            f"{key}: decided before the first run; it was {_text(before, key)}; got {_text(now, key)}"
            for key in changed
        ]
        more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
        remedy = f"{out} has results: write these keys as they were, or give another OUT for the changed study"
        raise ConfigError("\n".join([*lines[:_SHOWN], *more, remedy]))


def keep_study(file: Path, study: Study, out: Path) -> None:
    """Copy the file of a study into its folder, for the report. Until a run has ended, also write `decided(study)`.

    Raises ConfigError as `check_decided` does.
    """
    check_decided(study, out)
    if not _any_run_ended(out):
        write_atomically(out / DECIDED_FILE, json.dumps(decided(study), indent=1) + "\n")
    write_atomically(out / STUDY_COPY, file.read_text(encoding="utf-8"))


def additions(study: Study, out: Path) -> list[str]:
    """The arms, dials and seeds that were added after a run had ended, such as "seeds 9, 10 of dial 0.5"."""
    before, now = _read(out), decided(study)
    arms = [f"arm {name}" for name in study.arms if f"arms.{name}.title" not in before]
    keys = {dial: _seeds_key(dial) for dial in study.dials}
    dials = [f"dial {dial:g}" for dial, key in keys.items() if key not in before]
    more = {dial: sorted({*now[key]} - {*before[key]}) for dial, key in keys.items() if key in before}
    return arms + dials + [f"seeds {', '.join(map(str, new))} of dial {dial:g}" for dial, new in more.items() if new]


def _may_differ(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if key in before and key in now:
        return before[key] == now[key] or (key.startswith("seeds.") and {*before[key]} <= {*now[key]})
    name = key.split(".")[1] if key.startswith("arms.") else None
    added = key.startswith("seeds.") or (name is not None and f"arms.{name}.title" not in before)
    return key in now and added


def _any_run_ended(out: Path) -> bool:
    records = (read_record(path.parent) for path in out.glob(f"{RUNS_FOLDER}/*/*/*/{RECORD_FILE}"))
    return any(record is not None and record.state != "started" for record in records)


def _read(out: Path) -> dict[str, Any]:
    path = out / DECIDED_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}), so a changed study would go unnoticed; give another OUT"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not what a study has decided; got {shown(found)}; give another OUT")
    return found


def _seeds_key(dial: float) -> str:
    return f"seeds.{dial:g}"


def _text(values: Mapping[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "not there"
