"""The command that `mars ckpt export` prints has the settings with which the run's own engine read images."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from mars.answers.files import write_answers
from mars.answers.record import Answer
from mars.cli.serving import serve_command, serving_notes
from mars.config.load import RootName, load_config
from mars.types import ImageRef, Message, Source

PAGE = Path(__file__).parents[3] / "docs" / "runs.md"
OUT = Path("my policies/at_50")
LIMITS = {"size": {"shortest_edge": 784, "longest_edge": 12544}}


def config(*overrides: str, root: RootName = "train"):
    return load_config(root, ["data.train_files=[rows.parquet]", *overrides], [])


def option(command: str, name: str) -> str:
    words = shlex.split(command)
    return words[words.index(name) + 1]


def test_a_policy_of_gpus_is_served_with_the_limits_of_the_run():
    command = serve_command(OUT, config("rollout.max_model_len=13000", "model.dtype=float32"), LIMITS)
    assert shlex.split(command)[:3] == ["vllm", "serve", str(OUT)]
    assert json.loads(option(command, "--mm-processor-kwargs")) == LIMITS
    assert [option(command, name) for name in ("--max-model-len", "--dtype")] == ["13000", "float32"]
    assert option(command, "--generation-config") == "vllm"
    for left_out in ("--gpu-memory-utilization", "--enforce-eager", "--tensor-parallel-size", "--trust-remote-code"):
        assert left_out not in command


def test_a_policy_of_cpus_is_served_with_the_memory_of_the_runs_engine():
    on_cpu = ("experiment=quickstart", "rollout.vllm.kv_cache_memory_bytes=1000000")
    command = serve_command(OUT, config(*on_cpu), LIMITS)
    words = ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(OUT)]
    assert (shlex.split(command)[:5], "--enforce-eager" in command) == (words, True)
    assert option(command, "--kv-cache-memory-bytes") == "1000000"
    shares = ("rollout.vllm.kv_cache_memory_bytes=null", "rollout.vllm.gpu_memory_utilization=0.25")
    assert option(serve_command(OUT, config(*on_cpu[:1], *shares), LIMITS), "--gpu-memory-utilization") == "0.25"


def test_a_large_policy_is_served_by_as_many_gpus_as_in_the_run():
    given = config("rollout.tensor_parallel_size=4", "model.trust_remote_code=true")
    command = serve_command(OUT, given, LIMITS)
    assert (option(command, "--tensor-parallel-size"), "--trust-remote-code" in command) == ("4", True)


def test_a_cold_start_is_served_too():
    command = serve_command(OUT, config("model.dtype=float32", root="sft"), LIMITS)
    assert (option(command, "--dtype"), json.loads(option(command, "--mm-processor-kwargs"))) == ("float32", LIMITS)
    assert "--max-model-len" not in command  # the cold start had no engine


SOURCE = "data.source_image_pixels={infrared: [3136, 12544]}"


@pytest.mark.parametrize("settings", [[], [SOURCE]], ids=["one limit", "of a source"])
def test_the_notes_name_the_limits(settings):
    given = ["data.min_image_pixels=784", "data.max_image_pixels=12544", "model.path=/models/base"]
    notes = "\n".join(serving_notes("vllm serve x", config(*given, *settings)))
    for part in ("data.min_image_pixels=784", "data.max_image_pixels=12544", "/models/base", "vllm serve x"):
        assert part in notes
    assert ("infrared 3136 to 12544 pixels" in notes) == bool(settings)


def test_the_documented_client_sends_the_images_and_then_the_question(tmp_path, monkeypatch, capsys):
    for name in ("visible", "infrared"):
        (tmp_path / name).write_bytes(name.encode())
    sources = tuple(Source(name, ImageRef(str(tmp_path / name), (56, 56))) for name in ("visible", "infrared"))
    question = (Message("user", "<image><image>\nWhere?"),)
    answer = Answer("a", 0, "rows:0", "llvip", None, 0, "there", "", None, None, {}, "stop", 45, 1, question, sources)
    write_answers(tmp_path / "answers.jsonl", [answer])
    sent = []

    def server(request):
        sent.append((request.full_url, json.loads(request.data)["messages"]))
        said = {"choices": [{"message": {"content": "here"}}], "usage": {"prompt_tokens": 69}}
        return io.StringIO(json.dumps(said))

    monkeypatch.setattr("urllib.request.urlopen", server)
    monkeypatch.setattr(sys, "argv", ["ask.py", str(tmp_path / "answers.jsonl")])
    client = re.search(r"```python\n(# file: ask\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert client is not None
    exec(client[1], {})  # noqa: S102 our own page
    data = [base64.b64encode(name).decode() for name in (b"visible", b"infrared")]
    images = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in data]
    content = [*images, {"type": "text", "text": "\nWhere?"}]
    assert sent == [("http://127.0.0.1:8000/v1/chat/completions", [{"role": "user", "content": content}])]
    assert capsys.readouterr().out == "here\nthere\n69 45\n"


@pytest.mark.parametrize(
    ("settings", "limits"), [(["experiment=quickstart"], (784, 12544)), ([], (3136, 1003520))], ids=["laptop", "GPUs"]
)
def test_the_documented_commands_are_those_that_are_printed(settings, limits):
    size = {"size": dict(zip(("shortest_edge", "longest_edge"), limits, strict=True))}
    assert f"\n{serve_command(Path('OUT'), config(*settings), size)}\n" in PAGE.read_text(encoding="utf-8")
