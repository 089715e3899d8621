"""A checkpoint exists wholly or not at all: what the catalogue lists, verifies, removes and falls back to."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.checkpoint import manifest as manifest_module
from mars.checkpoint.catalogue import LATEST_FILE, Catalogue
from mars.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest
from mars.errors import CheckpointError
from mars.output.digests import write_durably
from mars.run_dir.events import EventLog
from tests.examples import examples

CONTENTS = {"state.json": b'{"step": 1}', "trainer/shard-1": b"weights", "trainer/shard-2": b"more weights"}


def commit(catalogue: Catalogue, step: int, metrics: dict[str, float | None] | None = None) -> Path:
    draft = catalogue.draft(step)
    (draft / "trainer").mkdir()
    files = {name: write_durably(draft / name, [content]) for name, content in CONTENTS.items()}
    return catalogue.commit(Manifest(step, files, {"torch": "2"}, "data", metrics or {}))


@pytest.fixture
def catalogue(tmp_path):
    return Catalogue(tmp_path / "checkpoints")


def test_what_is_committed_is_loaded_as_it_was(catalogue):
    folder = commit(catalogue, 12, {"eval/multi/mean": 0.5, "actor/pg_loss": None})
    loaded = catalogue.newest()
    assert (loaded.folder, loaded.manifest.step, loaded.manifest.data) == (folder, 12, "data")
    assert loaded.manifest.metrics == {"eval/multi/mean": 0.5, "actor/pg_loss": None}
    assert set(loaded.manifest.files) == set(CONTENTS)
    assert (catalogue.folder / LATEST_FILE).read_text() == "step_000012\n"


def test_drafts_and_other_folders_are_no_checkpoints(catalogue):
    assert catalogue.newest() is None
    catalogue.draft(3)
    for name in ("step_000004", "step_x", "notes"):
        (catalogue.folder / name).mkdir()
    assert catalogue.steps() == []
    catalogue.remove_drafts()
    assert not list(catalogue.folder.glob(".tmp*"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(catalogue, caplog):
    commit(catalogue, 1)
    bad = commit(catalogue, 2) / "trainer" / "shard-1"
    bad.write_bytes(b"weighty")
    with caplog.at_level(logging.WARNING):
        assert catalogue.newest().manifest.step == 1
    assert "shard-1: its content has changed since it was written" in caplog.text
    bad.write_bytes(b"weight")
    with pytest.raises(CheckpointError, match="shard-1: 6 bytes instead of 7"):
        catalogue.load(2)
    bad.unlink()
    with pytest.raises(CheckpointError, match="shard-1: cannot be read"):
        catalogue.load(2)


def test_all_damaged_is_an_error_and_none_a_new_start(catalogue):
    (commit(catalogue, 1) / "state.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged: .*state.json"):
        catalogue.newest()


def test_what_is_left_out_is_named(catalogue, caplog):
    """Before the newest checkpoint that is whole; what is older than that is not looked at."""
    commit(catalogue, 1)
    shutil.rmtree(catalogue.path(1) / "trainer")
    commit(catalogue, 2)
    (commit(catalogue, 3) / MANIFEST_FILE).unlink()
    catalogue.path(4).mkdir()
    catalogue.path(5).write_text("a file")
    catalogue.path(6).symlink_to("gone")
    misnamed = [
        "step_abc",
        "step_7",
        "step_0000007",
        "step_000007.bak",
        "step_",
        "step_\u0667\u0667\u0667\u0667\u0667\u0667",
    ]
    for name in (*misnamed, "notes", ".tmp-step_000008", "Step_000009"):
        (catalogue.folder / name).mkdir()
    with caplog.at_level(logging.WARNING):
        assert catalogue.newest().manifest.step == 2
    for step in (3, 4, 5, 6):
        assert (
            f"a damaged checkpoint is left out: {catalogue.path(step)}/{MANIFEST_FILE}: cannot be read" in caplog.text
        )
    for name in misnamed:
        assert f"{catalogue.folder / name} is left out: a checkpoint is named" in caplog.text
    assert len(caplog.records) == 4 + len(misnamed)
    assert catalogue.steps() == [1, 2]
    assert catalogue.without_manifest() == [catalogue.path(step) for step in (3, 4, 5, 6)]
    for step in (3, 4, 5, 6):  # each gives way to the checkpoint of its step
        commit(catalogue, step)
    assert catalogue.newest().manifest.step == 6


@pytest.mark.parametrize("what", ["no manifest", "empty", "a file"])
def test_checkpoints_that_cannot_be_loaded_are_no_reason_to_start_again(catalogue, what):
    folder = commit(catalogue, 1)
    (folder / MANIFEST_FILE).unlink()
    if what != "no manifest":
        shutil.rmtree(folder)
        folder.mkdir() if what == "empty" else folder.touch()
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged: .*step_000001/MANIFEST.json: cannot be"):
        catalogue.newest()


def test_what_is_damaged_is_not_counted_among_those_that_stay(catalogue):
    for step in (1, 2, 3):
        commit(catalogue, step)
    (commit(catalogue, 4) / "state.json").write_bytes(b"")
    (commit(catalogue, 5) / MANIFEST_FILE).unlink()
    assert catalogue.newest().manifest.step == 3
    commit(catalogue, 6)
    assert catalogue.prune(keep_last=2, keep_best=None) == [1, 2, 4, 5]
    assert (catalogue.steps(), catalogue.without_manifest()) == ([3, 6], [])


class Unreadable:
    """Path.open and read_bytes fail for the paths that `hides`, as on a disk that has gone away."""

    def __init__(self, monkeypatch, code: int) -> None:
        self.hidden: set[Path] = set()
        for name in ("open", "read_bytes"):
            monkeypatch.setattr(Path, name, self._failing(getattr(Path, name), code))

    def _failing(self, read, code):
        def guarded(path, *args, **kwargs):
            if path in self.hidden:
                raise OSError(code, os.strerror(code), str(path))
            return read(path, *args, **kwargs)

        return guarded


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", [MANIFEST_FILE, "trainer/shard-1"])
def test_what_cannot_be_read_now_is_left_out_and_stays(catalogue, monkeypatch, caplog, code, name):
    for step in (1, 2, 3, 4):
        commit(catalogue, step)
    disk = Unreadable(monkeypatch, code)
    disk.hidden.add(catalogue.path(4) / name)
    assert catalogue.newest().manifest.step == 3
    assert f"a checkpoint that cannot be read is left out: {catalogue.path(4)}/{name}: cannot be read" in caplog.text
    assert catalogue.prune(keep_last=2, keep_best=None) == [1], "2 and 3 are the newest that can be read"
    disk.hidden.update(catalogue.path(step) / name for step in (2, 3))
    with pytest.raises(CheckpointError, match=rf"no checkpoint can be loaded: .*{name}: cannot be read"):
        catalogue.newest()
    disk.hidden.clear()
    assert catalogue.newest().manifest.step == 4
    assert catalogue.prune(keep_last=1, keep_best=None) == [2, 3]


def test_a_checkpoint_that_cannot_be_read_and_is_damaged_too_is_damaged(catalogue, monkeypatch):
    commit(catalogue, 1)
    (commit(catalogue, 2) / "state.json").write_bytes(b"")
    Unreadable(monkeypatch, errno.EIO).hidden.add(catalogue.path(2) / "trainer/shard-1")
    assert catalogue.newest().manifest.step == 1
    assert catalogue.prune(keep_last=1, keep_best=None) == [2]


def test_a_checkpoint_of_another_format_is_left_out_and_stays(catalogue, monkeypatch):
    commit(catalogue, 1)
    with monkeypatch.context() as newer:
        newer.setattr(manifest_module, "FORMAT", manifest_module.FORMAT + 1)
        commit(catalogue, 2)
    assert catalogue.newest().manifest.step == 1
    commit(catalogue, 3)
    assert catalogue.prune(keep_last=1, keep_best=None) == [1]
    assert catalogue.steps() == [2, 3]


def test_one_that_cannot_be_removed_keeps_no_other(catalogue, monkeypatch):
    for step in (1, 2, 3, 4):
        commit(catalogue, step)
    unlink = Path.unlink

    def fail_for_two(path, missing_ok=False):
        if path.parent == catalogue.path(2):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", fail_for_two)
    with pytest.raises(PermissionError, match="step_000002"):
        catalogue.prune(keep_last=1, keep_best=None)
    assert catalogue.steps() == [2, 4]


def test_of_a_checkpoint_behind_a_link_only_the_link_is_removed(catalogue, tmp_path):
    commit(catalogue, 1)
    elsewhere = catalogue.path(1).rename(tmp_path / "elsewhere")
    catalogue.path(1).symlink_to(elsewhere)
    commit(catalogue, 2)
    assert catalogue.prune(keep_last=1, keep_best=None) == [1]
    assert not catalogue.path(1).is_symlink()
    assert {name: (elsewhere / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert read_manifest(elsewhere).step == 1


LATEST = [None, b"", b"step_000007\n", b"step_000002 \n\n", b"\xff\xfe\x00", b"x" * 9000]


@pytest.mark.parametrize("content", LATEST)
def test_latest_decides_nothing_and_names_what_was_taken(catalogue, caplog, content):
    commit(catalogue, 1)
    commit(catalogue, 2)
    latest = catalogue.folder / LATEST_FILE
    latest.unlink() if content is None else latest.write_bytes(content)
    with caplog.at_level(logging.INFO):
        loaded = catalogue.newest()
        catalogue.correct_latest(loaded.folder.name)
    assert loaded.manifest.step == 2
    kept = content is not None and content.strip() == b"step_000002"
    assert (latest.read_text().strip(), len(caplog.records)) == ("step_000002", 0 if kept else 1)
    assert kept or "it names step_000002 now" in caplog.text
    assert len(caplog.text) < 500


def test_latest_that_cannot_be_written_costs_nothing(catalogue, caplog):
    commit(catalogue, 1)
    (catalogue.folder / LATEST_FILE).unlink()
    (catalogue.folder / LATEST_FILE).mkdir()
    catalogue.correct_latest("step_000001")
    assert "LATEST: cannot be written" in caplog.text


def test_a_manifest_of_another_format_or_step_is_refused(catalogue):
    folder = commit(catalogue, 1)
    shutil.copytree(folder, catalogue.path(7))
    with pytest.raises(CheckpointError, match="it is of step 1"):
        catalogue.load(7)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"step": 2}))
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        catalogue.load(1)


def test_the_newest_and_the_best_stay(catalogue):
    for step, value in [(1, 0.1), (2, 0.9), (3, 0.5), (4, None), (5, 0.2)]:
        commit(catalogue, step, {"eval/multi/mean": value})
    assert catalogue.prune(keep_last=2, keep_best="eval/multi/mean") == [1, 3]
    assert catalogue.steps() == [2, 4, 5]
    assert catalogue.prune(keep_last=2, keep_best=None) == [2]


def test_the_best_by_a_loss_is_the_smallest(catalogue):
    for step, value in [(1, 2.0), (2, 0.5), (3, 0.9), (4, None), (5, 1.0)]:
        commit(catalogue, step, {"eval/loss": value})
    assert catalogue.prune(keep_last=2, keep_best="eval/loss") == [1, 3]


def test_a_step_that_is_saved_again_replaces_the_damaged_one(catalogue):
    (commit(catalogue, 1) / "state.json").write_bytes(b"")
    commit(catalogue, 1)
    assert catalogue.load(1).manifest.step == 1


ODD = {
    "step_000003/": None, "step_000004": b"a file", "step_000005/state.json": CONTENTS["state.json"],
    "step_abc/MANIFEST.json": b"{}", "step_6/": None, ".tmp-step_000007/": None, "other": b"",
}  # fmt: skip


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    """A folder with the checkpoints of steps 1 and 2."""
    catalogue = Catalogue(tmp_path_factory.mktemp("two"))
    commit(catalogue, 1)
    commit(catalogue, 2)
    return catalogue.folder


@examples(300)
@given(data=st.data())
def test_any_subset_and_any_flipped_byte_is_loaded_equal_or_refused(two_checkpoints, data):
    """Damage two checkpoints, and put odd things beside them: the newest whole one is loaded with its own content, and
    what would be newer is named; without a whole one each is named."""
    with TemporaryDirectory() as folder:
        shutil.copytree(two_checkpoints, Path(folder) / "checkpoints")
        catalogue = Catalogue(Path(folder) / "checkpoints", KeptEvents())
        whole = [path for path in (catalogue.path(1), catalogue.path(2)) if not damaged(path, data)]
        for name in data.draw(st.sets(st.sampled_from(sorted(ODD)))):
            path, content = catalogue.folder / name, ODD[name]
            (path if content is None else path.parent).mkdir(exist_ok=True)
            if content is not None:
                path.write_bytes(content)
        latest = data.draw(st.sampled_from(LATEST))
        if latest is not None:
            (catalogue.folder / LATEST_FILE).write_bytes(latest)
        found_or_refused(catalogue, whole)


class KeptEvents(EventLog):
    """Keeps (event, step) in memory."""

    def __init__(self) -> None:
        super().__init__(None)
        self.kept: list[tuple[str, int | None]] = []

    def log(self, event, step, **details) -> None:
        self.kept.append((event, step))


def damaged(checkpoint: Path, data: st.DataObject) -> bool:
    """Remove some of its files and flip a bit of another one, or leave it whole."""
    left = [*CONTENTS, MANIFEST_FILE]
    for name in data.draw(st.sets(st.sampled_from(left))):
        (checkpoint / name).unlink()
        left.remove(name)
    flipped = data.draw(st.sampled_from([None, *left]))
    if flipped is not None:
        content = bytearray((checkpoint / flipped).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        (checkpoint / flipped).write_bytes(bytes(content))
    return flipped is not None or len(left) <= len(CONTENTS)


def found_or_refused(catalogue: Catalogue, whole: list[Path]) -> None:
    named = {path.name for path in catalogue.folder.iterdir() if re.fullmatch(r"step_\d{6}", path.name)}
    if not whole:
        with pytest.raises(CheckpointError) as refused:
            catalogue.newest()
        assert all(f"/{name}/" in str(refused.value) for name in named)
        return
    loaded = catalogue.newest()
    assert loaded.folder == whole[-1]
    assert {name: (loaded.folder / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert read_manifest(loaded.folder).step == loaded.manifest.step
    told = {f"step_{step:06d}" for event, step in catalogue.events.kept if event == "checkpoint_damaged"}
    assert told == {name for name in named if name > loaded.folder.name}
