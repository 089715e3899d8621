"""What the driver's node reads of images and what another node keeps of them: one content for each image, bounded."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.pixels import contents
from mars.data.pixels.contents import ContentCache, FirstContents
from mars.data.pixels.stored import BadImage, Place, encoded_image

A, B, C = b"a" * 10, b"b" * 20, b"c" * 30


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def written(path, content: bytes, mtime_ns: int = 10**18) -> Place:
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return Place(str(path))


class Counted:
    """Reads images and counts how often."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    def __call__(self, place: Place) -> bytes:
        self.places.append(place)
        return encoded_image(place)


# --- FirstContents


def test_an_image_is_read_once_for_its_hash_and_the_first_node(tmp_path):
    place, read = written(tmp_path / "a.png", A), Counted()
    images = FirstContents(read)
    assert (images.digest(place), images.content(place), images.digest(place)) == (digest(A), A, digest(A))
    assert read.places == [place]


def test_more_than_the_recent_bytes_are_read_again(tmp_path):
    places, read = [written(tmp_path / name, content) for name, content in (("b", B), ("c", C))], Counted()
    images = FirstContents(read, recent_bytes=40)
    for place in places:
        images.digest(place)
    assert [images.content(place) for place in places] == [B, C]
    assert read.places == [*places, places[0]], "c pushed b out"


def test_an_image_that_was_overwritten_is_refused_from_then_on(tmp_path):
    place = written(tmp_path / "a.png", A)
    images = FirstContents()
    images.digest(place)
    written(tmp_path / "a.png", b"z" * 10, mtime_ns=10**18 + 1)
    for read in (images.digest, images.content, images.digest):
        with pytest.raises(BadImage, match=r"a\.png: the image changed after the run had read it") as error:
            read(place)
        assert error.value.reason == "changed"


def test_an_image_that_was_only_touched_is_the_same(tmp_path):
    place, read = written(tmp_path / "a.png", A), Counted()
    images = FirstContents(read)
    images.digest(place)
    written(tmp_path / "a.png", A, mtime_ns=10**18 + 1)
    assert images.digest(place) == digest(A)
    assert len(read.places) == 2
    assert images.digest(place) == digest(A)
    assert len(read.places) == 2, "its new time is known"


def test_an_image_that_was_deleted_is_missing(tmp_path):
    place = written(tmp_path / "a.png", A)
    images = FirstContents()
    images.digest(place)
    (tmp_path / "a.png").unlink()
    for read in (images.digest, images.content):
        with pytest.raises(BadImage, match="no such image") as error:
            read(place)
        assert error.value.reason == "missing"


def test_threads_that_read_an_image_first_agree_on_its_content(tmp_path):
    """Each thread reads another content: all but one are refused."""
    place, answers = written(tmp_path / "a.png", A), iter(range(8))
    images = FirstContents(lambda place: b"%d" % next(answers), recent_bytes=0)

    def read(_: int) -> bytes | None:
        try:
            return images.digest(place)
        except BadImage:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(read, range(8))) - {None}
    assert len(found) == 1


def test_a_reader_that_is_started_again_keeps_to_the_first_contents(tmp_path):
    record = tmp_path / "read.txt"
    same, touched = written(tmp_path / "a.png", A), written(tmp_path / "b.png", B)
    cell = Place(str(tmp_path / "odd\udce9\u2028.png"))
    written(tmp_path / "odd\udce9\u2028.png", C)
    before = FirstContents(record=record)
    for place in (same, touched, cell):
        before.digest(place)
    written(tmp_path / "b.png", B, mtime_ns=10**18 + 1)
    before.digest(touched)
    read = Counted()
    after = FirstContents(read, record=record)
    assert [after.digest(place) for place in (same, touched, cell)] == [digest(A), digest(B), digest(C)]
    assert read.places == [], "all of it is known"
    written(tmp_path / "a.png", b"z" * 10, mtime_ns=10**18 + 1)
    with pytest.raises(BadImage, match=r"a\.png: the image changed"):
        after.digest(same)
    with pytest.raises(BadImage, match=r"a\.png: the image changed"):
        FirstContents(record=record).digest(same)


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path):
    record = tmp_path / "read.txt"
    first, second = written(tmp_path / "a.png", A), written(tmp_path / "b.png", B)
    FirstContents(record=record).digest(first)
    record.write_bytes(record.read_bytes()[:-20])
    FirstContents(record=record).digest(second)
    read = Counted()
    images = FirstContents(read, record=record)
    assert (images.digest(first), images.digest(second)) == (digest(A), digest(B))
    assert read.places == [first]


def test_images_are_read_without_a_record_if_the_disk_is_full(tmp_path, caplog):
    images = FirstContents(record=tmp_path / "gone" / "read.txt")
    for name, content in (("a.png", A), ("b.png", B)):
        assert images.digest(written(tmp_path / name, content)) == digest(content)
    assert len(caplog.records) == 1


def test_cells_of_a_file_of_rows_are_images_of_their_own(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"images": [[{"bytes": A}, {"bytes": B}], [{"bytes": A}]]}), tmp_path / "rows.parquet")
    images = FirstContents()
    cells = [Place(str(tmp_path / "rows.parquet"), row, slot) for row, slot in ((0, 0), (0, 1), (1, 0))]
    assert [images.digest(cell) for cell in cells] == [digest(A), digest(B), digest(A)]
    with pytest.raises(BadImage, match=r"rows\.parquet:1, image 1: no such image"):
        images.digest(Place(str(tmp_path / "rows.parquet"), 1, 1))


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (None, "missing")])
def test_encoded_images_are_refused_as_the_decoder_refuses_them(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadImage) as error:
        encoded_image(Place(str(tmp_path / "a.png")))
    assert error.value.reason == reason


# --- ContentCache


def test_the_oldest_contents_make_room(tmp_path):
    cache = ContentCache(60, str(tmp_path))
    for content in (A, B, C):
        cache.put(digest(content), content)
    assert [cache.get(digest(content)) for content in (A, B, C)] == [A, B, C]
    cache.put(digest(b"d"), b"d")
    assert [cache.get(digest(content)) for content in (A, B, C, b"d")] == [None, B, C, b"d"]
    assert cache.num_bytes == 51
    assert digest(A) not in cache
    assert digest(B) in cache


@given(st.lists(st.integers(0, 120), max_size=40), st.integers(1, 100))
def test_the_cache_never_holds_more_than_its_bytes_nor_another_content(sizes, max_bytes):
    cache = ContentCache(max_bytes)
    written = [b"%03d" % size * (size // 3) for size in sizes]
    for i, content in enumerate(written):
        cache.put(digest(content), content)
        assert cache.num_bytes <= max_bytes
        assert (cache.get(digest(content)) == content) is (len(content) <= max_bytes)
        assert all(cache.get(digest(before)) in (before, None) for before in written[:i])


def test_a_content_that_is_not_what_its_hash_says_is_refused(tmp_path):
    cache = ContentCache(100, str(tmp_path))
    with pytest.raises(ValueError, match="not what its hash says"):
        cache.put(digest(A), B)
    assert cache.get(digest(A)) is None


def test_a_disk_that_gives_back_something_else_costs_the_content(tmp_path, monkeypatch):
    cache = ContentCache(100, str(tmp_path))
    cache.put(digest(A), A)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *arguments: B)
        assert cache.get(digest(A)) is None
    assert digest(A) not in cache
    cache.put(digest(A), A)
    assert cache.get(digest(A)) == A


def test_a_content_written_again_survives_the_part_that_held_it_first(tmp_path, monkeypatch):
    cache = ContentCache(60, str(tmp_path))
    cache.put(digest(A), A)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *arguments: B)
        cache.get(digest(A))
    for content in (A, B, C):  # together with the lost bytes more than there is room for
        cache.put(digest(content), content)
    assert [cache.get(digest(content)) for content in (A, B, C)] == [A, B, C]


def test_a_full_disk_keeps_what_was_whole(tmp_path, monkeypatch):
    cache = ContentCache(60, str(tmp_path))
    cache.put(digest(A), A)

    def half(file, content: bytes) -> None:
        file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(contents, "_write_all", half)
        with pytest.raises(OSError, match="No space"):
            cache.put(digest(B), B)
    assert digest(B) not in cache
    cache.put(digest(C), C)
    assert [cache.get(digest(content)) for content in (A, B, C)] == [A, None, C]
    for content in (b"d" * 30, b"e" * 30):  # in the place of A, then of C, which is where B would have been
        cache.put(digest(content), content)
        assert cache.num_bytes == 60


def test_its_files_have_no_names(tmp_path):
    cache = ContentCache(100, str(tmp_path))
    cache.put(digest(A), A)
    assert os.listdir(tmp_path) == []
