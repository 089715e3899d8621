"""HTML pages of a run and of answers. Each is one file without external parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mars.answers.record import Answer
from mars.errors import DataError
from mars.report.evaluation_parts import evaluation_part, evaluation_tables
from mars.report.page import ANSWERS_SCRIPT, FULL, Page
from mars.report.questions import DecodeImage, shown_question, view_of
from mars.report.run_record import REPORT_FILE, read_run
from mars.tracking.jsonl import METRICS_FILE
from mars.tracking.rollouts import ROLLOUTS_FOLDER

_QUESTIONS = 24
_VIEWS = 100  # most views to choose from

_SUMMARY_KEYS = (
    "run.num_steps",
    "run.seed",
    "data.prompts_per_step",
    "rollout.engine",
    "rollout.samples_per_prompt",
    "rollout.max_response_tokens",
    "anchor.kind",
    "anchor.samples_per_view",
    "algorithm.estimator",
    "algorithm.kl_coefficient",
    "actor.num_workers",
    "actor.learning_rate",
    "reward.function",
    "reward.functions",
    "cluster.kind",
    "cluster.device",
)


@dataclass(frozen=True)
class Standing:
    """How a run stands when its report is written.

    state: as `mars runs ls` shows it, such as "running". last_step: the last step that is planned, None if not known.
    reload_s: after how many seconds the page loads itself again; None if nobody writes it anew.
    """

    state: str
    last_step: int | None = None
    reload_s: int | None = None


class NothingToReport(DataError):
    """The folder has nothing yet that a report could show."""


def write_report(
    run_dir: Path, out_path: Path | None, decode_image: DecodeImage, standing: Standing | None = None
) -> Path:
    """Write the report of `run_dir` to `out_path`, by default <run_dir>/report.html, and return the path.

    Reads metrics.jsonl, evaluation/*.json, the last rollouts/step_*.jsonl and config.yaml, as far as they are there.
    The report's notes name what cannot be read. Text of models and data is escaped.

    decode_image: the project's decoder (mars/data/pixels/images.py), so that the page shows what the model saw.
    standing: to be read before this call. Then, if it says that the run has ended, the files that are read here are
        complete. None: not known.

    Raises NothingToReport if `run_dir` has no metrics, no evaluation and no rollouts.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir, _QUESTIONS)
    if not (run.metrics or run.evaluations or run.questions):
        raise NothingToReport(
            f"{run_dir}: nothing to report; got no {METRICS_FILE}, evaluation/*.json or {ROLLOUTS_FOLDER}/*.jsonl "
            f"with content; give the folder of a run (run.dir)"
        )
    page = Page("run_parts.html.j2")
    out_path = Path(out_path) if out_path is not None else run_dir / REPORT_FILE
    step = run.metrics[-1]["step"] if run.metrics else None
    _write(
        page,
        out_path,
        kind="report",
        name=run.setting("run.name") or run_dir.resolve().name,
        model=run.setting("model.path") or (run.evaluations[-1]["model"] if run.evaluations else None),
        steps=step,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        standing=standing,
        settings=[(key, value) for key in _SUMMARY_KEYS if (value := run.setting(key)) not in (None, {})],
        config=page.parts("config", [] if run.config_text is None else [run.config_text]),
        notes=page.parts("note", run.notes),
        evaluations=page.parts("table", _evaluations(run.evaluations)),
        figures=page.parts("figure", _figures(run.metrics, page)),
        samples=f"Sample rollouts of step {run.questions[0][0].step}" if run.questions else None,
        choice=_choice(len(run.questions), run.num_questions),
        questions=run.questions,
        decode_image=decode_image,
    )
    return out_path


def write_answers_page(
    path: Path,
    name: str,
    model: str,
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    samples: str,
    choice: str | None,
    questions: Sequence[Sequence[Answer]],
    notes: Sequence[str],
    decode_image: DecodeImage,
) -> None:
    """Write a page of answers.

    tables: (title, results of `evaluation.summary.summarize`); a result is a column. samples: the heading above the
    answers. choice: a sentence that says how the shown questions were chosen, or None. questions: the answers to each
    question, shown in this order. notes: lines at the top.
    """
    page = Page("run_parts.html.j2")
    made = [evaluation_part(title, part, [str(result["name"]) for result in part]) for title, part in tables]
    _write(
        page,
        path,
        kind="answers",
        name=name,
        model=model,
        steps=None,
        written=None,
        standing=None,
        settings=[],
        config=[],
        notes=page.parts("note", notes),
        evaluations=page.parts("table", made),
        figures=[],
        samples=samples,
        choice=choice,
        questions=questions,
        decode_image=decode_image,
    )


def _write(
    page: Page, path: Path, *, questions: Sequence[Sequence[Answer]], decode_image: DecodeImage, **content: Any
) -> None:
    """Write the page. `questions` come last, because they may use up what is left of its size limit (`FULL`)."""
    views = list(dict.fromkeys(view_of(answer) for answers in questions for answer in answers))
    page.write(
        path,
        "run_page.html.j2",
        script=ANSWERS_SCRIPT,
        views=page.parts("view", views[:_VIEWS]),
        num_questions=len(questions),
        questions=page.spread("question", questions, lambda answers: shown_question(answers, page, decode_image)),
        full=FULL,
        **content,
    )


def _choice(shown: int, among: int) -> str | None:
    """The sentence that says which questions of the step a report shows; None if it shows all that were recorded."""
    if shown == among:
        return None
    return (
        f"{shown} of the {among:,} questions of this step, from everywhere among them; mars eval show "
        f"{ROLLOUTS_FOLDER}/step_….jsonl --html page.html --questions N shows more."
    )


def _figures(rows: Sequence[Mapping[str, Any]], page: Page) -> list[dict[str, str | None]]:
    if not rows:
        return []
    from mars.report.plots import draw_figures

    return [page.figure(figure.caption, figure.description, figure.svg) for figure in draw_figures(rows)]


def _evaluations(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return evaluation_tables([(f"{result['name']} (step {result['step']})", result) for result in results])
