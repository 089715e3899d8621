"""The base class of all sections of settings: strict, frozen and without defaults."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from mars.config.rules import Rule, broken_rules


class Section(BaseModel):
    """Settings that belong together, passed as they are to the class or function that reads them.

    A section can be pickled, and so sent to a worker.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def dotted(self, prefix: str = "") -> dict[str, Any]:
        """Dotted key -> value: {"rollout.top_p": 0.9, "rollout.vllm.block_size": 32, ...} of a whole configuration."""
        values: dict[str, Any] = {}
        for name, value in self:
            values |= value.dotted(f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
        return values


class Root(Section):
    """A whole configuration. Creating one checks the rules between settings: `RULES`, or those that the context of
    pydantic's validation gives."""

    RULES: ClassVar[tuple[Rule, ...]]

    @model_validator(mode="after")
    def _fit_together(self, info: ValidationInfo) -> Self:
        rules = self.RULES if info.context is None else info.context
        problems = list(broken_rules(rules, self.dotted()))
        if problems:
            raise ValueError("\n".join(str(problem) for problem in problems))
        return self
