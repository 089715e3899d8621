"""Makes the hooks of a run once, before any worker starts."""

from __future__ import annotations

import logging

from mars.algorithms.token_rule import TokenRule
from mars.config.schema import AlgorithmConfig, TrainConfig
from mars.data.pixels.transforming import try_transforms
from mars.hooks.load import hooks_of_run
from mars.hooks.of_workers import image_transforms, token_rule
from mars.hooks.step_hooks import StepHooks

logger = logging.getLogger(__name__)


def checked_hooks(config: TrainConfig) -> StepHooks:
    """Make each hook of a run once, but not the sampler. Try the image transforms, and check the reference model.

    Returns the hooks that a step calls. `config.recipe` must come from `hooks.load.resolved`.
    Warns of a reference model that nothing reads, and of transforms that nothing uses. Raises ConfigError and
    SetupError.
    """
    try_transforms(image_transforms(config.recipe, config.ramps))
    algorithm = config.algorithm
    reference = algorithm.kl_reference
    rule = token_rule(config.recipe, with_reference=algorithm.loads_reference, ramps=config.ramps)
    hooks = hooks_of_run(config, rule)
    _warn_of_unread_reference(algorithm, rule, hooks)
    if config.recipe.requests is None:  # its hook may use any transform
        _warn_of_unused_transforms(set(config.recipe.transforms), rule, hooks)
    if algorithm.loads_reference and reference is not None and reference != config.model.path:
        from mars.actor.reference import check_reference

        check_reference(reference, config.model.path, trust_remote_code=config.model.trust_remote_code)
    return hooks


def _warn_of_unread_reference(algorithm: AlgorithmConfig, rule: TokenRule | None, hooks: StepHooks) -> None:
    in_passes = rule is not None and any(one.model == "reference" for one in rule.passes)
    in_signals = any(signal.spec.needs_reference for signal in hooks.signals)
    read = algorithm.kl_coefficient > 0 or in_passes or in_signals
    if algorithm.loads_reference and not read:
        logger.warning(
            "algorithm.reference_every: the reference model costs memory and time, and nothing reads it: "
            "algorithm.kl_coefficient is 0, and no pass of recipe.tokens and no signal of recipe.shaping scores with it"
        )


def _warn_of_unused_transforms(names: set[str], rule: TokenRule | None, hooks: StepHooks) -> None:
    used = {one.transform for one in (rule.passes if rule is not None else ())}
    used |= {signal.spec.transform for signal in hooks.signals}
    if unused := sorted(names - used):
        logger.warning(
            "recipe.transforms: no pass of recipe.tokens and no signal of recipe.shaping uses %s; leave it out, or use "
            "it in one of these",
            ", ".join(unused),
        )
