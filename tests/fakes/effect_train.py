"""A program in the place of mars.main: it writes what a run of a study leaves behind, without a model.

python tests/fakes/effect_train.py run.dir='...' run.seed=3 run.num_steps=4 rollout.samples_per_prompt=8 anchor=mono ...

The arm, which names the folder above run.dir, decides what happens: `fails` ends with an error, `waits` waits for a
signal at its first start, `wrong` generates too few rollouts, and all others do what they should.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mars.answers.files import step_file, write_answers
from mars.answers.record import Answer
from mars.types import RewardResult

LIGHTS = ("day", "night", "both")
SOURCES = ("visible", "infrared")
PROMPTS = 3  # of a step and of an evaluation


def answer(prompt: int, view: tuple[str, ...] | None, sample: int, accuracy: float, step: int) -> Answer:
    """The light of prompt i is LIGHTS[i % 3]."""
    return Answer(
        prompt_id=f"prompt-{prompt}",
        number=prompt,
        row=f"x:{prompt}",
        data_source="benchmark_where",
        view=view,
        sample=sample,
        text="",
        truth="1",
        truth_size=None,
        response_size=None,
        extra_info={"light": LIGHTS[prompt % 3]},
        reward=RewardResult(accuracy, accuracy, {}),
        step=step,
    )


def step_rollouts(step: int, multi: int, anchors: int, right: int) -> list[Answer]:
    """`multi` rollouts of each prompt, of which the first `right` are right, and `anchors` of each source."""
    views = [(None, sample, float(sample < right)) for sample in range(multi)]
    views += [((source,), sample, 1.0) for source in SOURCES for sample in range(anchors)]
    return [answer(prompt, view, sample, right, step) for prompt in range(PROMPTS) for view, sample, right in views]


def evaluation(step: int, multi: Sequence[float], visible: Sequence[float], infrared: Sequence[float]) -> list[Answer]:
    """The accuracy of each view of each prompt."""
    views = {None: multi, ("visible",): visible, ("infrared",): infrared}
    return [answer(i, view, 0, values[i], step) for view, values in views.items() for i in range(len(values))]


def write_run(
    run_dir: Path,
    scores: Sequence[float | None],
    rollouts: Mapping[int, Sequence[Answer]],
    last: Sequence[Answer],
    responses: int = 10,
) -> None:
    """scores: the training reward of each step, from step 1. last: the answers of the last evaluation.

    responses: generated for each prompt."""
    run_dir.mkdir(parents=True, exist_ok=True)
    rows = [{"step": 0, "eval/multi/mean": 0.5}]
    for step, score in enumerate(scores, start=1):
        rows.append({"step": step, "critic/score/mean": score, "mars/prompts_sampled": PROMPTS})
        rows[-1]["rollout/responses"] = float(responses * PROMPTS)
        rows[-1] |= {"mars/frac_zero_signal": (score or 0) / 2, "rollout/tokens": 10}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, answers in rollouts.items():
        write_answers(_made(step_file(run_dir / "rollouts", step)), answers)
    write_answers(_made(step_file(run_dir / "evaluation", len(scores))), last)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main(overrides: Sequence[str]) -> int:
    given = dict(text.split("=", 1) for text in overrides)
    run_dir = Path(given["run.dir"].strip("'"))
    arm, seed, steps = run_dir.parent.name, int(given["run.seed"]), int(given["run.num_steps"])
    with (run_dir / "calls.txt").open("a") as calls:
        calls.write("resumed\n" if "run.resume=true" in overrides else "started\n")
    if arm == "fails":
        sys.stderr.write("model.path: no such folder; got nowhere\n")
        return 3
    if arm == "waits" and not (run_dir / "checkpoints").exists():
        (run_dir / "checkpoints").mkdir()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        os.write(1, b"waiting\n")
        signal.pause()
    multi, anchors = int(given["rollout.samples_per_prompt"]), int(given["anchor"] == "mono")
    if arm == "wrong":
        multi -= 1
    scores = [0.1 * step + 0.01 * seed + (0.05 if arm == "mars" else 0.0) for step in range(1, steps + 1)]
    rollouts = {step: step_rollouts(step, multi, anchors, right=seed % 2) for step in (1, *range(2, steps + 1, 2))}
    last = evaluation(steps, [1, 0, 1], [1, 0, 0], [0, 1, 0])
    write_run(run_dir, scores, rollouts, last, responses=multi + len(SOURCES) * anchors)
    (run_dir / "policy").mkdir(exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
