"""The rewards of Jigsaw-R1 for a grid of numbers, as `mars data build jigsaw` asks for it.

reward.function: recipe/jigsaw_r1/functions.py:patches
reward.function: recipe/jigsaw_r1/functions.py:connections
"""

from __future__ import annotations

from mars.errors import DataError
from mars.rewards.parsing import format_score, parse_response
from mars.types import RewardInput, RewardResult

MAX_CHARS = 2000  # of an answer: a grid of 16 x 16 has fewer
SEPARATORS = "`,;\n\r\t"
FORMAT_WEIGHT = 0.5


def patches(item: RewardInput) -> RewardResult:
    """score = the share of places with the right piece + 0.5 x format. See `_scored`."""
    grid = _grid(item.truth)
    right = [number for row in grid for number in row]
    numbers = read_numbers(item.response, len(right))
    share = 0.0 if numbers is None else sum(map(int.__eq__, numbers, right)) / len(right)
    return _scored(item, numbers, right, {"patches": share})


def connections(item: RewardInput) -> RewardResult:
    """score = the share of right connections + 0.5 x format. See `_scored` and `right_connections`."""
    grid = _grid(item.truth)
    right = [number for row in grid for number in row]
    numbers = read_numbers(item.response, len(right))
    share = 0.0 if numbers is None else right_connections(numbers, right, len(grid), len(grid[0]))
    return _scored(item, numbers, right, {"connections": share})


def read_numbers(response: str, count: int) -> list[int] | None:
    """The numbers of the only answer; None if they are not `count` whole numbers from 1 to `count`.

    >>> read_numbers("<answer>2 4\\n3 1</answer>", 4), read_numbers("<answer>2, 4; 3, 5</answer>", 4)
    ([2, 4, 3, 1], None)
    """
    answer = parse_response(response).answer
    if answer is None or len(answer) > MAX_CHARS:
        return None
    words = answer.translate(dict.fromkeys(map(ord, SEPARATORS), " ")).split(" ")
    words = [word for word in words if word]
    if len(words) != count or not all(word.isascii() and word.isdigit() and len(word) < 5 for word in words):
        return None
    numbers = [int(word) for word in words]
    return numbers if all(1 <= number <= count for number in numbers) else None


def right_connections(numbers: list[int], right: list[int], rows: int, columns: int) -> float:
    """The share of the truth's pairs of neighbours, side by side or one above the other, that the answer has
    too, placed in the same way.

    Each true pair counts once, even if an answer that repeats numbers has it several times.

    >>> right_connections([1, 2, 4, 3], [1, 2, 3, 4], 2, 2)  # 1-2 side by side is right; 4-3, 1-4 and 2-3 are wrong
    0.25
    """
    true = _neighbours(right, rows, columns)
    return len(true & _neighbours(numbers, rows, columns)) / len(true)


def _neighbours(numbers: list[int], rows: int, columns: int) -> set[tuple[int, int, bool]]:
    """(number, the number right of it or below it, whether below) for all neighbours."""
    places = range(rows * columns)
    beside = {(numbers[i], numbers[i + 1], False) for i in places if i % columns < columns - 1}
    return beside | {(numbers[i], numbers[i + columns], True) for i in places if i < (rows - 1) * columns}


def _grid(truth: str) -> list[list[int]]:
    """The grid in a truth. Raises DataError unless it is a grid of the numbers 1, 2, …, each once."""
    try:
        grid = [[int(word) for word in line.split()] for line in truth.strip().splitlines()]
    except ValueError as error:
        raise DataError(f"truth: want lines of numbers; got {truth!r:.80}") from error
    numbers = sorted(number for row in grid for number in row)
    if len({len(row) for row in grid}) != 1 or len(numbers) < 2 or numbers != list(range(1, len(numbers) + 1)):
        raise DataError(f"truth: want equal lines with each number from 1 once; got {truth!r:.80}")
    return grid


def check_patches(truth: str, extra_info: object, truth_size: object) -> None:
    """Raises DataError for a malformed truth."""
    _grid(truth)


check_connections = check_patches


def _scored(item: RewardInput, numbers: list[int] | None, right: list[int], share: dict[str, float]) -> RewardResult:
    """accuracy: 1 if all pieces are right, else 0. parts: `share`, whose key names the part, and format (0 or 1).

    format: 1 for a think and an answer, each with a visible character, if `read_numbers` finds numbers in the answer.
    """
    both = format_score(parse_response(item.response), wants_fence=False) == 0.5
    parts = {**share, "format": float(both and numbers is not None)}
    score = sum(share.values()) + FORMAT_WEIGHT * parts["format"]
    return RewardResult(score=score, accuracy=float(numbers == right), parts=parts)
