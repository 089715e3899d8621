"""`mars eval infer` with a scripted engine: what is asked, kept, asked again and refused."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from mars.data.prompts.views import anchor_views
from mars.errors import DataError, SetupError
from mars.evaluation.ask import Questions, infer
from mars.evaluation.files import read_results, result_paths
from mars.evaluation.fingerprints import model_fingerprint
from mars.evaluation.public import public_entries
from mars.report.scores import score_file
from mars.rollout.plan import RolloutPlan
from mars.rollout.scripted import ScriptedEngine
from mars.types import ImageRef, Sampling
from tests.builders import make_prompt

EOS = 9
SOURCES = {"a": ["visible", "infrared"], "b": ["visible", "infrared"], "c": ["alone"]}
IMAGE = ImageRef("/nowhere/x.png", (100, 50), resized=(56, 28))
YES = [ord(char) for char in "<answer>yes</answer>"]
NO = [ord(char) for char in "<answer>no</answer>"]


def script(request, k):
    """Right on infrared and on all together, cut off by the limit on the visible image alone."""
    if request.view == ("visible",):
        return NO * 9
    return (*(YES if request.view in (None, ("infrared",)) else NO), EOS)


@dataclass
class World:
    """An engine that counts its starts and may stop after some samples, and questions to ask it."""

    questions: Questions
    starts: int = 0
    asked: Counter = field(default_factory=Counter)
    stop_after: int | None = None

    @contextmanager
    def engine(self):
        self.starts += 1
        scripted, world = ScriptedEngine(script, [EOS]), self

        class Engine:
            def generate(self, requests):
                world.asked.update((request.prompt_id, request.view) for request in requests)
                # Last things first: the order of the stream says nothing.
                for done, batch in enumerate(reversed(list(scripted.generate(requests)))):
                    if world.stop_after is not None and done >= world.stop_after:
                        raise KeyboardInterrupt
                    yield batch

        yield Engine()

    def infer(self, paths, which="all"):
        return infer(self.questions, paths, which, self.engine)


@pytest.fixture
def world():
    return World(make_questions())


def make_questions(samples=1, seed=0, **identity):
    prompts = [make_prompt(name, [IMAGE] * len(names), names) for name, names in SOURCES.items()]
    sampling = Sampling(1.0, 1.0, 0, 60)
    encode = lambda prompt, view: ((1, 2), (IMAGE,) * (len(prompt.sources) if view is None else 1))  # noqa: E731
    plan = RolloutPlan(samples, samples, sampling, sampling, partial(anchor_views, anchor_kind="mono"), encode, seed)
    return Questions(
        prompts=prompts,
        requests=plan.requests(prompts, 0),
        decode=lambda ids: "".join(chr(token) for token in ids if token != EOS),
        frames=lambda prompt, view: ((100, 50), (50, 50)),
        prompt_length=lambda request: 10 * len(request.images),
        identity={"model": "m", "model_fingerprint": None, "seed": seed, **identity},
        dropped={"truth": 1},
        max_bad_fraction=0.5,
    )


def records(paths):
    return [json.loads(text) for text in paths.answers.read_text().splitlines()]


def test_every_view_is_asked_once_and_all_is_kept(world, tmp_path):
    paths = result_paths(tmp_path / "out")
    files = world.infer(paths)
    assert world.starts == 1
    assert world.asked == Counter(
        [("a", None), ("a", ("visible",)), ("a", ("infrared",)),
         ("b", None), ("b", ("visible",)), ("b", ("infrared",)), ("c", None)]
    )  # fmt: skip
    by_key = {(record["prompt_id"], str(record["view"])): record for record in records(paths)}
    assert len(by_key) == 7
    multi, visible = by_key["a", "None"], by_key["a", "['visible']"]
    assert (multi["text"], multi["finish_reason"], multi["response_tokens"]) == ("<answer>yes</answer>", "stop", 21)
    assert (visible["finish_reason"], visible["response_tokens"]) == ("length", 60)
    assert (multi["prompt_tokens"], visible["prompt_tokens"]) == (20, 10)
    assert (multi["truth"], multi["truth_size"], multi["response_size"]) == ("yes", [100, 50], [50, 50])
    assert [file.name for file in files] == ["answers.jsonl", "multi.json", "mono_visible.json", "mono_infrared.json"]
    public = json.loads((tmp_path / "out" / "multi.json").read_text())
    assert public == [{"content": ["<answer>yes</answer>"], "ground_truth": "yes"}] * 3
    result = score_file(tmp_path / "out", "vqa", 0.5, None)[1]
    assert (result["multi"]["mean"], result["mono"]["visible"]["mean"], result["union"]["mean"]) == (1, 0, 1)
    assert (result["cut_off"], result["dropped"], result["model"]) == (2, {"truth": 1}, "m")


def test_images_are_read_back_as_they_were_shown(world, tmp_path):
    world.infer(result_paths(tmp_path / "out"))
    answers = read_results(tmp_path / "out").answers
    assert {source.image for answer in answers for source in answer.sources} == {IMAGE}


def test_public_files_give_the_same_numbers_as_ours(world, tmp_path):
    world.infer(result_paths(tmp_path / "out"))
    ours = score_file(tmp_path / "out", "vqa", 0.5, None)[1]
    theirs = score_file(tmp_path / "out" / "multi.json", "vqa", 0.5, None)[1]
    assert ours["multi"] == theirs["multi"]
    assert score_file(tmp_path / "out" / "mono_visible.json", "vqa", 0.5, None)[1]["multi"] == ours["mono"]["visible"]


@pytest.mark.parametrize("done", range(8))
def test_an_interrupted_call_goes_on_where_it_ended(world, tmp_path, done):
    whole, paths = result_paths(tmp_path / "whole"), result_paths(tmp_path / "cut")
    world.infer(whole)
    world.asked.clear()
    world.stop_after = done
    if done < 7:
        with pytest.raises(KeyboardInterrupt):
            world.infer(paths)
        assert len(records(paths)) == done, "what came is on disk at once"
        with pytest.raises(DataError, match="answers are missing"):
            read_results(paths.folder)
    world.asked.clear()
    world.stop_after = None
    world.infer(paths)
    assert sum(world.asked.values()) == 7 - (done if done < 7 else 0)
    assert read_results(paths.folder).answers == read_results(whole.folder).answers
    starts = world.starts
    world.infer(paths)
    assert world.starts == starts, "nothing is missing: no engine starts"


@pytest.mark.parametrize("cut", [1, 30, 600])
def test_a_cut_last_line_is_left_out_with_a_notice(world, tmp_path, caplog, cut):
    paths = result_paths(tmp_path / "out")
    world.infer(paths)
    before = read_results(paths.folder).answers
    content = paths.answers.read_bytes()
    assert len(content.splitlines()[-1]) > 601
    paths.answers.write_bytes(content[: -cut - 1])
    world.asked.clear()
    world.infer(paths)
    assert sum(world.asked.values()) == 1
    assert "the last line was cut off" in caplog.text
    assert read_results(paths.folder).answers == before


def test_a_cut_of_the_newline_alone_loses_nothing(world, tmp_path):
    paths = result_paths(tmp_path / "out")
    world.infer(paths)
    paths.answers.write_bytes(paths.answers.read_bytes()[:-1])
    world.infer(paths)
    assert world.starts == 1
    assert len(read_results(paths.folder).answers) == 7


def test_a_damaged_line_in_the_middle_is_refused(world, tmp_path):
    paths = result_paths(tmp_path / "out")
    world.infer(paths)
    lines = paths.answers.read_text().splitlines()
    lines[2] = lines[2][:50]
    paths.answers.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"1 of 7 lines cannot be used\n.*answers\.jsonl:2 "):
        world.infer(paths)


def test_a_question_with_some_of_its_samples_is_asked_again_as_a_whole(tmp_path):
    world, paths = World(make_questions(samples=3)), result_paths(tmp_path / "out")
    world.infer(paths)
    before = read_results(paths.folder).answers
    lines = paths.answers.read_text().splitlines(keepends=True)
    assert len(lines) == 21
    paths.answers.write_text("".join(lines[:-1]))
    world.asked.clear()
    world.infer(paths)
    assert sum(world.asked.values()) == 1
    assert read_results(paths.folder).answers == before
    entries = json.loads(paths.public(None).read_text())
    assert [len(entry["content"]) for entry in entries] == [3, 3, 3]


def test_views_asked_one_after_the_other_make_one_result(world, tmp_path):
    paths = result_paths(tmp_path / "out")
    world.infer(paths, "multi")
    assert set(world.asked) == {("a", None), ("b", None), ("c", None)}
    assert not (tmp_path / "out" / "mono_visible.json").exists()
    world.asked.clear()
    world.infer(paths, "mono")
    assert None not in {view for _, view in world.asked}
    assert json.loads(paths.manifest.read_text())["asked"] == {"multi": 3, "visible": 2, "infrared": 2}
    assert score_file(tmp_path / "out", "vqa", 0.5, None)[1]["information_gain"]["mean"] == 0.5


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"model_fingerprint": "1"}, {"questions": "q"}, {"seed": 1}, {"template": "new"}]
)
def test_answers_of_another_model_or_other_questions_are_not_mixed(world, tmp_path, change):
    paths = result_paths(tmp_path / "out")
    world.infer(paths)
    before = paths.answers.read_bytes()
    world.questions = replace(world.questions, identity={**world.questions.identity, **change})
    with pytest.raises(
        DataError, match=f"another model, other questions or settings:\n  {next(iter(change))}: in the file"
    ):
        world.infer(paths)
    assert paths.answers.read_bytes() == before
    assert world.starts == 1


def test_a_call_that_ended_before_the_first_answer_binds_nobody(tmp_path):
    """No engine started, say: the next call may have other settings and ask for other views."""
    paths = result_paths(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        World(make_questions(seed=1), stop_after=0).infer(paths)
    assert paths.answers.read_bytes() == b""
    World(make_questions(seed=2)).infer(paths, "multi")
    manifest = json.loads(paths.manifest.read_text())
    assert (manifest["identity"]["seed"], manifest["asked"]) == (2, {"multi": 3})
    assert score_file(tmp_path / "out", "vqa", 0.5, None)[1]["multi"]["n"] == 3


def test_the_same_weights_at_another_place_go_on(tmp_path):
    paths = result_paths(tmp_path / "out")
    World(make_questions(model="here", model_fingerprint="f")).infer(paths, "multi")
    World(make_questions(model="there", model_fingerprint="f")).infer(paths, "all")


def test_two_processes_do_not_write_one_result(world, tmp_path):
    paths = result_paths(tmp_path / "out")
    paths.folder.mkdir()
    with paths.lock.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SetupError, match="another process writes these results"):
            world.infer(paths)
    world.infer(paths)


def test_no_question_of_several_sources_has_no_mono_view(world, tmp_path):
    questions = world.questions
    world.questions = replace(questions, requests=[r for r in questions.requests if r.prompt_id == "c"])
    with pytest.raises(DataError, match="--views mono: no question has two sources"):
        world.infer(result_paths(tmp_path / "out"), "mono")


def test_a_json_file_as_out_is_the_public_file_with_the_others_beside_it(world, tmp_path):
    files = world.infer(result_paths(tmp_path / "new" / "x.json"))
    assert sorted(file.name for file in files) == ["x.json", "x.jsonl", "x.mono_infrared.json", "x.mono_visible.json"]
    assert score_file(tmp_path / "new" / "x.json", "vqa", 0.5, None)[1]["n"] == 3
    assert score_file(tmp_path / "new" / "x.jsonl", "vqa", 0.5, None)[1]["union"]["mean"] == 1


def test_boxes_are_lists_in_the_public_format(world, tmp_path):
    paths = result_paths(tmp_path / "out")
    world.infer(paths)
    answer = read_results(paths.folder).answers[0]
    truth = '[{"bbox_2d": [1, 2, 3, 4], "label": "person"}, [5, 6, 7, 8]]'
    assert public_entries([replace(answer, truth=truth)])[0]["ground_truth"] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert public_entries([replace(answer, truth="3")])[0]["ground_truth"] == "3", "a text stays a text"


def test_a_fingerprint_tells_weights_apart_and_not_places(tmp_path):
    prints = []
    for name, content in (("one", b"w" * 5000), ("two", b"w" * 5000), ("three", b"w" * 4999 + b"v")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(content)
        prints.append(model_fingerprint(str(folder)))
    assert prints[0] == prints[1] != prints[2]
    assert model_fingerprint("Qwen/Qwen2.5-VL-3B-Instruct") is None
