"""Check, dry run, training, evaluation and cold start see the same prompts, problems and lengths in the same files."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from random import Random

import numpy as np
import pytest
from PIL import Image

from mars.checks import data as check_data
from mars.checks import dry_run
from mars.config.load import load_config
from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import num_image_tokens
from mars.data.prompts.chat import prompt_length
from mars.data.prompts.prepare import prepare_rows
from mars.data.rows.problems import report
from mars.errors import DataError
from mars.inputs import load_inputs, prompt_format, row_settings
from mars.supervised.rows import load_rows
from tests.examples import some

DEFECTS = (
    "false_truth", "no_truth", "missing", "damaged", "third", "special", "long", "strip", "choices", "repeated_id",
    "no_response",
)  # fmt: skip
# Their rows come last, each with one of these defects and up to one other.
FORMS = ("bad_choices", "half_pair", "half_pair_in_mono", "no_json")
BAD_CHOICES = ([None, "a"], ["x"] * 40, [["x"], ["y"]], {"A": "x", "C": "y"})  # by the row's number
HALF_PAIR = r"\ud800"  # in JSON text, half of a surrogate pair
EXCLUSIVE = ({"false_truth", "no_truth"}, {"missing", "strip"})
LIMITS = {"none": {}, "narrow": {"infrared": [784, 235200]}}
TEMPLATES = ("none", "grounding", "vqa", "own")
MAX_TOKENS = {"tight": 260, "wide": 4000}
OF_CHECK_ALONE = {"agreement", "overlap"}


def defects_of_rows() -> list[set[str]]:
    """Of each row: none, each one, and some several."""
    draw = Random(7)
    several = [set(draw.sample(DEFECTS, draw.randint(2, 5))) for _ in range(40)]
    fitting = [some for some in several if not any(pair <= some for pair in EXCLUSIVE)]
    forms = [{"bad_choices"}] * len(BAD_CHOICES) + [{form} for form in FORMS[1:]]
    forms += [{form, other} for form in FORMS[:3] for other in ("no_truth", "damaged", "special", "no_response")]
    return [set(), *({defect} for defect in DEFECTS), *fitting[:14], *forms, set()]


ROWS = defects_of_rows()


def row(number: int, defects: set[str]) -> dict:
    images = ["visible.png", "missing.png" if "missing" in defects else "infrared.png"]
    images[1] = "strip.png" if "strip" in defects else images[1]
    images[0] = "damaged.png" if "damaged" in defects else images[0]
    names = ["visible", "infrared"]
    if "third" in defects:
        images, names = [*images, "depth.png"], [*names, "depth"]
    text = "<image>" * len(images) + f"\nFind person {number}." + " word" * (400 if "long" in defects else 0)
    prompt = [{"role": "user", "content": text + ("<|im_end|>" if "special" in defects else "")}]
    choices = ["a person", "none"] if "choices" in defects else None
    return {
        "data_source": "test",
        "prompt": json.dumps(prompt).replace("Find", HALF_PAIR) if "half_pair" in defects else prompt,
        "images": images,
        "reward_model": {
            "ground_truth": None if "no_truth" in defects else
                            "[[9, 9, 1, 1]]" if "false_truth" in defects else "[[1, 2, 20, 30]]"
        },
        "extra_info": {
            "id": "0" if "repeated_id" in defects else str(number),
            "sources": names,
            "choices": BAD_CHOICES[number % len(BAD_CHOICES)] if "bad_choices" in defects else choices,
        },
        "mono_responses": f'{{"visible": "{HALF_PAIR}"}}' if "half_pair_in_mono" in defects else None,
        "response": None if "no_response" in defects else "<think>Here.</think><answer>[]</answer>",
    }  # fmt: skip


@dataclass(frozen=True)
class Case:
    limit: str
    template: str
    max_tokens: str

    def reasons(self, defects: set[str], cold_start: bool) -> set[str]:
        """What each way to read the row must find: independent of `mars`, from the defects alone."""
        if "no_json" in defects:
            return {"json"}
        found = {"truth"} if "no_truth" in defects else set()
        found |= {"image_missing"} if "missing" in defects else set()
        found |= {"image_undecodable"} if "damaged" in defects else set()
        found |= {"special_token"} if "special" in defects else set()
        found |= {"response"} if "no_response" in defects and cold_start else set()
        found |= {"value"} if "half_pair" in defects else set()
        found |= {"choices"} if "bad_choices" in defects else set()
        # Of a text that is not Unicode, nobody knows whether it has special tokens.
        found -= {"special_token"} if "half_pair" in defects else set()
        if defects & {"missing", "special", "half_pair", "bad_choices"}:
            return found  # no question with all its images: nothing else can be known
        found |= {"value"} if "half_pair_in_mono" in defects else set()
        found |= {"truth"} if "false_truth" in defects and not cold_start else set()
        found |= {"duplicate_id"} if "repeated_id" in defects else set()
        found |= {"num_images"} if "third" in defects and not cold_start else set()
        narrow = "strip" in defects and self.limit == "narrow"
        marker_added = "choices" in defects and self.template == "own"
        found |= {"image_size"} if narrow else set()
        found |= {"template"} if marker_added else set()
        if self.max_tokens == "tight" and defects & {"long", "strip"} and not narrow and not marker_added:
            found |= {"overlong"}
        return found


CASES = [Case(*values) for values in product(LIMITS, TEMPLATES, MAX_TOKENS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    noise = np.random.default_rng(5)
    for name in ("visible", "infrared", "depth", "damaged"):
        Image.fromarray(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    damaged = bytearray((folder / "damaged.png").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (folder / "damaged.png").write_bytes(damaged)
    Image.new("RGB", (10600, 53)).save(folder / "strip.png")
    (folder / "own.jinja").write_text("{{ question }}{% if choices %}<image>{% endif %} Answer with a box.")
    lines = ["{bad" if "no_json" in some else json.dumps(row(i, some)) for i, some in enumerate(ROWS)]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "more.jsonl").write_text("".join(f"{line}\n" for line in lines[:4]))
    return folder


@pytest.fixture(scope="module")
def configs(tiny, folder):
    """(training, cold start) of a case and a policy; composed once."""
    shared = [f"model.path={tiny}", f"data.train_files=[{folder / 'rows.jsonl'}]", "data.min_image_pixels=784",
              "data.max_image_pixels=1003520"]  # fmt: skip
    own = [f"data.eval_files=[{folder / 'more.jsonl'}]", "data.images_per_row=2"]
    composed = load_config("train", [*shared, *own], []), load_config("sft", [*shared, "sft.batch_size=1"], [])

    def make(case: Case, policy: str):
        changes = {
            "source_image_pixels": LIMITS[case.limit],
            "template": str(folder / "own.jinja") if case.template == "own" else case.template,
            "max_prompt_tokens": MAX_TOKENS[case.max_tokens],
            "on_bad_sample": policy,
        }
        return tuple(c.model_copy(update={"data": c.data.model_copy(update=changes)}) for c in composed)

    return make


@pytest.fixture
def dry_run_inputs(monkeypatch):
    """config -> what `--dry-run` goes on with."""
    seen = []
    monkeypatch.setattr(dry_run, "summary", lambda config, inputs: seen.append(inputs) or [])
    monkeypatch.setattr(dry_run, "sample_lines", lambda config, inputs, warn: [])
    monkeypatch.setattr(dry_run, "memory_lines", lambda config: [])
    monkeypatch.setattr(dry_run, "model_check", lambda config, in_process: nullcontext())

    def load(config):
        dry_run.report(config)
        return seen[-1]

    return load


def reasons_by_row(problems) -> list[set[str]]:
    found = [set() for _ in ROWS]
    for problem in problems:
        found[int(problem.row.rpartition(":")[2])].add(problem.reason)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.limit}-{case.template}-{case.max_tokens}")
def test_all_commands_see_the_same(case, configs, folder, dry_run_inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = str(folder / "rows.jsonl")
    strict, cold_strict = configs(case, "error")
    lenient, cold_lenient = configs(case, "drop")
    checked = check_data.check(strict, [file], [])
    bad = [problem for problem in checked.problems if problem.reason not in OF_CHECK_ALONE]
    told = sorted([*bad, *checked.overlong], key=lambda problem: int(problem.row.rpartition(":")[2]))
    expected = [case.reasons(some, cold_start=False) for some in ROWS]
    assert reasons_by_row(told) == expected
    assert len(told) == sum(map(len, expected)), "each problem once"

    # Training and the dry run refuse with exactly these problems, and those of the evaluation set.
    more = check_data.check(strict, [], [str(folder / "more.jsonl")])
    told += [problem for problem in more.problems if problem.reason not in OF_CHECK_ALONE] + more.overlong
    for load in (lambda config: load_inputs(config, with_training_set=True), dry_run_inputs):
        with pytest.raises(DataError) as refused:
            load(strict)
        assert str(refused.value) == report(told, checked.num_rows + more.num_rows)
        inputs = load(lenient)
        good = [i for i, reasons in enumerate(expected) if not reasons]
        assert [prompt.row for prompt in inputs.train.prompts] == [f"{file}:{i}" for i in good]
        assert inputs.train.prompts == tuple(p for p in checked.rendered if p.row in inputs.train.lengths)
        assert inputs.train.lengths == {p.row: checked.lengths[p.row] for p in inputs.train.prompts}
        assert sum(inputs.train.dropped.values()) == len(ROWS) - len(good)
        assert [p.row for p in inputs.evaluation.prompts] == [
            f"{folder / 'more.jsonl'}:{i}" for i in good if i < more.num_rows
        ]

    # The cold start knows no reward and no fixed number of images, and needs responses; the rest is the same.
    form = prompt_format(cold_strict)
    cold = prepare_rows([file], row_settings(cold_strict, form))
    expected = [case.reasons(some, cold_start=True) for some in ROWS]
    assert reasons_by_row(cold.problems) == expected
    shared = {p for p in told if p.row.startswith(file) and p.reason != "num_images"}
    shared = {p for p in shared if p.reason != "truth" or "no ground truth" in p.detail}
    assert {problem for problem in cold.problems if problem.reason != "response"} == shared
    assert cold.rendered == checked.rendered
    assert cold.lengths == checked.lengths
    with pytest.raises(DataError) as refused:
        load_rows(cold_strict)
    assert str(refused.value) == report(cold.problems, len(ROWS))
    kept = load_rows(cold_lenient).train
    assert [p.row for p in kept.prompts] == [f"{file}:{i}" for i, reasons in enumerate(expected) if not reasons]
    assert sum(kept.dropped.values()) == sum(map(bool, expected))


@pytest.mark.parametrize("place", [0, 2])
def test_all_commands_leave_out_one_bad_line_of_a_chat_file(place, configs, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    answer = "<think>Here.</think><answer>[[1, 2, 20, 30]]</answer>"
    turns = [{"from": "human", "value": "<image><image>Where?"}, {"from": "gpt", "value": answer}]
    lines = [json.dumps({"conversations": turns, "images": ["visible.png", "infrared.png"]})] * 3
    lines.insert(place, "{bad")
    chat = folder / f"chat_{place}.jsonl"
    chat.write_text("\n".join(lines))
    files = {"train_files": [str(chat)], "eval_files": []}
    strict, cold = (c.model_copy(update={"data": c.data.model_copy(update=files)}) for c in configs(CASES[1], "drop"))
    checked = check_data.check(strict, [str(chat)], [])
    assert [(p.row, p.reason) for p in checked.problems if p.reason != "agreement"] == [(f"{chat}:{place}", "json")]
    good = [f"{chat}:{i}" for i in range(4) if i != place]
    assert [prompt.row for prompt in load_inputs(strict, with_training_set=True).train.prompts] == good
    assert [prompt.row for prompt in load_rows(cold).train.prompts] == good


@pytest.fixture(scope="module")
def picky(tiny, tmp_path_factory):
    """The tiny model, with a chat template that refuses a conversation of several turns whose first has no image."""
    model = shutil.copytree(tiny, tmp_path_factory.mktemp("picky") / "model")
    refuse = "{{ raise_exception('the first turn needs an image') }}"
    guard = f"{{%- if messages | length > 1 and messages[0].content is string -%}}{refuse}{{%- endif -%}}"
    template = model / "chat_template.jinja"
    template.write_text(guard + template.read_text())
    return model


# What training shows besides the multi view: a view of one image has a first turn without an image.
@pytest.mark.parametrize(("kind", "shown"), some([("none", False), ("mono", True), ("all_but_one", True),
                                                  ("forced_source", False)], 2))  # fmt: skip
def test_a_row_is_checked_on_the_views_that_its_own_set_shows(kind, shown, picky, folder, tmp_path, monkeypatch):
    """The training set never depends on the evaluation files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    turns = [("user", "<image>This is one."), ("assistant", "Yes."), ("user", "<image>This is another. Where?")]
    rows = [row(0, set()), row(1, set())]
    rows[1]["prompt"] = [{"role": role, "content": text} for role, text in turns]
    files = [folder / f"views_{name}.jsonl" for name in ("train", "test")]
    for file in files:
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    train, test = map(str, files)
    start = ["anchor.forced_start='{source}'"] if kind == "forced_source" else []
    given = [f"model.path={picky}", f"data.train_files=[{train}]", f"anchor={kind}", *start]

    def inputs(policy, eval_files):
        changes = [f"data.on_bad_sample={policy}", f"data.eval_files={eval_files}"]
        return load_inputs(load_config("train", [*given, *changes], []), with_training_set=True)

    bad = [f"{train}:1", f"{test}:1"] if shown else [f"{test}:1"]
    checked = check_data.check(load_config("train", given, []), [train], [test])
    found = [problem for problem in checked.problems if problem.reason not in OF_CHECK_ALONE]
    assert [(problem.row, problem.reason) for problem in found] == [(place, "chat_template") for place in bad]
    with pytest.raises(DataError) as refused:
        inputs("error", [test])
    assert str(refused.value) == report(found, 4)
    alone, both = inputs("drop", []).train, inputs("drop", [test]).train
    assert len(alone.prompts) == 2 - shown
    assert alone == both


@pytest.mark.parametrize("kind", ["none", "mono"])
@pytest.mark.parametrize("how", ["anchor.image_layout=repeated", "anchor.wording=per_view"])
def test_a_length_counts_the_views_that_its_own_set_shows(kind, how, tiny, folder, tmp_path, monkeypatch):
    """A mono view that is longer than the multi view counts only where it is shown."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (224, 224)).save(folder / "large.png")
    (folder / "longer.jinja").write_text("{{ question }}{{ ' word' * (40 if sources | length == 1 else 1) }}")
    file, held_out = folder / "lengths.jsonl", folder / "lengths_test.jsonl"
    for path in (file, held_out):
        path.write_text(json.dumps(row(0, set()) | {"images": ["visible.png", "large.png"]}))
    template = "none" if "repeated" in how else folder / "longer.jinja"
    given = [f"model.path={tiny}", f"data.train_files=[{file}]", f"data.eval_files=[{held_out}]", f"anchor={kind}"]
    config = load_config("train", [*given, how, f"data.template={template}"], [])
    inputs = load_inputs(config, with_training_set=True)

    def longest(prompt, views):
        return max(
            prompt_length(ids, [num_image_tokens(decoded_size(image), inputs.budget) for image in images])
            for ids, images in (inputs.encode(prompt, view) for view in views)
        )

    mono = [None, ("visible",), ("infrared",)]
    (trained,), (evaluated,) = inputs.train.prompts, inputs.evaluation.prompts
    assert inputs.evaluation.lengths[evaluated.row] == longest(evaluated, mono) > longest(evaluated, mono[:1])
    assert inputs.train.lengths[trained.row] == longest(trained, mono if kind == "mono" else mono[:1])
    checked = check_data.check(config, [str(file)], [str(held_out)])
    assert checked.lengths == {**inputs.train.lengths, **inputs.evaluation.lengths}


def test_the_cases_hold_every_defect_and_every_reason():
    assert {defect for some in ROWS for defect in some} == {*DEFECTS, *FORMS}
    reasons = {r for case in CASES for some in ROWS for cold in (True, False) for r in case.reasons(some, cold)}
    assert reasons == {"truth", "image_missing", "image_undecodable", "special_token", "response", "duplicate_id",
                       "num_images", "image_size", "template", "overlong", "value", "choices", "json"}  # fmt: skip
