"""The weights that the trainer reads are those of transformers' from_pretrained, to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from mars.actor.model import ScoringSettings, load_policy
from mars.actor.reference import check_reference
from mars.actor.state import save_policy
from mars.data.synthetic.tiny_model import build_tiny
from mars.errors import ConfigError, SetupError
from tests.builders import train_config

FILE = "model.safetensors"
EMBEDDING, NORM, HEAD = (
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
)  # as older versions named them


def loaded(folder: Path):
    model = train_config({"model.path": str(folder), "model.dtype": "float32"}).model
    return load_policy(model, ScoringSettings(1.0, (), 16), "padded", gradient_checkpointing=False), model


def rewritten(source: Path, to: Path, change) -> Path:
    """A copy of the folder whose tensors are those that `change` returns for the old ones."""
    shutil.copytree(source, to)
    save_file(change(load_file(to / FILE)), to / FILE, {"format": "pt"})
    return to


def assert_as_by_transformers(folder: Path, saved: Path) -> None:
    """Weights, buffers and ties, and the names and values of the weights that are saved again."""
    (policy, model), plain = loaded(folder), AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    mine = {name.removeprefix("backbone."): value for name, value in policy.state_dict().items()}
    assert mine.keys() == plain.state_dict().keys()
    assert all(torch.equal(mine[name], value) for name, value in plain.state_dict().items())
    assert all(value.dtype == torch.float32 for value in mine.values())
    own = dict(policy.backbone.named_buffers())
    assert own.keys() == dict(plain.named_buffers()).keys()
    assert own, "frequencies of rotary embeddings, which are in no file"
    assert all(torch.equal(own[name], value) for name, value in plain.named_buffers())
    assert [name for name, _ in policy.backbone.named_parameters()] == [name for name, _ in plain.named_parameters()]
    save_policy(policy, model, str(saved / "mine"), is_writer=True)
    plain.save_pretrained(saved / "plain")
    theirs, ours = load_file(saved / "plain" / FILE), load_file(saved / "mine" / FILE)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


SOURCES = ["tiny", "tiny_tied", "tiny_qwen3", "tiny_internvl", "tiny_qwen3_5", "tiny_qwen2"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_are_those_of_from_pretrained(request, tmp_path, source, dtype):
    def change(tensors):
        return {name: value.to(dtype) for name, value in tensors.items()}

    folder = rewritten(request.getfixturevalue(source), tmp_path / "model", change)
    assert_as_by_transformers(folder, tmp_path)


def test_a_tied_qwen3_5(tmp_path):
    assert_as_by_transformers(
        build_tiny(tmp_path / "model", seed=7, family="qwen3_5", tie_word_embeddings=True), tmp_path
    )


@pytest.mark.parametrize(
    ("source", "old"),
    [
        ("tiny", ("model.layers.", "visual.")),
        ("tiny_tied", ("model.layers.", "visual.")),
        ("tiny_internvl", ("language_model.model.layers.", "vision_tower.", "multi_modal_projector.")),
    ],
)
def test_old_names_and_new_ones_are_understood_and_kept(request, tmp_path, source, old):
    """Old ones as in the files of Qwen2.5-VL-3B-Instruct and InternVL3-1B-hf, new ones as in the model's classes."""
    folder = request.getfixturevalue(source)
    names = set(load_file(folder / FILE))
    assert all(any(name.startswith(start) for name in names) for start in old)
    assert_as_by_transformers(folder, tmp_path / "old")
    assert set(load_file(tmp_path / "old" / "mine" / FILE)) == names
    weights = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
    if source == "tiny_tied":
        del weights[HEAD]
    new = rewritten(folder, tmp_path / "new", lambda tensors: {name: w.clone() for name, w in weights.items()})
    assert not names & weights.keys() - {HEAD}
    assert_as_by_transformers(new, tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "mine" / FILE)) == weights.keys()


def test_a_tied_head_may_be_stored_once_or_twice(tiny_tied, tmp_path):
    def only_head(tensors):
        return {HEAD if name == EMBEDDING else name: value for name, value in tensors.items()}

    def both(tensors):
        return tensors | {HEAD: tensors[EMBEDDING].clone()}

    for number, change in enumerate((only_head, both)):
        folder = rewritten(tiny_tied, tmp_path / f"model{number}", change)
        policy, _ = loaded(folder)
        assert policy.backbone.lm_head.weight is policy.backbone.get_input_embeddings().weight
        assert_as_by_transformers(folder, tmp_path / str(number))
    differing = rewritten(tiny_tied, tmp_path / "differing", lambda t: t | {HEAD: t[EMBEDDING] + 1e-3})
    with pytest.raises(SetupError, match=r"config.json ties .* different values .*set tie_word_embeddings to false"):
        loaded(differing)


def test_a_tied_head_with_nan_is_equal_and_one_of_another_shape_is_named(tiny_tied, tmp_path):
    def broken(tensors):
        embedding = tensors[EMBEDDING].index_fill(0, torch.tensor([3]), float("nan"))
        return tensors | {EMBEDDING: embedding, HEAD: embedding.clone()}

    policy, _ = loaded(rewritten(tiny_tied, tmp_path / "nan", broken))
    assert policy.backbone.lm_head.weight[3].isnan().all()
    longer = rewritten(tiny_tied, tmp_path / "longer", lambda t: t | {HEAD: torch.cat([t[EMBEDDING], t[EMBEDDING]])})
    with pytest.raises(SetupError, match=r"hold lm_head\.weight of shape .* where config\.json makes it"):
        loaded(longer)


def in_shards(source: Path, to: Path, second) -> Path:
    """A copy of the folder with all weights in a.safetensors, and `second` in b.safetensors."""
    shutil.copytree(source, to)
    first = load_file(to / FILE)
    (to / FILE).unlink()
    save_file(first, to / "a.safetensors", {"format": "pt"})
    save_file(second, to / "b.safetensors", {"format": "pt"})
    shards = dict.fromkeys(first, "a.safetensors") | {"b": "b.safetensors"}
    (to / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return to


@pytest.mark.parametrize("name", [NORM, "model.language_model.norm.weight"], ids=["old name", "new name"])
def test_a_weight_that_is_stored_twice_must_have_the_same_values(tiny, tmp_path, name):
    norm = load_file(tiny / FILE)[NORM]
    policy, _ = loaded(in_shards(tiny, tmp_path / "equal", {name: norm.clone()}))
    assert torch.equal(policy.backbone.model.language_model.norm.weight, norm.float())
    twice = rf"stored twice with different values: {NORM} in a\.safetensors, and {name} in b\.safetensors"
    with pytest.raises(SetupError, match=twice):
        loaded(in_shards(tiny, tmp_path / "other", {name: norm + 5}))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_that_are_quantized_are_refused(tiny, tmp_path, dtype):
    folder = rewritten(tiny, tmp_path / "model", lambda t: t | {NORM: t[NORM].to(dtype)})
    with pytest.raises(SetupError, match=rf"{NORM} must be stored in one of F64, .*; got (I8|F8_E4M3); quantized"):
        loaded(folder)


def test_tables_that_older_versions_stored_are_ignored(tiny, tmp_path):
    folder = rewritten(tiny, tmp_path / "model", lambda t: t | {"model.layers.0.rotary_emb.inv_freq": torch.ones(2)})
    assert_as_by_transformers(folder, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {name: value for name, value in t.items() if name != NORM},
            "lack model.language_model.norm.weight, which would start",
        ),
        (lambda t: t | {"model.extra": torch.ones(2)}, r"hold model\.extra, which the model has no place for"),
        (
            lambda t: t | {NORM: torch.ones(2)},
            r"hold model.language_model.norm.weight of shape \[2\] where config\.json makes it \[\d+\]",
        ),
    ],
    ids=["missing", "unexpected", "other shape"],
)
def test_other_weights_than_the_model_s_are_refused(tiny, tmp_path, change, message):
    with pytest.raises(SetupError, match=rf"model\.path: .*they {message}.*use the configuration"):
        loaded(rewritten(tiny, tmp_path / "model", change))


def test_files_that_cannot_be_read_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-10])
    with pytest.raises(SetupError, match=r"model\.path: the model cannot be loaded; got .*model: "):
        loaded(folder)
    (folder / FILE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"0")
    with pytest.raises(SetupError, match=r"neither model\.safetensors nor .*convert the weights to safetensors"):
        loaded(folder)
    index = {"weight_map": {NORM: "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SetupError, match=r"model\.path: the model cannot be loaded; got .*model-00001-of-00001"):
        loaded(folder)


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused(tiny, tmp_path, index):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / FILE).unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(SetupError, match=r"model\.path: .*index\.json: "):
        loaded(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["text_config"].update(layer_types=["linear", "x"]),
            "model\\.path: the model cannot be loaded; got .*: ",
        ),
        (lambda c: c.update(quantization_config={"quant_method": "fp8"}), "quantization_config: quantized .*fp8"),
    ],
    ids=["layer types", "quantized"],
)
def test_a_configuration_that_cannot_be_used_is_refused(tiny_qwen3_5, tmp_path, change, message):
    folder = shutil.copytree(tiny_qwen3_5, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SetupError, match=message):
        loaded(folder)
    if "quantization_config" not in config:
        with pytest.raises((ConfigError, SetupError), match=r"algorithm\.kl_reference: "):
            check_reference(str(folder), str(tiny_qwen3_5), trust_remote_code=False)


CODE = """
import torch
from transformers import Qwen3_5ForConditionalGeneration
class OwnModel(Qwen3_5ForConditionalGeneration):
    def __init__(self, config):
        super().__init__(config)
        {line}
"""


@pytest.mark.parametrize(
    "line",
    ["self.register_buffer('gain', torch.full((3,), 2), persistent=False)", "self.gain = torch.ones(3)"],
    ids=["buffer", "attribute"],
)
def test_tensors_that_only_a_model_s_own_init_fills_are_refused(tiny_qwen3_5, tmp_path, line):
    """They would be memory that nothing has been written to."""
    folder = shutil.copytree(tiny_qwen3_5, tmp_path / "model")
    (folder / "modeling_own.py").write_text(CODE.format(line=line))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageTextToText": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    model = train_config({"model.path": str(folder), "model.trust_remote_code": True}).model
    with pytest.raises(SetupError, match=r"the model's code sets gain in __init__ alone; .*_init_weights"):
        load_policy(model, ScoringSettings(1.0, (), 16), "padded", gradient_checkpointing=False)


def test_weights_that_must_be_converted_are_refused(tiny, monkeypatch):
    """Not only renamed, as experts are that transformers merges into one tensor."""
    from transformers import conversion_mapping
    from transformers.core_model_loading import Transpose, WeightConverter

    converter = WeightConverter("o_proj.weight", "o_proj.weight", operations=[Transpose(0, 1)])
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda model: [converter])
    with pytest.raises(SetupError, match=r"o_proj\.weight is stored in a form that must be converted.*save it again"):
        loaded(tiny)
