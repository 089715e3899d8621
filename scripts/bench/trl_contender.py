"""The training step that scripts/bench/step.py times, in TRL's GRPOTrainer, in a process of its own.

    python -m scripts.bench.trl_contender WORKLOAD_FOLDER SETTINGS_JSON OUT_FILE

OUT_FILE receives JSON. "ends": when each step ended, in seconds since the epoch. "response_tokens": the mean number of
tokens of a response.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from scripts.bench.reward import score_completions
from scripts.bench.workload import MODEL_FOLDER, ROWS_FILE, SEED

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOConfig


def main(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """settings: num_steps, threads, sequences_per_forward and, from the experiment, prompts_per_step,
    samples_per_prompt, response_tokens and learning_rate."""
    import torch

    torch.set_num_threads(settings["threads"])
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import GRPOTrainer

    from mars.data.prompts.chat import PromptEncoder

    model_path = str(folder / MODEL_FOLDER)
    blocked = PromptEncoder.from_pretrained(model_path).token_rules().blocked_ids
    sequences = settings["prompts_per_step"] * settings["samples_per_prompt"]
    lengths: list[int] = []

    def reward(completions, completion_ids, **_) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return score_completions(completions)

    ends = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.time())

    with tempfile.TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(model_path, dtype=torch.float32),
            processing_class=AutoProcessor.from_pretrained(model_path),
            reward_funcs=reward,
            args=_config(settings, blocked, out),
            train_dataset=_dataset(folder),
            callbacks=[Clock()],
        )
        trainer.train()
    if len(lengths) != sequences * settings["num_steps"]:
        raise RuntimeError(f"{len(lengths)} responses, not {sequences} in each of {settings['num_steps']} steps")
    return {"ends": ends, "response_tokens": fmean(lengths)}


def _config(settings: dict[str, Any], blocked_ids: Sequence[int], folder: str) -> GRPOConfig:
    """The settings of scripts/bench/experiment/bench_step.yaml under the names of TRL."""
    from trl import GRPOConfig

    sequences = settings["prompts_per_step"] * settings["samples_per_prompt"]
    return GRPOConfig(
        output_dir=folder,
        max_steps=settings["num_steps"],
        per_device_train_batch_size=settings["sequences_per_forward"],
        gradient_accumulation_steps=sequences // settings["sequences_per_forward"],
        num_generations=settings["samples_per_prompt"],
        max_completion_length=settings["response_tokens"],
        # The same tokens that mars never samples.
        generation_kwargs={"suppress_tokens": list(blocked_ids)},
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        loss_type="dapo",  # the mean over tokens
        epsilon=0.2,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=SEED,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _dataset(folder: Path) -> Dataset:
    """Rows whose images are read and decoded when used, as in mars."""
    from datasets import Dataset, Image, List

    rows = Dataset.from_parquet(str(folder / ROWS_FILE)).to_list()
    converted = [
        {
            "prompt": [{"role": "user", "content": row["prompt"][0]["content"].removeprefix("<image><image>")}],
            "images": [str(folder / path) for path in row["images"]],
        }
        for row in rows
    ]
    return Dataset.from_list(converted).cast_column("images", List(Image()))


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))
