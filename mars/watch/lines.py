"""Lines of text that are never longer than the terminal is wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mars.output.text import visible


def one_line(text: str, style: str = "") -> Text:
    """`text` with control and invisible characters escaped. If it is longer than the line that it is printed in, it is
    cut, not wrapped."""
    return Text(visible(text), style=style, no_wrap=True, overflow="ellipsis")


def columns_of_text(rows: Sequence[Sequence[Text]], width: int) -> Table:
    """Columns with one space between them, in `width` characters. The last column gets the room that the others leave.

    Each other column is as wide as its longest cell, but at most a third of `width`. The widths of all columns are set
    here, because rich would otherwise make all of them narrower if the last cell of a row is too long.
    """
    most = max(width // 3, 1)
    table = Table.grid(padding=(0, 1, 0, 0))
    left = width
    for cells in list(zip(*rows, strict=True))[:-1]:
        size = min(max(1, *(cell.cell_len for cell in cells)), most)
        table.add_column(width=size, no_wrap=True)
        left -= size + 1
    table.add_column(width=max(left, 1), no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
