"""One rank of several, run by test_ranks.py in a process of its own.

python ranks_job.py FOLDER NAME RANK NUM_RANKS [SETTING=VALUE ...]
-> FOLDER/<NAME>-<rank>.json: for each way to train in WAYS, the metrics of two steps of one update each;
   of rank 0 also FOLDER/<NAME>-<way>.safetensors: the weights after the first step, after both, and after the second
   step again, which follows a checkpoint of the first one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.state import full_state
from mars.actor.trainer import Rendezvous
from mars.types import ImageRef, MicroBatch, TrainBatch, UpdatePlan
from mars.weights.object_store import in_memory
from tests.builders import altered
from tests.tiny_world import GRPO, TinyWorld

WAYS = {
    "frozen": {"packing": "padded", "freeze": ["vision"]},
    "lora": {"packing": "shared_prefix", "lora.rank": 3, "lora.parts": ["language", "vision"]},
}


def batch_of(world: TinyWorld, images: list[ImageRef], num_ranks: int) -> TrainBatch:
    """Of several ranks, the first has the prompt with images, the second the text, the others only a filler."""
    prompts = (world.train_prompt("a", images, [5, 9, 4]), world.train_prompt("text", [], [12, 3]))
    seeing = MicroBatch(((0, 0), (0, 1), (0, 2)))
    blind = MicroBatch(((1, 0), (1, 1), (0, 2)), num_fillers=1)
    nothing = MicroBatch(((0, 2),), num_fillers=1)
    one = ((seeing, blind),)
    plan = UpdatePlan(one if num_ranks == 1 else ((seeing,), (blind,), *[(nothing,)] * (num_ranks - 2)))
    return TrainBatch(prompts, (plan,))


def weights(trainer: FsdpTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in full_state(trainer._policy, torch.float32).items()}


def checkpoint(trainer: FsdpTrainer, folder: Path, num_ranks: int) -> None:
    trainer.start_checkpoint(str(folder))
    while len(list(folder.glob("rank_*.json"))) < num_ranks:
        time.sleep(0.01)


def train(world: TinyWorld, trainer: FsdpTrainer, batch: TrainBatch, saved: Path, rendezvous: Rendezvous):
    """The metrics of each step, and the weights; see above. Other jobs may load the checkpoint in `saved`."""
    metrics = [trainer.update(batch).metrics]
    first = weights(trainer)
    saved.mkdir(exist_ok=True)
    checkpoint(trainer, saved, rendezvous.world_size)
    metrics.append(trainer.update(batch).metrics)
    second = weights(trainer)
    trainer.load_checkpoint(str(saved))
    trainer.update(batch)
    found = {"first": first, "second": second, "again": weights(trainer)}
    return metrics, {f"{when}.{name}": value for when, state in found.items() for name, value in state.items()}


def main(folder: Path, name: str, rank: int, num_ranks: int, settings: dict[str, object]) -> None:
    torch.set_num_threads(1)
    world = TinyWorld(folder / "policy")
    images = [ImageRef(str(folder / f"{i}.png"), size) for i, size in enumerate([(64, 48), (56, 56)])]
    meeting = None if num_ranks == 1 else f"file://{folder}/meeting-{name}"
    rendezvous = Rendezvous(rank, num_ranks, meeting, timeout_s=120.0)
    batch, result = batch_of(world, images, num_ranks), {}
    for way, changes in WAYS.items():
        objective = altered(GRPO, entropy_coefficient=0.2)
        config = world.config(objective=objective, **changes)
        config = config.model_copy(update={"actor": altered(config.actor, num_workers=num_ranks, **settings)})
        trainer = FsdpTrainer(config, world.rules, rendezvous, world.processor.process, in_memory())
        metrics, state = train(world, trainer, batch, folder / f"{name}-{way}", rendezvous)
        result[way] = metrics
        if rank == 0:
            save_file(state, folder / f"{name}-{way}.safetensors")
    trainer.close()
    (folder / f"{name}-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    given = dict(setting.split("=", 1) for setting in sys.argv[5:])
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), {k: json.loads(v) for k, v in given.items()})
