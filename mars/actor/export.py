"""A checkpoint's weights as a Hugging Face folder, in this process, on the CPU, without a process group."""

from __future__ import annotations

import warnings

from torch.distributed.checkpoint import load
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from mars.actor.model import ScoringSettings, load_policy
from mars.actor.shards import model_state
from mars.actor.state import save_policy
from mars.config.schema import ModelConfig
from mars.errors import CheckpointError


def export_policy(shards: str, model: ModelConfig, folder: str) -> None:
    """Write what `PolicyTrainer.save` would have written at the checkpoint's step.

    shards: folder of the trainer's shards, of any number of ranks. model: the run's; its weights say which tensors
    there are, and its other files are carried over. Needs memory for the weights in float32 and in model.dtype.
    Raises CheckpointError for another model's shards, SetupError as `load_policy` and `save_policy`.
    """
    plain = model.model_copy(update={"attention": "sdpa"})  # not part of what is saved; flash attention needs a GPU
    policy = load_policy(plain, ScoringSettings(1.0, (), 1), packing="padded", gradient_checkpointing=False)
    try:
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as no_dist asks for
        load(model_state(policy), storage_reader=HuggingFaceStorageReader(shards), no_dist=True)
    except (CheckpointException, KeyError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{shards}: cannot be loaded into {model.path}: {type(error).__name__}: {reason[-1] if reason else ''}; "
            "the checkpoint must be of that model"
        ) from error
    save_policy(policy, plain, folder, is_writer=True)
