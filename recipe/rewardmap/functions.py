"""The reward of RewardMap: right answers about a transit map, and credit for right parts of a route.

    reward.function: recipe/rewardmap/functions.py:score

A row's `extra_info.map` has `kind` (planning or question) and `difficulty` (easy, middle or hard). For planning it also
has `lines` (name -> its stations in order), `start`, `end`, and `transfers`, the number that the route needs. The truth
of a question is compared as in the reward `vqa`; the truth of a route is not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mars.errors import DataError
from mars.rewards.contract import Size
from mars.rewards.parsing import parse_response
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import RewardInput, RewardResult

RIGHT, DETAIL_WEIGHT, MAX_DETAIL = 10.0, 0.5, 10.0
DIFFICULTY = {"easy": 1.0, "middle": 1.2, "hard": 1.5}
WITH_TRANSFERS = 0.5
ENDS, DIRECT_LINE, LINE, CHANGE, EXTRA_LEG = 2.0, 4.0, 3.0, 1.0, -5.0
MAX_LEGS, MAX_NAME = 100, 200
_LEG = re.compile(
    r"Route Name:([^\n]*)\n\s*+Departure Stop:([^\n]*)\n(?:[^\n]*\n){0,200}?[^\S\n]*+Arrival Stop:([^\n]*)"
)


@dataclass(frozen=True)
class Leg:
    line: str
    departure: str
    arrival: str


@dataclass(frozen=True)
class Route:
    """A row of kind planning. Lines are named in the form of `line_name`, stations in the form of `plain`."""

    lines: Mapping[str, tuple[str, ...]]
    start: str
    end: str
    transfers: int


def score(item: RewardInput) -> RewardResult:
    """w (1 to 2, by difficulty) * (10 * accuracy + 0.5 * detail). accuracy: 0 or 1. Raises DataError for a bad row."""
    facts = facts_of(item.extra_info)
    answer, weight, detail = parse_response(item.response).answer, DIFFICULTY[facts["difficulty"]], 0.0
    if facts["kind"] == "planning":
        route, legs = read_route(facts), read_legs(item.response if answer is None else answer)
        weight += WITH_TRANSFERS * (route.transfers > 0)
        accuracy, detail = float(is_right(legs, route)), detail_of(legs, route)
    else:
        accuracy = answer_accuracy(item, answer)
    parts = {"right": accuracy, "detail": detail, "difficulty": weight}
    return RewardResult(weight * (RIGHT * accuracy + DETAIL_WEIGHT * detail), accuracy, parts)


def check_score(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None) -> str | None:
    """What is wrong with the truth if `kind` is question; None if nothing is. Raises DataError for a malformed map."""
    facts = facts_of(extra_info)
    if facts["kind"] == "question":
        return check_truth(truth, extra_info, truth_size)
    read_route(facts)
    return None


def facts_of(extra_info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The map of a row. Raises DataError if its kind or its difficulty is missing or unknown."""
    facts = extra_info.get("map")
    found = facts if isinstance(facts, Mapping) else {}
    if found.get("kind") not in ("planning", "question") or str(found.get("difficulty")) not in DIFFICULTY:
        want = "give kind (planning or question) and difficulty (easy, middle or hard)"
        raise DataError(f"extra_info.map: got {str(facts)[:80]}; {want}")
    return found


def read_route(facts: Mapping[str, Any]) -> Route:
    """The route. Raises DataError. Lines that are null are skipped: Parquet gives each row the names of all lines."""
    given, transfers, lines = facts.get("lines"), facts.get("transfers"), {}
    for name, stations in given.items() if isinstance(given, Mapping) else ():
        if stations is None:
            continue
        if not isinstance(stations, list | tuple) or not stations or not all(map(_is_name, stations)):
            raise DataError(f"extra_info.map.lines: got {str(stations)[:80]} for {name!r}; give a list of stations")
        if line_name(name) in lines:
            raise DataError(f"extra_info.map.lines: two lines are named {name!r}, but for small and capital letters")
        lines[line_name(name)] = tuple(map(plain, stations))
    if not lines or not _is_name(facts.get("start")) or not _is_name(facts.get("end")):
        raise DataError(f"extra_info.map: got {str(facts)[:80]}; give lines, start and end")
    if isinstance(transfers, bool) or not isinstance(transfers, int | float) or transfers not in range(100):
        raise DataError(f"extra_info.map.transfers: got {str(transfers)[:80]}; give a whole number from 0 to 99")
    return Route(lines, plain(facts["start"]), plain(facts["end"]), int(transfers))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(plain(value))


def read_legs(text: str) -> list[Leg]:
    """The legs of an answer, in order: pieces between "--" with Route Name, Departure Stop and Arrival Stop."""
    found = [_LEG.search(piece) for piece in text.split("--", MAX_LEGS)]
    return [Leg(line_name(match[1]), plain(match[2]), plain(match[3])) for match in found if match]


def line_name(name: str) -> str:
    return name.strip().casefold()


def plain(name: str) -> str:
    """A station's name in lower case, without text in brackets, blanks, `,*'-`, and the words station, metro."""
    return re.sub(r"[(（][^)）]*[)）]|\b(?:station|metro)\b|站$|[\s,*'-]", "", name[:MAX_NAME].casefold().strip())


def is_right(legs: list[Leg], route: Route) -> bool:
    """Whether the legs lead from start to end without a gap, both stops of each leg being on its line."""
    if not legs or (legs[0].departure, legs[-1].arrival) != (route.start, route.end):
        return False
    on_lines = all({leg.departure, leg.arrival} <= set(route.lines.get(leg.line, ())) for leg in legs)
    return on_lines and all(leg.arrival == later.departure for leg, later in pairwise(legs))


def detail_of(legs: list[Leg], route: Route) -> float:
    """Credit for parts of an answer, at most 10. 0 unless its first and last stops are right, which is worth 2.

    Leg i = 1, 2, …: -5 if the route needs fewer than i legs. +3 if the leg's line exists; for a route without transfers
    instead +4 if this line has both start and end. +1 for i <= transfers, if both stops of the leg are on its line and
    the next leg starts where this leg ends.
    """
    if not legs or (legs[0].departure, legs[-1].arrival) != (route.start, route.end):
        return 0.0
    total = ENDS
    for number, leg in enumerate(legs, start=1):
        total += EXTRA_LEG * (number > route.transfers + 1)
        stations = set(route.lines.get(leg.line, ()))
        if not stations:
            continue
        if route.transfers:
            total += LINE
        else:
            total += DIRECT_LINE * ({route.start, route.end} <= stations)
        goes_on = number < len(legs) and leg.arrival == legs[number].departure
        total += CHANGE * ({leg.departure, leg.arrival} <= stations and goes_on and number <= route.transfers)
    return min(total, MAX_DETAIL)
