"""What the rows of a parquet file may unpack to, and columns of every type."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mars.data.convert.eval_json import read_json_rows
from mars.data.rows import parquet, sizes
from mars.data.rows.dataset import read_prompts
from mars.data.rows.sizes import row_bytes
from mars.errors import DataError


def read(path):
    return read_prompts([str(path)], None, lambda prompt: None, read_json=read_json_rows)


def write(path, *, number=3, row_group_size=None, use_dictionary=True, **columns):
    columns = {"prompt": ["q"] * number, "answer": ["yes"] * number, **columns}
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size, use_dictionary=use_dictionary)
    return path


def repeated(value, number):
    return pa.DictionaryArray.from_arrays(pa.array([0] * number, pa.int32()), pa.array([value]))


def test_bytes_of_rows_by_hand():
    texts = pa.array(["ab", None, "cdefg"])
    assert row_bytes(texts).tolist() == [18, 16, 21]
    assert row_bytes(texts.dictionary_encode()).tolist() == [18 + 16, 16, 21 + 16]
    with_null = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 2], pa.int8()), pa.array(["ab", None, "c"]))
    assert row_bytes(with_null).tolist() == [16, 16, 18 + 16, 17 + 16]
    assert row_bytes(with_null.slice(2)).tolist() == [18 + 16, 17 + 16]
    assert row_bytes(texts.slice(1)).tolist() == [16, 21]
    assert row_bytes(texts[:0]).tolist() == []
    assert row_bytes(pa.array([1.0, None])).tolist() == [16, 16]
    lists = pa.array([["ab", "c"], None, [], ["d"]])
    assert row_bytes(lists).tolist() == [16 + 18 + 17, 16, 16, 16 + 17]
    assert row_bytes(lists.slice(2)).tolist() == [16, 16 + 17]
    structs = pa.array([{"a": "ab", "b": 1}, None])
    assert row_bytes(structs).tolist() == [16 + 18 + 16, 16 + 16 + 16]
    assert row_bytes(pa.array([[("k", "ab")], []], pa.map_(pa.string(), pa.string()))).tolist() == [16 + 17 + 18, 16]
    assert row_bytes(pa.array([[1, 2], None], pa.list_(pa.int8(), 2))).tolist() == [16 + 32, 16]


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_row_that_unpacks_to_too_much_is_a_problem_of_this_row(tmp_path, monkeypatch, use_dictionary):
    monkeypatch.setattr(sizes, "MAX_TEXT_BYTES", 10_000)
    monkeypatch.setattr(sizes, "MAX_IMAGE_BYTES", 20_000)
    answers = ["yes", "a" * 20_000, "no"]
    path = write(tmp_path / "a.parquet", answer=answers, use_dictionary=use_dictionary)
    reading = read(path)
    (problem,) = reading.problems
    assert (problem.row, problem.reason) == (f"{path}:1", "row_size")
    assert "the row's texts unpack to 200" in problem.detail
    assert "at most 10000 are read" in problem.detail
    assert [prompt.truth for prompt in reading.usable] == ["yes", "no"]
    images = [[{"bytes": bytes(size), "path": None}] for size in (30_000, 5, 6)]
    reading = read(write(tmp_path / "b.parquet", images=images, use_dictionary=use_dictionary))
    assert (reading.problems[0].row[-1], reading.problems[0].reason) == ("0", "row_size")
    assert "row_size" not in {problem.reason for problem in reading.problems[1:]}


def test_a_row_group_is_refused_by_its_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 50_000)
    path = write(tmp_path / "a.parquet", number=4, answer=["x", "y"] + ["a" * 60_000] * 2, row_group_size=2)
    with pytest.raises(
        DataError, match=r"a\.parquet: .*rows 2 to 3 are a row group that unpacks to 6\d{4} bytes; .*50000"
    ):
        read(path)
    # A list of nulls takes no space in the file.
    nulls = pa.ListArray.from_arrays(pa.array([0, 0, 10_000, 10_000], pa.int32()), pa.nulls(10_000, pa.int8()))
    path = write(tmp_path / "b.parquet", extra_info=pa.StructArray.from_arrays([nulls], ["x"]))
    assert path.stat().st_size < 5_000
    with pytest.raises(DataError, match="rows 0 to 2 are a row group"):
        read(path)
    assert len(read(write(tmp_path / "c.parquet", other=nulls)).usable) == 3  # a column that is not read


def test_repeated_texts_and_images_count_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_FILE_TEXT", 1_000_000)
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 300_000)
    monkeypatch.setattr(sizes, "MAX_IMAGE_BYTES", 200_000)
    assert len(read(write(tmp_path / "a.parquet", number=90, answer=repeated("a" * 10_000, 90))).usable) == 90
    path = write(tmp_path / "b.parquet", number=110, answer=repeated("a" * 10_000, 110), row_group_size=50)
    with pytest.raises(DataError, match=r"the texts of its rows unpack to 10.* up to row group 1; at most 1000000"):
        read(path)
    path = write(tmp_path / "c.parquet", number=2000, image=repeated(b"a" * 100_000, 2000))
    assert path.stat().st_size < (2000 * 100_000 - 300_000) / 256
    with pytest.raises(DataError, match="the images of its rows unpack to 200"):
        read(path)


def test_a_value_that_python_cannot_hold_is_a_problem_of_its_row(tmp_path):
    far = pa.array([0, 2**63 - 1, 0], pa.int64())
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffb")]
    )
    for name, values in {
        "year": far.cast(pa.timestamp("us")),
        "span": far.cast(pa.duration("s")),
        "text": broken,
        "zone": pa.array([0, None, 0], pa.int64()).cast(pa.timestamp("us", "Nowhere/Land")),
    }.items():
        path = write(tmp_path / f"{name}.parquet", extra_info=pa.StructArray.from_arrays([values], ["v"]))
        reading = read(path)
        assert {problem.reason for problem in reading.problems} == {"value"}, name
        bad = {"zone": ["0", "2"]}.get(name, ["1"])
        assert [problem.row[-1] for problem in reading.problems] == bad, name
        assert "the column extra_info holds a value that cannot be read" in reading.problems[0].detail
        assert len(reading.usable) == 3 - len(bad), name


def test_other_types_are_harmless_or_a_problem_of_their_rows(tmp_path):
    harmless = {
        "date": [datetime.date(2020, 1, 1), None, None],
        "time": [datetime.time(1, 2), None, None],
        "decimal": [decimal.Decimal("1.50"), None, None],
        "nested": [[[{"a": [1]}], []], None, []],
        "bytes": [b"\xff", None, b""],
        "nan": [float("nan"), float("inf"), None],
        "nulls": pa.nulls(3),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "packed": pa.array(["a", "b", "a"]).dictionary_encode(),
        "large": pa.array(["a", None, "b"], pa.large_string()),
        "fixed": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    }
    for name, values in harmless.items():
        array = values if isinstance(values, pa.Array) else pa.array(values)
        path = tmp_path / f"{name}.parquet"
        assert len(read(write(path, extra_info=pa.StructArray.from_arrays([array], ["v"]))).usable) == 3, name
        for column in ("prompt", "answer", "extra_info", "images", "reward_model", "data_source", "response"):
            reading = read(write(path, **{column: array}))  # as a whole column
            assert len(reading.rows) == 3, (name, column)
            assert len(reading.usable) + len({problem.row for problem in reading.problems}) == 3, (name, column)


def test_columns_that_are_ambiguous_or_encrypted(tmp_path):
    """pyarrow ends the process when it is asked for the sizes of an encrypted column."""
    import base64

    import pyarrow.parquet.encryption as encryption

    class Keys(encryption.KmsClient):
        def wrap_key(self, key_bytes, master_key_identifier):
            return base64.b64encode(key_bytes)

        def unwrap_key(self, wrapped_key, master_key_identifier):
            return base64.b64decode(wrapped_key)

    text = pa.array(["q"] * 3)
    twice = pa.Table.from_arrays([text, text, text], names=["prompt", "prompt", "answer"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"twice\.parquet: .*several columns with the name prompt; keep one"):
        read(tmp_path / "twice.parquet")
    table = pa.table({"prompt": text, "answer": text})
    for is_plain in (True, False):
        settings = encryption.EncryptionConfiguration(
            "footer", column_keys={"k": ["prompt"]}, plaintext_footer=is_plain
        )
        factory = encryption.CryptoFactory(lambda connection: Keys())
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
        with pq.ParquetWriter(tmp_path / "e.parquet", table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
        with pytest.raises(DataError, match=r"e\.parquet: cannot be read as parquet: .*encr"):
            read(tmp_path / "e.parquet")


def test_lines_and_files_of_json_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "MAX_TEXT_BYTES", 1000)
    line = b'{"prompt": "q", "answer": "yes"}\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"x" * 5000 + b"\n" + line + b"y" * 999 + b"\n" + line + b"z" * 1001)
    reading = read(path)
    assert [(problem.row[-1], problem.reason) for problem in reading.problems] == [
        ("1", "row_size"), ("3", "json"), ("5", "row_size"),
    ]  # fmt: skip
    assert "unpack to 5001 bytes; at most 1000" in reading.problems[0].detail
    assert len(reading.usable) == 3
    for name, most in {"large.jsonl": 2**31, "large.json": 2**28}.items():
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(most + 1)  # takes no space on the disk
        with pytest.raises(DataError, match=rf"{name}: has {most + 1} bytes; at most {most} are read"):
            read(tmp_path / name)
    with pytest.raises(DataError, match=r"write its rows as \.jsonl or \.parquet"):
        read(tmp_path / "large.json")


def test_columns_and_metadata_are_bounded_before_a_row_is_read(tmp_path, monkeypatch):
    """Columns that nobody reads, and fields of a struct, take memory for their metadata alone."""
    monkeypatch.setattr(parquet, "MAX_COLUMNS", 60)
    columns = {f"c{i}": ["x"] * 3 for i in range(58)}
    assert len(read(write(tmp_path / "a.parquet", **columns)).usable) == 3
    fields = pa.array([dict.fromkeys(columns, "x") | {"more": "x"}] * 3)
    for name, more in {"b": {"one": ["x"] * 3, **columns}, "c": {"extra_info": fields}}.items():
        with pytest.raises(DataError, match=rf"{name}\.parquet: .*has 61 columns, .*; at most 60 are read; remove"):
            read(write(tmp_path / f"{name}.parquet", **more))
    monkeypatch.setattr(parquet, "MAX_FOOTER_BYTES", 20_000)
    path = write(tmp_path / "d.parquet", number=300, row_group_size=1)
    monkeypatch.setattr(pq, "ParquetFile", lambda *args, **named: pytest.fail("the metadata was read"))
    with pytest.raises(
        DataError, match=r"d\.parquet: .*has \d{5} bytes of metadata; at most 20000 are read; write larg"
    ):
        read(path)


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_long_row_group_is_measured_in_parts(tmp_path, monkeypatch, use_dictionary):
    """Sizes and texts of all its rows at once would take as much memory as the rows."""
    monkeypatch.setattr(parquet, "_MANY_VALUES", 100)
    monkeypatch.setattr(parquet, "_ROWS_PER_MEASURE", 64)
    measured, measure = [], parquet._measured

    def record(batch):
        measured.append(batch.num_rows)
        return measure(batch)

    monkeypatch.setattr(parquet, "_measured", record)
    answers = [f"{i}" for i in range(1000)]
    path = write(tmp_path / "a.parquet", number=1000, answer=answers, use_dictionary=use_dictionary)
    reader = pq.ParquetFile(path)
    sums, text, image, row = parquet._sizes(reader, reader, 0, ["prompt", "answer"])
    assert sum(measured) == 1000
    assert max(measured) <= 64
    assert sums == {"texts": sum(17 + 16 + len(answer) for answer in answers), "images": 0}
    assert (text, image, row) == (36, 0, 36)
    assert [prompt.truth for prompt in read(path).usable] == answers


def test_a_truth_that_is_no_number_is_refused(tmp_path):
    reading = read(write(tmp_path / "a.parquet", answer=[1.5, float("nan"), float("inf")]))
    assert [(problem.row[-1], problem.reason) for problem in reading.problems] == [("1", "truth"), ("2", "truth")]


def test_bytes_that_are_no_image_are_named_without_an_address(tmp_path):
    images = [[{"bytes": b"no image", "path": None}]] * 3
    reading = read(write(tmp_path / "a.parquet", prompt=["<image>q"] * 3, images=images))
    assert "cannot be decoded: it is no image of a known format" in reading.problems[0].detail
    assert "0x" not in reading.problems[0].detail
