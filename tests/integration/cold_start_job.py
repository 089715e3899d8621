"""One rank of a cold start, run by test_cold_start_ranks.py in a process of its own.

python cold_start_job.py FOLDER RANK WORLD_SIZE
-> FOLDER/<world size>-<rank>.json: metrics of three steps, and the held-out losses after them.
   Two ranks leave a checkpoint after the second step in FOLDER/shards; three ranks do the third step from there.
"""

import json
import sys
import time
from pathlib import Path

import torch

from mars.actor.trainer import Rendezvous
from mars.config.load import load_config
from mars.supervised.batches import Batches
from mars.supervised.job import SupervisedSpec
from mars.supervised.rows import load_rows, stream_of

STEPS = 3


def build_files(folder: Path) -> None:
    """A tiny model and rows for it."""
    import numpy as np
    from PIL import Image

    from mars.data.synthetic.tiny_model import build_tiny

    build_tiny(folder / "policy", seed=3)
    noise, rows = np.random.default_rng(11), []
    for i, size in enumerate([(64, 48), (56, 56), (96, 40)]):
        Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    for i in range(8):
        images = [f"{k}.png" for k in range(i % 3)]
        own = {"view_1": "one " * (i + 1), "view_2": "two"} if len(images) == 2 else None
        rows.append({"prompt": "<image>" * len(images) + f"Picture {i}?", "images": images, "answer": "yes",
                     "response": f"<answer>{i}</answer>" + " yes" * (5 * (i % 4)), "mono_responses": own})  # fmt: skip
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def main(folder: Path, rank: int, num_ranks: int) -> None:
    torch.set_num_threads(1)
    overrides = [
        f"model.path={folder / 'policy'}", "model.dtype=float32", f"data.train_files=[{folder / 'train.jsonl'}]",
        "data.template=none", "data.min_image_pixels=784", "data.max_image_pixels=50176", "cluster.device=cpu",
        f"sft.num_workers={num_ranks}", "sft.batch_size=5", "sft.mono_ratio=0.5", "sft.tokens_per_forward=60",
        "sft.learning_rate=3.0e-3", "sft.warmup_steps=0", f"run.num_steps={STEPS}",
    ]  # fmt: skip
    config = load_config("sft", overrides, [])
    rows = load_rows(config)
    stream, batches = stream_of(config, rows), Batches(rows.form, config.sft, config.run.seed)
    meeting = None if num_ranks == 1 else f"file://{folder}/meeting-{num_ranks}"
    trainer = SupervisedSpec(config, rows.form.encoder.token_rules(), STEPS)(
        Rendezvous(rank, num_ranks, meeting, timeout_s=120.0)
    )
    shards, metrics = folder / "shards", []
    if num_ranks == 3:
        trainer.load_checkpoint(str(shards))
    for step in range(3 if num_ranks == 3 else 1, STEPS + 1):
        metrics.append(dict(trainer.update(batches.of_step(stream, step))))
        if (step, num_ranks) == (2, 2):
            shards.mkdir(exist_ok=True)
            trainer.start_checkpoint(str(shards))
            while not (shards / f"rank_{rank:05d}.json").exists():
                time.sleep(0.01)
    held_out = [loss for batch in batches.held_out(rows.train.prompts) for loss in trainer.losses(batch)]
    (folder / f"{num_ranks}-{rank}.json").write_text(json.dumps({"metrics": metrics, "held_out": held_out}))
    trainer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
