"""Whatever JSON a record holds, it becomes a row or a RowError."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.convert.eval_json import eval_json_set
from mars.data.convert.jsonl import jsonl_set
from mars.data.convert.spatialqa import spatialqa_set
from mars.data.pixels.images import probe_size
from mars.data.rows.dataset import read_row
from mars.data.rows.files import StoredRow
from mars.data.rows.problems import RowError
from tests.examples import examples

TALK = [{"from": "human", "value": "<image 1><image 2>\nA?"}, {"from": "gpt", "value": "Yes"}]
RECORDS = [
    {"id": "a", "image": ["a/1.jpg", "a_d/1.png"], "conversations": TALK, "choice_list": ["x", "y"]},
    {"image": "a/1.jpg", "question": "A?", "answer": "Yes"},
    {
        "sample_id": 1,
        "task_instruction_id": 0,
        "task_instance": {"context": "{image#1} A?", "images_path": ["a/1.jpg"], "choice_list": ["x"]},
        "response": "x",
    },
    {
        "role": "user",
        "content": [{"type": "image", "image": "a/1.jpg"}, {"type": "text", "text": "A?"}],
        "ground_truth": [[1, 2, 3, 4]],
        "extra_info": {"sample_id": 3, "choices": None},
    },
    {
        "data_source": "x",
        "prompt": [{"role": "user", "content": "<image>A?"}],
        "images": [{"path": "a/1.jpg"}],
        "reward_model": {"ground_truth": "x"},
        "extra_info": {"sources": ["s"], "encodings": ["rgb"], "choices": {"A": "x"}},
    },
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*path, key))


def replaced(record, path, value):
    if not path:
        return value
    record = copy.deepcopy(record)
    target = record
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return record


@pytest.mark.parametrize("kind", ["spatialqa", "eval_json", "jsonl"])
@examples(150)
@given(data=st.data())
def test_any_value_in_any_place(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("any")
    record = data.draw(st.sampled_from(RECORDS))
    record = replaced(record, data.draw(st.sampled_from(list(places(record)))), data.draw(ANY_JSON))
    (folder / "set.json").write_text(json.dumps({"data": [record], "metadata": {"task_instruction": ["Do."]}}))
    file = folder / "set.json"
    if kind == "spatialqa":
        public = spatialqa_set(file, None, "depth_clip")
    else:
        public = {"eval_json": eval_json_set, "jsonl": jsonl_set}[kind](file, None, "depth_clip", None)
    for item in next(iter(public.splits.values())):
        try:
            columns = public.read(item).columns
        except RowError:
            continue
        stored = StoredRow(str(file), 0, 0, columns)
        result = read_row(stored, "", str(folder), lambda prompt: None, probe_size)
        assert result.prompt is None or result.prompt.sources == ()  # there is no image file
