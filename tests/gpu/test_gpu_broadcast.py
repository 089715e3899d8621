"""Weights from one GPU to another over NCCL. Skipped where there are not two GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")

MEMBER = """
import json, sys, time
from pathlib import Path
import torch
from mars.weights.broadcast import BroadcastTransfer
from mars.weights.meeting import Meeting
from mars.weights.store import DriverStore
from mars.weights.transfer import Bucket

place, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.cuda.set_device(place)
transfer = BroadcastTransfer("actor-0" if place == 0 else "engine-0", "cuda", 60.0, 2**20)
port_file, wanted = folder / "port", {str(i): torch.full((1000, 100 + i), float(i)) for i in range(5)}
if place == 0:
    store = DriverStore("127.0.0.1")  # which the driver has otherwise
    port_file.with_suffix(".new").write_text(str(store.port))
    port_file.with_suffix(".new").rename(port_file)
while not port_file.exists():
    time.sleep(0.01)
for send in (1, 2):
    meeting = Meeting("127.0.0.1", int(port_file.read_text()), "g", ("actor-0",), ("engine-0",), send, send)
    if place == 0:
        transfer.meet(meeting)
        shapes = {name: tuple(value.shape) for name, value in wanted.items()}
        bucket = Bucket(shapes, torch.bfloat16, lambda: {n: [(send * v).bfloat16().cuda()] for n, v in wanted.items()})
        transfer.send(send, [bucket])
    else:
        got = dict(transfer.receive(meeting))
        assert list(got) == list(wanted)
        assert all(torch.equal(got[n].cpu(), (send * v).bfloat16()) and got[n].is_cuda for n, v in wanted.items())
(folder / f"done{place}").write_text(json.dumps(send))
while not (folder / f"done{1 - place}").exists():
    time.sleep(0.01)
"""


def test_weights_travel_from_gpu_to_gpu(tmp_path):
    members = [
        subprocess.Popen([sys.executable, "-c", MEMBER, str(place), str(tmp_path)], cwd=Path(__file__).parents[2])
        for place in (0, 1)
    ]
    assert [member.wait(120) for member in members] == [0, 0]
    assert [json.loads((tmp_path / f"done{place}").read_text()) for place in (0, 1)] == [2, 2]
