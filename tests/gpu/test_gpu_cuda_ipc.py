"""Weights from one process to another on the same GPU. Skipped where there is no GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

MEMBER = """
import sys, time
from pathlib import Path
import torch
from mars.weights.cuda_ipc import CudaIpcMemory
from mars.weights.ipc import IpcTransfer
from mars.weights.meeting import Meeting
from mars.weights.store import DriverStore
from mars.weights.transfer import Bucket

name, folder = sys.argv[1], Path(sys.argv[2])
torch.cuda.set_device(0)
transfer = IpcTransfer(name, CudaIpcMemory(), 60.0, 2**20)
port_file, wanted = folder / "port", {str(i): torch.full((1000, 100 + i), float(i)) for i in range(5)}
if name == "actor-0":
    store = DriverStore("127.0.0.1")  # which the driver has otherwise
    port_file.with_suffix(".new").write_text(str(store.port))
    port_file.with_suffix(".new").rename(port_file)
while not port_file.exists():
    time.sleep(0.01)


def bucket(send, name, value):
    gather = lambda on_all_ranks: {name: [(send * value).bfloat16().cuda()]}
    return Bucket({name: tuple(value.shape)}, torch.bfloat16, gather)


for send in (1, 2):
    meeting = Meeting("127.0.0.1", int(port_file.read_text()), "g", ("actor-0",), ("engine-0",), send, send)
    if name == "actor-0":
        transfer.meet(meeting)
        transfer.send(send, [bucket(send, *item) for item in wanted.items()])
    else:
        got = dict(transfer.receive(meeting))
        assert list(got) == list(wanted)
        assert all(torch.equal(got[n].cpu(), (send * v).bfloat16()) and got[n].is_cuda for n, v in wanted.items())
(folder / name).touch()
while not all((folder / other).exists() for other in ("actor-0", "engine-0")):
    time.sleep(0.01)
"""


def test_weights_are_read_from_the_memory_of_the_other_process(tmp_path):
    members = [
        subprocess.Popen([sys.executable, "-c", MEMBER, name, str(tmp_path)], cwd=Path(__file__).parents[2])
        for name in ("actor-0", "engine-0")
    ]
    assert [member.wait(120) for member in members] == [0, 0]
