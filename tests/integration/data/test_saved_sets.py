"""Data sets of `save_to_disk` and of the hub: read like files, images included."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from PIL import Image

from mars.data.pixels.cells import read_cell
from mars.data.pixels.images import decode_image
from mars.data.rows import saved
from mars.data.rows.saved import FileError, SavedSet, saved_set
from mars.errors import DataError
from tests.builders import load_prompts

datasets.disable_progress_bars()

SHADES = range(0, 70, 10)  # of the images of seven rows


def load(*names, root=None, policy="error"):
    return load_prompts(list(names), root, policy, lambda prompt: None)


def picture(shade):
    return Image.new("RGB", (20, 10), (shade, 1, 2))


def rows(shades=SHADES):
    """Two images a row, as an Image feature; the second is the first one's negative."""
    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "extra_info": {"id": datasets.Value("string"), "sources": datasets.List(datasets.Value("string"))},
            "notes": datasets.Value("int64"),
        }
    )
    return datasets.Dataset.from_dict(
        {
            "problem": [f"<image><image>\nHow bright is {shade}?" for shade in shades],
            "answer": [str(shade) for shade in shades],
            "images": [[picture(shade), picture(255 - shade)] for shade in shades],
            "extra_info": [{"id": f"r{shade}", "sources": ["visible", "infrared"]} for shade in shades],
            "notes": list(shades),
        },
        features=features,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved set of three arrow files."""
    path = tmp_path_factory.mktemp("saved") / "mine"
    rows().save_to_disk(path, num_shards=3)
    return path


def test_a_saved_set_is_read_with_its_images_from_several_arrow_files(folder):
    prompts = load(str(folder)).prompts
    assert [prompt.row for prompt in prompts] == [f"{folder}:{number}" for number in range(7)]
    assert {prompt.data_source for prompt in prompts} == {"mine"}
    assert [prompt.truth for prompt in prompts] == [str(shade) for shade in SHADES]
    assert [source.name for source in prompts[0].sources] == ["visible", "infrared"]
    for shade, prompt in zip(SHADES, prompts, strict=True):
        first, second = (decode_image(source.image) for source in prompt.sources)
        assert (first.size, first.getpixel((3, 3))) == ((20, 10), (shade, 1, 2))
        assert second.getpixel((3, 3)) == (255 - shade, 1, 2)
    assert len({prompt.sources[0].image.path for prompt in prompts}) == 3


def test_one_split_of_several_is_named_behind_an_at_sign(tmp_path):
    datasets.DatasetDict({"train": rows(), "test": rows([200, 210])}).save_to_disk(tmp_path / "both")
    assert [prompt.truth for prompt in load(f"{tmp_path}/both@test").prompts] == ["200", "210"]
    assert {prompt.data_source for prompt in load(f"{tmp_path}/both@test").prompts} == {"both"}
    for name in ("both", "both@dev"):
        with pytest.raises(DataError, match=rf"{name}: no such split; got (none|dev); use one of \S+both@train, "):
            load(f"{tmp_path}/{name}")


def test_the_fingerprint_is_of_the_contents_wherever_they_are(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    rows([1, 2]).save_to_disk(tmp_path / "other")
    here, moved, other = load(str(folder)), load(f"{tmp_path}/copy"), load(f"{tmp_path}/other")
    assert here.fingerprint == moved.fingerprint != other.fingerprint
    assert [prompt.prompt_id for prompt in here.prompts] == [prompt.prompt_id for prompt in moved.prompts]


def test_image_paths_are_relative_to_the_saved_set(tmp_path):
    table = {"problem": ["<image>A?"], "answer": ["yes"], "images": [["a.png"]]}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "paths")
    picture(9).save(tmp_path / "paths" / "a.png")
    (prompt,) = load(f"{tmp_path}/paths").prompts
    assert prompt.sources[0].image.path == str(tmp_path / "paths" / "a.png")
    picture(9).save(tmp_path / "a.png")
    (prompt,) = load(f"{tmp_path}/paths", root=str(tmp_path)).prompts
    assert prompt.sources[0].image.path == str(tmp_path / "a.png")


def test_bad_rows_of_a_saved_set_are_named_by_their_number(tmp_path):
    table = {"problem": ["A?", None, "C?"], "answer": ["yes", "no", None]}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "bad")
    with pytest.raises(DataError, match=r"(?s)2 of 3 rows.*bad:1 +prompt .*bad:2 +truth "):
        load(f"{tmp_path}/bad")
    kept = load(f"{tmp_path}/bad", policy="drop")
    assert [prompt.row for prompt in kept.prompts] == [f"{tmp_path}/bad:0"]


def test_files_and_saved_sets_stand_beside_each_other(folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"problem": "A?", "answer": "b"}\n')
    found = load(str(folder), f"{tmp_path}/rows.jsonl")
    assert [prompt.row.rpartition(":")[2] for prompt in found.prompts] == [*"0123456", "0"]


def test_a_selection_of_rows_keeps_its_rows_and_order(tmp_path):
    rows().select([5, 1]).save_to_disk(tmp_path / "chosen")
    prompts = load(f"{tmp_path}/chosen").prompts
    assert [prompt.truth for prompt in prompts] == ["50", "10"]
    assert decode_image(prompts[0].sources[0].image).getpixel((0, 0)) == (50, 1, 2)


def test_folders_that_are_no_saved_set(folder, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    shutil.copytree(folder, tmp_path / "cut")
    arrow = sorted((tmp_path / "cut").glob("*.arrow"))[1]
    arrow.write_bytes(arrow.read_bytes()[:700])
    datasets.Dataset.from_dict({"other": [1]}).save_to_disk(tmp_path / "columns")
    for name, message in {
        "plain": "is a folder; name its .parquet or .jsonl files, or a folder that save_to_disk wrote",
        "broken": "cannot be read as a saved data set",
        "cut": "cannot be read as a saved data set",
        "columns": "cannot be read as a saved data set: none of the columns",
        "gone": "no such file or folder",
    }.items():
        with pytest.raises(DataError, match=f"{name}: {message}"):
            load(f"{tmp_path}/{name}")
    with pytest.raises(DataError, match="is one split itself; got @train"):
        load(f"{folder}@train")


def test_a_cell_that_is_not_there(folder):
    arrow = str(next(folder.glob("*.arrow")))
    assert Image.open(io.BytesIO(read_cell(arrow, 0, 1))).size == (20, 10)
    for row, slot in ((99, 0), (-1, 0), (0, 2)):
        with pytest.raises(LookupError, match=r"no row|no image bytes"):
            read_cell(arrow, row, slot)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("owner/name@train", SavedSet("owner/name", None, "train")),
        ("owner/name:small@test", SavedSet("owner/name", "small", "test")),
        ("name@train", SavedSet("name", None, "train")),
        ("rows.jsonl", None),
        ("runs/x@2.parquet", None),  # more likely a file that is not there
        ("../owner/name@train", None),
        ("/abs/name@train", None),
        ("owner/name@train[:10]", None),
        ("owner/name", None),
    ],
)
def test_what_names_mean(name, meaning):
    assert saved_set(name) == meaning


def test_a_file_with_an_at_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows@train").touch()
    assert saved_set("rows@train") is None


def test_a_set_of_the_hub_is_read_from_the_cache_of_datasets(folder, monkeypatch):
    """The hub's answer is a set whose arrow files are in the cache; here it is the saved one."""
    asked = []

    def load_dataset(path, config, *, split, keep_in_memory):
        asked.append((path, config, split))
        return datasets.load_from_disk(folder)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    saved._hub_files.cache_clear()
    prompts = load("someone/mine:small@train").prompts
    saved._hub_files.cache_clear()
    assert asked == [("someone/mine", "small", "train")]
    assert prompts[3].row == "someone/mine:small@train:3"
    assert prompts[3].data_source == "mine"
    assert decode_image(prompts[3].sources[0].image).getpixel((0, 0)) == (30, 1, 2)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), r"the hub cannot be reached: no route; download the set where there is"),
        (ValueError("Unknown split 'x'"), r"cannot be loaded from the hub: Unknown split 'x'; give owner/name@split"),
        (datasets.exceptions.DatasetNotFoundError("doesn't exist"), "cannot be loaded from the hub: doesn't exist"),
    ],
)
def test_a_set_of_the_hub_that_cannot_be_had(monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(FileError, match=message):
        saved.arrow_files(SavedSet("someone/gone", None, "train"))
    with pytest.raises(DataError, match=rf"someone/gone@train: .*{message}"):
        load("someone/gone@train")


def test_a_set_of_the_hub_without_a_network(monkeypatch):
    """The library's own error, from the arguments that it is really called with."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"nobody/nothing@train: no such file or folder, and the hub cannot be reached"):
        load("nobody/nothing@train")


def test_files_of_rows_import_neither_datasets_nor_pandas(tmp_path):
    """They cost seconds, and nothing here needs them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "rows.jsonl").write_text('{"problem": "A?", "answer": "b"}\n')
    prompts = pa.array([[{"role": "user", "content": "A?"}], None, [{"role": "user", "content": None}]])
    pq.write_table(pa.table({"prompt": prompts, "answer": ["b", "c", None]}), tmp_path / "rows.parquet")
    code = (
        "import sys; from mars.data.rows.dataset import read_prompts;"
        "from mars.data.convert.eval_json import read_json_rows as read_json;"
        f"files = ['{tmp_path}/rows.jsonl', '{tmp_path}/rows.parquet'];"
        "read = read_prompts(files, None, lambda prompt: None, read_json=read_json);"
        "print(len(read.usable), {'datasets', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "2 set()"
