"""Measures policies on the benchmark: how well they answer from each image, and how often a whole group is wrong.

    python -m recipe.effect.skill recipe/effect/cold_starts/* --seed 5001 --out runs/effect/skill

Prints a row of a Markdown table for each policy. Answers are kept in `--out`; a second call samples only missing ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mars import interrupts
from mars.config.paths import given_path
from mars.data.synthetic.benchmark import SOURCES
from mars.output.files import replacing
from mars.types import RewardInput
from recipe.effect.reward import answer

COLUMNS = ("multi", *SOURCES, "union", "day", "night", "both", "night_all_wrong")
GROUP = 8


def summarise(greedy: Iterable[Mapping[str, Any]], sampled: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of COLUMNS, from records of answers (docs/evaluation.md, "The file of answers").

    greedy: one answer to each view of each question. multi, visible, infrared: share of right answers. union: share of
    questions with a right answer to at least one single image. day, night, both: multi, by `extra_info.light`.
    sampled: several answers to the multi view. night_all_wrong: share of night questions without a right answer.
    """
    by_view: dict[str, dict[int, float]] = defaultdict(dict)
    lights: dict[str, list[float]] = defaultdict(list)
    for record in greedy:
        view = record["view"][0] if record["view"] else "multi"
        by_view[view][record["number"]] = right(record)
        if view == "multi":
            lights[record["extra_info"]["light"]].append(right(record))
    numbers = {view: fmean(found.values()) for view, found in by_view.items()}
    numbers["union"] = fmean(max(by_view[source][number] for source in SOURCES) for number in by_view["multi"])
    groups: dict[int, list[float]] = defaultdict(list)
    for record in sampled:
        if record["extra_info"]["light"] == "night":
            groups[record["number"]].append(right(record))
    wrong = fmean(float(not any(group)) for group in groups.values())
    return numbers | {light: fmean(found) for light, found in lights.items()} | {"night_all_wrong": wrong}


def right(record: Mapping[str, Any]) -> float:
    """1 if the answer of a record is right, else 0."""
    view = None if record["view"] is None else tuple(record["view"])
    given = record["text"], record["truth"], None, None, record["extra_info"]
    return answer(RewardInput(record["data_source"], view, *given)).accuracy


def measure(policy: Path, questions: Path, out: Path, settings: Sequence[str] = ()) -> dict[str, float]:
    """Ask a policy the questions in the folder `questions`, and return the numbers of COLUMNS.

    Each view of each question once, greedily. The multi view of each night question GROUP times, sampled.
    """
    common = ["experiment=effect", "reward.function=recipe/effect/reward.py:answer", "data.train_files=[unused]"]
    groups = [f"evaluation.samples_per_prompt={GROUP}", "evaluation.temperature=1.0", "--views", "multi"]
    greedy = _ask(policy, questions / "test.parquet", out / "greedy", [*common, *settings])
    night = _ask(
        policy, questions / "night.parquet", out / "sampled", [*common, *groups, *settings, "--views", "multi"]
    )
    return summarise(greedy, night)


def _ask(policy: Path, questions: Path, out: Path, arguments: Sequence[str]) -> list[dict[str, Any]]:
    from mars.cli.app import app

    app(["eval", "infer", str(policy), str(questions), str(out), *arguments], standalone_mode=False)
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def write_questions(folder: Path, seed: int, number: int) -> None:
    """Write `number` held-out rows to test.parquet, and those at night also to night.parquet.

    Does nothing if night.parquet exists.
    """
    import pyarrow as pa
    from pyarrow import parquet

    from mars.data.synthetic.benchmark_rows import Teacher, write_benchmark
    from mars.data.synthetic.write import SetSizes

    if (folder / "night.parquet").exists():
        return
    write_benchmark(folder, seed=seed, sizes=SetSizes(train=0, test=number, cold_start=0), teacher=Teacher(0.5))
    rows = parquet.read_table(folder / "test.parquet")
    at_night = [info["light"] == "night" for info in rows["extra_info"].to_pylist()]
    with replacing(folder / "night.parquet") as draft:
        parquet.write_table(rows.filter(pa.array(at_night)), draft)


def labels(policies: Sequence[Path]) -> list[str]:
    """The name of each policy in the table: the name of its folder, or its path if several have the same name."""
    names = [policy.resolve().name for policy in policies]
    return [name if names.count(name) == 1 else str(policy) for name, policy in zip(names, policies, strict=True)]


def answers_folder(out: Path, policy: Path, questions: Path) -> Path:
    """The folder for a policy's answers to these questions. It depends on the policy's path, because policies may have
    the same name."""
    place = policy.resolve()
    number = hashlib.sha256(str(place).encode()).hexdigest()[:8]
    return out / questions.name.replace("questions", f"{place.name}_{number}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", type=Path, help="model folders")
    parser.add_argument("--seed", type=int, required=True, help="of the held-out scenes")
    parser.add_argument("--number", type=int, default=400, help="of held-out scenes")
    parser.add_argument("--out", type=lambda text: Path(given_path(text)), required=True)
    given = parser.parse_args(arguments)
    questions = given.out / f"questions_{given.seed}_{given.number}"
    write_questions(questions, given.seed, given.number)
    for label, policy in zip(labels(given.policies), given.policies, strict=True):
        found = measure(policy, questions, answers_folder(given.out, policy, questions))
        cells = " | ".join(f"{found[name]:.3f}" for name in COLUMNS)
        sys.stdout.write(f"| {label} | {cells} |\n")
    return 0


if __name__ == "__main__":
    interrupts.end_at_once()
    from mars.process import run_command

    run_command(main)
