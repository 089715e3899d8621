"""A row whose picture, video or sound the model would not get is refused by name, in whatever form it comes."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mars.data.convert.eval_json import read_json_rows
from mars.data.rows.dataset import read_prompts
from mars.types import Message
from tests.examples import some

TURNS = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "2"}]


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("a", 0), ("b", 99)):
        Image.new("RGB", (32, 24), (colour, 9, 9)).save(tmp_path / f"{name}.png")
    return tmp_path


def row(text="How many?", **changes):
    return {"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": "2"}} | changes


def readings(file):
    return read_prompts([str(file)], None, lambda prompt: None, read_json=read_json_rows).rows


def one(folder, record, kind="jsonl"):
    """(reason, detail) of a row's only problem, or ("", file names of its images)."""
    file = folder / f"set.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([record]), file)
    else:
        file.write_text(json.dumps([record] if kind == "json" else record) + "\n")
    (reading,) = readings(file)
    if reading.prompt is not None and not reading.problems:
        return "", [source.image.path.rpartition("/")[2] for source in reading.prompt.sources]
    (problem,) = reading.problems
    return problem.reason, problem.detail


@pytest.mark.parametrize(
    "column",
    ["image_path", "image_paths", "images_path", "image_url", "image_file", "img", "Image", "image_1", "picture"],
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_an_image_under_a_name_that_is_not_read(folder, column, kind):
    record = row(**{column: ["a.png"]}) if kind != "json" else {"conversations": TURNS, column: ["a.png"]}
    reason, detail = one(folder, record, kind)
    assert reason == "sources"
    assert f"in the column {column}, which is not read" in detail


@pytest.mark.parametrize("column", ["video_path", "video_urls", "audio_file", "videos_path"])
def test_a_video_under_another_name(folder, column):
    reason, detail = one(folder, row(**{column: "a.mp4"}))
    assert reason == "video"
    assert column in detail


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("multi_modal_data", {"image": ["a.png"]}),
        ("multi_modal_data", {"video": [{"path": "clips/1.MP4"}]}),
        ("media", [{"type": "image", "path": "https://host/a.jpg?size=2"}]),
        ("clip", "1.webm"),
        ("decoded_image", {"bytes": "data:image/png;base64,AAAA", "path": None}),
        ("url", "http://host/a.png"),
        ("left_image_file", "a.tiff"),
        ("image_b64", "iVBORw0KGgo"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_media_under_a_name_of_other_things_too(folder, column, value, kind):
    reason, detail = one(folder, row(**{column: value}), kind)
    assert reason == ("video" if "video" in str(value) else "sources")
    assert f"in the column {column}, which is not read" in detail


@pytest.mark.parametrize(
    "about",
    [
        {"url": "https://host/questions/7", "media": "newspaper", "image_caption": "a red bus", "num_frames": 3},
        {"multi_modal_data": {"image": [], "video": None}, "image_id": "7.1", "clip": {"start": 0.5, "end": 2.0}},
        {"media": ["press", "radio"], "frames_per_second": "25", "image_source": "COCO", "urls": []},
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_things_under_such_a_name_are_no_media(folder, about, kind):
    assert one(folder, row(**about), kind) == ("", [])
    assert one(folder, row("<image>q", images=["a.png"], **about), kind) == ("", ["a.png"])
    assert one(folder, row(extra_info={"image_path": "a.png"}), kind) == ("", [])  # it is the reward's


def test_columns_about_images_are_no_images(folder):
    about = {"image_id": 7, "image_width": 32, "num_images": 0, "images_seen": "none", "frames": 12, "image_url": None}
    assert one(folder, row(**about)) == ("", [])
    assert one(folder, row("<image>q", images=["a.png"], image_path="old/a.png")) == ("", ["a.png"])
    assert one(folder, row("<image>q", images=["a.png"], image_path="old/a.png"), "parquet") == ("", ["a.png"])


def test_images_in_bytes_beside_the_column_of_images_are_not_read(folder):
    """They could take gigabytes, and the rows have their images."""
    thumbnail = {"bytes": b"x" * 100, "path": None}
    assert one(folder, row("<image>q", images=["a.png"], picture=thumbnail), "parquet") == ("", ["a.png"])
    reason, detail = one(folder, row(picture=thumbnail), "parquet")
    assert (reason, "column picture" in detail) == ("sources", True)


@pytest.mark.parametrize("text", ["<VIDEO>q", "<video 1>q", "<videos>q", "{video#1}q", "<audio_2> q"])
def test_tags_of_videos_in_other_spellings(folder, text):
    assert one(folder, row(text))[0] == "video"


@pytest.mark.parametrize("text", ["<IMAGE>q", "<image 1>q", "<image_1>q", "<image1>q", "{image#1}q"])
def test_a_tag_that_is_no_marker_stands_for_an_image_that_is_not_there(folder, text):
    reason, detail = one(folder, row(text))
    assert reason == "sources"
    assert f"the text holds {text[:-1]}, but the row has no image" in detail


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [{"role": "user", "content": "q", "images": ["a.png"]}, TURNS[1]]}, "sources"),
        ({"messages": [{"role": "user", "content": "q", "videos": ["a.mp4"]}, TURNS[1]]}, "video"),
        ({"role": "user", "content": [{"type": "video", "text": ""}, {"type": "text", "text": "q"}]}, "video"),
        ({"role": "user", "content": [{"type": "image_url", "text": "q"}]}, "prompt"),
        ({"role": "user", "content": [{"type": "text", "text": "q"}], "images": ["a.png"]}, "sources"),
        ({"task_instance": {"context": "q", "videos_path": ["a.mp4"]}, "response": "2"}, "video"),
        ({"task_instance": {"context": "q", "video": "a.mp4"}, "response": "2"}, "video"),
        ({"task_instance": {"context": "q"}, "images": ["a.png"], "response": "2"}, "sources"),
        ({"question": "q", "answer": "2", "img": "a.png"}, "sources"),
    ],
)
def test_media_where_a_public_form_does_not_look_for_it(folder, record, reason):
    assert one(folder, {"ground_truth": "2"} | record, "json")[0] == reason


def test_media_beside_a_messages_content(folder):
    turn = {"role": "user", "content": "q", "images": ["a.png"]}
    assert one(folder, row(prompt=[turn]))[0] == "sources"
    assert one(folder, row(prompt=[turn | {"images": None, "videos": ["a.mp4"]}]))[0] == "video"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("video_path", "a.mp4"), ("video_url", "http://h/a.mp4?x=1"), ("Videos", ["1.webm"]), ("audio_file", "a.wav"),
        ("multi_modal_data", {"video": ["frames"], "image": None}), ("mm_inputs", {"audio": "x"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_video_is_missed_beside_images_too(folder, column, value, kind):
    reason, detail = one(folder, row("<image>q", images=["a.png"], **{column: value}), kind)
    assert (reason, f"in the column {column}, which is not read" in detail) == ("video", True)


def test_what_is_about_a_video_is_none(folder):
    about = {"video_id": "a.b", "video_length": 3.5, "video_path": None, "audio_language": "en", "video_frames": 8}
    for kind in ("jsonl", "parquet"):
        assert one(folder, row("<image>q", images=["a.png"], **about), kind) == ("", ["a.png"])


PNG = "iVBORw0KGgoAAAANSUhEUgAAACAAAAAYCAIAAAAUMWhjAAAAGElEQVR4nO3BAQEAAACAkP6v7ggKAICqAQkYAAHVDmly"


@pytest.mark.parametrize("image", [PNG, {"path": PNG}, {"bytes": PNG}, {"bytes": PNG, "path": "a.png"}, "/9j/" + PNG])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_image_in_base64_is_refused_as_what_it_is(folder, image, kind):
    reason, detail = one(folder, row("<image>q", images=[image]), kind)
    assert (reason, "base64" in detail, "store" in detail, len(detail) < 150) == ("image_path", True, True, True)


def test_empty_cells_of_videos_and_images_hold_nothing(folder):
    """As in a file of several sets, where a null is stored as a list or a mapping of nulls."""
    nothing = {"bytes": None, "path": None}
    assert one(folder, row(video=nothing, videos=[None], image=nothing, images=[None]), "parquet") == ("", [])


@pytest.mark.parametrize("empty", [None, "", [], [None], [{"bytes": None, "path": None}]])
@pytest.mark.parametrize("filled", ["image", "images"])
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ({"conversations": TURNS}, "json"),
        ({"question": "q", "answer": "2"}, "json"),
        ({"problem": "<image>q", "answer": "2"}, "json"),
        ({"problem": "<image>q", "answer": "2"}, "jsonl"),
    ],
)
def test_either_column_may_be_filled_in_every_form(folder, form, kind, filled, empty):
    other = "images" if filled == "image" else "image"
    assert one(folder, form | {other: empty, filled: "a.png" if filled == "image" else ["a.png"]}, kind) == (
        "", ["a.png"],
    )  # fmt: skip


def test_two_columns_with_different_images_are_refused(folder):
    assert one(folder, row("<image>q", image="a.png", images=["a.png"])) == ("", ["a.png"])
    for kind in ("jsonl", "json"):
        reason, detail = one(folder, row("<image>q", image="a.png", images=["b.png"]), kind)
        assert (reason, "different images in the columns" in detail) == ("sources", True)


MESSAGES = [{"role": "user", "content": "How many?"}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(MESSAGES),
        json.dumps([{"name": None, **MESSAGES[0]}]),
        json.dumps(MESSAGES[0]),
        json.dumps(json.dumps(MESSAGES)),
        json.dumps(json.dumps(json.dumps(MESSAGES))),
        json.dumps(json.dumps(json.dumps(json.dumps(MESSAGES)))),
        "\ufeff" + json.dumps(MESSAGES),
        json.dumps(MESSAGES, indent=4),
        json.dumps([{"role": "system", "content": "&quot;[{&quot;role"}, MESSAGES[0]][1:]),
        json.dumps([{"cache": None, "type": "text", "text": "How many?"}]),
        json.dumps({"type": "text", "text": "How many?"}),
    ],
)
def test_json_texts_that_are_read(folder, text):
    (folder / "set.jsonl").write_text("".join(json.dumps(row(**{key: text})) + "\n" for key in ("prompt",)))
    (reading,) = readings(folder / "set.jsonl")
    assert reading.prompt is not None
    assert reading.prompt.messages == (Message("user", "How many?"),)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TURNS[:1]),
        json.dumps({"messages": MESSAGES}),
        json.dumps({"conversations": TURNS}),
        str([{"name": None, **MESSAGES[0]}]),
        f"array({MESSAGES}, dtype=object)",
        f"({MESSAGES[0]},)",
        f"```json\n{json.dumps(MESSAGES)}\n```",
        "[{u'role': u'user', u'content': u'q'}]",
        str(json.dumps(MESSAGES).encode()),
        "[Message(role='user', content='q')]",
        "[OrderedDict([('role', 'user'), ('content', 'q')])]",
        "[OrderedDict({'role': 'user', 'content': 'q'})]",
        "[Part(type='text', text='q')]",
        "[OrderedDict([('type', 'image'), ('image', 'a.png')])]",
        "\u200b" + json.dumps(MESSAGES),
        json.dumps(MESSAGES).replace('"', "&quot;"),
        json.dumps(MESSAGES).replace("[", " [ ").replace('"', "&#34;"),
        json.dumps(MESSAGES) + ", how many?",
        json.dumps(MESSAGES)[:-3],
        f"<image>\n{json.dumps(MESSAGES)}",
        f"{json.dumps(MESSAGES[0])}\n{json.dumps(MESSAGES[0])}",
    ],
)
@pytest.mark.parametrize("place", some(["prompt", "problem", "content", "question", "context", "instruction"], 2))
def test_json_texts_that_are_refused_wherever_a_question_is_read(folder, text, place):
    records = {
        "prompt": row(prompt=text),
        "problem": {"problem": text, "answer": "2"},
        "content": row(text),
        "question": {"question": text, "answer": "2"},
        "context": {"task_instance": {"context": text}, "response": "2"},
        "instruction": {"instruction": text, "output": "2"},
    }
    kind = "jsonl" if place in ("prompt", "problem", "content") else "json"
    assert one(folder, records[place], kind)[0] in ("prompt", "sources")


@pytest.mark.parametrize(
    "text",
    [
        "[f(x), g(x)]?",
        "[print(role)]",
        "(sin(x)",
        "&quot;Why&quot; is quoted?",
        "[user(name='a')] or {b}?",
        "[Button(type='submit')] does what?",
        "[Figure({'type': 'bar'})] shows what?",
        '[{"a": 1}]: what is a?',
        '{"task": "count"}',
        "[0, 1] or {2}?",
        "{user} asks",
        'Is {"role": "user"} JSON?',
    ],
)
def test_questions_with_brackets_are_questions(folder, text):
    (folder / "set.jsonl").write_text(json.dumps(row(prompt=text)))
    assert readings(folder / "set.jsonl")[0].prompt.messages == (Message("user", text),)


def test_blanks_before_a_bracket_take_linear_time(folder):
    text = " " * 200_000 + "[" + " " * 200_000 + "x"
    (folder / "set.jsonl").write_text(json.dumps(row(prompt=text)))
    assert readings(folder / "set.jsonl")[0].prompt.messages[0].text == text


LIMITS = {
    "max_pixels": 200_704, "min_pixels": 3136, "total_pixels": 10**6, "resized_height": 280, "resized_width": 420,
    "nframes": 4,
}  # fmt: skip


@pytest.mark.parametrize("key", LIMITS)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("where", some(["part", "column", "single"], 1))
def test_a_size_beside_an_image_is_refused_with_the_settings_to_use(folder, key, kind, where):
    """qwen-vl-utils reads these keys of an image, so the same rows would be seen at other sizes there."""
    image = {"path": "a.png", key: LIMITS[key]}
    if where == "part":
        part = {"type": "image", "image": "a.png", key: LIMITS[key]}
        record = row(prompt=[{"role": "user", "content": [part, {"type": "text", "text": "q"}]}])
    else:
        record = row("<image>q", **({"images": [image]} if where == "column" else {"image": image}))
    if kind == "json":
        record = {"conversations": [{"from": "human", "value": "<image>q"}, TURNS[1]], "images": [image]}
    reason, detail = one(folder, record, kind)
    assert reason == "image_limits"
    assert f"an image has {key}={LIMITS[key]} beside it, which is not read" in detail
    assert "data.max_image_pixels" in detail
    assert "data.source_image_pixels" in detail


def test_a_size_that_is_null_says_nothing(folder):
    """Parquet gives every image of a file the same keys."""
    for kind in ("jsonl", "parquet"):
        assert one(folder, row("<image>q", images=[{"path": "a.png", "max_pixels": None}]), kind) == ("", ["a.png"])


UNREAD = {
    "detail": "high", "crop": [0, 0, 5, 5], "cache_control": {"type": "ephemeral"}, "url": "a.png", "rotate": 0,
    "do_resize": False, "image_url": {"url": "a.png", "detail": "low"},
}  # fmt: skip


@pytest.mark.parametrize("key", UNREAD)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("where", some(["part", "text", "in part", "column", "single"], 2))
def test_a_key_that_is_not_read_is_refused_by_name(folder, key, kind, where):
    """Another reader would crop the image, or see it at another resolution."""
    image = {"path": "a.png", key: UNREAD[key]}
    if where in ("column", "single"):
        record = row("<image>q", **({"images": [image]} if where == "column" else {"image": image}))
    else:
        parts = [{"type": "image", "image": "a.png" if where != "in part" else image}, {"type": "text", "text": "q"}]
        parts[where == "text"] |= {key: UNREAD[key]} if where != "in part" else {}
        record = row(prompt=[{"role": "user", "content": parts}])
    reason, detail = one(folder, record, kind)
    assert reason == "unread_key"
    assert f" has {key}=" in detail
    assert "remove it, and keep only" in detail


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "text", "text": "q", "image": "b.png"}, "a part of type text has image='b.png'"),
        ({"type": "image", "image": "a.png", "text": "Look."}, "a part of type image has text='Look.'"),
        ({"type": "image", "image": "a.png", "path": "b.png"}, "a part of type image has path='b.png'"),
    ],
)
def test_a_part_that_says_two_things_is_refused(folder, part, said):
    content = [{"type": "image"}, part] if part["type"] == "text" else [part, {"type": "text", "text": "q"}]
    reason, detail = one(folder, row(prompt=[{"role": "user", "content": content}], images=["a.png"]))
    assert (reason, said in detail) == ("unread_key", True)


def parts_with_places(*places):
    """A prompt of images with a place each and a text, with the same keys in all parts, as parquet gives them."""
    images = [{"index": place, "text": None, "type": "image"} for place in places]
    return row(prompt=[{"role": "user", "content": [*images, {"index": None, "text": "q", "type": "text"}]}])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_image_may_have_its_place_in_the_row(folder, kind):
    """In the form of sets for TRL, such as llava-instruct-mix-vsft."""
    assert one(folder, parts_with_places(0) | {"images": ["a.png"]}, kind) == ("", ["a.png"])
    record = parts_with_places(0, 1) | {"images": ["a.png", "b.png"]}
    assert one(folder, record, kind) == ("", ["a.png", "b.png"])
    reason, detail = one(folder, parts_with_places(1, 0) | {"images": ["a.png", "b.png"]}, kind)
    assert reason == "unread_key"
    assert "a part of type image has index=1" in detail


def test_keys_of_an_evaluation_files_parts(folder):
    image = {"type": "image", "image": "a.png"}
    for part, reason in ((image | {"max_pixels": 784}, "image_limits"), (image | {"detail": "low"}, "unread_key")):
        record = {"role": "user", "content": [part, {"type": "text", "text": "q"}], "ground_truth": "2"}
        assert one(folder, record, "json")[0] == reason
    image = {"type": "image", "url": "a.png", "image": None, "detail": None}
    record = {"role": "user", "content": [image, {"type": "text", "text": "q"}], "ground_truth": "2"}
    assert one(folder, record, "json") == ("", ["a.png"])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tool_calls", [{"function": {"name": "zoom"}}], "tools are not read; got tool_calls="),
        ("reasoning_content", "Two buses.", "write it into the content"),
        ("thinking", "Two.", "write it into the content"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_words_beside_the_content_of_a_message_are_refused(folder, key, value, said, kind):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "2", key: value}, MESSAGES[0]]
    reason, detail = one(folder, row(prompt=turns), kind)
    assert (reason, said in detail) == ("prompt", True)
    turns[1][key] = None
    assert one(folder, row(prompt=turns), kind) == ("", [])
    assert one(folder, row(tools=[{"name": "zoom"}]), kind)[0] == "prompt"
    assert one(folder, row(tools="[]"), kind) == ("", [])


def test_a_file_of_an_api_says_how_to_write_its_images(folder):
    part = {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}
    reason, detail = one(folder, row(prompt=[{"role": "user", "content": [part]}]))
    assert reason == "prompt"
    assert "got 'image_url'; write {type: text, text: …} or {type: image, image: path or bytes}" in detail
