"""The files with which a recipe of your own begins. They run without changes."""

from __future__ import annotations

from pathlib import Path

_README = """\
# {name}

{name} gives a bonus to the shortest right response of a prompt.

**Idea.** One sentence on why. **Formula.** score <- score + bonus for the right response with the fewest tokens.

| setting | value | source |
|---|---|---|
| `recipe.settings.{name}.bonus` | 0.2 | ours |

**Anchors.** The bonus compares a response with its group, so anchors do not get it (`on = "multi"`).

```bash
mars train --config-dir {home} experiment={name} data.train_files=[rows.jsonl]
```
"""

_FUNCTIONS = '''\
"""{name}: a bonus for the shortest right response. docs/extend.md of mars describes all hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mars.hooks.contract import StepFacts
from mars.types import PromptRollouts


@dataclass(frozen=True)
class Settings:
    """bonus: added to the score, in units of the reward."""

    bonus: float


class ShortestRight:
    """A `GroupShaping`: `bonus` for the response with the fewest tokens among those with accuracy 1."""

    part, on = "shortest_right", "multi"

    def __call__(self, item: PromptRollouts, facts: StepFacts) -> Sequence[float]:
        right = [r for r in item.multi.valid if r.reward.accuracy == 1]
        shortest = min(right, key=lambda r: len(r.completion.token_ids), default=None)
        return [facts.settings.bonus * (r is shortest) for group in item.multi_groups for r in group.rollouts]
'''

_EXPERIMENT = """\
# @package _global_
run:
  name: {name}

recipe:
  shaping: [{home}/functions.py:ShortestRight]
  settings:
    {name}:
      bonus: 0.2
"""


def recipe_files(name: str, home: Path) -> dict[Path, str]:
    """Path -> text, for a recipe in the folder `home`. `home` is relative to the folder in which runs will start."""
    texts = {"README.md": _README, "functions.py": _FUNCTIONS, f"experiment/{name}.yaml": _EXPERIMENT}
    return {home / path: text.format(name=name, home=home.as_posix()) for path, text in texts.items()}
