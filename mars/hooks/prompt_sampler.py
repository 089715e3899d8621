"""Run a user's prompt sampler. It chooses each round once. A choice is checked, and stays the same in a resumed run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mars.data.order.stream import other_sampler
from mars.errors import ConfigError
from mars.hooks.contract import PromptSampler, SamplerSetup
from mars.hooks.known_prompts import KnownPrompts
from mars.hooks.step_hooks import as_json, sampler_state
from mars.types import Prompt, PromptRollouts
from mars.users_code import calling


class SampledRounds:
    """A `PromptRounds` whose prompts a user's sampler chooses. `len()`: the different prompts of the training files.

    The sampler chooses a round when its prompts are first asked for. It may have to choose the first round of a step
    before that step begins, so that images can be read ahead. So for a first round it knows the rollouts of all steps
    sampled by then, but never the probes of the round's own step. For later rounds of the step it knows these too.

    known: its method `read` is the sampler's `setup.read_rows`. None: the sampler reads no rows.
    """

    def __init__(
        self, name: str, sampler: PromptSampler, setup: SamplerSetup, known: KnownPrompts | None = None
    ) -> None:
        self.prompts_per_step = setup.prompts_per_step
        self._name, self._sampler, self._known = name, sampler, known
        of_files = {prompt.prompt_id: prompt for prompts in setup.sets for prompt in prompts}
        self._prompts, self._size = of_files if known is None else known.prompts, len(of_files)
        self._decided: dict[int, tuple[Prompt, ...]] = {}
        self._left_out: frozenset[str] = frozenset()
        self._initial = as_json(name, self.state(0))

    def __len__(self) -> int:
        return self._size

    @property
    def num_prompts(self) -> int:
        return len(self._prompts)

    def batch(self, step: int) -> tuple[Prompt, ...]:
        """The prompts of a round, all different. Raises ConfigError if they are not, or if one is not known.

        step: the number of the round, from 0.
        """
        if step not in self._decided:
            with self._calling(f"when it chose round {step}"):
                batch = tuple(self._sampler.batch(step, self._left_out))
            chosen = self._checked(batch, f"round {step}")
            self._decided = {round: prompts for round, prompts in self._decided.items() if round >= step - 1}
            self._decided[step] = chosen
        return self._decided[step]

    def probes(self, step: int, round: int) -> tuple[Prompt, ...]:
        """The prompts to probe before `step`. round: the next round to be sampled. The sampler always chooses this
        round's prompts before the probes, as it has to in a run that reads images ahead. So the choice is the same in a
        run that does not read ahead.
        """
        self.batch(round)
        with self._calling(f"when it chose the probes of step {step}"):
            chosen = tuple(self._sampler.probes(step))
        return self._checked(chosen, f"the probes of step {step}")

    def observe(
        self, rollouts: Sequence[PromptRollouts], step: int, left_out: Collection[str] = ()
    ) -> dict[str, float]:
        """Show the sampler the rollouts of a step. Returns its metrics, with names under `sampler/`.

        left_out: ids of prompts that cannot be read. The sampler gets them whenever it chooses a round from now on.
        """
        self._left_out = frozenset(left_out)
        with self._calling(f"when it observed step {step}"):
            metrics = {name: float(value) for name, value in self._sampler.observe(rollouts, step).items()}
        return {f"sampler/{name}": value for name, value in (metrics | self._known_metrics()).items()}

    def state(self, round: int) -> Mapping[str, Any]:
        """The state for a checkpoint, with the prompts that are already chosen for rounds from `round` on. round: the
        next to be sampled."""
        decided = {
            str(number): [p.prompt_id for p in chosen] for number, chosen in self._decided.items() if number >= round
        }
        left_out, rows = sorted(self._left_out), self._known.state() if self._known else []
        with self._calling("when it gave its state"):
            sampler = self._sampler.state()
        return {"name": self._name, "decided": decided, "left_out": left_out, "state": sampler, "rows": rows}

    def read_added(self, snapshots: Iterable[str]) -> None:
        if self._known is None:
            return
        for snapshot in snapshots:
            if state := sampler_state(snapshot):
                self._known.recall(state["rows"])

    def restore(self, state: Mapping[str, Any]) -> None:
        """{}: begin anew. Raises ConfigError for the state of another sampler."""
        if not state:
            state = json.loads(self._initial)
        if state["name"] != self._name:
            raise other_sampler(state["name"], self._name)
        if self._known is not None:
            self._known.restore(state["rows"])
        # A prompt is missing only if the file that added it is gone or has changed: `known.restore` warns of that.
        self._decided = {
            int(number): tuple(self._prompts[name] for name in ids if name in self._prompts)
            for number, ids in state["decided"].items()
        }
        self._left_out = frozenset(state["left_out"])
        with self._calling("when it got its state back"):
            self._sampler.restore(state["state"])

    def _calling(self, when: str) -> AbstractContextManager[None]:
        return calling(f"recipe.sampler: {self._name} failed {when}")

    def _known_metrics(self) -> dict[str, float]:
        return self._known.metrics() if self._known else {}

    def _checked(self, prompts: tuple[Prompt, ...], what: str) -> tuple[Prompt, ...]:
        other = [one for one in prompts if not isinstance(one, Prompt)]
        if other:
            raise ConfigError(
                f"recipe.sampler: {self._name} has something else than prompts in {what}; "
                f"got {other[0]!r}; give prompts of setup.sets"
            )
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
        return prompts
