"""Check settings of config.json that make a forward pass fail if they are wrong, even if all weights have right shapes.

For numbers, the rules follow the types that transformers' configuration classes declare, so they hold for every family:
sizes and counts are at least 1, with few exceptions, and other numbers are finite and not negative. Names, switches and
a few relations between settings are checked too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from mars.data.prompts.tokenizer import read_json_file
from mars.errors import SetupError

_SECTIONS = ("text_config", "vision_config")
_ROPES = ("rope_parameters", "rope_scaling")
_MAY_BE_ZERO = ("max_window_layers", "chunk_size_feed_forward")  # counts that may be 0


@dataclasses.dataclass(frozen=True)
class _Wrong:
    """name: the setting within its section. want: what it must be."""

    name: str
    want: str
    got: Any


def check_words(folder: Path, key: str) -> None:
    """Check the settings of config.json that are names or switches, before transformers reads them.

    Raises SetupError.
    """
    import torch
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    types = [name for name in vars(torch) if isinstance(getattr(torch, name), torch.dtype)]
    known = {
        "model_type": (None, "text"),
        "hidden_act": (tuple(ACT2FN), "an activation of transformers, such as silu"),
        "dtype": ((None, "auto", *types, *(f"torch.{name}" for name in types)), "a type of torch, such as bfloat16"),
        "rope_type": (("default", "axial", "mrope", *ROPE_INIT_FUNCTIONS), "a kind of transformers, such as default"),
        "tie_word_embeddings": ((None, True, False), "true or false"),
        "mrope_interleaved": ((True, False), "true or false"),
    }
    known |= {"torch_dtype": known["dtype"], "type": known["rope_type"]}
    for place, value in _leaves(read_json_file(folder / "config.json", key)):
        choices, want = known.get(place.rpartition(".")[2], ((value,), ""))
        is_text = choices is None and isinstance(value, str)
        if not is_text and not any(type(value) is type(choice) and value == choice for choice in choices or ()):
            raise _refusal(folder, key, place, want, value)


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each setting at the top level, in the sections that mars reads, and in RoPE sections.

    Left out is `type`, except in RoPE sections. Example: ("text_config.hidden_size", 96).
    """
    for name, value in values.items():
        if isinstance(value, dict) and name in (*_SECTIONS, *_ROPES):
            yield from _leaves(value, f"{above}{name}.")
        elif name != "type" or above.endswith(tuple(f"{rope}." for rope in _ROPES)):
            yield above + name, value


def check_settings(config: Any, folder: Path, key: str) -> None:
    """Check the settings in config.json's sections for the text and the vision model. Raises SetupError.

    config: what transformers has read from config.json in `folder`. key: the setting of mars that names `folder`.
    """
    raw = read_json_file(folder / "config.json", key)
    for section in _SECTIONS:
        settings = getattr(config, section, None)
        for wrong in [] if settings is None else _wrong_settings(settings):
            raise _refusal(folder, key, _place(raw, section, wrong.name), wrong.want, wrong.got)


def _refusal(folder: Path, key: str, place: str, want: str, got: Any) -> SetupError:
    return SetupError(
        f"{key}: {folder / 'config.json'}: {place} must be {want}; got {got!r:.80}; "
        "correct it, or download the file again"
    )


def _place(raw: Mapping[str, Any], section: str, name: str) -> str:
    """Where config.json gives a setting: in its section, or at the top level, as older files do."""
    own = raw.get(section)
    last = name.rpartition(".")[2]
    for holder, prefix in ((own, f"{section}."), (raw, "")):
        if isinstance(holder, dict) and "." in name and last in holder:
            return f"{prefix}{last}"
        for rope in _ROPES:
            if isinstance(holder, dict) and "." in name and last in (holder.get(rope) or {}):
                return f"{prefix}{rope}.{last}"
    return name if not isinstance(own, dict) and name in raw else f"{section}.{name}"


def _wrong_settings(settings: Any) -> Iterator[_Wrong]:
    for field in dataclasses.fields(settings):
        if isinstance(field.type, str):  # a field of the base class; models do not read these
            continue
        value, kinds = getattr(settings, field.name), set(get_args(field.type) or (field.type,))
        if field.name in ("bos_token_id", "eos_token_id") and value == field.default:
            continue  # config.json lacks this id. Its default may exceed the vocabulary, but nothing reads it
        if isinstance(field.default, tuple) and int in kinds:  # a side, or height and width
            want = _want_sides(value)
        else:
            want = _want(field.name, value, kinds, getattr(settings, "vocab_size", None))
        if want is not None:
            yield _Wrong(field.name, want, value)
    yield from _wrong_relations(settings)
    yield from _wrong_rope(settings)


def _want(name: str, value: Any, kinds: set[Any], vocabulary: int | None) -> str | None:
    """In words, what a setting of these declared types must be, if `value` is wrong for it; None if it is right."""
    if value is None and type(None) in kinds and float not in kinds:
        return None
    if name.endswith("token_id"):
        ids = value if isinstance(value, list) else [value]
        most = vocabulary or 2**31
        return None if all(_is_count(id_, 0, most) for id_ in ids) else f"a whole number below {most}"
    if float in kinds:
        return None if _is_number(value, above_zero=name.endswith("eps")) else _number_wanted(name)
    if int in kinds:
        least = int(name not in _MAY_BE_ZERO)
        return None if _is_count(value, least) else f"a whole number, at least {least}"
    if list[int] in kinds:
        is_right = isinstance(value, list | tuple) and all(_is_count(item, 0) for item in value)
        return None if is_right else "a list of whole numbers, at least 0"
    if bool in kinds:
        return None if isinstance(value, bool) else "true or false"
    return None


def _want_sides(value: Any) -> str | None:
    is_right = isinstance(value, list | tuple) and len(value) == 2 and all(_is_count(side, 1) for side in value)
    return None if is_right else "a whole number, or two, at least 1"


def _number_wanted(name: str) -> str:
    return "a number above 0" if name.endswith("eps") else "a number, at least 0"


def _is_count(value: Any, least: int, end: int = 2**31) -> bool:
    return type(value) is int and least <= value < end


def _is_number(value: Any, *, above_zero: bool) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and (value > 0 if above_zero else value >= 0)


def _wrong_rope(settings: Any) -> Iterator[_Wrong]:
    rope = getattr(settings, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    for name, value in rope.items():
        if name == "mrope_section":
            half = _rotated(settings, rope) // 2
            if not (isinstance(value, list) and all(_is_count(i, 1) for i in value) and sum(value) == half):
                share = " times partial_rotary_factor" if "partial_rotary_factor" in rope else ""
                head = f"hidden_size / num_attention_heads (or of head_dim){share}"
                want = f"whole numbers of sum {half}, half of {head}"
                yield _Wrong("rope_parameters.mrope_section", want, value)
        elif name == "rope_theta":
            if not _is_number(value, above_zero=True) or value < 1:
                yield _Wrong("rope_parameters.rope_theta", "a finite number, at least 1", value)
        elif name == "partial_rotary_factor":
            if not _is_number(value, above_zero=True) or value > 1:
                yield _Wrong(f"rope_parameters.{name}", "a number above 0, at most 1", value)
        elif type(value) in (int, float) and not _is_number(value, above_zero=True):
            yield _Wrong(f"rope_parameters.{name}", "a number above 0", value)


def _wrong_relations(settings: Any) -> Iterator[_Wrong]:
    """Settings that are possible alone but not together."""
    heads = settings.num_attention_heads
    shared = getattr(settings, "num_key_value_heads", heads)
    if getattr(settings, "head_dim", None) is None and settings.hidden_size % heads:
        yield _Wrong("hidden_size", f"a multiple of {heads}, num_attention_heads or num_heads", settings.hidden_size)
    if heads % shared:
        yield _Wrong("num_key_value_heads", f"a divisor of num_attention_heads, {heads}", shared)
    keys, values = (getattr(settings, f"linear_num_{kind}_heads", 1) for kind in ("key", "value"))
    if values % keys:
        yield _Wrong("linear_num_value_heads", f"a multiple of linear_num_key_heads, {keys}", values)
    layers = getattr(settings, "num_hidden_layers", getattr(settings, "depth", 0))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name.endswith("_indexes") and (any(i >= layers for i in value) or len(set(value)) < len(value)):
            yield _Wrong(field.name, f"different numbers of layers, from 0 to {layers - 1}", list(value))
    kinds = getattr(settings, "layer_types", None)
    if kinds is not None and len(kinds) != layers:
        yield _Wrong("layer_types", f"a list with one entry for each of the {layers} layers", kinds)
    if "sliding_attention" in (kinds or ()) and getattr(settings, "sliding_window", None) is None:
        yield _Wrong("sliding_window", "a whole number, because layer_types has sliding_attention", None)
    window, unit = getattr(settings, "window_size", None), _merged_patch(settings)
    if window is not None and window < unit:
        yield _Wrong("window_size", f"at least {unit}, patch_size * spatial_merge_size", window)
    if getattr(settings, "attention_dropout", 0) >= 1:
        yield _Wrong("attention_dropout", "a number below 1", settings.attention_dropout)


def _head_dim(settings: Any) -> int:
    return getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads


def _rotated(settings: Any, rope: Mapping[str, Any]) -> int:
    """The number of dimensions of a head that RoPE rotates: all, or the share partial_rotary_factor."""
    factor = rope.get("partial_rotary_factor", 1)
    return int(_head_dim(settings) * factor) if _is_number(factor, above_zero=True) else _head_dim(settings)


def _merged_patch(settings: Any) -> int:
    """Side in pixels of the square of patches that becomes one token; 0 for a language model's settings."""
    patch = getattr(settings, "patch_size", 0)
    return (patch if isinstance(patch, int) else max(patch)) * getattr(settings, "spatial_merge_size", 0)
