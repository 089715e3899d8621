"""Images on a node whose data are mounted elsewhere: the same file under its own root, and nothing outside it."""

from __future__ import annotations

import pytest

from mars.data.pixels.mounted import MountedRoot
from mars.data.pixels.stored import BadImage, Place


@pytest.fixture
def node(tmp_path):
    """A node's folder with an image, and a link out of it."""
    root = tmp_path / "node" / "data"
    (root / "visible").mkdir(parents=True)
    (root / "visible" / "1.png").write_bytes(b"pixels")
    (tmp_path / "node" / "secret.png").touch()
    (root / "out.png").symlink_to("../secret.png")
    (root / "in.png").symlink_to("visible/1.png")
    return root


def test_what_is_under_the_root_is_looked_for_under_the_nodes_root(node):
    read = MountedRoot("/data/llvip", str(node))
    assert read(Place("/data/llvip/visible/1.png")) == str(node / "visible" / "1.png")
    assert read(Place("/data/llvip/in.png")) == str(node / "visible" / "1.png"), "a link within the root is followed"
    assert read(Place("/data/llvip/missing.png")) == str(node / "missing.png"), "the decoder says that it is missing"


def test_what_is_elsewhere_has_the_same_path_on_all_nodes(node):
    read = MountedRoot("/data/llvip", str(node))
    assert read(Place("/data/llvip2/1.png")) == "/data/llvip2/1.png"
    assert read(Place("/other/1.png")) == "/other/1.png"


@pytest.mark.parametrize("path", ["out.png", "../secret.png", "visible/../../secret.png"])
def test_what_leads_out_of_the_nodes_root_is_refused(node, path):
    with pytest.raises(BadImage, match="leads out of MARS_IMAGE_ROOT=") as error:
        MountedRoot("/data/llvip", str(node))(Place(f"/data/llvip/{path}"))
    assert error.value.reason == "missing"


def test_the_nodes_root_may_itself_be_a_link(node, tmp_path):
    (tmp_path / "link").symlink_to(node)
    read = MountedRoot("/data", str(tmp_path / "link"))
    assert read(Place("/data/visible/1.png")) == str(node / "visible" / "1.png")
    with pytest.raises(BadImage):
        read(Place("/data/out.png"))


def test_files_of_rows_are_looked_for_in_the_same_way(node):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"images": [[{"bytes": b"one"}]]}), node / "rows.parquet")
    read = MountedRoot("/data", str(node))
    assert read(Place("/data/rows.parquet", 0, 0)) == b"one"
