"""Run by test_engine_algorithm_pairs.py in a process of its own: every algorithm with every kind of anchors.

python algorithm_pairs_job.py FOLDER OVERRIDE... -> one JSON object on the last line: "algorithm/anchor" -> metrics
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")

from mars.actor.trainer import Rendezvous
from mars.build import EngineSpec, TrainerSpec, build_scorer
from mars.config.load import load_config
from mars.data.order.stream import PromptStream
from mars.inputs import load_inputs
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.weights.object_store import in_memory
from tests.fakes.run import parts_of_run

ALGORITHMS = ("grpo", "dapo", "dr_grpo", "rloo", "gspo", "cispo")
ANCHORS = ("none", "mono", "all_but_one")
# What the quick start's settings leave out or a tiny model needs: a KL term, a buffer within its short responses.
KL = ["algorithm.kl_coefficient=0.001"]
OWN = {"grpo": KL, "rloo": KL, "dapo": ["algorithm.overlong_buffer_tokens=8", "algorithm.max_rounds=2"]}


def main(overrides: list[str]) -> dict:
    settings = [*overrides, "algorithm.importance_cap=2.0", "algorithm.entropy_coefficient=0.001"]
    first = load_config("train", settings, [])
    inputs = load_inputs(first, with_training_set=True)
    rules = inputs.encoder.token_rules()
    engine = EngineSpec(first, rules, inputs.max_images)(lambda payload: iter(payload.items()))
    scorer = build_scorer(first)
    result = {}
    for algorithm in ALGORITHMS:
        for anchor in ANCHORS:
            pair = [*settings, f"algorithm={algorithm}", f"anchor={anchor}", *OWN.get(algorithm, [])]
            result[f"{algorithm}/{anchor}"] = one_step(pair, engine, scorer)
    scorer.close()
    engine.close()
    return result


def one_step(overrides: list[str], engine, scorer) -> dict:
    config = load_config("train", overrides, [])
    inputs = load_inputs(config, with_training_set=True)
    trainer = TrainerSpec(config, inputs.encoder.token_rules())(Rendezvous(0, 1, None, 60.0), in_memory())
    parts = parts_of_run(config, inputs, engine, trainer, scorer)
    stream = PromptStream(inputs.train.prompts, config.data.prompts_per_step, config.run.seed, True)
    before = trainer.publish_weights()
    engine.load_weights(before)
    old = {name: tensor.clone() for name, tensor in before.payload.items()}  # they may be the policy's own
    step = train_step(parts, stream, SamplingState(0, ()), 1)
    after = trainer.publish_weights().payload
    moved = max(float((after[name] - tensor).abs().max()) for name, tensor in old.items())
    samples = [len(group.rollouts) for item in step.rollouts for group in item.anchors]
    trainer.close()
    return {**step.metrics, "moved": moved, "anchor_groups": len(samples)}


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    sys.stdout.write(json.dumps(main(sys.argv[2:])) + "\n")
