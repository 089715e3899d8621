"""A reward that asks a real chat endpoint: vLLM's server with the tiny model.

vLLM starts its engine in a new interpreter, which imports vLLM: most of the time of this test.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mars.rewards import judge as judge_module
from mars.rewards.call_facts import taken_counts
from mars.rewards.judge import Judge, JudgeError
from mars.rewards.pool import RewardPool
from tests.builders import make_item
from tests.integration.forked import VLLM_RUN
from tests.integration.workshop import start

# The engine runs in one process beside the server's, without a third for its worker.
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
OPTIONS = ["--served-model-name=referee", "--host=127.0.0.1", "--dtype=float32", "--enforce-eager",
           "--max-model-len=512", "--max-num-seqs=4", "--distributed-executor-backend=uni"]  # fmt: skip

REWARD = """
import os
from mars.rewards.judge import Judge

judge = Judge(os.environ["JUDGE_URL"], "referee", temperature=0, max_tokens=4, deadline_s=200.0, cache="judged")

def opinion(item):
    return float(len(judge.ask(item.response)))
"""


@pytest.fixture
def url(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server that has only begun to start."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ["-m", "vllm.entrypoints.openai.api_server", f"--model={tiny}", f"--port={port}", *OPTIONS]
    job = start(server, tmp_path, tmp_path, VLLM_RUN, **ENVIRONMENT)
    yield f"http://127.0.0.1:{port}/v1"
    job.kill()


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_reward_asks_a_model_that_vllm_serves(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "_LONGEST_WAIT_S", 0.5)
    judge = Judge(url, "referee", temperature=0, max_tokens=8, timeout_s=60.0, deadline_s=500.0, max_tries=10_000)
    taken_counts()
    seen = judge.ask("Is it red?", [Image.new("RGB", (56, 56), "red")])
    assert taken_counts()["judge/retries"] > 0, "the first requests found no server"
    assert seen == judge.ask("Is it red?", [Image.new("RGB", (56, 56), "red")])
    with pytest.raises(JudgeError, match="HTTP status 404"):
        Judge(url, "nobody").ask("Is it red?")
    assert taken_counts()["judge/requests"] == 2

    (tmp_path / "judged.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_URL", url)
    texts = [f"Question {number}" for number in range(8)]
    pool = RewardPool("judged.py:opinion", "strict", num_workers=1, timeout_s=240.0, concurrency=4)
    try:
        first, second = (pool.score([make_item(text) for text in texts]) for _ in range(2))
        counts = pool.counts()
    finally:
        pool.close()
    assert first == second
    assert [result.failed for result in first] == [None] * 8
    assert [result.score for result in first] == [len(judge.ask(text, max_tokens=4)) for text in texts]
    assert (counts["judge/requests"], counts["judge/cache_hits"]) == (8, 8)
