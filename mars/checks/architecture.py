"""Compare a checkpoint with the architecture of its config.json, and try whether a trained policy can be saved.

Slow to import: it needs transformers' model classes. `python -m mars.checks.architecture PATH KEY TRUST` prints the
error as JSON. mars/checks/model.py runs it in another process, except in jobs that import the model classes anyway.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mars.checks.model_settings import check_settings, check_words
from mars.checks.weights import TensorHeader, read_headers
from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.tokenizer import read_json_file
from mars.errors import SetupError
from mars.output.bars import without_bars
from mars.output.files import no_room

_SHOWN = 3  # number of tensors named in a message


def check_architecture(path: str, key: str, trust_remote_code: bool) -> None:
    """Raises SetupError if the model cannot be loaded from its folder, or cannot be saved again.

    For a hub name only config.json is read. For a folder, all of this must hold:

    - transformers can read config.json, the processor and the image processor;
    - the sizes and numbers of config.json are possible ones;
    - the weights are exactly those of the architecture, because a missing weight would start at random. Not checked
      for a model with code of its own (auto_map in config.json), which decides how its weights are loaded;
    - the configuration can be saved, so that the trained policy can be.
    """
    from transformers import AutoConfig

    folder = Path(path)
    if folder.is_dir():
        check_words(folder, key)
    with _naming(key, folder / "config.json" if folder.is_dir() else path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    if not folder.is_dir():
        return
    check_settings(config, folder, key)
    check_weights(config, folder, key)
    check_added_tokens(config, folder, key)
    check_processor(folder, key, trust_remote_code)
    check_saving(config, folder, key)


def check_processor(folder: Path, key: str, trust_remote_code: bool) -> None:
    """transformers must know the classes that the processor's files name, and process an image. Raises SetupError.

    The class for videos is checked too: mars reads no videos, but the engine vllm loads the whole processor.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoVideoProcessor

    # Any limits serve: those of a run are data.min_image_pixels and data.max_image_pixels.
    budget = ImageBudget.from_pretrained(str(folder), 784, 50176)
    loaded = {}
    for kind, auto in (("image", AutoImageProcessor), ("video", AutoVideoProcessor), ("", AutoProcessor)):
        file, declared = _declared_class(folder, key, kind)
        if file is None and kind == "video":
            continue
        failure = f"transformers cannot load the {f'{kind} processor'.strip()} {declared}"
        with _naming(key, file or folder, failure):
            loaded[kind] = auto.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    with _naming(key, _declared_class(folder, key, "image")[0] or folder, "its settings fail on an image"):
        _try_image(loaded["image"], budget)


def _try_image(processor: Any, budget: ImageBudget) -> None:
    """Process a grey image. Raises whatever the processor raises, and ValueError for pixels that are not finite."""
    import torch
    from PIL import Image

    grey, sizes = Image.new("RGB", (84, 112), (99, 99, 99)), budget.processor_settings()
    pixels = processor(grey, return_tensors="pt", **sizes)["pixel_values"]
    if not torch.isfinite(pixels).all():
        raise ValueError("the pixels are not finite numbers; image_mean, image_std or rescale_factor is wrong")


def check_weights(config: Any, folder: Path, key: str) -> None:
    """Load the checkpoint's tensors into the model, all on the "meta" device: names and shapes without data.

    transformers does the loading. So, as in a run, the tensors of old checkpoints get their new names, and weights are
    tied.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.modeling_utils import LoadStateDictConfig

    headers = read_headers(folder, key)
    if getattr(config, "auto_map", None):
        return  # code that comes with the model decides how its weights are loaded
    classes: Any = AutoModelForImageTextToText._model_mapping
    with _naming(key, folder / "config.json"), torch.device("meta"):
        model = classes[type(config)](config)
        renaming: list[Any] = list(get_model_conversion_mapping(model))
        tensors = {name: torch.empty(header.shape, dtype=torch.float32) for name, header in headers.items()}
    loading = LoadStateDictConfig(
        ignore_mismatched_sizes=True,
        device_map={"": torch.device("meta")},
        dtype=torch.float32,
        weight_mapping=renaming,
    )
    with _naming(key, folder), _quiet():
        found, _ = model._load_pretrained_model(model, tensors, None, loading)
        model.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
        model._adjust_missing_and_unexpected_keys(found)
    _refuse_differences(found, model, headers, folder, key)


def _refuse_differences(found: Any, model: Any, headers: Mapping[str, TensorHeader], folder: Path, key: str) -> None:
    embedding = model.get_input_embeddings().weight
    vocabulary = model.get_output_embeddings().weight.shape[0]
    sizes = {name: (tuple(stored), tuple(wanted)) for name, stored, wanted in found.mismatched_keys}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stored, wanted = sizes.get(names.get(id(embedding), ""), ((), ()))
    if stored and stored[1:] == wanted[1:]:
        raise SetupError(
            f"{key}: {folder / 'config.json'}: {_key_of_vocabulary(folder, key)} is {vocabulary}, but the embedding in "
            f"the weights has {stored[0]} rows; set it to {stored[0]}, or use the weights of this configuration"
        )
    problems = []
    if found.missing_keys:
        problems.append(f"lack {_some(found.missing_keys)}, which would start with random values")
    if found.unexpected_keys:
        problems.append(f"hold {_some(found.unexpected_keys)}, which the model has no place for")
    if sizes:
        name, (stored, wanted) = min(sizes.items())
        others = f" and {len(sizes) - 1} more" if len(sizes) > 1 else ""
        problems.append(f"hold {name} of shape {list(stored)} where config.json makes it {list(wanted)}{others}")
    problems += [f"cannot be converted: {_some(map(str, found.conversion_errors.values()))}"] * bool(
        found.conversion_errors
    )
    if problems:
        files = ", ".join(sorted({header.file for header in headers.values()})[:_SHOWN])
        raise SetupError(
            f"{key}: {folder}: the weights ({files}) are not those of config.json: they {'; they '.join(problems)}; "
            "use the configuration and the weights of one model"
        )


def _key_of_vocabulary(folder: Path, key: str) -> str:
    """The key of config.json from which transformers reads the vocabulary size: in text_config, or at the top level if
    there is no text_config."""
    text = read_json_file(folder / "config.json", key).get("text_config")
    return "text_config.vocab_size" if isinstance(text, dict) else "vocab_size"


def check_added_tokens(config: Any, folder: Path, key: str) -> None:
    """Raises SetupError if the embedding has no row for an added token that the tokenizer's files list.

    The ids are read from the files, because the tokenizers library silently gives a token another id if the declared
    id leaves a gap in the ids.
    """
    vocabulary, name = config.get_text_config().vocab_size, _key_of_vocabulary(folder, key)
    for file, token, id_ in _declared_tokens(folder, key):
        if type(id_) is not int or not 0 <= id_ < vocabulary:
            raise SetupError(
                f"{key}: {folder / file}: the added token {token!r} must have an id below {name} {vocabulary}; "
                f"got {id_!r}; use the tokenizer of this model"
            )


def _declared_tokens(folder: Path, key: str) -> Iterator[tuple[str, str, Any]]:
    """(file, token, id) of every added token. Raises SetupError if a file lists them in a wrong form."""
    files = {name: folder / name for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json")}
    read = {name: read_json_file(path, key) if path.is_file() else {} for name, path in files.items()}

    def wanted(is_right: bool, file: str, what: str, value: Any) -> None:
        if not is_right:
            raise SetupError(f"{key}: {files[file]}: want {what}; got {value!r:.100}; download it again")

    entries = read["tokenizer.json"].get("added_tokens") or []
    wanted(isinstance(entries, list), "tokenizer.json", "a list in added_tokens", entries)
    for entry in entries:
        wanted(isinstance(entry, dict), "tokenizer.json", "objects in added_tokens", entry)
        yield "tokenizer.json", entry.get("content", ""), entry.get("id")
    decoder = read["tokenizer_config.json"].get("added_tokens_decoder") or {}
    wanted(isinstance(decoder, dict), "tokenizer_config.json", "an object in added_tokens_decoder", decoder)
    for id_, entry in decoder.items():
        wanted(isinstance(entry, dict), "tokenizer_config.json", "objects in added_tokens_decoder", entry)
        yield "tokenizer_config.json", entry.get("content", ""), int(id_) if id_.isdecimal() else id_
    for token, id_ in read["added_tokens.json"].items():
        yield "added_tokens.json", token, id_


def check_saving(config: Any, folder: Path, key: str) -> None:
    """Try, in a temporary folder, to save all files of a trained policy except its weights. Raises SetupError."""
    from mars.actor.model_files import carry_files

    with tempfile.TemporaryDirectory(prefix="mars-save-") as temporary:
        with _naming(key, folder / "config.json", "cannot be saved"):
            try:
                config.save_pretrained(temporary)
            except OSError as error:
                _refuse_for_room(error, "config.json", key, folder)
                raise
        failed = carry_files(str(folder), temporary)
    for one in failed:
        _refuse_for_room(one.error, one.name, key, folder)
    if failed:
        names = ", ".join(map(str, failed))
        raise SetupError(f"{key}: {folder}: cannot be copied to the trained policy: {names}; make it readable")


def _refuse_for_room(error: OSError, name: str, key: str, folder: Path) -> None:
    """Raises SetupError if the model's file `name` could not be written to the temporary folder for lack of room."""
    remedy = no_room(error)
    if remedy is not None:
        raise SetupError(
            f"{key}: {folder}: saving was tried in {tempfile.gettempdir()}, where {name} could not be written "
            f"({error.strerror}); {remedy}, or export TMPDIR=another folder"
        ) from error


def _declared_class(folder: Path, key: str, kind: str) -> tuple[Path | None, str]:
    """The file that names a processor's class, and this name; without such a file None and words for a message.

    kind: "image", "video", or "" for the processor of texts, images and videos together.
    """
    own = {"image": "preprocessor_config.json", "video": "video_preprocessor_config.json", "": "tokenizer_config.json"}
    word = f"{kind}_processor_type" if kind else "processor_class"
    for name in ("processor_config.json", own[kind], "preprocessor_config.json"):
        settings = read_json_file(folder / name, key) if (folder / name).is_file() else {}
        section = settings.get(f"{kind}_processor", settings) if kind else settings
        if isinstance(section, dict) and word in section:
            return folder / name, str(section[word])
    return None, "of config.json's model_type"


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@contextmanager
def _naming(
    key: str, what: object, failure: str = "cannot be read", hint: str = "download it again, or correct it"
) -> Iterator[None]:
    """Whatever transformers raises in the block becomes a SetupError that names the file."""
    try:
        yield
    except SetupError:
        raise
    except Exception as error:
        # Cuts off transformers' list of a hundred names.
        lines = f"{type(error).__name__}: {error}".split(", or one of the following")[0]
        reason = " ".join(lines.split())
        raise SetupError(f"{key}: {what}: {failure}: {reason:.400}; {hint}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' report of missing weights and its progress bar: `_refuse_differences` reports instead."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with without_bars():
            yield
    finally:
        logger.setLevel(level)


def main(path: str, key: str, trust_remote_code: str) -> None:
    try:
        check_architecture(path, key, trust_remote_code == "1")
        error = None
    except SetupError as found:
        error = str(found)
    sys.stdout.write(json.dumps({"error": error}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
