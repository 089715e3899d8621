"""From a configuration to the answers of its model: what `mars eval infer` runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mars.build import workers
from mars.cluster.environment import gc_paused
from mars.config.schema import TrainConfig
from mars.evaluation.ask import (
    Questions,
    Views,
    images_fingerprint,
    infer,
    model_fingerprint,
    prompts_fingerprint,
)
from mars.evaluation.files import ResultPaths
from mars.evaluation.questions import convert_questions
from mars.evaluation.summary import EVALUATION_STEP
from mars.inputs import Inputs, evaluation_plan, load_inputs
from mars.rollout.engine import RolloutEngine
from mars.run import check_packages


def run_inference(config: TrainConfig, questions: str, paths: ResultPaths, views: Views) -> list[Path]:
    """Ask `model.path` the questions; the files that hold the answers. See `infer`.

    questions: the file that was given; where it is a .json file, `data.eval_files` is what is made of it here.
    """
    check_packages(config)
    dropped: Mapping[str, int] = {}
    if [questions] != config.data.eval_files:
        root, dropped = convert_questions(questions, paths, config.data.image_root, config.data.on_bad_sample)
        config = config.model_copy(update={"data": config.data.model_copy(update={"image_root": root})})
    with gc_paused():
        inputs = load_inputs(config, with_training_set=False)

    @contextmanager
    def start_engine() -> Iterator[RolloutEngine]:
        with workers(config, inputs, with_trainer=False) as (engine, _):
            yield engine

    return infer(_questions(config, inputs, dropped), paths, views, start_engine)


def _questions(config: TrainConfig, inputs: Inputs, dropped: Mapping[str, int]) -> Questions:
    if inputs.evaluation is None:
        raise ValueError("there are no questions: data.eval_files was empty")
    prompts = inputs.evaluation.prompts
    requests = evaluation_plan(inputs).requests(prompts, EVALUATION_STEP)
    settings = config.evaluation
    identity: dict[str, Any] = {
        "model": str(Path(config.model.path).resolve()) if Path(config.model.path).is_dir() else config.model.path,
        "model_fingerprint": model_fingerprint(config.model.path),
        "questions": inputs.evaluation.fingerprint,
        "number_of_questions": len(prompts),
        "prompts": prompts_fingerprint(requests),
        "images": images_fingerprint(requests),
        "data.min_image_pixels": config.data.min_image_pixels,
        "data.max_image_pixels": config.data.max_image_pixels,
        # null where no source has its own, as in results from before there were any.
        "data.source_image_pixels": config.data.source_image_pixels or None,
        "model.dtype": config.model.dtype,
        "model.box_space": inputs.frames.box_space,
        "rollout.engine": config.rollout.engine,
        "rollout.max_response_tokens": config.rollout.max_response_tokens,
        "evaluation.samples_per_prompt": settings.samples_per_prompt,
        "evaluation.temperature": settings.temperature,
        "evaluation.top_p": settings.top_p,
        "run.seed": config.run.seed,
    }
    return Questions(
        prompts=prompts,
        requests=requests,
        decode=inputs.encoder.decode,
        frames=inputs.frames,
        prompt_length=inputs.prompt_length,
        identity=identity,
        dropped=Counter(dropped) + Counter(inputs.evaluation.dropped),
    )
