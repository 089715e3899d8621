"""One rank of several, run by test_ranks.py in a process of its own.

python ranks_job.py FOLDER NAME RANK NUM_RANKS OTHER [SETTING=VALUE ...]
-> FOLDER/<NAME>-<rank>.json: for each way to train in WAYS, the metrics of two steps of one update each;
   of 4 ranks also the types of an update in bfloat16;
   FOLDER/<NAME>-<way>: a checkpoint of the first step;
   of rank 0 also FOLDER/<NAME>-<way>.safetensors: the weights after the first step and after the second, and after a
   second step that follows the checkpoint of the job OTHER.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.state import full_state, weight_buckets
from mars.actor.trainer import Rendezvous
from mars.config.schema import TrainConfig
from mars.train_types import MicroBatch, TrainBatch, UpdatePlan
from mars.types import ImageRef
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


def images_in(folder: Path) -> list[ImageRef]:
    return [ImageRef(str(folder / f"{i}.png"), size) for i, size in enumerate([(64, 48), (56, 56)])]


def weights(trainer: FsdpTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in full_state(trainer._policy, torch.float32).items()}


def check_gathered_on_all_ranks(trainer: FsdpTrainer, full: dict[str, torch.Tensor]) -> None:
    """Every rank can have what `full` has on rank 0, bucket by bucket."""
    buckets = weight_buckets(trainer._policy, torch.float32, bucket_bytes=100_000)
    found = [bucket.gather(on_all_ranks=True) for bucket in buckets]
    pieces = [piece.reshape(-1) for bucket in found for parts in bucket.values() for piece in parts]
    mine = torch.cat(pieces)
    wanted = torch.cat([value.reshape(-1) for value in full.values()]) if full else torch.empty_like(mine)
    dist.broadcast(wanted, src=0)
    assert torch.equal(mine, wanted)


def checkpoint(trainer: FsdpTrainer, folder: Path, num_ranks: int) -> None:
    trainer.start_checkpoint(str(folder))
    while len(list(folder.glob("rank_*.json"))) < num_ranks:
        time.sleep(0.01)


def train(
    world: TinyWorld, trainer: FsdpTrainer, batch: TrainBatch, own: Path, other: Path, num_ranks: int
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The metrics of each step, and the weights by "<when>.<name>"; see above."""
    metrics = [dict(trainer.update(batch).metrics)]
    found = {"first": weights(trainer)}
    check_gathered_on_all_ranks(trainer, found["first"])
    own.mkdir(exist_ok=True)
    checkpoint(trainer, own, num_ranks)
    metrics.append(dict(trainer.update(batch).metrics))
    found["second"] = weights(trainer)
    trainer.load_checkpoint(str(other))
    trainer.update(batch)
    found["resumed"] = weights(trainer)
    return metrics, {f"{when}.{name}": value for when, state in found.items() for name, value in state.items()}


def settings_of(world: TinyWorld, way: str, **actor) -> TrainConfig:
    config = world.config(objective=altered(GRPO, entropy_coefficient=0.2), **WAYS[way])
    return config.model_copy(update={"actor": altered(config.actor, **actor)})


def precision_of(trainer: FsdpTrainer, batch: TrainBatch) -> dict[str, list[str]]:
    """The types of what one update sends, computes with and keeps."""
    seen: dict[str, set[str]] = defaultdict(set)

    def recording(name: str):
        call = getattr(dist, name)

        def recorded(*tensors, **named):
            seen[name] |= {str(value.dtype) for value in (*tensors, *named.values()) if isinstance(value, torch.Tensor)}
            return call(*tensors, **named)

        return patch.object(dist, name, recorded)

    def forward_of(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["computes with"] |= {str(value.dtype) for value in (*inputs, output, module.weight)}

    backbone = trainer._policy.backbone
    for layer in (backbone.model.visual.blocks[0].attn.proj, backbone.model.language_model.layers[0].mlp.up_proj):
        layer.register_forward_hook(forward_of)
    with recording("all_gather_single"), recording("reduce_scatter_single"), recording("all_reduce"):
        assert trainer.update(batch).metrics["fault/skipped_updates"] == 0
    kept = (*trainer._policy.parameters(), *trainer._policy.buffers(), *trainer._optimizer.tensors().values())
    seen["keeps"] = {str(value.dtype) for value in kept if value.is_floating_point()}
    return {name: sorted(types) for name, types in seen.items()}


def main(folder: Path, name: str, rank: int, num_ranks: int, other: str, settings: dict[str, object]) -> None:
    torch.set_num_threads(1)
    world = TinyWorld(folder / "policy")
    meeting = None if num_ranks == 1 else f"file://{folder}/meeting-{name}"
    rendezvous = Rendezvous(rank, num_ranks, meeting, timeout_s=120.0)
    batch, result = batch_of(world, images_in(folder), num_ranks), {}
    for way in WAYS:
        config = settings_of(world, way, num_workers=num_ranks, **settings)
        trainer = FsdpTrainer(config, world.rules, rendezvous, world.processor.process, in_memory())
        own, theirs = (folder / f"{job}-{way}" for job in (name, other))
        result[way], state = train(world, trainer, batch, own, theirs, num_ranks)
        if rank == 0:
            save_file(state, folder / f"{name}-{way}.safetensors")
    if num_ranks == 4:
        config = settings_of(world, "frozen", num_workers=num_ranks, **settings)
        config = config.model_copy(update={"model": altered(config.model, dtype="bfloat16")})
        trainer = FsdpTrainer(config, world.rules, rendezvous, world.processor.process, in_memory())
        result["precision"] = precision_of(trainer, batch)
    trainer.close()
    (folder / f"{name}-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    given = dict(setting.split("=", 1) for setting in sys.argv[6:])
    values = {key: json.loads(value) for key, value in given.items()}
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], values)
