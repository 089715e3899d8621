"""Run a user's prompt sampler: each round is decided once, checked, and decided alike in a resumed run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mars.errors import ConfigError
from mars.hooks.contract import PromptSampler, SamplerSetup
from mars.hooks.step_hooks import as_json
from mars.types import Prompt, PromptRollouts


class SampledRounds:
    """A `PromptRounds` whose prompts a user's sampler chooses. `len()`: the different prompts of all sets.

    A round is decided when it is first asked for, which may be to read its images ahead, while the policy is updated.
    So it has the feedback of all steps that are sampled by then, and not that of probes in its own step.
    """

    def __init__(self, name: str, sampler: PromptSampler, setup: SamplerSetup) -> None:
        self.prompts_per_step = setup.prompts_per_step
        self._name, self._sampler = name, sampler
        self._prompts = {prompt.prompt_id: prompt for prompts in setup.sets for prompt in prompts}
        self._decided: dict[int, tuple[Prompt, ...]] = {}
        self._left_out: frozenset[str] = frozenset()
        self._initial = as_json(name, sampler.state())

    def __len__(self) -> int:
        return len(self._prompts)

    def batch(self, step: int) -> tuple[Prompt, ...]:
        """The prompts of round `step`, all different. Raises ConfigError if they are not, or not of the sets."""
        if step not in self._decided:
            chosen = self._checked(self._sampler.batch(step, self._left_out), f"round {step}")
            self._decided = {round: prompts for round, prompts in self._decided.items() if round >= step - 1}
            self._decided[step] = chosen
        return self._decided[step]

    def probes(self, step: int, round: int) -> tuple[Prompt, ...]:
        """round: the next one to be sampled. It is chosen before the probes, as in a run that reads images ahead."""
        self.batch(round)
        return self._checked(self._sampler.probes(step), f"the probes of step {step}")

    def observe(
        self, rollouts: Sequence[PromptRollouts], step: int, left_out: Collection[str] = ()
    ) -> dict[str, float]:
        """Metrics, under `sampler/`. left_out: ids of prompts that cannot be read, for rounds decided from now on."""
        self._left_out = frozenset(left_out)
        return {f"sampler/{name}": float(value) for name, value in self._sampler.observe(rollouts, step).items()}

    def state(self, round: int) -> Mapping[str, Any]:
        """round: the next one to be sampled. If it is decided already, the state has its prompts."""
        decided = {
            str(number): [p.prompt_id for p in chosen] for number, chosen in self._decided.items() if number >= round
        }
        left_out = sorted(self._left_out)
        return {"name": self._name, "decided": decided, "left_out": left_out, "state": self._sampler.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """{}: begin anew. Raises ConfigError for the state of another sampler."""
        if not state:
            state = {"name": self._name, "decided": {}, "left_out": [], "state": json.loads(self._initial)}
        if state["name"] != self._name:
            raise ConfigError(
                f"recipe.sampler: the checkpoint has the state of {state['name']}; got {self._name}; "
                "resume with the sampler that the run was started with"
            )
        decided = state["decided"].items()
        self._decided = {int(number): tuple(map(self._prompts.__getitem__, ids)) for number, ids in decided}
        self._left_out = frozenset(state["left_out"])
        self._sampler.restore(state["state"])

    def _checked(self, prompts: Sequence[Prompt], what: str) -> tuple[Prompt, ...]:
        counts = Counter(prompt.prompt_id for prompt in prompts)
        twice = [prompt.row for prompt in prompts if counts[prompt.prompt_id] > 1]
        if twice:
            raise ConfigError(
                f"recipe.sampler: {self._name} has a prompt twice in {what}; got {twice[0]}; draw without replacement"
            )
        unknown = [prompt.row for prompt in prompts if prompt.prompt_id not in self._prompts]
        if unknown:
            raise ConfigError(
                f"recipe.sampler: {self._name} has a prompt in {what} that is not in the training set; "
                f"got {unknown[0]}; choose among setup.sets"
            )
        return tuple(prompts)
