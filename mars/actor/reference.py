"""The reference model of the KL term, without gradient, and its updates from the policy's weights."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from mars.actor.lora import BaseModel
from mars.actor.model import PolicyModel, ScoringSettings, empty_policy, fill, shard
from mars.actor.sharding import free_gathered, local_part
from mars.config.actor_sections import Offload
from mars.config.algorithm_section import AlgorithmConfig
from mars.config.schema import ModelConfig, TrainConfig
from mars.errors import ConfigError, SetupError
from mars.families.family import Family
from mars.families.table import family_of
from mars.train_types import Packing

_KEY = "algorithm.kl_reference"
_ADVICE = (
    "give a model of the policy's family with the same vocabulary, such as the one that the policy was trained from"
)


def kl_reference(
    config: TrainConfig, policy: PolicyModel, scoring: ScoringSettings, mesh: DeviceMesh
) -> PolicyModel | BaseModel | None:
    """The reference model, sharded; None if the settings need none (`loads_reference`).

    With LoRA, if `algorithm.kl_reference` is model.path, this is the policy without its adapters, so nothing is loaded.

    policy: sharded, before its first update. scoring: the policy's. Raises what `load_reference` raises.
    """
    algorithm, model, actor = config.algorithm, config.model, config.actor
    if not algorithm.loads_reference:
        return None
    if algorithm.kl_reference is None:
        raise ConfigError(f"{_KEY}: a KL term needs a reference model; got null; give a folder or hub name")
    if actor.lora.rank and algorithm.kl_reference == model.path:
        return BaseModel(policy)
    return load_reference(algorithm.kl_reference, model, scoring, actor.packing, mesh, actor.offload)


class ReferenceUpdate:
    """Moves the reference model towards the policy: reference <- decay x reference + (1 - decay) x policy.

    every: in optimizer steps. Raises ConfigError if the models differ in their parameters.
    """

    def __init__(self, policy: PolicyModel, reference: PolicyModel, decay: float, every: int) -> None:
        self._policy, self.reference, self._decay, self._every = policy, reference, decay, every
        shapes, own = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (policy, reference))
        differing = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
        if differing:
            raise ConfigError(
                f"algorithm.reference_every: {_KEY} must have the policy's parameters to be updated; "
                f"got {differing[0]} of shape {own.get(differing[0])}, the policy's is {shapes.get(differing[0])}; "
                "give null, or another model"
            )

    @torch.no_grad()
    def after(self, num_steps: int) -> None:
        """Update the reference if `every` divides num_steps, the number of optimizer steps so far in the run."""
        if num_steps % self._every:
            return
        for model in (self._policy, self.reference):  # else some parameters are whole ones, gathered for a forward
            free_gathered(model)
        policy = dict(self._policy.named_parameters())
        for name, value in self.reference.named_parameters():
            local_part(value).lerp_(local_part(policy[name]), 1 - self._decay)


def reference_update(
    algorithm: AlgorithmConfig, policy: PolicyModel, reference: PolicyModel | BaseModel | None
) -> ReferenceUpdate | None:
    """The update that `algorithm.reference_every` asks for; None if the reference stays as it is."""
    if algorithm.reference_every is None or not isinstance(reference, PolicyModel):
        return None
    return ReferenceUpdate(policy, reference, algorithm.reference_decay or 0.0, algorithm.reference_every)


def updated_model(update: ReferenceUpdate | None) -> PolicyModel | None:
    """The reference model whose weights are part of a checkpoint; None if the reference is never updated."""
    return None if update is None else update.reference


def load_reference(
    path: str, policy: ModelConfig, scoring: ScoringSettings, packing: Packing, mesh: DeviceMesh, offload: Offload
) -> PolicyModel:
    """The model at `path` (Hugging Face folder or name) in float32, sharded, without gradients.

    policy, scoring, packing, offload: what the policy was loaded with. Raises what `check_reference` raises.
    """
    if path != policy.path:
        check_reference(path, policy.path, trust_remote_code=policy.trust_remote_code)
    model = policy.model_copy(update={"path": path})
    reference = empty_policy(model, scoring, packing, gradient_checkpointing=False, key=_KEY)
    placement = shard(reference.requires_grad_(False).eval(), mesh, model.dtype, offload)
    fill(reference, model, placement, _KEY)
    return reference


def check_reference(path: str, policy_path: str, *, trust_remote_code: bool) -> None:
    """Check that the model at `path` can score the policy's token ids and image patches. Its size may differ.

    Reads configurations and tokenizers, no weights. Raises ConfigError if the model does not fit the policy, and
    SetupError if it cannot be found.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoTokenizer

    try:
        config, policy = (
            AutoConfig.from_pretrained(p, trust_remote_code=trust_remote_code) for p in (path, policy_path)
        )
        if config.model_type != policy.model_type:
            kinds = f"its model_type is {config.model_type}, the policy's is {policy.model_type}"
            raise ConfigError(f"{_KEY}: {kinds}; got {path}; {_ADVICE}")
        family = family_of(policy.model_type, f"model.path: {policy_path}/config.json")
        own, wanted = _inputs(config, family), _inputs(policy, family)
        differing = [name for name in own if own[name] != wanted[name]]
        wrong = [f"its {name} is {own[name]}, the policy's is {wanted[name]}" for name in differing]
        if wrong:
            raise ConfigError(f"{_KEY}: {', '.join(wrong)}; got {path}; {_ADVICE}")
        words, policy_words = (
            AutoTokenizer.from_pretrained(p, trust_remote_code=trust_remote_code).get_vocab()
            for p in (path, policy_path)
        )
    except OSError as error:
        raise SetupError(f"{_KEY}: the model cannot be loaded; got {path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ConfigError(f"{_KEY}: not a model that can be read; got {path}: {error}; {_ADVICE}") from error
    if not policy_words.items() <= words.items():
        raise ConfigError(f"{_KEY}: its tokenizer is missing, or lacks tokens of the policy's; got {path}; {_ADVICE}")


def _inputs(config: Any, family: Family) -> dict[str, Any]:
    """The settings in which two models of one family must agree, to read the same ids and images."""
    return {
        "vocab_size": config.get_text_config().vocab_size,
        "image_token_id": config.image_token_id,
        **{name: attrgetter(name)(config) for name in family.image_settings},
    }
