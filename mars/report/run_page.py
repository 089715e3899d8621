"""HTML pages of a run and of answers. Each is one file without external parts, so it can be sent by mail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars.answers.record import Answer
from mars.errors import DataError, MarsError
from mars.evaluation.tables import evaluation_rows
from mars.report.answers import reward_texts
from mars.report.boxes import Box, find_boxes
from mars.report.page import FULL, Page, data_uri
from mars.report.run_record import REPORT_FILE, read_run
from mars.tracking.jsonl import METRICS_FILE
from mars.tracking.rollouts import ROLLOUTS_FOLDER
from mars.types import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

DecodeImage = Callable[[ImageRef], "Image"]

_QUESTIONS = 6
_ANSWERS = 64  # most answers to one question

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


def write_report(run_dir: Path, out_path: Path | None, decode_image: DecodeImage) -> Path:
    """Write the report of `run_dir` to `out_path`, by default <run_dir>/report.html, and return the path.

    Reads metrics.jsonl, evaluation/*.json, the last rollouts/step_*.jsonl and config.yaml, as far as they are there.
    The report's notes name what cannot be read. Text of models and data is escaped; the page has no script and loads
    nothing.

    decode_image: the project's decoder (mars/data/pixels/images.py), so that the page shows what the model saw.

    Raises DataError: `run_dir` holds none of these files.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir, _QUESTIONS)
    if not (run.metrics or run.evaluations or run.questions):
        raise DataError(
            f"{run_dir}: nothing to report; got no {METRICS_FILE}, evaluation/*.json or {ROLLOUTS_FOLDER}/*.jsonl "
            f"with content; give the folder of a run (run.dir)"
        )
    page = Page("run_parts.html.j2")
    out_path = Path(out_path) if out_path is not None else run_dir / REPORT_FILE
    notes, evaluations, figures = (
        page.parts("note", run.notes),
        page.parts("table", _evaluations(run.evaluations)),
        page.parts("figure", _figures(run.metrics)),
    )
    page.write(
        out_path,
        "run_page.html.j2",
        kind="report",
        name=run.setting("run.name") or run_dir.resolve().name,
        model=run.setting("model.path") or (run.evaluations[-1]["model"] if run.evaluations else None),
        steps=run.metrics[-1]["step"] if run.metrics else None,
        settings=[(key, value) for key in _SUMMARY_KEYS if (value := run.setting(key)) not in (None, {})],
        config_text=run.config_text,
        figures=figures,
        evaluations=evaluations,
        samples=f"Sample rollouts of step {run.questions[0][0].step}" if run.questions else None,
        num_questions=len(run.questions),
        questions=page.parts("question", run.questions, lambda answers: _question(answers, page, decode_image)),
        full=FULL,
        notes=notes,
    )
    return out_path


def write_answers_page(
    path: Path,
    name: str,
    model: str,
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    samples: str,
    questions: Sequence[Sequence[Answer]],
    notes: Sequence[str],
    decode_image: DecodeImage,
) -> None:
    """Write a page of answers. As in a run's report, text is escaped and the page loads nothing.

    tables: (title, results of `evaluation.summary.summarize`); a result is a column. samples: the heading above the
    answers. questions: the answers to each question, shown in this order. notes: lines at the top.
    """
    page = Page("run_parts.html.j2")
    made = [_table(title, part, [str(result["name"]) for result in part]) for title, part in tables]
    shown_notes, shown_tables = page.parts("note", notes), page.parts("table", made)
    page.write(
        path,
        "run_page.html.j2",
        kind="answers",
        name=name,
        model=model,
        steps=None,
        settings=[],
        config_text=None,
        figures=[],
        evaluations=shown_tables,
        samples=samples,
        num_questions=len(questions),
        questions=page.parts("question", questions, lambda answers: _question(answers, page, decode_image)),
        full=FULL,
        notes=shown_notes,
    )


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    if not rows:
        return []
    from mars.report.plots import draw_figures

    # As <img>, not inline: an SVG in an <img> cannot run scripts, and its labels come from the data.
    return [{"caption": caption, "uri": data_uri("image/svg+xml", svg)} for caption, svg in draw_figures(rows)]


def _evaluations(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table over all data sources, one for the compat scorer, and one per data source if there are several."""
    if not results:
        return []
    names = sorted({name for result in results for name in result["by_data_source"]})
    tables = [("All data sources", list(results))]
    compat = [{**result, **result["compat"]} for result in results if result.get("compat") is not None]
    if compat:
        tables.append(("All data sources, compat scorer", compat))
    if len(names) > 1:
        for name in names:
            having = [result for result in results if name in result["by_data_source"]]
            tables.append((name, [{**result, **result["by_data_source"][name]} for result in having]))
    return [
        _table(title, part, [f"{result['name']} (step {result['step']})" for result in part]) for title, part in tables
    ]


def _table(title: str, results: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    return {
        "title": title,
        "metric": ", ".join(dict.fromkeys(str(result["metric"]) for result in results)),
        "columns": columns,
        "rows": evaluation_rows(results),
    }


def _question(answers: Sequence[Answer], page: Page, decode_image: DecodeImage) -> dict[str, Any]:
    """One question for the template: its messages and answers, and its images with boxes.

    Each image shows the boxes of the truth, of the multi answers, and of the answers to this image alone.
    """
    first = answers[0]
    truth = find_boxes(first.truth, first.truth_size)
    to_views = [answer for answer in answers if answer.extra is None]
    multi = [box for answer in to_views if answer.view is None for box in _boxes(answer)]
    pictures = []
    for source in first.sources:
        own = [box for answer in to_views if answer.view == (source.name,) for box in _boxes(answer)]
        boxes = {"truth": truth, "multi": multi, "mono": own}
        pictures.append({"name": source.name, "boxes": boxes, "picture": _picture(source.image, page, decode_image)})
    return {
        "prompt_id": first.prompt_id,
        "row": first.row,
        "data_source": first.data_source,
        "messages": first.question,
        "truth": first.truth,
        "pictures": pictures,
        "has_boxes": any(any(picture["boxes"].values()) for picture in pictures),
        "num_answers": len(answers),
        "answers": [_shown_answer(answer) for answer in answers[:_ANSWERS]],
    }


def _boxes(answer: Answer) -> list[Box]:
    return find_boxes(answer.text, answer.response_size)


def _shown_answer(answer: Answer) -> dict[str, Any]:
    score, parts = reward_texts(answer)
    return {
        "view": answer.label,
        "score": score,
        "parts": parts,
        "failed": None if answer.reward is None else answer.reward.failed,
        "length": "–" if answer.response_tokens is None else answer.response_tokens,
        "finish_reason": answer.finish_reason or "stop",
        "text": answer.text,
    }


@dataclass(frozen=True)
class _Picture:
    """uri is None where the image is not shown; `problem` says why."""

    width: int
    height: int
    uri: str | None
    problem: str | None


def _picture(ref: ImageRef, page: Page, decode_image: DecodeImage) -> _Picture:
    width, height = ref.size
    try:
        uri = page.picture(decode_image(ref).convert("RGB"))
    except (MarsError, OSError, ValueError) as error:
        return _Picture(width, height, None, str(error))
    return _Picture(width, height, uri, f"left out: {FULL}" if uri is None else None)
