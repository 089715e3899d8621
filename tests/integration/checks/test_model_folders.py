"""Model folders that are broken in one place: each is refused before anything starts, with file and key."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from mars.checks.model import check_context, model_check
from mars.checks.weights import read_headers
from mars.data.prompts import template_trial
from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.chat import PromptEncoder
from mars.errors import ConfigError, SetupError
from mars.inputs import prompt_format
from mars.types import Message
from tests.builders import train_config
from tests.integration.whole_model_check import check_model


@pytest.fixture
def broken(tiny, tmp_path):
    """name, change(folder) -> a copy of the tiny model's folder with the change made; its weights are hard links."""

    def make(name: str, change, source: Path = tiny) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in source.iterdir():
            copy = os.link if file.suffix == ".safetensors" else shutil.copyfile
            copy(file, folder / file.name)
        change(folder)
        return folder

    return make


def edit(file: str, change):
    """A change of a JSON file, in place."""

    def at(folder: Path) -> None:
        path = folder / file
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(change(values) or values))

    return at


def text(file: str, content: str | bytes):
    def at(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return at


def tensors(change):
    """A change of the tensors' names, or of the tensors, in the weights."""

    def at(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        values = load_file(folder / "model.safetensors")
        change(values)
        (folder / "model.safetensors").unlink()  # a hard link
        save_file(values, folder / "model.safetensors", {"format": "pt"})

    return at


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    text("model.safetensors", data[:-100])(folder)


def pickled(folder: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(folder / "ran"), "w"))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


def shards(without: str | None = None, rename: tuple[str, str] | None = None):
    """Split the weights into two shards with an index; then leave a shard out, or place a tensor where it is not."""

    def at(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        values = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(values)
        files = {"one.safetensors": names[:20], "two.safetensors": names[20:]}
        for file, some in files.items():
            save_file({name: values[name] for name in some}, folder / file, {"format": "pt"})
        weight_map = {name: file for file, some in files.items() for name in some}
        if rename:
            weight_map[rename[0]] = rename[1]
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        if without:
            (folder / without).unlink()

    return at


def configured(folder: Path, max_model_len: int = 400, **named):
    """Settings of a run whose prompts fit into the tiny models."""
    lengths = {"data.max_prompt_tokens": 300, "rollout.max_response_tokens": 50, "rollout.max_model_len": max_model_len}
    return train_config({"model.path": str(folder), **lengths}, **{"kl_coefficient": 0.0} | named)


def refusal(folder: Path) -> str:
    """What the start of a run says about the folder."""
    config = configured(folder)
    with pytest.raises(SetupError) as caught, model_check(config, in_process=True):
        prompt_format(config)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def check_all(broken, cases: dict) -> None:
    for name, (change, *expected) in cases.items():
        message = refusal(broken(name, change))
        for part in expected:
            assert part in message, f"{name}: {message}"


def nested(section: str, **values):
    def change(config):
        config[section] |= values

    return edit("config.json", change)


def test_files_that_are_no_json_objects(broken):
    files = ["config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json",
             "preprocessor_config.json", "special_tokens_map.json", "tokenizer.json", "chat_template.json"]  # fmt: skip
    contents = {"text": "not json", "list": "[]", "empty": "", "latin": b'{"a": "\xff"}', "deep": "[" * 100_000}
    for file in files:
        for kind, content in contents.items():
            assert f"{file}: " in refusal(broken(f"{file}-{kind}", text(file, content)))


def test_values_of_the_configuration(broken):
    check_all(broken, {
        "vocabulary as text": (nested("text_config", vocab_size="640"), "config.json: text_config.vocab_size", "'640'"),
        "vocabulary 0": (nested("text_config", vocab_size=0), "config.json: text_config.vocab_size"),
        "vocabulary too large": (nested("text_config", vocab_size=4096), "text_config.vocab_size is 4096", "640 rows"),
        "image as text": (edit("config.json", lambda c: c.update(image_token_id="608")), "image_token_id", "'608'"),
        "image missing": (edit("config.json", lambda c: c.pop("image_token_id") and None), "image_token_id"),
        "image beyond": (edit("config.json", lambda c: c.update(image_token_id=640)), "image_token_id", "640"),
        "image unknown": (edit("config.json", lambda c: c.update(image_token_id=630)), "image_token_id", "630"),
        "video true": (edit("config.json", lambda c: c.update(video_token_id=True)), "video_token_id", "True"),
        "end as text": (edit("generation_config.json", lambda c: c.update(eos_token_id="598")),
                        "generation_config.json: eos_token_id"),
        "vocabulary that fills the memory": (nested("text_config", vocab_size=10**9), "text_config.vocab_size"),
        "layers that fill the memory": (nested("text_config", num_hidden_layers=10**9), "num_hidden_layers is 1000000"),
        "kind of text": (nested("text_config", model_type=[]), "config.json"),
        "longest": (edit("tokenizer_config.json", lambda c: c.update(model_max_length="4096")),
                    "tokenizer_config.json: model_max_length", "'4096'"),
        "positions": (nested("text_config", max_position_embeddings=0), "config.json: max_position_embeddings"),
        "no vision": (edit("config.json", lambda c: c.update(vision_config=[])), "config.json"),
        "layers as text": (nested("text_config", num_hidden_layers="3"), "config.json", "num_hidden_layers"),
        "heads 0": (nested("text_config", num_attention_heads=0), "config.json"),
    })  # fmt: skip


def test_json_that_only_some_parsers_read(broken):
    """NaN is no JSON; of two values for a key, readers take different ones."""
    check_all(broken, {
        "nan": (nested("text_config", rms_norm_eps=float("nan")), "config.json: not a readable JSON file", "NaN"),
        "infinity": (edit("tokenizer_config.json", lambda c: c.update(model_max_length=float("inf"))), "Infinity"),
        "true": (edit("tokenizer_config.json", lambda c: c.update(model_max_length=True)), "model_max_length", "True"),
        "twice": (lambda f: text("config.json", '{"vocab_size": 3,' * 2 + (f / "config.json").read_text()[1:])(f),
                  "config.json: not a readable JSON file"),
        "two values": (text("generation_config.json", '{"eos_token_id": 1, "eos_token_id": 2}'),
                       "generation_config.json", "it gives 'eos_token_id' twice"),
        "quantized": (edit("config.json", lambda c: c.update(quantization_config={"quant_method": "awq"})),
                      "config.json: quantization_config", "awq"),
    })  # fmt: skip


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "config.json"])
def test_a_file_that_would_fill_the_memory_is_not_read(broken, name):
    def enlarge(folder):
        (folder / name).unlink()
        with (folder / name).open("wb") as stream:
            stream.truncate(6 * 2**30)  # takes no space on the disk

    assert f"{name}: has 6442450944 bytes; at most 268435456 are read" in refusal(broken(f"large {name}", enlarge))


def test_settings_of_the_image_processor_are_tried(broken):
    def setting(key, value):
        return edit("processor_config.json", lambda c: c["image_processor"].update({key: value}))

    assert "processor_config.json: image_mean must be three numbers" in refusal(broken("m", setting("image_mean", [])))
    values = {"image_std": [0, 0, 0], "rescale_factor": "x", "resample": 99}
    for key, value in values.items():
        assert "processor_config.json: its settings fail on an image" in refusal(broken(key, setting(key, value))), key


def old_processor(image_processor_type: str):
    """The image processor's settings in a file of their own, as older folders have them."""

    def at(folder: Path) -> None:
        settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
        (folder / "processor_config.json").unlink()
        values = settings | {"image_processor_type": image_processor_type}
        (folder / "preprocessor_config.json").write_text(json.dumps(values))

    return at


old_video_class = text("video_preprocessor_config.json", '{"video_processor_type": "Q8"}')


def test_patches_that_are_none_or_not_the_models(broken):
    def patch(key, value):
        return edit("processor_config.json", lambda c: c["image_processor"].update({key: value}))

    check_all(broken, {
        "text": (patch("patch_size", "14"), "processor_config.json: patch_size", "'14'"),
        "zero": (patch("patch_size", 0), "processor_config.json: patch_size", "got 0"),
        "other": (patch("patch_size", 16), "processor_config.json: patch_size", "14", "got 16"),
        "merge": (patch("merge_size", 4), "processor_config.json: merge_size", "got 4"),
        "frames": (patch("temporal_patch_size", 1), "processor_config.json: temporal_patch_size", "got 1"),
        "model": (nested("vision_config", patch_size="14"), "vision_config.patch_size"),
        "old class": (old_processor("Qwen2_5_VLImageProcessor"), "preprocessor_config.json: image_processor_type",
                      "got 'Qwen2_5_VLImageProcessor'; write Qwen2VLImageProcessor there"),
        "old fast class": (old_processor("Qwen2_5_VLImageProcessorFast"), "write Qwen2VLImageProcessor there"),
        "video class": (edit("processor_config.json", lambda c: c["video_processor"].update(video_processor_type="Q9")),
                        "processor_config.json: transformers cannot load the video processor Q9"),
        "old video class": (lambda f: (old_processor("Qwen2VLImageProcessor")(f), old_video_class(f)),
                            "video_preprocessor_config.json: transformers cannot load the video processor Q8"),
        "whole": (edit("processor_config.json", lambda c: c.update(processor_class="InternVLProcessor")),
                  "processor_config.json: transformers cannot load the processor InternVLProcessor"),
        "class": (patch("image_processor_type", "Qwen9ImageProcessor"), "processor_config.json", "Qwen9ImageProcessor"),
    })  # fmt: skip


def test_weights_that_are_not_those_of_the_configuration(broken):
    layer = "model.layers.1.mlp.up_proj.weight"
    check_all(broken, {
        "cut": (cut, "model.safetensors: its header announces", "bytes"),
        "empty": (text("model.safetensors", b""), "model.safetensors: not a safetensors file"),
        "html": (text("model.safetensors", "<html>" * 100), "model.safetensors: not a safetensors file"),
        "pointer": (text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "model.safetensors"),
        "pickled": (pickled, "pytorch_model.bin", "pickle"),
        "none": (lambda folder: (folder / "model.safetensors").unlink(), "got none"),
        "missing": (tensors(lambda t: t.pop(layer)), "layers.1.mlp.up_proj.weight", "random"),
        "renamed": (tensors(lambda t: t.update(other=t.pop(layer))), "layers.1.mlp.up_proj.weight", "other"),
        "extra": (tensors(lambda t: t.update({"model.layers.3.mlp.up_proj.weight": t[layer].clone()})), "layers.3"),
        "shape": (tensors(lambda t: t.update({layer: t[layer][:5].clone()})), "[5, 96]", "[192, 96]"),
        "type": (tensors(lambda t: t.update({layer: t[layer].char()})), f"{layer} is stored as I8: quantized"),
        "layers": (nested("text_config", num_hidden_layers=2, layer_types=["full_attention"] * 2), "layers.2"),
        "shard missing": (shards(without="two.safetensors"), "index.json", "two.safetensors"),
        "shard outside": (shards(rename=("lm_head.weight", "../one.safetensors")), "../one.safetensors"),
        "shard with a long name": (shards(rename=("lm_head.weight", "a" * 5000)), "index.json", "aaa"),
        "shard with a zero byte": (shards(rename=("lm_head.weight", "a\0b")), "index.json", "not in"),
        "shard lacks": (shards(rename=("zzz", "one.safetensors")), "one.safetensors: lacks zzz"),
        "index": (lambda f: (shards()(f), text("model.safetensors.index.json", "[]")(f)), "index.json"),
    })  # fmt: skip
    assert not list(broken("ran", pickled).glob("ran")), "the pickle was loaded"


def test_added_tokens_beyond_the_embedding(broken):
    far = {"content": "<|far|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
           "special": True}  # fmt: skip
    many = {f"<|{i}|>": 611 + i for i in range(40)}

    def extended(*tokens):
        return edit("tokenizer.json", lambda t: t["added_tokens"].extend(tokens))

    check_all(broken, {
        "tokenizer": (extended(far | {"id": 900}), "tokenizer.json", "<|far|>", "900"),
        "decoder": (edit("tokenizer_config.json", lambda t: t.update(added_tokens_decoder={"900": far})),
                    "tokenizer_config.json", "900"),
        "list": (edit("added_tokens.json", lambda t: t.update({"<|far|>": 900})), "added_tokens.json", "900"),
        "vocabulary": (edit("tokenizer.json", lambda t: t["model"]["vocab"].update({"far": 900})), "900", "'far'"),
        "many": (extended(*(far | {"content": content, "id": id_} for content, id_ in many.items())), "649 ('<|39|>')"),
    })  # fmt: skip


def flat(config: dict) -> None:
    """As files of 2024: no text_config, and here no bos_token_id, whose default is beyond a small vocabulary."""
    text = config.pop("text_config")
    config |= {key: value for key, value in text.items() if key not in ("model_type", "bos_token_id")}


def test_folders_that_are_right(broken, tiny_tied, tiny_qwen3):
    """A vocab_size at the top level is an old spelling; text_config's counts. Tied weights are stored once. Shards."""
    stale = broken("stale", edit("config.json", lambda c: c.update(vocab_size=151_936)))
    check_model(str(stale))
    assert max(PromptEncoder.from_pretrained(str(stale)).token_rules().blocked_ids) == 639
    for folder in (
        broken("flat", edit("config.json", flat)),
        broken("shards", shards()),
        broken("old", old_processor("Qwen2VLImageProcessor")),
        tiny_tied,
        tiny_qwen3,
    ):
        check_model(str(folder))
        ImageBudget.from_pretrained(str(folder), 784, 50176)
    assert len(read_headers(broken("again", shards()))) == len(read_headers(tiny_tied)) + 1  # lm_head.weight


def template(content: str, *parts: str):
    return text("chat_template.jinja", content), "chat_template.jinja: the chat template", *parts


def test_chat_templates_that_fail(broken):
    check_all(broken, {
        "range": template("{% for a in range(100000000) %}{% endfor %}", "OverflowError"),
        "syntax": template("{% for message in messages %}\n{{ message", "line 2", "TemplateSyntaxError"),
        "raises": template("{{ raise_exception('not for you') }}", "not for you"),
        "class": template("{{ ''.__class__.__mro__ }}", "SecurityError"),
        "memory": template("{{ 'a' * 10 ** 12 }}", "MemoryError"),
        "type": template("{{ messages + 1 }}", "TypeError"),
        "no prompt": template(chatml(MESSAGE, ""), "writes '<|im_start|>assistant' before a response, but not at the"),
        "thought": template(chatml(MESSAGE, "<|im_start|>assistant\n<seed:think>\n"), "with '<seed:think>'"),
        "latin": (text("chat_template.jinja", b"{{ messages }}\xff"), "chat_template.jinja: not a readable text"),
    })  # fmt: skip


MESSAGE = "{{ m.content if m.content is string else m.content[-1].text }}"


def chatml(message: str, prompt: str = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}") -> str:
    turn = "<|im_start|>{{ m.role }}\n" + message + "<|im_end|>\n"
    return "{% for m in messages %}" + turn + "{% endfor %}" + prompt


def test_templates_that_go_through_the_parts_of_a_message_get_parts(broken, tiny):
    """Such a template finds no part in a plain text: without an error, the model would get no system message."""
    parts = "{% for p in m.content %}{{ p.text if p.type == 'text' }}{% endfor %}"
    messages = (Message("system", "Be brief."), Message("user", "Is there a bus?"))
    wanted = PromptEncoder.from_pretrained(str(tiny)).encode(messages, 0)
    found = PromptEncoder.from_pretrained(str(broken("parts", text("chat_template.jinja", chatml(parts)))))
    assert found.encode(messages, 0) == wanted
    by_role = "{% if m.role == 'system' %}{{ m.content }}{% else %}" + parts + "{% endif %}"
    found = PromptEncoder.from_pretrained(str(broken("by role", text("chat_template.jinja", chatml(by_role)))))
    assert found.encode(messages, 0) == wanted


def test_a_template_that_leaves_out_a_text_is_named_when_a_row_has_it(broken):
    without = chatml(MESSAGE).replace("in messages", "in messages if m.role != 'system'")
    encoder = PromptEncoder.from_pretrained(str(broken("without", text("chat_template.jinja", without))))
    assert encoder.encode((Message("user", "Is there a bus?"),), 0)
    with pytest.raises(SetupError, match=r"jinja: the chat template leaves out the text of the system message in a c"):
        encoder.encode((Message("system", "Be brief."), Message("user", "Is there a bus?")), 0)


def test_a_byte_order_mark_does_not_begin_every_prompt(broken, tiny):
    marked = broken("marked", text("chat_template.jinja", "\ufeff" + (tiny / "chat_template.jinja").read_text()))
    ask = (Message("user", "Is there a bus?"),)
    first, second = (PromptEncoder.from_pretrained(str(folder)).encode(ask, 0) for folder in (marked, tiny))
    assert first == second


def test_chat_templates_that_loop(broken, monkeypatch):
    monkeypatch.setattr(template_trial, "_DEADLINE_S", 0.5)
    loop = "{%- for a in range(99999) -%}{%- for b in range(99999) -%}{%- endfor -%}{%- endfor -%}"
    check_all(broken, {
        "always": template(loop, "not rendered within 0.5 s"),
        "at a system message": template(f"{{% if messages[0].role == 'system' %}}{loop}{{% endif %}}", "0.5 s"),
    })  # fmt: skip


def test_a_template_that_refuses_some_messages_is_named_when_a_row_has_them(broken):
    refusing = "{% if messages[0].role == 'system' %}{{ ''.__class__.__mro__ }}{% endif %}{{ messages[0].content }}"
    folder = broken("system", text("chat_template.jinja", refusing))
    encoder = PromptEncoder.from_pretrained(str(folder))
    assert encoder.encode((Message("user", "Is there a bus?"),), 0)
    with pytest.raises(SetupError, match=r"chat_template\.jinja: .* a conversation of system, user; "):
        encoder.encode((Message("system", "Be brief."), Message("user", "?")), 0)


def test_a_template_may_want_a_system_message(broken):
    wanting = "{% if messages[0].role != 'system' %}{{ ''.__class__.__mro__ }}{% endif %}" + chatml(MESSAGE)
    encoder = PromptEncoder.from_pretrained(str(broken("wanting", text("chat_template.jinja", wanting))))
    assert encoder.encode((Message("system", "Be brief."), Message("user", "?")), 0)
    with pytest.raises(SetupError, match=r"chat_template\.jinja: .* a conversation of user; "):
        encoder.encode((Message("user", "?"),), 0)


def test_a_template_that_ignores_images_is_named_when_a_row_has_them(broken):
    """A template of a language model renders the texts and drops the images."""
    ignoring = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
    )
    folder = broken("ignoring", text("chat_template.jinja", ignoring))
    encoder = PromptEncoder.from_pretrained(str(folder))
    assert encoder.encode((Message("user", "Is there a bus?"),), 0)
    with pytest.raises(SetupError, match=r"chat_template\.jinja: .* makes 0 image placeholders of 2 images in a conv"):
        encoder.encode((Message("user", "<image><image>?"),), 2)


def test_a_template_is_tried_once_and_leaves_no_process(tiny, monkeypatch):
    import multiprocessing

    PromptEncoder.from_pretrained(str(tiny))
    start = time.perf_counter()
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: pytest.fail("tried again"))
    PromptEncoder.from_pretrained(str(tiny))
    assert time.perf_counter() - start < 5
    assert multiprocessing.active_children() == []


def test_a_context_beyond_the_models_is_a_wrong_setting(tiny):
    check_context(configured(tiny, max_model_len=32768))
    with pytest.raises(ConfigError, match=r"rollout\.max_model_len: the model has 32768 positions .*; got 32769; "):
        check_context(configured(tiny, max_model_len=32769))


def test_a_folder_that_is_not_there_is_named(tmp_path, tiny):
    with pytest.raises(SetupError, match=r"model\.path: no such folder or hub model; got .*/nowhere"):
        check_context(configured(tmp_path / "nowhere"))


def test_the_reference_of_a_kl_term_is_checked_too(broken, tiny):
    reference = broken("cut", cut)
    config = configured(tiny, kl_coefficient=0.1, kl_reference=str(reference))
    with (
        pytest.raises(SetupError, match=r"algorithm\.kl_reference: .*model\.safetensors: its header announces"),
        model_check(config, in_process=True),
    ):
        pass
