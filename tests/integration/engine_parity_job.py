"""Run by test_engines.py in a process of its own: vLLM, transformers and the trainer on one tiny model.

python engine_parity_job.py FOLDER FAMILY -> one JSON object on the last line
"""

import json
import os
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

import mars.build
from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.trainer import Rendezvous
from mars.build import EngineSpec, TrainerSpec
from mars.config.load import load_config
from mars.data.prompts.budget import ImageBudget, model_image_size
from mars.data.prompts.chat import PromptEncoder
from mars.data.synthetic.tiny_model import build_tiny
from mars.errors import TransferError
from mars.rollout.engine import UnreadableRequest
from mars.rollout.vllm_worker import plain_tensors
from mars.types import Completion, ImageRef, Message, RolloutRequest, Sampling, WeightUpdate
from mars.weights.object_store import in_memory
from tests.tiny_world import response_logprobs, sampled_prompt

TEMPERATURE = 0.7
ANSWERS = 4


def pictures(folder: Path, budget: ImageBudget) -> list[ImageRef]:
    noise = np.random.default_rng(5)
    refs = []
    for i, (width, height) in enumerate([(56, 56), (112, 84), (200, 90)]):
        path = folder / f"{i}.png"
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        refs.append(ImageRef(str(path), (width, height)))
    # Of one file under two budgets of sources: for engine and trainer two images.
    return [*refs[:3], replace(refs[2], resized=model_image_size(refs[2].size, budget))]


def hot_weights(model: Path) -> None:
    """Scale the projections: at the default initialisation attention is near uniform and hides mistakes."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    hot = {name: value * 2 if "proj" in name or "lm_head" in name else value for name, value in weights.items()}
    save_file(hot, model / "model.safetensors", metadata={"format": "pt"})


def as_published(model: Path) -> None:
    """Lay the folder out as older public checkpoints: shards, template in the tokenizer's file, old processor file.

    The processor file has limits of its own, which are not the run's.
    """
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in files.items():
        save_file({name: weights[name] for name in some}, model / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, some in files.items() for name in some}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))

    tokenizer, template = model / "tokenizer_config.json", model / "chat_template.jinja"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"chat_template": template.read_text()}))
    template.unlink()

    processor = json.loads((model / "processor_config.json").read_text())
    (model / "processor_config.json").unlink()
    images = {**processor["image_processor"], "processor_class": processor["processor_class"]}
    images |= {"min_pixels": 784, "max_pixels": 3136}
    del images["size"]
    (model / "preprocessor_config.json").write_text(json.dumps(images))


def requests(encoder: PromptEncoder, refs: list[ImageRef]) -> list[RolloutRequest]:
    """Multi and mono views of two prompts, and one without an image."""
    sampling = Sampling(TEMPERATURE, 1.0, 0, 12)
    shown = {
        ("a", None): (refs[0], refs[1]),
        ("a", ("s0",)): (refs[0],),
        ("a", ("s1",)): (refs[1],),
        ("b", None): (refs[2], refs[3], refs[0]),
        ("b", ("s1",)): (refs[3],),
        ("c", None): (),
    }
    return [
        RolloutRequest(
            prompt_id,
            view,
            encoder.encode((Message("user", "<image>" * len(images) + f"Where is {prompt_id}?"),), len(images)),
            images,
            ANSWERS,
            seed=1000 * i,
            sampling=sampling,
        )
        for i, ((prompt_id, view), images) in enumerate(shown.items())
    ]


class Broken(dict):
    """Weights of which only some arrive, and those as zeros."""

    def items(self):
        for i, (name, value) in enumerate(super().items()):
            if i == len(self) // 2:
                raise TransferError("rank 0 has left")
            yield name, torch.zeros_like(value)


def interrupted(engine, update: WeightUpdate) -> str:
    """The error of an update that breaks off in the middle of a layer."""
    try:
        engine.load_weights(WeightUpdate(update.version, Broken(update.payload)))
    except TransferError as error:
        return str(error)
    return ""


def difference(trainer: FsdpTrainer, asked: list[RolloutRequest], answers) -> float:
    """Largest |engine - trainer| over all tokens, in nats."""
    worst = 0.0
    for request, completions in zip(asked, answers, strict=True):
        scored = response_logprobs(trainer, [sampled_prompt(request, [c.token_ids for c in completions])])
        for completion, logprobs in zip(completions, scored, strict=True):
            worst = max(worst, max(abs(a - b) for a, b in zip(completion.logprobs, logprobs, strict=True)))
    return worst


def count_image_work(model: Path) -> Counter[str]:
    """How often images are decoded for an engine that is built after this, and processed by any model from now on."""
    work, decode, kind = Counter(), mars.build.decode_image, type(AutoImageProcessor.from_pretrained(model))
    preprocess = kind.preprocess

    def counted_decode(ref: ImageRef):
        work[f"decoded {ref.path} {ref.resized}"] += 1
        return decode(ref)

    def counted_preprocess(self, images, *arguments, **options):
        work["processed"] += len(images) if isinstance(images, list | tuple) else 1
        return preprocess(self, images, *arguments, **options)

    mars.build.decode_image, kind.preprocess = counted_decode, counted_preprocess
    return work


def completions(engine, asked: list[RolloutRequest]) -> list[list[Completion]]:
    """By request and sample, whenever each came."""
    stream = (sample for finished in engine.generate(asked) for sample in finished)
    found = {(sample.request, sample.index): sample.completion for sample in stream}
    return [[found[i, k] for k in range(request.num_samples)] for i, request in enumerate(asked)]


def encoder_runs(engine, asked: list[RolloutRequest]) -> tuple[list[list[Completion]], list[float]]:
    """The completions, and [distinct images, encoder runs, share of prompt tokens from the cache] of the call."""
    before = engine.counts()
    answers = completions(engine, asked)
    counts = engine.counts() - before
    return answers, [counts.images, counts.encoder_runs, counts.cached_tokens / counts.prompt_tokens]


def stream_of(engine, asked: list[RolloutRequest]) -> dict[str, bool]:
    """Samples of one request come when each is finished; a call that is given up leaves nothing behind."""
    short = [
        RolloutRequest(**{**vars(r), "sampling": Sampling(TEMPERATURE, 1.0, 0, 1 + 5 * i)}) for i, r in enumerate(asked)
    ]
    order, running = [], []
    for finished in engine.generate(short):
        running.append(engine._llm.llm_engine.has_unfinished_requests())
        order.extend(len(sample.completion.token_ids) for sample in finished)
    given_up = engine.generate(asked)
    next(given_up)
    given_up.close()
    return {
        "as_finished": order == sorted(order) and running == [True] * (len(running) - 1) + [False] and len(running) > 3,
        "nothing_left": not engine._llm.llm_engine.has_unfinished_requests(),
    }


def hints(engine, asked: list[RolloutRequest], expected: list, folder: Path) -> dict[str, object]:
    """A hint changes no answer, whether it comes true, in part or not at all; a bad image shows where it is used."""
    broken = folder / "broken.png"
    broken.write_bytes((folder / "0.png").read_bytes()[:200])
    bad = RolloutRequest(**{**vars(asked[1]), "images": (ImageRef(str(broken), (56, 56)),)})
    same = []
    for hint in (asked, [*asked[2:], bad], [bad]):
        engine.prefetch(hint)
        same.append(ids(completions(engine, asked)) == expected)
    engine.prefetch([bad])
    with_bad = [asked[0], bad, *asked[1:]]
    found = [item for finished in engine.generate(with_bad) for item in finished]
    refused = [item for item in found if isinstance(item, UnreadableRequest)]
    others = {(s.request, s.index): s.completion for s in found if not isinstance(s, UnreadableRequest)}
    answers = [[others[i, k] for k in range(r.num_samples)] for i, r in enumerate(with_bad) if r is not bad]
    return {
        "hints_change_nothing": same,
        "bad_image": [(item.request, item.reason) for item in refused],
        "beside_bad_image": ids(answers) == expected,
        "after_bad_image": ids(completions(engine, asked)) == expected,
    }


def ids(answers) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in row] for row in answers]


def after_lost_tensors(vllm, asked: list[RolloutRequest]) -> bool:
    """Whether the answers to a text stay, when the tensors are lost that are no parameters or buffers, as in a sleep
    on a GPU. asked: without images, because a call with images overwrites the tensor that matters here."""
    before = ids(completions(vllm, asked))
    vllm._llm.collective_rpc("keep_plain_tensors")
    for tensor in plain_tensors(vllm._llm.llm_engine.model_executor.driver_worker.worker.model_runner.model):
        tensor.normal_()
    vllm._llm.collective_rpc("restore_plain_tensors")
    return ids(completions(vllm, asked)) == before


def main(folder: Path, family: str, *, brief: bool) -> dict:
    """brief: only log-probs before and after an update."""
    model = build_tiny(folder / "model", seed=1, family=family)
    hot_weights(model)
    if family == "qwen2_5_vl":
        as_published(model)
    overrides = [
        "experiment=quickstart",
        "cluster=local",
        "cluster.device=cpu",
        "actor.num_workers=1",
        "rollout.max_model_len=512",
        f"model.path='{model}'",
        f"rollout.temperature={TEMPERATURE}",
        "data.max_image_pixels=100352",
    ]
    config = load_config("train", overrides, [])
    encoder = PromptEncoder.from_pretrained(str(model))
    rules = encoder.token_rules()
    asked = requests(encoder, pictures(folder, ImageBudget.from_pretrained(str(model), 784, 7840)))
    trainer = TrainerSpec(config, rules)(Rendezvous(0, 1, None, 60.0), in_memory())
    fetch = lambda payload: iter(payload.items())  # noqa: E731
    work = count_image_work(model)
    vllm = EngineSpec(config, rules, 3)(fetch)
    vllm._reads_ahead = True  # as in a process of its own
    hf_config = load_config("train", [*overrides, "rollout.engine=hf"], [])
    hf = EngineSpec(hf_config, rules, 3)(fetch)
    result = {}
    work.clear()
    first, result["reuse"] = encoder_runs(vllm, asked)
    result["image_work"] = {
        "decoded": [n for key, n in work.items() if key != "processed"],
        "processed": work["processed"],
    }
    result["vllm_trainer"] = difference(trainer, asked, first)
    result["hf_trainer"] = difference(trainer, asked, completions(hf, asked))
    if not brief:
        result["order_independent"] = ids(completions(vllm, asked[::-1]))[::-1] == ids(first)
        result |= stream_of(vllm, asked)
        result["after_giving_up"] = ids(completions(vllm, asked)) == ids(first)
        result["after_lost_tensors"] = after_lost_tensors(vllm, asked[-1:])
        result |= hints(vllm, asked, ids(first), folder)
    result["samples"] = [len(row) for row in first]
    emitted = {token for row in first for completion in row for token in completion.token_ids}
    result["blocked_emitted"] = sorted(emitted & set(rules.blocked_ids))
    greedy = [RolloutRequest(**{**vars(r), "sampling": Sampling(0.0, 1.0, 0, 12)}) for r in asked]
    result["greedy_equal"] = ids(completions(vllm, greedy)) == ids(completions(hf, greedy))

    # New weights, for vision and language: everything the engine had cached is stale now.
    with torch.no_grad():
        for parameter in trainer._policy.parameters():
            parameter.mul_(1.05)
    update = trainer.publish_weights()
    result["version"] = update.version
    result["stale_difference"] = difference(trainer, asked, first)
    result["interrupted"] = interrupted(vllm, update)
    vllm.load_weights(WeightUpdate(update.version, update.payload))
    hf.load_weights(update)
    second, result["reuse_after"] = encoder_runs(vllm, asked)
    result["vllm_trainer_after"] = difference(trainer, asked, second)
    result["hf_trainer_after"] = difference(trainer, asked, completions(hf, asked))
    vllm.prefetch(asked)
    vllm.close()
    hf.close()
    trainer.close()
    result["threads_left"] = [thread.name for thread in threading.enumerate() if thread.name.startswith("images")]
    return result


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2], brief=sys.argv[3:] == ["brief"])) + "\n")
