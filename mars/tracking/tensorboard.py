"""Copy a run's metrics and sampled rollouts to TensorBoard: `tensorboard --logdir <run.dir>/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mars.tracking.jsonl import finite_or_none
from mars.tracking.pictures import RolloutPictures
from mars.tracking.sources import chart_patterns, source_curves
from mars.tracking.tracker import TrackedRun
from mars.types import PromptRollouts

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes event files to <run.dir>/tensorboard. A resumed run hides what earlier attempts wrote
    for steps after `run.resumed_step`.

    The tab "Custom Scalars" shows each chart of `source_curves` (score, eval). pictures: None draws no rollouts.
    """

    def __init__(self, run: TrackedRun, pictures: RolloutPictures | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if run.resumed_step is None else run.resumed_step + 1
        self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=purge)
        self._writer.add_custom_scalars(
            {"sources": {chart: ["Multiline", [pattern]] for chart, pattern in chart_patterns().items()}}
        )
        self._pictures = pictures

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in {**metrics, **source_curves(metrics)}.items():
            number = finite_or_none(value)
            if number is not None:
                self._writer.add_scalar(key, number, step)
        self._writer.flush()

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        if self._pictures is None:
            return
        import numpy as np

        for picture in self._pictures(rollouts, step):
            self._writer.add_image(picture.tag, np.asarray(picture.image), step, dataformats="HWC")
            # Four spaces make it preformatted text in Markdown, so that no part of a model's text is read as Markdown.
            self._writer.add_text(picture.tag, "\n".join(f"    {line}" for line in picture.caption.split("\n")), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
