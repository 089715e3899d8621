"""The frozen model that a KL term is measured against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mars.actor.model import ModelSettings, PolicyModel, ScoringSettings, load_policy
from mars.errors import ConfigError, EnvironmentProblem

_KEY = "algorithm.kl_reference"
_ADVICE = "name a model of the policy's family with its vocabulary, as the one that the policy was trained from"


def load_reference(path: str, policy: PolicyModel, settings: ModelSettings, scoring: ScoringSettings) -> PolicyModel:
    """The model at `path` (Hugging Face folder or name) in float32 on the CPU, without gradients.

    It gets the policy's token ids and image patches, so it must read them alike; its size is its own.
    settings: the policy's. Raises ConfigError where the model does not fit, EnvironmentProblem where it is not there.
    """
    if path != settings.path:
        _check_fit(path, policy.backbone.config, settings)
    own = replace(settings, path=path, gradient_checkpointing=False)
    return load_policy(own, scoring, _KEY).requires_grad_(False).eval()


def _check_fit(path: str, policy_config: Any, settings: ModelSettings) -> None:
    """Before the weights are read: they may take minutes."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
        if config.model_type != policy_config.model_type:
            kinds = f"a {config.model_type} model, the policy is {policy_config.model_type}"
            raise ConfigError(f"{_KEY}: {kinds}; got {path}; {_ADVICE}")
        mine, wanted = _inputs(config), _inputs(policy_config)
        wrong = [f"{name} is {mine[name]}, the policy's {wanted[name]}" for name in mine if mine[name] != wanted[name]]
        if wrong:
            raise ConfigError(f"{_KEY}: {', '.join(wrong)}; got {path}; {_ADVICE}")
        words, policy_words = (
            AutoTokenizer.from_pretrained(p, trust_remote_code=settings.trust_remote_code).get_vocab()
            for p in (path, settings.path)
        )
    except OSError as error:
        raise EnvironmentProblem(f"{_KEY}: the model cannot be loaded; got {path}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{_KEY}: not a model that can be read; got {path}: {error}; {_ADVICE}") from error
    if words != policy_words:
        raise ConfigError(f"{_KEY}: its tokenizer gives other ids than the policy's; got {path}; {_ADVICE}")


def _inputs(config: Any) -> dict[str, int]:
    """What decides how ids and patches are read, of models of one type."""
    return {
        "vocab_size": config.get_text_config().vocab_size,
        "image_token_id": config.image_token_id,
        "vision_config.patch_size": config.vision_config.patch_size,
        "vision_config.temporal_patch_size": config.vision_config.temporal_patch_size,
        "vision_config.spatial_merge_size": config.vision_config.spatial_merge_size,
    }
