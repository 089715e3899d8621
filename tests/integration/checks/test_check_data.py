"""`mars data check` on small files with known mistakes."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mars.cli.app import app
from mars.data.prompts.budget import ImageBudget, num_image_tokens
from mars.errors import ConfigError, DataError
from tests.unit.checks.noise_rows import row, write, write_pictures

SMALL = ["data.min_image_pixels=784", "data.max_image_pixels=50176", "data.max_prompt_tokens=200"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path)


@pytest.fixture
def check(tiny, capsys):
    """(arguments) -> (standard output, message of the DataError or None)."""

    def run(*arguments):
        try:
            app(["data", "check", *map(str, arguments), "--model", str(tiny), *SMALL], standalone_mode=False)
        except DataError as error:
            return capsys.readouterr().out, str(error)
        return capsys.readouterr().out, None

    return run


def test_a_good_file(folder, check, tiny, world):
    prompts = [row(0, 1), row(2), row(text="No images.", truth="[[1, 1, 2, 2]]"), row(3, 4, 5)]
    text, message = check(write(folder, prompts))
    assert message is None
    assert "4 of 4 usable, 0 with problems, 0 overlong" in text
    assert "6 images decoded" in text
    tokens = num_image_tokens((64, 48), ImageBudget(784, 50176, 14, 2))
    assert f"view_1: {tokens} to {tokens}" in text
    # The histogram holds every row once.
    assert sum(int(line.split()[-1]) for line in text.splitlines() if re.match(r"  \d+ - ", line)) == 4


def test_rows_of_a_users_reward_are_checked_by_the_function_beside_it(folder, check):
    lines = {"Red": ["A", "B"]}
    facts = {"kind": "planning", "difficulty": "easy", "lines": lines, "start": "A", "end": "B", "transfers": 0}
    rows = [row(0, map=facts), row(1, map={**facts, "transfers": -3}), row(2), row(3, map={**facts, "lines": {}})]
    _, message = check(write(folder, rows), "reward.function=recipe/rewardmap/functions.py:score")
    assert re.findall(r"train\.jsonl:(\d) +truth +extra_info\.map", message) == ["1", "2", "3"]
    assert "extra_info.map.transfers: got -3; give a whole number" in message


def test_a_source_has_the_tokens_of_its_own_budget(folder, check):
    rows = [row(0, 1, sources=["visible", "infrared"]), row(2, 3, sources=["visible", "infrared"])]
    text, message = check(write(folder, rows), "data.source_image_pixels={infrared: [25088, 50176]}")
    assert message is None
    tokens = num_image_tokens((64, 48), ImageBudget(784, 50176, 14, 2))
    own = num_image_tokens((64, 48), ImageBudget(25088, 50176, 14, 2))
    assert own > tokens
    assert f"visible: {tokens} to {tokens}, mean" in text
    assert f"infrared: {own} to {own}, mean" in text
    with pytest.raises(ConfigError, match=r"source_image_pixels.*got infra; the rows' sources are visible, infrared"):
        check(write(folder, rows), "data.source_image_pixels={infra: [25088, 50176]}")
    # Rows that cannot be read may be those that have it: they are told first.
    _, message = check(
        write(folder, [row("none.png", sources=["infra"])]), "data.source_image_pixels={infra: [784, 999]}"
    )
    assert "image_missing" in message


def test_lengths_are_those_of_the_real_processor(folder, tiny, world):
    from mars.checks.data import check
    from mars.config.load import load_config
    from mars.data.prompts.views import render_view

    file = write(folder, [row(0, 1), row(2), row(3, 4, 5, text="A longer question about three images?")])
    config = load_config("train", [f"model.path={tiny}", f"data.train_files=['{file}']", *SMALL], [])
    result = check(config, [file], [])
    for prompt in result.rendered:
        messages, images = render_view(prompt, None, "single")
        ids = world.encoder.encode(messages, len(images))
        assert result.lengths[prompt.row] == len(world.processor.process(ids, images).input_ids)


def test_everything_wrong_comes_in_one_table(folder, check):
    (folder / "half.png").write_bytes((folder / "1.png").read_bytes()[:900])
    flipped = bytearray((folder / "2.png").read_bytes())
    flipped[-30] ^= 255
    (folder / "flip.png").write_bytes(flipped)
    Image.new("RGB", (1, 200)).save(folder / "strip.png")
    rows = [
        row(0, id="a"),
        row("half.png"),
        row("flip.png"),
        row("strip.png"),
        row("none.png"),
        row(3, truth="[[5, 5, 1, 1]]"),
        row(4, truth="[[0, 0, 65, 10]]"),
        row(5, id="a"),
        row(6, text="<|im_end|>"),
        row(7, text="<image> who?"),
        row(8, text="Think in <think></think>, then <answer></answer>."),
    ]
    text, message = check(write(folder, rows))
    expected = {
        1: "image_undecodable", 2: "image_undecodable", 3: "image_size", 4: "image_missing", 5: "truth", 6: "truth",
        7: "duplicate_id", 8: "special_token", 9: "sources", 10: "agreement",
    }  # fmt: skip
    for number, reason in expected.items():
        assert re.search(rf"train\.jsonl:{number} +{reason} ", message), (number, reason, message)
    assert "10 of 11 rows cannot be used" in message
    assert "1 of 11 usable, 10 with problems" in text
    assert not re.search(r"^ *\S+train\.jsonl:0 ", message, re.MULTILINE)


def test_overlong_rows_are_counted_and_no_mistake(folder, check):
    text, message = check(write(folder, [row(0), row(1, text="word " * 300)]))
    assert message is None
    assert "1 of 2 usable, 0 with problems, 1 overlong" in text
    assert re.search(r"train\.jsonl:1 +\d+ tokens, 200 are allowed", text)


@pytest.mark.parametrize("embedded", [False, True])
def test_train_and_test_must_not_overlap(folder, check, embedded):
    shutil.copy(folder / "1.png", folder / "copy.png")
    train = write(folder, [row(0), row(1), row(text="Only text", truth="[]")])
    test = write(folder, [row(2), row("copy.png"), row(text="Only text", truth="[]")], "test.jsonl")
    if embedded:
        cells = [{"bytes": (folder / "1.png").read_bytes(), "path": None}]
        table = [{**row(0), "images": cells}]
        table[0].pop("extra_info")
        pq.write_table(pa.Table.from_pylist(table), folder / "test.parquet")
        test = str(folder / "test.parquet")
    for arguments in ((train, test), (train, "--held-out", test)):
        _, message = check(*arguments)
        number = 0 if embedded else 1
        assert re.search(rf"test\.\w+:{number} +overlap .*is also in .*train\.jsonl:1", message)
        assert ("test.jsonl:2" in message) == (not embedded)
    other = write(folder, [row(3), row(4)], "test_2.jsonl")
    assert check(train, other)[1] is None
    # Two rows about one image in one split are none of it.
    assert check(write(folder, [row(0), row(0, text="Another?")]))[1] is None


def test_declared_splits_decide(folder, check):
    both = write(
        folder, [row(0, split="train", id="1"), row(0, split="val", id="1"), row(1, split="val", id="2")], "all.jsonl"
    )
    _, message = check(both)
    assert re.search(r"all\.jsonl:1 +overlap .*train and val overlap", message)
    assert "duplicate_id" not in message


def test_texts_that_speak_of_images_a_mono_view_lacks_are_counted_and_are_no_mistake(folder, check):
    names = ["visible", "infrared"]
    rows = [
        row(0, 1, text="Find both persons in the two images.", sources=names),
        row(2, 3, text="Find the person.", sources=names),
        row(4, text="Find the person in both images.", sources=["visible"]),
        row(5, 6, sources=names),
    ]
    rows[3]["prompt"][0]["content"] = "Visible: <image>\nInfrared: <image>\nFind the person."
    file = write(folder, rows)
    text, message = check(file)
    assert message is None
    assert (
        "mono views     2 of 3 rows with several images: the text mentions, or may mention, images that "
        "the view does not show (anchor.wording=same):\n"
    ) in text
    assert f'  {file}:0  visible: "both"\n  {file}:3  visible: "Infrared:"\n' in text
    text, message = check(file, "anchor.wording=per_view")
    assert message is None
    assert "1 of 3 rows" in text
    assert f"{file}:3" not in text
    assert "mono views" not in check(file, "anchor.image_layout=repeated")[0]
    assert "mono views     1 rows with several images: no text mentions" in check(write(folder, rows[1:2]))[0]


def test_repeated_rows_are_told(folder, check):
    text, message = check(write(folder, [row(0)] * 3 + [row(1)]))
    assert message is None
    assert "2 rows have the text, truth and images of an earlier row" in text


def test_the_reward_follows_the_truth_or_the_setting(folder, check):
    file = write(folder, [row(0, text="How many?", truth="three or 3"), row(1, text="A bus?", truth="yes")])
    text, message = check(file)
    assert message is None
    assert "reward         vqa" in text
    _, message = check(file, "reward=grounding")
    assert "2 of 2 rows cannot be used" in message
    _, message = check(file, "data.template=none")
    assert message.count("does not ask for <think>") == 2


def test_one_table_for_all_files(folder, check):
    """Files that cannot be read come with the rows of those that can, held-out ones too."""
    (folder / "cut.parquet").write_bytes(b"PAR1 and no more")
    (folder / "empty.jsonl").write_text("\n\n")
    train = write(folder, [row("none.png"), row(0)])
    test = write(folder, [row(1), row(2, truth="[[5, 5, 1, 1]]")], "test.jsonl")
    for groups in ((folder / "cut.parquet", train, "--held-out", test, "--held-out", folder / "empty.jsonl"),
                   (train, test, folder / "cut.parquet", folder / "empty.jsonl")):  # fmt: skip
        _, message = check(*groups)
        for fragment in (r"cut\.parquet: cannot be read as parquet", r"empty\.jsonl: has no rows",
                         r"train\.jsonl:0 +image_missing ", r"test\.jsonl:1 +truth "):  # fmt: skip
            assert re.search(fragment, message), (fragment, message)
        assert "boxes are for grounding" not in message, "a broken file does not decide what the reward is"
    missing = check(folder / "a.jsonl", folder / "b.jsonl", "--held-out", folder / "c.jsonl")[1]
    assert [name for name in "abc" if f"{name}.jsonl: no such file" in missing] == list("abc")


def test_rows_of_another_number_of_images_come_once(folder, check):
    train, test = write(folder, [row(0), row(1, 2)]), write(folder, [row(3), row(4, 5)], "test.jsonl")
    _, message = check(train, "--held-out", test, "data.images_per_row=2")
    assert message.count("num_images ") == 2 + 1  # two rows, and their number
    assert "2 of 4 rows cannot be used" in message


@pytest.mark.parametrize("form", ["list", "data", "conversations", "lines"])
def test_public_files_are_checked_as_they_are(folder, check, form):
    talk = [{"from": "human", "value": "<image 1>\nA bus?"}, {"from": "gpt", "value": "yes"}]
    bad = {"id": "b", "image": "none.png", "conversations": talk}
    records = {
        "list": [{"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "A bus?"}],
                  "ground_truth": "yes"}],
        "data": {"data": [{"sample_id": 1, "task_instruction_id": 0, "response": "yes",
                           "task_instance": {"context": "{image#1} A bus?", "images_path": ["0.png"]}}]},
        "conversations": [{"id": "a", "image": "0.png", "conversations": talk}, bad],
        "lines": [{"question": "A bus?", "answer": "yes"}],
    }  # fmt: skip
    (folder / "set.json").write_text(json.dumps(records[form]))
    text, message = check(folder / "set.json")
    assert "reward         vqa" in text
    if form == "conversations":
        assert re.search(r"set\.json:1 +image_missing ", message)
    else:
        assert message is None


def test_the_table_is_whole(folder, check):
    _, message = check(write(folder, [row("none.png")] * 200 + [row(0)]))
    assert message.count("image_missing") == 201  # each row, and their number


def test_misuse(folder, check, tiny):
    with pytest.raises(ConfigError, match="no file given"):
        check("reward=vqa")
    assert "no such file" in check(folder / "none.jsonl")[1]
    with pytest.raises(ConfigError, match="rewrad"):
        check(write(folder, [row(0)]), "rewrad=vqa")
