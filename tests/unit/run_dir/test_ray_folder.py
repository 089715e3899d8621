"""Where Ray's folder is, and that its sockets fit."""

import os
import socket
import stat
import tempfile
import uuid

import pytest

from mars.checks.packages import machine_lines
from mars.config.load import load_config
from mars.errors import SetupError
from mars.run_dir.ray_folder import MAX_PARENT_BYTES, OWN_NAME, check_vllm_folder, make_ray_folder, ray_folder_parent

# As Ray names them; plasma_store is the longest.
SOCKET = "ray/session_2026-11-30_06-14-35_384412_4194304/sockets/plasma_store"


@pytest.fixture
def short():
    """A folder with a short path; those of pytest are long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield folder


def of_length(folder, length):
    path = os.path.join(folder, "x" * (length - len(folder) - 1))
    os.makedirs(path)
    return path


def test_a_socket_fits_below_the_longest_folder(short, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "/tmp/" + "y" * 90)  # not looked at
    parent = of_length(short, MAX_PARENT_BYTES)
    folder = make_ray_folder({"RAY_TMPDIR": parent})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert OWN_NAME.fullmatch(folder.name), "mars doctor finds it"
    path = folder / SOCKET
    path.parent.mkdir(parents=True)
    assert len(str(path)) == 107
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(OSError, match="too long"):
        listener.bind(f"{path}x")


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_longer_one_is_refused_with_the_variable_that_names_it(short, monkeypatch, variable):
    parent = of_length(short, MAX_PARENT_BYTES + 1)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", parent)
    environment = {"RAY_TMPDIR": parent} if variable == "RAY_TMPDIR" else {}
    with pytest.raises(SetupError) as caught:
        make_ray_folder(environment)
    assert str(caught.value).startswith(f"{variable}: Ray's sockets are below this folder")
    assert f"got {parent} of {MAX_PARENT_BYTES + 1} bytes, at most {MAX_PARENT_BYTES} are possible" in str(caught.value)
    assert "export RAY_TMPDIR=/tmp" in str(caught.value)
    assert caught.value.exit_code == 4
    assert str(ray_folder_parent({"RAY_TMPDIR": short})) == short  # a short one helps


def test_bytes_count_and_not_characters(short):
    with pytest.raises(SetupError, match=f"of {len(short) + 1 + 3 * 8} bytes"):
        ray_folder_parent({"RAY_TMPDIR": os.path.join(short, "温" * 8)})


def test_a_folder_that_is_none_is_named(short):
    file = os.path.join(short, "file")
    open(file, "w").close()
    for path, why in ((f"{short}/none", "is not there"), (file, "is not a folder")):
        with pytest.raises(SetupError, match=f"RAY_TMPDIR: .* it {why}; got {path}; export RAY_TMPDIR=/tmp"):
            make_ray_folder({"RAY_TMPDIR": path})


def test_a_folder_for_the_sockets_of_vllm_fits_or_is_refused(short, monkeypatch):
    longest = of_length(short, 70)
    check_vllm_folder({"VLLM_RPC_BASE_PATH": longest})
    path = os.path.join(longest, str(uuid.uuid4()))
    assert len(path) == 107
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    with pytest.raises(SetupError, match=r"VLLM_RPC_BASE_PATH: .* of 71 bytes, at most 70 are possible; unset it"):
        check_vllm_folder({"VLLM_RPC_BASE_PATH": f"{longest}x"})
    open(f"{short}/file", "w").close()
    for path, why in (
        (f"{short}/none", "is not there"),
        ("~/none", "is not there"),
        (f"{short}/file", "is not a folder"),
    ):
        with pytest.raises(SetupError, match=f"VLLM_RPC_BASE_PATH: .* it {why}; got {path}; unset it"):
            check_vllm_folder({"VLLM_RPC_BASE_PATH": path})
    check_vllm_folder({"VLLM_RPC_BASE_PATH": ""})
    check_vllm_folder({"TMPDIR": f"{longest}x"})  # not read: a run gives vLLM a folder of its own


def test_a_cold_start_refuses_it_before_it_reads_rows(mars, short, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", of_length(short, MAX_PARENT_BYTES + 1))
    settings = ("model.path=/m", "data.train_files=[/no/rows.jsonl]", "cluster=ray", "cluster.device=cpu")
    result = mars("sft", *settings, f"run.dir={tmp_path}/run")
    assert (result.returncode, result.stderr.startswith("RAY_TMPDIR: Ray's sockets are below")) == (4, True)


def test_a_dry_run_says_that_the_run_would_not_start_here(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", of_length(short, MAX_PARENT_BYTES + 1))
    given = ["model.path=/m", "data.train_files=[/rows.jsonl]", "cluster=ray", "cluster.device=cpu"]
    [line] = machine_lines(load_config("sft", given, []))
    assert line.startswith("warning           on this machine the run would not start: RAY_TMPDIR: Ray's sockets")
    monkeypatch.setenv("RAY_TMPDIR", short)
    assert machine_lines(load_config("sft", given, [])) == []
    joined = load_config("sft", [*given, "cluster.address=10.0.0.1:6379"], [])
    monkeypatch.setenv("RAY_TMPDIR", f"{short}/none")
    assert machine_lines(joined) == []  # its nodes have folders of their own
