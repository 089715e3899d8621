"""An iterator over weights for an engine. If a weight does not arrive, it just ends, so no error interrupts loading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mars.errors import TransferError


class UntilFailure:
    """Yields the items of `items`. If `items` raises TransferError, the iterator ends, and `check` raises the error.

    If an error interrupted a reload of weights in vLLM, its layers would keep the weights received so far, and the next
    reload would mix them with its own. If the iterator ends early without an error, the next reload starts from
    nothing.
    """

    def __init__(self, items: Iterable[tuple[str, Any]]) -> None:
        self._items = iter(items)
        self._error: TransferError | None = None
        self._is_over = False

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self

    def __next__(self) -> tuple[str, Any]:
        if not self._is_over:
            try:
                return next(self._items)
            except StopIteration:
                self._is_over = True
            except TransferError as error:
                self._is_over, self._error = True, error
        raise StopIteration

    def check(self) -> None:
        """Raises the error of `items`, or RuntimeError if the engine did not take all items."""
        if self._error is not None:
            raise self._error
        if not self._is_over:
            raise RuntimeError("the engine did not take all weights of the update")
