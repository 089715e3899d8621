"""A run's terminal output: one line per step above a progress bar."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from mars import watchdog
from mars.output.text import visible
from mars.tracking.jsonl import finite_or_none
from mars.tracking.timer import STAGES
from mars.types import PromptRollouts

_PACE_STEPS = 20  # for the remaining time
_REFRESHES = 2.0  # of the bar, in a second

_FAILED = "reward/failed"

_FIELDS = (
    ("sft/loss", "loss {:.3f}"),
    ("eval/loss", "eval loss {:.3f}"),
    ("critic/score/mean", "score {:.3f}"),
    ("mars/gain/mean", "gain {:+.3f}"),
    ("response_length/mean", "length {:.0f}"),
    (_FAILED, "failed {:.0f}"),
    ("eval/multi/mean", "eval {:.3f}"),
    ("eval/information_gain/mean", "eval gain {:+.3f}"),
    *((f"timing_s/{stage}", stage + " {:.1f}s") for stage in STAGES),
    ("timing_s/step", "step {:.1f}s"),
)


def step_line(metrics: Mapping[str, float], step: int, num_steps: int) -> str:
    """The most important metrics of a step in one line. Failed responses are shown only if there are any.

    >>> step_line({"critic/score/mean": 0.5, "mars/gain/mean": 0.04, "timing_s/gen": 3.06}, 7, 60)
    ' 7/60  score 0.500  gain +0.040  gen 3.1s'
    """
    parts = [f"{step:{len(str(num_steps))}d}/{num_steps}"]
    for key, form in _FIELDS:
        if key in metrics and (key != _FAILED or metrics[key] > 0):
            value = finite_or_none(metrics[key])
            parts.append(form.format(value if value is not None else float("nan")))
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time, rounded to whole seconds; from an hour on, cut to whole minutes.

    >>> duration(7.2), duration(59.6), duration(3700)
    ('7s', '1m00s', '1h01m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class _Stages(ProgressColumn):
    """The run's current stages, and for how long."""

    max_refresh = 0.5  # seconds

    def render(self, task: Task) -> Text:
        activity = watchdog.activity()
        stages = () if activity is None else activity.stages
        return Text(", ".join(f"{name} {duration(seconds)}" for name, seconds in stages), no_wrap=True)


class ConsoleTracker:
    """Prints one line per step. On a terminal also a progress bar below, with the remaining time and the run's stage.

    num_steps: last step of the run. done: the step after which it is resumed, where the bar begins.

    The remaining time is the mean duration of the last 20 steps times the number of steps left. It is shown from the
    second line on, because the time before the first line includes the start of the workers. If any
    responses have failed, the tracker prints their number at the end.
    """

    def __init__(
        self, num_steps: int, console: Console, clock: Callable[[], float] = time.monotonic, done: int = 0
    ) -> None:
        self._num_steps = num_steps
        self._console = console
        self._clock = clock
        self._times: deque[tuple[int, float]] = deque(maxlen=_PACE_STEPS + 1)  # step, when it was logged
        self._failed = 0.0
        self._progress: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}"), _Stages())
            self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=_REFRESHES)
            self._task = self._progress.add_task("", total=num_steps, completed=done)
            self._progress.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._times.append((step, self._clock()))
        self._failed += metrics.get(_FAILED, 0.0)
        eta = ""
        if len(self._times) > 1:
            (first, begun), (last, now) = self._times[0], self._times[-1]
            pace = (now - begun) / max(last - first, 1)
            eta = "ETA " + duration(pace * max(self._num_steps - step, 0))
        line = visible(step_line(metrics, step, self._num_steps))
        if self._progress is None:
            line = f"{line}  {eta}".rstrip()
        else:
            self._progress.update(self._task, completed=step, description=eta)
        self._console.print(Text(line), soft_wrap=True)

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        """Does nothing: RolloutFiles writes the rollouts."""

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._failed > 0:
            self._console.print(
                Text(f"{self._failed:.0f} responses got no usable score and were left out of training: see mars.log"),
                soft_wrap=True,
            )
