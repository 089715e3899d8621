"""One FSDP rank, run by test_two_ranks.py in a process of its own.

python two_ranks_job.py FOLDER RANK WORLD_SIZE PACKING
-> FOLDER/<packing>-<world size>-<rank>.json: the KL of every row to the reference, and the metrics of the updates,
   also of one with a frozen vision tower, of one with a token rule, and of LoRA adapters;
   of several ranks also FOLDER/<packing>-<world size>-policy and -shards: the policy, and a checkpoint's shards.
"""

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.trainer import Rendezvous
from mars.algorithms.scoring import KL_TO_REFERENCE, ScoringSpec
from mars.batching.plan import plan_updates
from mars.data.pixels.images import BadImage, decode_image
from mars.data.pixels.transforming import TransformingDecoder
from mars.data.pixels.transforms import blank_patches, gaussian_diffusion
from mars.data.prompts.processor import PromptProcessor
from mars.train_types import TrainBatch, TrainPrompt, TrainResponse
from mars.types import ImageRef
from mars.weights.object_store import in_memory
from tests.builders import altered
from tests.fakes.token_rule import Contrast
from tests.frozen import throw_away_gradients
from tests.tiny_world import GRPO, TinyWorld, at_temperature, with_algorithm

TOKENS_PER_FORWARD = {"padded": 300, "shared_prefix": 50}  # 50 splits a group, and its parts go to different ranks
TEMPERATURE = 0.7
EVERYTHING = {"entropy_coefficient": 0.2, "importance_cap": 1.1, "kl_coefficient": 0.3}


def prompts(world: TinyWorld, refs: list[ImageRef]) -> list[TrainPrompt]:
    """Text-only prompts on one rank beside pictures on the other; responses of unequal lengths and weights."""
    made = [
        world.train_prompt("a", refs[:2], [5, 9, 1]),
        world.train_prompt("text", [], [17, 3]),
        world.train_prompt("bb", [refs[1]], [4, 12, 6], rewards=[0.0, 1.0, 0.25], anchors=[0.5]),
    ]
    made.append(replace(world.train_prompt("c", [refs[2]], [3, 8]), carried=True))
    weights = {"a": (1.0, 0.5, 1.0), "text": (1.0, 0.0), "bb": (2.0, 1.0, 0.5), "c": (1.0, 1.0)}
    return [
        replace(
            prompt,
            responses=tuple(
                replace(as_if_sampled(response), weight=weight)
                for response, weight in zip(prompt.responses, weights[prompt.prompt_id], strict=True)
            ),
        )
        for prompt in at_temperature(made, TEMPERATURE)
    ]


def as_if_sampled(response: TrainResponse) -> TrainResponse:
    """Log-probs near those of a random model: importance weights on both sides of the cap."""
    return replace(response, rollout_logprobs=(-6.4,) * len(response.token_ids))


def one_update(rows, world_size: int, budget: int, packing):
    return plan_updates(rows, len(rows), world_size, budget, packing)


def save(trainer: FsdpTrainer, folder: Path, rank: int, name: str) -> None:
    """<name>-policy: as at the end of a run. <name>-shards: as in a checkpoint; waits until this rank's are written."""
    trainer.save(str(folder / f"{name}-policy"))
    shards = folder / f"{name}-shards"
    shards.mkdir(exist_ok=True)
    trainer.start_checkpoint(str(shards))
    while not (shards / f"rank_{rank:05d}.json").exists():
        time.sleep(0.01)


def frozen_update(world: TinyWorld, rendezvous: Rendezvous, batch: TrainBatch, packing) -> dict[str, object]:
    """An update with vision tower and projector frozen, and one whose gradients of these parts are thrown away."""
    parts, found = ["vision", "projector"], []
    for freeze in (parts, []):
        config = world.config(packing=packing, freeze=freeze)
        trainer = FsdpTrainer(config, world.rules, rendezvous, world.processor.process, in_memory())
        norm = throw_away_gradients(trainer, parts).update(batch).metrics["actor/grad_norm"]
        named = trainer._policy.named_parameters()
        found.append((norm, {name: parameter.to_local().clone() for name, parameter in named}))
    (norm, weights), (other_norm, others) = found
    equal = all(torch.equal(weights[name], value) for name, value in others.items())
    return {"grad_norms": [norm, other_norm], "equal": equal}


LORA = {"lora.rank": 3, "lora.alpha": 6.0, "lora.parts": ["language", "vision", "projector"]}


def adapter_updates(world: TinyWorld, rendezvous: Rendezvous, batch: TrainBatch, packing) -> dict[str, object]:
    """Updates of adapters with a KL to the model without them. Several ranks also leave their shards and policy."""
    objective = altered(GRPO, kl_coefficient=0.3, kl_reference=str(world.folder))
    config = world.config(objective=objective, packing=packing, learning_rate=1e-2, **LORA)
    trainer = FsdpTrainer(config, world.rules, rendezvous, world.processor.process, in_memory())
    metrics = [trainer.update(batch).metrics for _ in range(2)]
    if rendezvous.world_size > 1:
        save(trainer, world.folder.parent, rendezvous.rank, "lora")
    return {key: [one[key] for one in metrics] for key in ("actor/grad_norm", "actor/kl_loss", "actor/pg_loss")}


def rule_updates(world: TinyWorld, rendezvous: Rendezvous, batch: TrainBatch, packing) -> dict[str, float]:
    """Two updates with a token rule (totals over the ranks, changed images, a pass with gradient) and a KL to a
    reference model that follows the policy."""
    decode = TransformingDecoder(
        decode_image, lambda: {"masked": blank_patches(0.5, 14), "noisy": gaussian_diffusion(500)}
    )
    settings = {"budget": world.budget, "rules": world.rules, "cache_bytes": 0}
    process = PromptProcessor(str(world.folder), decode=decode, **settings).process
    moving = {"reference_decay": 0.5, "reference_every": 1}
    config = world.config(objective=altered(GRPO, kl_coefficient=0.3, **moving), packing=packing, learning_rate=1e-2)
    trainer = FsdpTrainer(config, world.rules, rendezvous, process, in_memory(), Contrast())
    return dict(trainer.update(replace(batch, step=4)).metrics)


def main(folder: Path, rank: int, world_size: int, packing: str) -> None:
    torch.set_num_threads(1)
    world = TinyWorld(folder / "policy")
    refs = [ImageRef(str(folder / f"{i}.png"), size) for i, size in enumerate([(64, 48), (56, 56), (96, 40)])]
    rows = tuple(prompts(world, refs))
    meeting = None if world_size == 1 else f"file://{folder}/meeting-{packing}"
    loss = {"loss": "gspo", "clip_low": 3e-4, "clip_high": 4e-4}
    objective = altered(GRPO, **loss, kl_reference=str(folder / "reference"), **EVERYTHING)
    config = world.config(objective=objective, temperature=TEMPERATURE, packing=packing)
    rendezvous = Rendezvous(rank, world_size, meeting, timeout_s=120.0)
    lost: set[tuple[ImageRef, ...]] = set()

    def process(ids, images, blank=False):
        if images in lost and not blank:
            raise BadImage("missing", f"gone on rank {rank}")
        return world.processor.process(ids, images, blank)

    trainer = FsdpTrainer(config, world.rules, rendezvous, process, in_memory())
    budget = TOKENS_PER_FORWARD[packing]
    scored = TrainBatch(rows, one_update(rows, world_size, budget, packing))
    trained = TrainBatch(rows, plan_updates(rows, 2, world_size, budget, packing))
    before = trainer.score_responses(scored, KL_TO_REFERENCE).values
    ends = [[(k, len(response.token_ids)) for k, response in enumerate(row.responses)] for row in rows]
    signal = trainer.score_responses(scored, ScoringSpec("ends", "sum", model="reference"), ends).values
    metrics = trainer.update(trained).metrics
    homes = [
        {p for micro in rank for p, _ in micro.rows[: len(micro.rows) - micro.num_fillers]}
        for rank in trained.updates[0].ranks
    ]
    kl_after = trainer.score_responses(scored, KL_TO_REFERENCE).values
    if rank == world_size - 1:  # the other rank has the image still, and must leave the prompt out all the same
        lost.add(rows[0].images)
    incomplete, without_first = trainer.update(trained), trainer.score_responses(scored, KL_TO_REFERENCE)
    lost.clear()
    spoilt = tuple(replace(row, responses=(replace(row.responses[0], advantage=math.nan),)) for row in rows)
    skipped = trainer.update(replace(trained, prompts=spoilt, updates=one_update(spoilt, world_size, budget, packing)))
    frozen = frozen_update(world, rendezvous, trained, packing)
    mask = altered(objective, importance_mode="mask", importance_floor=0.6, importance_cap=2.0)
    masked = with_algorithm(trainer, mask).update(trained)
    nothing = with_algorithm(trainer, altered(mask, importance_cap=1.0, importance_floor=1.0)).update(trained)
    result = {
        "masked": dict(masked.metrics),
        "nothing": dict(nothing.metrics),
        "is_split": len(homes) > 1 and 0 in homes[0] & homes[1],
        "kl": before,
        "signal": signal,
        "metrics": dict(metrics),
        "kl_after": kl_after,
        "incomplete": dict(incomplete.metrics),
        "unreadable": [dict(incomplete.unreadable), dict(without_first.unreadable)],
        "kl_without_first": [row for row in without_first.values if not math.isnan(row[0])],
        "frozen": frozen,
        "rule": rule_updates(world, rendezvous, trained, packing),
        "lora": adapter_updates(world, rendezvous, trained, packing),
        "skipped_old": [[*row, *old] for one in skipped.skipped for row, old in sorted(one.old_logprobs.items())],
    }
    if world_size > 1:
        save(trainer, folder, rank, f"{packing}-{world_size}")
    trainer.close()
    (folder / f"{packing}-{world_size}-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
