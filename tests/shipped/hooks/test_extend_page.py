"""The method that docs/extend.md builds, as its page has it, trained on fakes."""

from __future__ import annotations

import ast
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mars.config.load import load_config
from mars.data.order.stream import PromptStream
from mars.data.pixels.transforming import try_transforms
from mars.errors import ConfigError
from mars.hooks.contract import SamplerSetup
from mars.hooks.load import load_sampler, resolved
from mars.hooks.of_workers import image_transforms, token_rule
from mars.quarantine import BadSamples, warn_of
from mars.types import RewardResult
from tests.builders import make_prompt
from tests.fakes.fit import fit_new_run
from tests.fakes.requests import with_requests
from tests.fakes.step import IMAGE, TableScorer, one_step, parts
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import loaded_hooks
from tests.shipped.recipes.token_facts import facts_of
from tests.unit.test_step import make_table
from tests.unit.test_step_async import settings

PAGE = (Path(__file__).parents[3] / "docs" / "extend.md").read_text(encoding="utf-8")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The section `recipe` of the page's YAML, composed as an experiment; its files are in the current folder."""
    monkeypatch.chdir(tmp_path)
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        name = re.match(r"# file: (\w+\.py)\n", text)
        if name:
            Path(name[1]).write_text(text, encoding="utf-8")
    (tmp_path / "experiment").mkdir()
    content: dict = {}
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        given = yaml.safe_load(text)
        content.setdefault("ramps", []).extend(given.pop("ramps", []))
        for section, values in given.items():
            merged = content.setdefault(section, {})
            merged |= {key: merged.get(key, []) + new if isinstance(new, list) else new for key, new in values.items()}
    header = "# @package _global_\n"
    (tmp_path / "experiment" / "own.yaml").write_text(header + yaml.safe_dump(content), encoding="utf-8")
    config = load_config("train", ["experiment=own", "data.train_files=[a]"], [str(tmp_path)])
    return resolved(config.recipe)


def with_shaping(recipe, name):
    """Without the shapings of other files."""
    return recipe.model_copy(update={"shaping": [spec for spec in recipe.shaping if f"{name}.py:" in spec]})


def test_the_requests_of_the_page_add_half_a_point_where_the_text_alone_is_enough(recipe):
    """The response of sample 1 of each view alone gives a right answer."""
    (prompt,) = [make_prompt("p0", [IMAGE] * 2, extra_info={"name": "p0"})]
    table = make_table([prompt], random.Random(0))
    hooks = loaded_hooks(with_shaping(recipe, "blind"))
    made = with_requests(parts(table), hooks)

    about = iter([k for size in (4, 2, 2) for k in range(size)])

    class Scorer(TableScorer):
        def _score(self, item):
            return RewardResult(9.0, float(next(about) == 1), {}) if item.extra else super()._score(item)

    result = one_step(replace(made, scorer=Scorer(table)), [prompt])
    (item,) = result.rollouts
    for group in (item.multi, *item.anchors):
        bonus = [r.reward.score - table["p0", group.request.view, r.index] for r in group.rollouts]
        assert bonus == pytest.approx([0.5 * (k == 1) for k in range(len(bonus))])
    blind = [request for request in made.engine.requests if request.extra]
    assert [request.images for request in blind] == [()] * 8
    assert result.metrics["extra/blind/accuracy/mean"] == 3 / 8


def test_the_shaping_of_the_page_pays_right_answers_that_the_reference_finds_likely(recipe):
    """The mean log-prob of sample k is -k; sample 3 has no answer, and its mean is NaN."""
    (prompt,) = [make_prompt("p0", [IMAGE] * 2, extra_info={"name": "p0"})]
    table = {key: float(key[2] != 2) for key in make_table([prompt], random.Random(0))}
    alone = with_shaping(recipe, "likely")
    with pytest.raises(ConfigError, match=r"likely:Likely\.signals: 'answer' needs a reference model"):
        loaded_hooks(alone)
    hooks = loaded_hooks(alone, with_reference=True)
    made = replace(parts(table), hooks=replace(hooks, requests=None))
    made.trainer.number = lambda spec, prompt, k, span: -float(k) if k < 3 else math.nan
    (item,) = one_step(made, [prompt]).rollouts
    assert [r.reward.score - table["p0", None, r.index] for r in item.multi.rollouts] == pytest.approx(
        [0.5, 0.5 * math.exp(-1), 0, 0]
    )
    assert [r.reward.parts["likely"] for group in item.anchors for r in group.rollouts] == [0, 0, 0, 0]
    assert [spec.name for spec in made.trainer.specs] == ["answer"]


def test_the_method_of_the_page_has_forty_lines():
    """Of code: without blank lines, comments and docstrings."""
    count = 0
    for file in ("own", "looking"):
        (text,) = re.findall(rf"```python\n# file: {file}\.py\n(.*?)```", PAGE, re.DOTALL)
        nodes = [*ast.walk(ast.parse(text))]
        documented = [node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        docstrings = sum(ast.get_docstring(node) is not None for node in documented)  # of one line each
        count += sum(bool(line.strip()) for line in text.splitlines()) - docstrings
    assert count == 40


def test_the_token_rule_of_the_page_doubles_what_depends_on_the_image(recipe):
    """Differences to the log-probs for black patches: 0.25, 0, 3 and -1 nat."""
    old = torch.tensor([-1.0, -2.0, -0.5, -4.0])
    rule = token_rule(recipe, with_reference=False, ramps=[])
    assert rule is not None
    terms = rule.apply(facts_of(old, old - torch.tensor([0.25, 0.0, 3.0, -1.0]), [3, 1]), {})
    assert terms.pg_weights.tolist() == [1.25, 1, 2, 1]
    assert (terms.advantages, terms.extra_loss, rule.measure(facts_of(old, old, [4]))) == (None, None, {})
    try_transforms(image_transforms(recipe, ramps=[]))
    assert [one.transform for one in rule.passes] == [*image_transforms(recipe, ramps=[])] == ["masked"]


def test_the_rule_of_the_page_lowers_the_weight_of_what_comes_again(recipe):
    prompts = [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(2)]
    hooks = loaded_hooks(with_shaping(recipe, "blind"), num_steps=3)
    made = replace(parts(make_table(prompts, random.Random(0))), hooks=hooks)
    fit_new_run(made, PromptStream(prompts, 2, 0, True), RecordingTracker(), settings(3))
    weights = [[r.weight for prompt in batch.prompts for r in prompt.responses] for batch in made.trainer.batches]
    assert weights == [pytest.approx([1.0] * 8), pytest.approx([2**-0.5] * 8), pytest.approx([3**-0.5] * 8)]


def test_the_sampler_of_the_page_comes_back_to_what_went_worst(recipe):
    """Every prompt once, then again and again the two of accuracy 0."""
    prompts = [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(6)]
    table = {key: float(key[0] not in ("p1", "p4")) for key in make_table(prompts, random.Random(0))}
    rounds = load_sampler(recipe, SamplerSetup((tuple(prompts),), None, True, 2, 4, seed=0), known=None, ramps=[])
    assert rounds is not None
    made, tracker = parts(table), RecordingTracker()
    fit_new_run(made, rounds, tracker, settings(6))
    drawn = [sorted(prompt.prompt_id for prompt in batch.prompts) for batch in made.trainer.batches]
    assert sorted(drawn[0] + drawn[1] + drawn[2]) == [prompt.prompt_id for prompt in prompts]
    assert drawn[3:] == [["p1", "p4"]] * 3
    assert tracker.metrics[-1][1]["sampler/mean_accuracy"] == 4 / 6


def test_the_sampler_of_the_page_leaves_prompts_alone_that_cannot_be_read(recipe):
    """Two of six prompts are unreadable. It knows nothing of them, but does not come back to them."""
    prompts = [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(6)]
    rounds = load_sampler(recipe, SamplerSetup((tuple(prompts),), None, True, 2, 4, seed=0), known=None, ramps=[])
    assert rounds is not None
    made, tracker = parts(make_table(prompts, random.Random(0))), RecordingTracker()
    made.engine.unreadable = {("p1", None): "gone", ("p4", None): "gone"}
    made = replace(made, bad_samples=BadSamples(0.5, 1000, {p.prompt_id: p for p in prompts}, warn_of))
    fit_new_run(made, rounds, tracker, settings(8))
    assert [row["mars/prompts_kept"] for _, row in tracker.metrics][-4:] == [2] * 4
    assert [row["mars/prompts_kept"] for _, row in tracker.metrics].count(2) >= 6
