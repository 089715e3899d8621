"""The report of a run: one HTML file with everything inside, to be read in any browser or sent by mail."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars.errors import DataError, MarsError
from mars.evaluation.tables import evaluation_rows
from mars.report.boxes import find_boxes
from mars.report.page import write_page
from mars.report.run_record import read_run
from mars.tracking.jsonl import METRICS_FILE
from mars.tracking.rollouts import ROLLOUTS_FOLDER
from mars.types import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

DecodeImage = Callable[[ImageRef], "Image"]

# Bounds on the size of the file, not tunables: enough to look at, small enough to mail.
_IMAGE_SIDE = 360
_IMAGE_BYTES = 6_000_000
_PROMPTS = 6

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
    """Write the report of `run_dir` to `out_path`, or to <run_dir>/report.html, and return where it is.

    Reads what is there of metrics.jsonl, evaluation/*.json, rollouts/step_*.jsonl (the last file) and config.yaml.
    What cannot be read is named in the report's notes. Text of models and data is escaped, never interpreted; the
    page has no script and loads nothing.

    decode_image: the project's decoder (mars/data/pixels/images.py), so that the page shows what the model saw.

    Raises DataError: `run_dir` holds none of the files a report is made of.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir, _PROMPTS)
    if not (run.metrics or run.evaluations or run.prompts):
        raise DataError(
            f"{run_dir}: nothing to report; got no {METRICS_FILE}, evaluation/*.json or {ROLLOUTS_FOLDER}/*.jsonl "
            f"with content; give the folder of a run (run.dir)"
        )
    album = _Album(decode_image)
    out_path = Path(out_path) if out_path is not None else run_dir / "report.html"
    _write_page(
        out_path,
        kind="report",
        name=run.setting("run.name") or run_dir.resolve().name,
        model=run.setting("model.path") or (run.evaluations[-1]["model"] if run.evaluations else None),
        steps=run.metrics[-1]["step"] if run.metrics else None,
        settings=[(key, value) for key in _SUMMARY_KEYS if (value := run.setting(key)) not in (None, {})],
        config_text=run.config_text,
        figures=_figures(run.metrics),
        evaluations=_evaluations(run.evaluations),
        samples=f"Sample rollouts of step {run.prompts[0]['step']}" if run.prompts else None,
        prompts=[_prompt_card(prompt, album) for prompt in run.prompts],
        notes=run.notes,
    )
    return out_path


def write_evaluation_page(
    path: Path,
    name: str,
    model: str,
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    prompts: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    decode_image: DecodeImage,
) -> None:
    """Write the page of scored answers, made as safely as a run's report.

    tables: (title, results of `evaluation.summary.summarize`), a column for each. prompts: as `read_run` gives them, to
    be shown in this order. notes: lines about the numbers.
    """
    album = _Album(decode_image)
    _write_page(
        path,
        kind="evaluation",
        name=name,
        model=model,
        steps=None,
        settings=[],
        config_text=None,
        figures=[],
        evaluations=[_table(title, part, [str(result["name"]) for result in part]) for title, part in tables],
        samples="Samples: one source best, then the lowest accuracy",
        prompts=[_prompt_card(prompt, album) for prompt in prompts],
        notes=notes,
    )


def _write_page(path: Path, **content: Any) -> None:
    write_page(path, "run_page.html.j2", **content)


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if not rows:
        return []
    from mars.report.plots import draw_figures

    # As an image, not inline: an SVG in <img> cannot run anything whatever its labels say.
    return [(caption, _data_uri("image/svg+xml", svg)) for caption, svg in draw_figures(rows)]


def _evaluations(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One table over all data sets, and one for each where there are several."""
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


def _prompt_card(prompt: Mapping[str, Any], album: _Album) -> dict[str, Any]:
    """The prompt with its pictures; on each the true boxes, those of the multi responses and of its own anchors."""
    truth = find_boxes(prompt["truth"], prompt["truth_size"])
    multi = [box for view in prompt["views"] if view["sources"] is None for box in _predicted(view)]
    pictures = []
    for name, ref in prompt["sources"]:
        own = [box for view in prompt["views"] if view["sources"] == [name] for box in _predicted(view)]
        boxes = {"truth": truth, "multi": multi, "mono": own}
        pictures.append({"name": name, "boxes": boxes, "picture": album.picture(ref)})
    has_boxes = any(any(picture["boxes"].values()) for picture in pictures)
    return {**prompt, "pictures": pictures, "has_boxes": has_boxes}


def _predicted(view: Mapping[str, Any]) -> list[tuple[float, float, float, float]]:
    return [box for response in view["responses"] for box in find_boxes(response["text"], view["response_size"])]


@dataclass(frozen=True)
class _Picture:
    """uri is None where the image is not shown; `problem` says why."""

    width: int
    height: int
    uri: str | None
    problem: str | None


class _Album:
    """Small copies of images as data URIs, up to a total size."""

    def __init__(self, decode_image: DecodeImage) -> None:
        self._decode_image = decode_image
        self._bytes_left = _IMAGE_BYTES

    def picture(self, ref: ImageRef) -> _Picture:
        width, height = ref.size
        try:
            image = self._decode_image(ref).convert("RGB")
            image.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
        except (MarsError, OSError, ValueError) as error:
            return _Picture(width, height, None, str(error))
        buffer = io.BytesIO()
        # JPEG blurs the few pixels of tiny images.
        image_format = "PNG" if max(ref.size) <= 160 else "JPEG"
        image.save(buffer, format=image_format, quality=80)
        if buffer.tell() > self._bytes_left:
            return _Picture(width, height, None, "left out: the report's images would exceed 6 MB")
        self._bytes_left -= buffer.tell()
        return _Picture(width, height, _data_uri(f"image/{image_format.lower()}", buffer.getvalue()), None)


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
