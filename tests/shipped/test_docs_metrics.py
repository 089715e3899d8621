"""Every metric that a run logs stands in docs/metrics.md. `undocumented` is what the integration test asks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

METRICS_TABLE = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented_keys() -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", METRICS_TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def documented_patterns() -> list[re.Pattern[str]]:
    """One pattern for each row; <source> and <part> stand for any name without a slash."""
    parts = [re.split(r"<\w+>", key) for key in documented_keys()]
    return [re.compile("[^/]+".join(map(re.escape, part))) for part in parts]


def undocumented(keys: Iterable[str]) -> set[str]:
    patterns = documented_patterns()
    return {key for key in keys if not any(pattern.fullmatch(key) for pattern in patterns)}


def test_keys_with_names_of_sources_and_parts_are_found() -> None:
    logged = ["actor/pg_loss", "mars/anchor/infrared/mean", "mars/anchor/view_1+view_2/mean", "reward/iou/mean"]
    assert undocumented(logged) == set()


def test_unknown_keys_are_reported() -> None:
    assert undocumented(["actor/pg_los", "mars/anchor//mean", "reward/a/b/mean", "actor/lr"]) == {
        "actor/pg_los",
        "mars/anchor//mean",
        "reward/a/b/mean",
    }


def test_keys_written_in_the_code_are_documented() -> None:
    package = Path(__file__).parents[2] / "mars"
    groups = "actor|critic|reward|mars|rollout|data|perf|fault|timing_s|anchor|response_length|prompt_length|eval|judge"
    literal = re.compile(rf'"((?:{groups})/[a-z_/]+)"')
    written = {key for path in package.rglob("*.py") for key in literal.findall(path.read_text(encoding="utf-8"))}
    prefixes = {"critic/rewards", "critic/advantages"}  # completed by /mean, /max and /min
    prefixes |= {key for key in written if key.endswith("/")}
    assert {"actor/grad_norm", "mars/gain/mean"} <= written
    assert undocumented(written - prefixes) == set()


def test_no_key_stands_twice_and_every_row_has_five_cells() -> None:
    keys = documented_keys()
    assert len(keys) == len(set(keys))
    rows = [line for line in METRICS_TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.count(" | ") != 4] == []
