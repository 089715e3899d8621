"""A checkpoint exists wholly or not at all: what the catalogue lists, verifies, removes and falls back to."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars.checkpoint.catalogue import LATEST_FILE, Catalogue
from mars.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest
from mars.errors import CheckpointError
from mars.output.digests import write_durably

CONTENTS = {"state.json": b'{"step": 1}', "trainer/shard-1": b"weights", "trainer/shard-2": b"more weights"}


def commit(catalogue: Catalogue, step: int, metrics: dict[str, float | None] | None = None) -> Path:
    draft = catalogue.draft(step)
    (draft / "trainer").mkdir()
    files = {name: write_durably(draft / name, content) for name, content in CONTENTS.items()}
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


def test_a_step_that_is_saved_again_replaces_the_damaged_one(catalogue):
    (commit(catalogue, 1) / "state.json").write_bytes(b"")
    commit(catalogue, 1)
    assert catalogue.load(1).manifest.step == 1


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_subset_and_any_flipped_byte_is_loaded_equal_or_refused(tmp_path_factory, data):
    """Damage the newest of two checkpoints: the newest is loaded with its own content, or the older one is."""
    catalogue = Catalogue(tmp_path_factory.mktemp("fuzz"))
    commit(catalogue, 1)
    folder = commit(catalogue, 2)
    names = [*CONTENTS, MANIFEST_FILE]
    for name in data.draw(st.sets(st.sampled_from(names))):
        (folder / name).unlink()
    left = [name for name in names if (folder / name).exists()]
    if left and data.draw(st.booleans()):
        path = folder / data.draw(st.sampled_from(left))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(bytes(content))
    loaded = catalogue.newest()
    assert {name: (loaded.folder / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert read_manifest(loaded.folder).step == loaded.manifest.step
