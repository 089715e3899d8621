"""A picture of a run for the terminal: progress, curves, stages of a step, workers, last answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from mars.output.text import visible
from mars.tracking.console import duration
from mars.watch.answers import answer_table
from mars.watch.curve import BLOCKS, LETTERS
from mars.watch.curves import curve_table
from mars.watch.lines import columns_of_text, one_line
from mars.watch.seen import Seen
from mars.watch.stages import stage_table

_ROOMY = 36
"""Lines of a terminal from which on the first curves are several lines high, and empty lines separate the parts."""
_MAX_WORKERS = 12
_SILENT_S = 60.0
"""A driver that has written nothing for this long saves the policy, hangs, or is on a machine that is lost."""
_ANSWER_LINES = 12  # if the height is not limited
_FEWEST_ANSWER_LINES = 2  # the heading and one
_SHORTEST_NAME = 16  # characters to which the name of a run is cut if the time left would have no room otherwise
_STATE_STYLES = {"running": "bold green", "finished": "bold green", "interrupted": "bold yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Picture:
    """Fits the width of the terminal, and `height` lines if it is not None. The answers get the lines that the other
    parts leave. If fewer than two are left, no answers are shown, and what does not fit is cut off at the
    bottom.

    All texts of models, data and files are escaped. A text that may run from right to left is at the end of its line,
    because a terminal that reorders it would move the texts beside it too.
    """

    seen: Seen
    height: int | None = None  # not the height of ConsoleOptions, which a screen of rich does not pass on

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        levels = LETTERS if options.ascii_only else BLOCKS
        height, is_roomy = self.height, self.height is None or self.height >= _ROOMY
        upper = [
            *_spaced(_head(self.seen, options.max_width, levels), is_first=True, is_roomy=is_roomy),
            *_spaced(curve_table(self.seen.rows, options.max_width, levels, tall=is_roomy), is_roomy=is_roomy),
            *_spaced(stage_table(self.seen.rows, options.max_width, levels), is_roomy=is_roomy),
            *_spaced(_workers(self.seen, options.max_width), is_roomy=is_roomy),
            *_spaced(_notes(self.seen), is_roomy=is_roomy),
        ]
        if height is None:
            room = _ANSWER_LINES
        else:
            lines = console.render_lines(Group(*upper), options, pad=False)
            room = height - len(lines) - is_roomy
            if room < _FEWEST_ANSWER_LINES:
                yield from chain.from_iterable([*line, Segment.line()] for line in lines[:height])
                return
        yield from upper
        yield from _spaced(answer_table(self.seen.questions, options.max_width, room), is_roomy=is_roomy)


def _spaced(part: RenderableType | None, *, is_roomy: bool, is_first: bool = False) -> Iterator[RenderableType]:
    """`part`, below an empty line if it is not the first and the screen is roomy; nothing if `part` is None."""
    if part is not None:
        if is_roomy and not is_first:
            yield Text()
        yield part


def _head(seen: Seen, width: int, levels: str) -> RenderableType:
    line = _first_line(seen, width)
    now = Text(visible(_now(seen))) if seen.state == "running" else None
    if not seen.last_step:
        return line if now is None else Group(line, now)
    share = min(seen.step / seen.last_step, 1.0)
    label = f" {share:4.0%}"
    size = max(width - len(label), 1)
    done = int(share * size)
    bar = Text(levels[-1] * done, style="green").append(levels[1] * (size - done), style="dim").append(label)
    return Group(line, bar) if now is None else Group(line, bar, now)


def _first_line(seen: Seen, width: int) -> Text:
    """Name, state, steps and time left. A narrow line cuts the name and, if that is not enough, drops the time."""
    step = f"step {seen.step}" + ("" if seen.last_step is None else f" of {seen.last_step}")
    facts = [Text(seen.state, style=_STATE_STYLES[seen.state]), Text(step)]
    left = seen.seconds_left
    if left is not None:
        facts.append(Text(f"about {duration(left)} left"))
    name = Text(visible(seen.name), style="bold")
    while len(facts) > 2 and _width(facts) + min(name.cell_len, _SHORTEST_NAME) > width:
        facts.pop()
    name.truncate(max(width - _width(facts), 1), overflow="ellipsis")
    return Text(" · ").join([name, *facts])


def _width(facts: Sequence[Text]) -> int:
    """Number of characters of the facts with a " · " before each."""
    return sum(3 + fact.cell_len for fact in facts)


def _now(seen: Seen) -> str:
    """What the driver does: "gen for 12s; last progress 0s ago"."""
    if seen.activity is None:
        return "the workers are starting"
    age, activity = max(seen.time - seen.activity.time, 0.0), seen.activity.activity
    if age > _SILENT_S:
        return f"the driver has written nothing for {duration(age)}"
    stages = ", ".join(f"{name} for {duration(seconds + age)}" for name, seconds in activity.stages)
    progress = f"last progress {duration(activity.progress_s + age)} ago"
    return f"{stages}; {progress}" if stages else progress


def _workers(seen: Seen, width: int) -> RenderableType | None:
    """The workers, those with problems first."""
    if not seen.workers:
        return None
    in_order = sorted(seen.workers, key=lambda worker: worker.is_fine)
    rows = [
        (one_line(worker.name), one_line(worker.place, "dim"), one_line(worker.state, "" if worker.is_fine else "red"))
        for worker in in_order[:_MAX_WORKERS]
    ]
    more = len(in_order) - len(rows)
    rest = [one_line(f"and {more} more", "dim")] if more else []
    return Group(one_line("workers", "bold"), columns_of_text(rows, width), *rest)


def _notes(seen: Seen) -> RenderableType | None:
    lines = [Text(visible(f"! {note}"), style="yellow") for note in seen.notes]
    return Group(*lines) if lines else None
