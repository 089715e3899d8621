"""Warn of rows that do not name their sources although other rows of the same file do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mars.types import Prompt


def unnamed_sources(file: str, prompts: Sequence[Prompt]) -> Iterator[str]:
    """Compare rows of a file that have the same number of images; yields a warning if only some name their sources.

    A misspelt `extra_info.sources` is not read. The row's sources are then called view_1, view_2 and so on ("image" if
    it is a single one), and count as sources of their own in all metrics.

    prompts: all prompts of the file.
    """
    by_number: dict[int, tuple[list[Prompt], list[Prompt]]] = {}
    for prompt in prompts:
        named, unnamed = by_number.setdefault(len(prompt.sources), ([], []))
        (unnamed if prompt.extra_info.get("sources") is None else named).append(prompt)
    for number, (named, unnamed) in sorted(by_number.items()):
        if named and unnamed and number > 0:
            names = ", ".join(source.name for source in unnamed[0].sources)
            example = ", ".join(source.name for source in named[0].sources)
            yield (
                f"{file}: {len(unnamed)} rows have no extra_info.sources, so their images are called {names}; "
                f"{len(named)} rows with as many images name theirs ({example}); the first without: {unnamed[0].row}"
            )
