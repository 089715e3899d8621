"""`python -m recipe.effect.report OUT`: the report of a study from the runs that are finished so far."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mars import interrupts
from mars.errors import DataError
from mars.output.files import cannot_write, replacing
from mars.report.page import FULL, Page
from recipe.effect.analysis import Row, comparisons, planned_primary
from recipe.effect.decided import additions, check_decided
from recipe.effect.figures import draw_study
from recipe.effect.plan import StudyRun, planned_runs
from recipe.effect.record import read_record
from recipe.effect.report_tables import control_tables, primary_tables, secondary_tables
from recipe.effect.results import row_of
from recipe.effect.study import SEEDS_FOR_TUNING, STUDY_COPY, Study, load_study
from recipe.effect.tables import write_differences, write_results

REPORT, PICTURE, RESULTS, DIFFERENCES = "report.html", "report.png", "results.csv", "differences.csv"


@dataclass(frozen=True)
class Found:
    """The contents of a study's folder. rows: of its finished runs. missing: planned runs that are neither finished
    nor refused. refused: for each refused run, a line with the reason."""

    rows: Sequence[Row]
    missing: Sequence[StudyRun]
    refused: Sequence[str]


def write_study_report(out: Path, *, again: bool = False) -> Path:
    """Write report.html, report.png, results.csv and differences.csv into the study's folder; returns the page's path.

    again: read the numbers of each run from its metrics and answers instead of its record.
    Raises DataError if no run is finished, and ConfigError as `check_decided`.
    """
    study = load_study(out / STUDY_COPY)
    check_decided(study, out)
    found = read_runs(study, out, again=again)
    if not found.rows:
        raise DataError(f"{out}: no run is finished yet; python -m recipe.effect.run {out} goes on with the study")
    write_results(out / RESULTS, found.rows)
    compared = comparisons(study, found.rows)
    write_differences(out / DIFFERENCES, compared)
    picture = draw_study(study, found.rows, compared)
    try:
        with replacing(out / PICTURE) as draft:
            draft.write_bytes(picture)
    except OSError as error:
        raise cannot_write(out / PICTURE, error) from error
    page = Page("study_parts.html.j2", Path(__file__).parent)
    page.write(
        out / REPORT,
        "study_page.html.j2",
        name=study.name,
        summary=_summary(study, found),
        primary=_primary(study),
        family=len(planned_primary(study)),
        figure=page.embed("image/png", picture),
        picture=PICTURE,
        full=FULL,
        notes=page.parts("note", notes(study, found, additions(study, out))),
        primary_tables=page.parts("table", primary_tables(study, found.rows, compared)),
        control_tables=page.parts("table", control_tables(study, compared)),
        secondary_tables=page.parts("table", secondary_tables(study, found.rows, compared)),
    )
    return out / REPORT


def read_runs(study: Study, out: Path, *, again: bool = False) -> Found:
    """The finished, missing and refused runs of the study in the folder `out`. again: see `write_study_report`."""
    rows, missing, refused = [], [], []
    for run in planned_runs(study, list(study.arms), study.dials):
        record = read_record(out / run.name)
        if record is None or record.state == "started":
            missing.append(run)
        elif record.state == "refused":
            refused.append(f"{run.name}: {record.problem}")
        else:
            facts = {"dial": run.dial, "arm": run.arm, "seed": run.seed, "cold_start": run.start.number}
            facts |= {"seconds": record.seconds, "rollouts_per_prompt": record.rollouts_per_prompt}
            rows.append({**facts, **(row_of(study, run.arm, out / run.name) if again else record.row)})
    return Found(rows, missing, refused)


def notes(study: Study, found: Found, added: Sequence[str]) -> list[str]:
    """What a reader must know before the numbers: which runs are missing or refused, and how arms differ.

    added: what was added to the study after a run had ended (`additions`).
    """
    said = []
    if added:
        names = "; ".join(added)
        said.append(f"Added when there were results already, which no p value allows for: {names}.")
    if found.missing:
        names = ", ".join(run.name for run in found.missing[:20])
        more = f" and {len(found.missing) - 20} more" if len(found.missing) > 20 else ""
        said.append(f"{len(found.missing)} runs are not finished, so that differences have fewer pairs: {names}{more}.")
    said += [f"Refused, and in no number below: {line}." for line in found.refused]
    tuning = sorted({row["seed"] for row in found.rows if row["seed"] >= SEEDS_FOR_TUNING})
    if tuning:
        said.append(f"{len(tuning)} seeds from {SEEDS_FOR_TUNING} on are for choosing settings; do not report these.")

    for name, arm in study.arms.items():
        if arm.same_as is not None:
            said.append(f"{name} has no runs of its own: they would be those of {arm.same_as}. {arm.note}")
        elif arm.not_comparable is not None:
            said.append(f"{name} is compared by the evaluation alone. {arm.not_comparable}")
        if arm.metric is not None:
            said.append(f"{name} is compared by {arm.metric}, in the place of {study.primary.metric}.")
        if arm.uneven:
            said.append(f"{name} samples some prompts more often, so only its evaluation and that metric compare.")
        if arm.rollouts is not None and arm.rollouts != study.budget:
            said.append(f"{name} generates {arm.rollouts} rollouts per sampled prompt, the other arms {study.budget}.")
        if arm.note is not None and arm.same_as is None:
            said.append(f"{name}: {arm.note}")
    return said


def _summary(study: Study, found: Found) -> str:
    planned = len(found.rows) + len(found.missing) + len(found.refused)
    seeds = ", ".join(f"{study.seeds[dial]} at dial {dial:g}" for dial in study.dials)
    return (
        f"{len(found.rows)} of {planned} runs of {study.steps} steps; seeds {seeds}; {study.cold_starts} cold starts "
        f"for each dial; {study.budget} rollouts per sampled prompt, anchors included, counted in every step"
    )


def _primary(study: Study) -> str:
    primary = study.primary
    decide = f"{', '.join(primary.arms)} at dial {', '.join(f'{dial:g}' for dial in primary.dials)}"
    steps = f"the steps {primary.first} to {primary.last}"
    return f"Mean of {primary.metric} over {steps}, against {study.baseline}. Primary comparisons: {decide}."


def main() -> NoReturn:
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(_command)


def _command() -> int:
    from recipe.effect.command_line import report_app

    return report_app(sys.argv[1:], prog_name="python -m recipe.effect.report")


if __name__ == "__main__":
    main()
