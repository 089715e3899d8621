"""Run by test_parallel_engine.py in a process of its own: a vLLM engine of two processes, and the trainer.

python parallel_engine_job.py FOLDER -> a JSON object per line: of an engine that was closed; then of a second one that
generates until this process is killed.
"""

import json
import multiprocessing
import sys
from pathlib import Path

PATIENCE_S = 60.0


def report(**found) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def divisible(build_config):
    """The tiny model's configurations, with heads that two processes can share."""

    def built(*arguments, **options):
        config = build_config(*arguments, **options)
        config.text_config.num_attention_heads, config.text_config.num_key_value_heads = 4, 2
        return config

    return built


def main(folder: Path) -> None:
    # Imported here, because each process of the engine runs this file's first lines.
    import psutil
    import torch

    from mars.actor.trainer import Rendezvous
    from mars.build import EngineSpec, TrainerSpec
    from mars.config.load import load_config
    from mars.data.prompts.budget import ImageBudget
    from mars.data.prompts.chat import PromptEncoder
    from mars.data.synthetic import tiny_model
    from mars.types import WeightUpdate
    from mars.weights.object_store import in_memory
    from tests.integration import engine_parity_job as parity

    tiny_model.build_config = divisible(tiny_model.build_config)
    model = tiny_model.build_tiny(folder / "model", seed=1, family="qwen3_vl")
    parity.hot_weights(model)
    settings = ["experiment=quickstart", "cluster=local", "cluster.device=cpu", "actor.num_workers=1",
                "rollout.max_model_len=512", f"model.path='{model}'", f"rollout.temperature={parity.TEMPERATURE}",
                "data.max_image_pixels=100352", "rollout.tensor_parallel_size=2"]  # fmt: skip
    config = load_config("train", settings, [])
    encoder = PromptEncoder.from_pretrained(str(model))
    rules = encoder.token_rules()
    asked = parity.requests(encoder, parity.pictures(folder, ImageBudget.from_pretrained(str(model), 784, 7840)))
    trainer, transfer = TrainerSpec(config, rules)(Rendezvous(0, 1, None, 60.0), in_memory()), in_memory()
    engine = EngineSpec(config, rules, 3)(transfer.receive)
    started = multiprocessing.active_children()
    first, reuse = parity.encoder_runs(engine, asked)
    before = parity.difference(trainer, asked, first)
    with torch.no_grad():
        for parameter in trainer._policy.parameters():
            parameter.mul_(1.05)
    update = trainer.publish_weights()
    stale = parity.difference(trainer, asked, first)
    engine.load_weights(WeightUpdate(update.version, update.payload))
    second, reuse_after = parity.encoder_runs(engine, asked)
    after = parity.difference(trainer, asked, second)
    engine.close()
    for process in started:
        process.join(PATIENCE_S)
    left = sum(process.is_alive() for process in started)
    report(started=len(started), left=left, reuse=[reuse, reuse_after], before=before, stale=stale, after=after)

    engine = EngineSpec(config, rules, 3)(transfer.receive)
    report(processes=[process.pid for process in psutil.Process().children(recursive=True)])
    while True:
        parity.completions(engine, asked)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
