import io
import json
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mars.data.convert.eval_json import read_json_rows
from mars.data.pixels.images import decode_image
from mars.data.prompts.views import anchor_views
from mars.data.rows.dataset import read_prompts, undecodable
from mars.errors import DataError
from mars.types import ImageRef, Message
from tests.builders import load_prompts


def any_truth(prompt):
    return None


def picture(path, size=(32, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("v0", "v1", "i0", "i1", "d"):
        picture(tmp_path / "img" / f"{name}.png")
    return tmp_path


def verl_row(images=("img/v0.png", "img/i0.png"), text=None, **changes):
    text = "<image>" * len(images) + "How many?" if text is None else text
    row = {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": text}],
        "images": [{"bytes": None, "path": path} for path in images],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 0},
    }
    return row | changes


def jsonl(folder, rows, name="a.jsonl"):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def parquet(folder, rows, name="a.parquet", **options):
    path = folder / name
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return str(path)


def load(*files, root=None, policy="error", check=any_truth):
    return load_prompts(list(files), root, policy, check)


def refused(folder, row, fragment, policy="error"):
    """Loading one bad and one good row names the bad one; dropping leaves the good one."""
    file = jsonl(folder, [verl_row(), row])
    with pytest.raises(DataError) as caught:
        load(file)
    assert f"{file}:1 " in str(caught.value)
    assert fragment in str(caught.value), str(caught.value)
    assert "1 of 2 rows" in str(caught.value)
    kept = load(file, policy="drop")
    assert len(kept.prompts) == 1
    return kept.dropped


def test_a_verl_parquet(folder):
    extra = {"id": "x7", "index": 3, "split": "train", "sources": ["visible", "infrared"]}
    extra |= {"image_sizes": [[32, 24], [32, 24]], "box_space": "original_pixels", "choices": None}
    system = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "<image>\n<image>\nWhere?"}]
    file = parquet(folder, [verl_row(prompt=system, extra_info=extra), verl_row(extra_info=extra | {"id": "x8"})])
    loaded = load(file)
    first = loaded.prompts[0]
    assert first.messages == (Message("system", "Be short."), Message("user", "<image>\n<image>\nWhere?"))
    assert [source.name for source in first.sources] == ["visible", "infrared"]
    assert first.sources[1].image == ImageRef(str(folder / "img" / "i0.png"), (32, 24), "rgb")
    assert (first.data_source, first.truth, first.row, first.response) == ("toy", "2", f"{file}:0", None)
    assert first.extra_info["id"] == "x7"
    assert loaded.dropped == {}
    assert anchor_views(first, "mono") == (("visible",), ("infrared",))


def test_any_number_of_sources_by_row(folder):
    one, two, three = ["img/v0.png"], ["img/v0.png", "img/i0.png"], ["img/v0.png", "img/i0.png", "img/d.png"]
    loaded = load(
        jsonl(folder, [verl_row(one), verl_row(three), verl_row([]), verl_row(two), verl_row([]) | {"images": None}])
    )
    names = [[source.name for source in prompt.sources] for prompt in loaded.prompts]
    assert names == [["image"], ["view_1", "view_2", "view_3"], [], ["view_1", "view_2"], []]


def test_easyr1_rows_and_image_forms(folder):
    rows = [
        {"problem": "<image>How many?", "answer": "3", "images": ["img/v0.png"]},
        {"prompt": "<image>How many?", "answer": 4, "images": ["img/v0.png"]},
        {"prompt": "<image>How many?", "answer": "5", "image": {"bytes": None, "path": "img/v0.png"}},
    ]
    loaded = load(jsonl(folder, rows, "easy.jsonl"))
    assert [prompt.truth for prompt in loaded.prompts] == ["3", "4", "5"]
    assert {prompt.data_source for prompt in loaded.prompts} == {"easy"}
    assert all(prompt.sources[0].image.path == str(folder / "img" / "v0.png") for prompt in loaded.prompts)


def test_content_lists(folder):
    content = [{"type": "image"}, {"type": "text", "text": " and "}, {"type": "image"}, {"type": "text", "text": "?"}]
    stored = [{"type": "image", "image": "img/v0.png"}, {"type": "text", "text": "What is it?"}]
    marked = [{"type": "text", "text": "<image><image>Same?"}]
    rows = [
        verl_row(prompt=[{"role": "user", "content": content}]),
        verl_row(prompt=[{"role": "user", "content": stored}]) | {"images": None},
        verl_row(prompt=[{"role": "user", "content": marked}]),
    ]
    texts = [prompt.messages[0].text for prompt in load(jsonl(folder, rows)).prompts]
    assert texts == ["<image> and <image>?", "<image>What is it?", "<image><image>Same?"]


def test_images_embedded_in_parquet(folder):
    def encoded(colour):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 20), colour).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": "was/elsewhere.png"}

    rows = [verl_row() | {"images": [encoded((i % 256, 0, 0)), encoded((i % 256, 1, 0))]} for i in range(600)]
    loaded = load(parquet(folder, rows, row_group_size=250))
    assert len(loaded.prompts) == 600
    image = loaded.prompts[577].sources[1].image
    assert (image.row, image.slot, image.size) == (577, 1, (40, 20))
    assert decode_image(image).getpixel((0, 0)) == (577 % 256, 1, 0)


def test_truth_forms(folder):
    boxes = [{"bbox_2d": [1, 2, 3, 4], "label": "person"}]
    truths = {"<answer> A </answer>": "A", " yes ": "yes", "a <answer>b</answer>": "a <answer>b</answer>"}
    rows = [verl_row(reward_model={"style": "rule", "ground_truth": truth}) for truth in [*truths, boxes, 7]]
    read = [prompt.truth for prompt in load(jsonl(folder, rows)).prompts]
    assert read[:3] == list(truths.values())
    assert json.loads(read[3]) == boxes
    assert read[4] == "7"


def test_cold_start_responses(folder):
    rows = [verl_row(response="<think>a</think><answer>2</answer>"), verl_row()]
    assert [p.response for p in load(jsonl(folder, rows)).prompts] == ["<think>a</think><answer>2</answer>", None]


def test_declared_encodings(folder):
    Image.fromarray(np.full((24, 32), 2500, np.uint16)).save(folder / "img" / "depth.png")
    images = ["img/v0.png", "img/depth.png"]
    declared = [
        {"sources": ["rgb", "depth"], "encodings": [None, "depth_spatialbot"]},
        {"sources": ["rgb", "depth"], "encodings": {"depth": "depth_minmax"}},
    ]
    loaded = load(jsonl(folder, [verl_row(images, extra_info=extra) for extra in declared]))
    encodings = [[source.image.encoding for source in prompt.sources] for prompt in loaded.prompts]
    assert encodings == [["rgb", "depth_spatialbot"], ["rgb", "depth_minmax"]]
    assert decode_image(loaded.prompts[0].sources[1].image).getpixel((0, 0)) == (8, 112, 32)
    dropped = refused(folder, verl_row(images), "more than 8 bits")
    assert dropped == {"image_bit_depth": 1}


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"text": "<image>How many?"}, "1 <image> markers in the prompt for 2 images"),
        ({"text": "<image><image><image>?"}, "3 <image> markers in the prompt for 2 images"),
        ({"text": "How many?"}, "0 <image> markers in the prompt for 2 images"),
        ({"images": None, "text": "<image>?"}, "1 <image> markers in the prompt for 0 images"),
        ({"text": "<image><image>"}, "the user's message has no text"),
        ({"text": "<image><image>what <|image_pad|> is"}, "'<|image_pad|>'"),
        ({"text": "<image><image>end<|im_end|>"}, "'<|im_end|>'"),
        ({"text": "<image><image><|vision_start|>"}, "'<|vision_start|>'"),
        ({"text": "<image>a <|im_<image>end|> b"}, "'<|im_end|>'"),
        ({"text": "<image>a <im<image>age> b"}, "'<image>'"),
        ({"response": "so <|im_end|><|im_start|>user"}, "'<|im_end|>'"),
        ({"response": 3}, "response must be a text"),
        ({"prompt": None}, "needs a column prompt"),
        ({"prompt": []}, "needs a column prompt (a text, or a list of messages); got []"),
        ({"prompt": [{"role": "tool", "content": "<image><image>q"}]}, "role must be one of"),
        ({"prompt": [{"role": "user", "content": "<image><image>q"}, {"role": "assistant", "content": "a"}]}, "last"),
        ({"prompt": [{"role": "user", "content": 5}]}, "message content"),
        ({"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "'video'"),
        ({"reward_model": None}, "no ground truth"),
        ({"reward_model": {"style": "rule", "ground_truth": " "}}, "the ground truth is empty"),
        ({"reward_model": {"style": "rule", "ground_truth": "<answer> </answer>"}}, "the ground truth is empty"),
        ({"reward_model": {"style": "rule", "ground_truth": True}}, "got bool"),
        ({"reward_model": "yes"}, "reward_model must be a mapping"),
        ({"extra_info": {"sources": ["a"]}}, "names ['a'] but the row has 2 images"),
        ({"extra_info": {"sources": ["a", "a"]}}, "source names must differ"),
        ({"extra_info": {"sources": ["a", "b/c"]}}, "'b/c'"),
        ({"extra_info": {"encodings": ["rgb", "depth_magic"]}}, "'depth_magic'"),
        ({"extra_info": {"encodings": ["rgb"]}}, "one entry for each"),
        ({"extra_info": {"encodings": {"thermal": "rgb"}}}, "['thermal']"),
        ({"extra_info": {"image_sizes": [[32, 24], [24, 32]]}}, "image 1 is [32, 24] but"),
        ({"extra_info": {"image_sizes": [[32, 24]]}}, "one [width, height] for each"),
        ({"extra_info": {"box_space": "inches"}}, "'inches'"),
        ({"extra_info": "none"}, "extra_info must be a mapping"),
        ({"extra_info": {"more_fields": "[1]"}}, "more_fields must be the JSON text of a mapping; got '[1]'"),
        ({"extra_info": {"more_fields": "{"}}, "more_fields must be the JSON text of a mapping"),
        ({"extra_info": {"more_fields": {"a": 1}}}, "more_fields must be the JSON text of a mapping"),
        ({"extra_info": {"choices": [None, "a"]}}, "the choices must be a list of texts, or a mapping"),
        ({"extra_info": {"choices": [["x"], ["y"]]}}, "got [['x'], ['y']]"),
        ({"extra_info": {"choices": {"A": "x", "C": "y"}}}, "got {'A': 'x', 'C': 'y'}"),
        ({"extra_info": {"choices": ["A. red", "B."]}}, "got ['red', '']"),
        ({"extra_info": {"choices": "red, green"}}, "got 'red, green'"),
        ({"extra_info": {"choices": ["x"] * 27}}, "at most 26 choices; got 27"),
        ({"extra_info": {"more_fields": '{"choices": 3}'}}, "the choices must be a list of texts, or a mapping"),
        ({"data_source": 5}, "data_source must be a text"),
        ({"images": ["img/v0.png", None]}, "needs a path or bytes"),
        ({"images": ["img/v0.png", ""]}, "needs a path or bytes"),
        ({"images": ["img/v0.png", "img/none.png"]}, "none.png: no such image"),
        ({"images": ["img/v0.png", "../secret.png"]}, "'..' in an image path"),
        ({"images": ["img/v0.png", "img/../../x.png"]}, "'..' in an image path"),
        ({"images": ["img/v0.png", "/etc/passwd"]}, "relative to data.image_root"),
        ({"images": ["img/v0.png", "https://example.org/a.png"]}, "URLs are not read"),
        ({"images": ["img/v0.png", "file:///etc/passwd"]}, "URLs are not read"),
        ({"images": ["img/v0.png", "data:image/png;base64,AAAA"]}, "URLs are not read"),
        ({"images": ["img/v0.png", "C:\\x.png"]}, "relative to data.image_root"),
        ({"images": ["img/v0.png", "img/a\u0000.png"]}, "control characters"),
        ({"images": ["img/v0.png", "img"]}, "not a file"),
    ],
)
def test_a_bad_row_is_named_or_dropped(folder, changes, fragment):
    text = changes.pop("text", None)
    row = verl_row(text=text) | changes
    assert sum(refused(folder, row, fragment).values()) == 1


@pytest.mark.parametrize("line", ["{", "[1]", "7", '{"prompt": ', "[" * 5000, "{}", '"a"', '{"answer": "\\ud800"}',
                                  b'{"answer": "\xed\xa0\x80"}', b'{"answer": "\xe9"}'])  # fmt: skip
def test_a_bad_line_is_named_and_blank_lines_are_none(folder, line):
    file = jsonl(folder, [verl_row(), "", line if isinstance(line, str) else "@", "  ", verl_row()])
    if isinstance(line, bytes):
        (folder / "a.jsonl").write_bytes((folder / "a.jsonl").read_bytes().replace(b"@", line))
    with pytest.raises(DataError, match=r"a\.jsonl:2 +json +the line is not a JSON object"):
        load(file)
    kept = load(file, policy="drop")
    assert [prompt.row for prompt in kept.prompts] == [f"{file}:0", f"{file}:4"]
    assert kept.dropped == {"json": 1}


HALF = r"\ud800"  # in JSON, half of a surrogate pair
PAIR = r"\ud83d\ude00"  # both halves: one character


def in_column(column, escape):
    """A row whose `column` is JSON text with an escape."""
    said = json.dumps([{"role": "user", "content": "<image><image>Who @?"}]).replace("@", escape)
    parts = json.dumps([{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Who @?"}]).replace("@", escape)
    return verl_row() | {
        "prompt": {"prompt": said},
        "written twice": {"prompt": json.dumps(said)},
        "written so that only the inner text has the escape": {"prompt": json.dumps(said).replace(r"\\u", r"\u005cu")},
        "content": {"prompt": [{"role": "user", "content": parts}]},
        "mono_responses": {"mono_responses": f'{{"view_1": "It {escape}."}}'},
        "more_fields": {"extra_info": {"more_fields": f'{{"k": ["{escape}"]}}'}},
        "keys of more_fields": {"extra_info": {"more_fields": f'{{"{escape}": 1}}'}},
    }[column]  # fmt: skip


@pytest.mark.parametrize(
    "column",
    ["prompt", "written twice", "written so that only the inner text has the escape", "content", "mono_responses",
     "more_fields", "keys of more_fields"],
)  # fmt: skip
def test_half_a_surrogate_pair_in_a_column_of_json_text_makes_one_bad_row(folder, column):
    dropped = refused(folder, in_column(column, HALF), "it is not Unicode text: it holds half a surrogate pair")
    assert dropped == {"value": 1}
    (prompt,) = load(jsonl(folder, [in_column(column, PAIR)])).prompts
    for text in (prompt.messages[-1].text, str(prompt.mono_responses), str(prompt.extra_info)):
        text.encode()
    assert "\U0001f600" in f"{prompt.messages} {prompt.mono_responses} {prompt.extra_info}"
    (escaped,) = load(jsonl(folder, [in_column(column, HALF.replace("\\", "\\\\"))])).prompts
    assert r"\\ud800" in f"{escaped.messages} {escaped.mono_responses} {escaped.extra_info}", "an escape as text"


def test_fields_as_json_text_count_as_fields_of_extra_info(folder):
    """Rows of a parquet file share the fields of a struct; a mapping in a text keeps its own keys."""
    extra = [
        {"more_fields": json.dumps({"map": {key: 1}, "id": "7"}), "id": own} for key, own in (("A", None), ("B", "8"))
    ]
    loaded = load(parquet(folder, [verl_row(extra_info=one) for one in extra]))
    assert [prompt.extra_info for prompt in loaded.prompts] == [
        {"map": {"A": 1}, "id": "7"},
        {"map": {"B": 1}, "id": "8"},
    ]


def test_letters_without_a_value_are_no_choices(folder):
    """Rows of a parquet file share the fields of a struct, so each row has the letters of all."""
    given = [{"A": "red", "B": "green", "C": "blue"}, {"B": "no", "A": "yes"}, {"A": None}, None]
    loaded = load(parquet(folder, [verl_row(extra_info={"id": i, "choices": one}) for i, one in enumerate(given)]))
    choices = [prompt.extra_info["choices"] for prompt in loaded.prompts]
    assert choices == [["red", "green", "blue"], ["yes", "no"], None, None]


def test_a_link_out_of_the_image_root_is_refused_and_one_inside_is_not(folder):
    root = folder / "img"
    picture(folder / "outside.png")
    os.symlink(folder / "outside.png", root / "out.png")
    os.symlink(root / "v0.png", root / "inside.png")
    os.symlink(folder, root / "up")
    good = verl_row(["inside.png"])
    assert load(jsonl(folder, [good]), root=str(root)).prompts[0].sources[0].image.path == str(root / "v0.png")
    for path in ("out.png", "up/outside.png"):
        with pytest.raises(DataError, match=r"link out of data\.image_root"):
            load(jsonl(folder, [verl_row([path])]), root=str(root))


def test_all_problems_of_all_files_come_in_one_message(folder):
    first = jsonl(folder, [verl_row(), verl_row(["img/none.png"]), verl_row(text="?")], "a.jsonl")
    second = jsonl(folder, [verl_row(reward_model={}), verl_row(["img/x.png", "/y.png"], extra_info=5)], "b.jsonl")
    with pytest.raises(DataError) as caught:
        load(first, second)
    message = str(caught.value)
    assert "4 of 5 rows" in message
    for fragment in (f"{first}:1", f"{first}:2", f"{second}:0", f"{second}:1", "x.png", "/y.png", "extra_info must"):
        assert fragment in message
    kept = load(first, second, policy="drop")
    assert len(kept.prompts) == 1
    assert sum(kept.dropped.values()) == 4
    assert caught.value.exit_code == 3


def test_a_long_list_is_capped_and_counted(folder):
    file = jsonl(folder, [verl_row()] + [verl_row(["img/none.png"])] * 1000 + [verl_row(text="?")] * 5)
    with pytest.raises(DataError) as caught:
        load(file)
    message = str(caught.value)
    assert len(message.splitlines()) < 50
    assert "1005 of 1006 rows" in message
    assert "image_missing 1000, sources 5" in message
    assert load(file, policy="drop").dropped == {"image_missing": 1000, "sources": 5}


def test_the_truth_check_sees_complete_prompts(folder):
    def no_sevens(prompt):
        return "sevens cannot be scored" if prompt.truth == "7" and prompt.sources else None

    file = jsonl(folder, [verl_row(), verl_row(reward_model={"ground_truth": "7"})])
    with pytest.raises(DataError, match=r"a\.jsonl:1 +truth +sevens cannot be scored"):
        load(file, check=no_sevens)
    assert load(file, policy="drop", check=no_sevens).dropped == {"truth": 1}

    def no_sevens_either(prompt):
        if prompt.truth == "7":
            raise DataError("sevens cannot be scored")

    assert load(file, policy="drop", check=no_sevens_either).dropped == {"truth": 1}


def test_duplicate_ids_are_reported_with_both_rows(folder):
    first = jsonl(folder, [verl_row(extra_info={"id": "7"}), verl_row(extra_info={"id": "8"})], "a.jsonl")
    second = jsonl(
        folder, [verl_row(extra_info={"id": "7"}), verl_row(data_source="b", extra_info={"id": "7"})], "b.jsonl"
    )
    with pytest.raises(DataError) as caught:
        load(first, second)
    assert f"{second}:0  duplicate_id  id '7' is already used by {first}:0" in str(caught.value)
    kept = load(first, second, policy="drop")
    assert (len(kept.prompts), kept.dropped) == (3, {"duplicate_id": 1})


def test_files_that_cannot_be_read_are_errors_under_either_policy(folder):
    good = jsonl(folder, [verl_row()])
    whole = parquet(folder, [verl_row()] * 50)
    data = (folder / "a.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])
    (folder / "text.parquet").write_text("no parquet")
    (folder / "empty.jsonl").write_text("\n")
    parquet(folder, [{"other": 1}], "other.parquet")
    pq.write_table(pa.Table.from_pylist([verl_row()]).slice(0, 0), folder / "none.parquet")
    cases = {
        "cut.parquet": "cannot be read as parquet",
        "text.parquet": "cannot be read as parquet",
        "empty.jsonl": "has no rows",
        "none.parquet": "has no rows",
        "other.parquet": "none of the columns",
        "gone.parquet": "no such file",
        "img": "is a folder",
    }
    for policy in ("error", "drop"):
        for name, fragment in cases.items():
            with pytest.raises(DataError, match=rf"{name}: .*{fragment}"):
                load(good, str(folder / name), policy=policy)
        with pytest.raises(DataError, match="unknown kind of file"):
            load(str(folder / "img" / "v0.png"), policy=policy)
        for name in ("table.csv", "TABLE.XLSX"):
            (folder / name).write_text("question,answer\n", encoding="utf-8")
            with pytest.raises(
                DataError, match=rf"{name}: unknown kind of file; write each line .* into a \.jsonl file"
            ):
                load(str(folder / name), policy=policy)
        with pytest.raises(DataError, match="named twice"):
            load(whole, str(folder / "img" / ".." / "a.parquet"), policy=policy)
        with pytest.raises(DataError, match="no files given"):
            load(policy=policy)
        with pytest.raises(DataError, match=r"data\.image_root: no such folder"):
            load(good, root=str(folder / "nowhere"), policy=policy)


def test_a_missing_file_is_named_with_the_reason_that_shows(folder):
    (folder / "link.jsonl").symlink_to("moved.jsonl")
    (folder / "loop").symlink_to("loop")
    cases = {
        "link.jsonl": "is a link to moved.jsonl, which is not there; mend the link, or name the file itself",
        "loop": "is a link to loop, which is not there",
        "*.jsonl": "no such file; patterns are not expanded, name every file",
        "part-?.parquet": "no such file; patterns are not expanded",
    }
    for name, reason in cases.items():
        with pytest.raises(DataError, match=re.escape(f"{folder / name}: {reason}")):
            load(str(folder / name))
    for address in ("https://host/a.jsonl", "s3://bucket/a.parquet", f"file://{folder}/a.jsonl"):
        with pytest.raises(DataError, match=re.escape(f"{address}: addresses are not read; download the file")):
            load(address)


def test_dropping_everything_is_an_error(folder):
    with pytest.raises(DataError, match="no row is left"):
        load(jsonl(folder, [verl_row(text="?")]), policy="drop")


def test_identity_does_not_depend_on_the_place(folder, tmp_path_factory):
    rows = [verl_row(), verl_row(["img/v1.png", "img/i1.png"])]
    here = load(jsonl(folder, rows))
    elsewhere = tmp_path_factory.mktemp("other") / "deep"
    shutil.copytree(folder, elsewhere)
    os.rename(elsewhere / "a.jsonl", elsewhere / "renamed.jsonl")
    there = load(str(elsewhere / "renamed.jsonl"))
    assert here.fingerprint == there.fingerprint
    assert [p.prompt_id for p in here.prompts] == [p.prompt_id for p in there.prompts]
    assert len({p.prompt_id for p in here.prompts}) == 2
    changed = load(jsonl(folder, [rows[1], rows[0]], "b.jsonl"))
    assert changed.fingerprint != here.fingerprint
    assert not {p.prompt_id for p in changed.prompts} & {p.prompt_id for p in here.prompts}


def test_dropping_rows_does_not_rename_the_others(folder):
    file = jsonl(folder, [verl_row(), verl_row(["img/late.png"]), verl_row()])
    before = {p.row: p.prompt_id for p in load(file, policy="drop").prompts}
    picture(folder / "img" / "late.png")
    after = {p.row: p.prompt_id for p in load(file).prompts}
    assert len(after) == 3
    assert before.items() <= after.items()


def test_full_decoding_finds_what_headers_hide(folder):
    picture(folder / "img" / "flip.png", (64, 64))
    data = bytearray((folder / "img" / "flip.png").read_bytes())
    data[-20] ^= 0xFF  # in the pixel data, which ends properly still
    (folder / "img" / "flip.png").write_bytes(data)
    file = jsonl(folder, [verl_row(), verl_row(["img/v0.png", "img/flip.png"])])
    reading = read_prompts([file], None, any_truth, read_json=read_json_rows)
    assert len(reading.usable) == 2
    (problem,) = undecodable(reading.rows)
    assert (problem.row, problem.reason) == (f"{file}:1", "image_undecodable")
    assert re.match(r"source view_2: .*flip\.png", problem.detail)


def test_rows_with_videos_are_refused_by_name(folder):
    for change in (
        {"videos": ["a.mp4"]},
        {"video": "a.mp4"},
        {"videos": [{"bytes": "x", "path": None}], "images": ()},
        {"prompt": [{"role": "user", "content": "<video>What happens?"}], "images": ()},
        {"problem": "<image><image><video>What happens?", "prompt": None},
        {"prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "q"}]}], "images": ()},
        {"response": "<video> shows it"},
    ):
        assert refused(folder, verl_row(**change), "video") == {"video": 1}, change
    assert len(load(jsonl(folder, [verl_row(videos=[]), verl_row(videos=None, video="")])).prompts) == 2
    file = parquet(folder, [verl_row(videos=["a.mp4"]), verl_row(videos=[])])
    assert load(file, policy="drop").dropped == {"video": 1}
    turns = [{"from": "human", "value": "<video>\nq"}, {"from": "gpt", "value": "a"}]
    for name, record in {
        "llava": {"id": "1", "video": "a.mp4", "conversations": turns},
        "easy": {"problem": "q", "answer": "a", "videos": ["a.mp4"]},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps([record, {"problem": "q", "answer": "a"}]))
        assert load(str(folder / f"{name}.json"), policy="drop").dropped == {"video": 1}, name


def test_a_prompt_that_is_a_json_text_of_messages_is_read_as_messages(folder):
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "<image><image>Where?"}]
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Where?"}]
    rows = [
        verl_row(prompt=turns),
        verl_row(prompt=json.dumps(turns)),
        verl_row(prompt=f"\n {json.dumps(turns, indent=2)}"),
        verl_row(prompt=None, problem=json.dumps(turns)),
        verl_row(prompt=[turns[0], {"role": "user", "content": json.dumps(parts)}]),
    ]
    assert {prompt.messages for prompt in load(jsonl(folder, rows)).prompts} == {
        (Message("system", "Be short."), Message("user", "<image><image>Where?"))
    }
    assert refused(folder, verl_row(prompt=str(turns)), "starts like a list of messages but is no JSON") == {
        "prompt": 1
    }
    assert refused(folder, verl_row(prompt=json.dumps(turns)[:-3]), "store the list itself") == {"prompt": 1}
    for text in ('<image><image>What is {"a": 1}?', "<image><image>[1, 2] or {}?"):
        assert load(jsonl(folder, [verl_row(text=text)])).prompts[0].messages[-1].text == text


def encoded(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def test_two_sets_of_a_file_that_fill_different_columns(folder):
    def rows(first, second):
        one, two = verl_row(text="<image>q"), verl_row(text="<image><image>q")
        empty = {"bytes": None, "path": None}
        return [
            one | {"image": first, "images": None},
            two | {"image": None, "images": [first, second]},
            one | {"image": second, "images": []},
            two | {"image": empty, "images": [second, first]},
        ]

    red, blue = encoded((255, 0, 0)), encoded((0, 0, 255))
    for file in (parquet(folder, rows(red, blue)), parquet(folder, rows(red, blue), "b.parquet", row_group_size=2)):
        shown = [
            [decode_image(source.image).getpixel((0, 0)) for source in prompt.sources] for prompt in load(file).prompts
        ]
        assert shown == [[(255, 0, 0)], [(255, 0, 0), (0, 0, 255)], [(0, 0, 255)], [(0, 0, 255), (255, 0, 0)]], file


def test_pipes_devices_and_folders_are_refused_at_once(folder):
    os.mkfifo(folder / "pipe.jsonl")  # opening it would wait for a writer
    os.mkfifo(folder / "pipe.png")
    os.symlink(folder / "pipe.jsonl", folder / "link.parquet")
    for name, what in (("pipe.jsonl", "a named pipe"), ("link.parquet", "a named pipe"), ("/dev/null", "a device")):
        with pytest.raises(DataError, match=f"it is {what}, not a file; name a file of rows"):
            load(str(folder / name))
    assert refused(folder, verl_row(("pipe.png", "img/v0.png")), "it is a named pipe") == {"image_missing": 1}
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text("{}")
    os.mkfifo(folder / "saved" / "data-00000-of-00001.arrow")
    with pytest.raises(DataError, match=r"holds a named pipe, data-00000-of-00001\.arrow; remove it"):
        load(str(folder / "saved"))


def test_a_misspelt_prompt_is_named_with_its_line(folder):
    good = verl_row()
    bad = {"promt" if key == "prompt" else key: value for key, value in good.items()}
    with pytest.raises(DataError) as refused:
        load_prompts([jsonl(folder, [good, "", bad])], None, "error", any_truth)
    text = str(refused.value)
    assert "needs a column prompt (a text, or a list of messages); the row has 'promt': rename it" in text
    assert re.search(r"^rows count from 0: .*a\.jsonl:2 is line 3 of its file$", text, re.MULTILINE)


def test_rows_without_names_of_sources_beside_rows_with_them_are_named(folder, caplog):
    def warnings(*rows):
        caplog.clear()
        load_prompts([jsonl(folder, rows)], None, "error", any_truth)
        return [record.getMessage() for record in caplog.records]

    named = verl_row(extra_info={"sources": ["visible", "infrared"]})
    misspelt = verl_row(extra_info={"source": ["visible", "infrared"]})
    alone = verl_row(images=("img/v0.png",))
    [message] = warnings(named, named, alone, misspelt)
    assert "a.jsonl: 1 rows have no extra_info.sources, so their images are called view_1, view_2; 2 rows" in message
    assert message.endswith("name theirs (visible, infrared); the first without: " + str(folder / "a.jsonl") + ":3")
    assert warnings(named, alone) == warnings(misspelt, misspelt) == []
