"""A model whose chat template ends the prompt with <think>, as that of Qwen3-VL-Thinking does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mars.answers.files import read_answers
from mars.config.load import load_config
from mars.errors import DataError
from mars.supervised.rows import load_rows
from tests.integration.workshop import Workshop

LOCAL = ("cluster=local", "cluster.device=cpu", "actor.num_workers=1", "rollout.engine=hf", "run.num_steps=1")
REWARD = """
def score(item):
    assert item.response.startswith("<think>"), item.response
    return len(item.response) % 3 / 2
"""


@pytest.fixture(scope="module")
def thinking(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thinking") / "model"
    shutil.copytree(workshop.model, folder)
    template = folder / "chat_template.jinja"
    text, last = template.read_text(), "{{- '<|im_start|>assistant\\n' -}}"
    assert last in text
    template.write_text(text.replace(last, "{{- '<|im_start|>assistant\\n<think>\\n' -}}"))
    return folder


def test_rewards_evaluation_and_files_read_the_tag(workshop: Workshop, thinking: Path, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    settings = (*LOCAL, f"model.path='{thinking}'", f"reward.function='{tmp_path}/reward.py:score'")
    shown = workshop.train(tmp_path / "dry", *settings, "--dry-run")
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert "responses         begin with <think>, which the chat template puts" in shown.stdout
    job = workshop.train(tmp_path / "run", *settings, "evaluation.max_samples=2")
    assert job.returncode == 0, job.stderr[-3000:]
    (metrics,) = job.metrics
    assert metrics["reward/failed"] == 0
    files = sorted((tmp_path / "run").rglob("*.jsonl"))
    kept = [answer for file in files if file.parent.name in ("rollouts", "evaluations")
            for answer in read_answers(file).answers]  # fmt: skip
    assert len(kept) > 16
    assert all(answer.text.startswith("<think>\n") for answer in kept)
    assert max(answer.response_tokens or 0 for answer in kept) <= 16


def test_a_cold_start_needs_the_tag_and_does_not_train_on_it(thinking: Path, tmp_path: Path) -> None:
    def rows(*responses: str):
        lines = [{"prompt": f"Question {i}?", "answer": "a", "response": text} for i, text in enumerate(responses)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        files = f"data.train_files=[{tmp_path}/rows.jsonl]"
        config = load_config("sft", [f"model.path={thinking}", files, "sft.batch_size=2"], [])
        return load_rows(config)

    with pytest.raises(DataError, match=r"rows\.jsonl:1 +response +the chat template begins every response with '<thi"):
        rows("<think>a</think><answer>a</answer>", "<answer>a</answer>")
    found = rows("<think>a</think><answer>a</answer>", "<think>\na</think><answer>a</answer>")
    first, second = (found.form.encoder.encode_response(prompt.response or "") for prompt in found.train.prompts)
    assert first == second
    assert found.form.encoder.decode(first) == "<think>\na</think><answer>a</answer>"
