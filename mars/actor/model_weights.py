"""Read a model's weights from its safetensors files. Each rank reads only the rows that it holds.

Names in the files are translated as in transformers' `from_pretrained`. The policy's weights are saved under the names
in the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mars.actor.sharding import local_rows
from mars.actor.weight_index import read_weight_map
from mars.errors import SetupError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHOWN = 3  # number of weights named in a message
_COMPARED = 2**24  # values of two tensors that are compared at once
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. dtype: in the format's notation: F32, BF16, ...

    name: in the file. The model may have another name for it, if the file was made with an older transformers.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> Tensor:
        """These rows, in the file's dtype. The tensor may be the mapped file itself: copy it before changing it."""
        with safe_open(self.file, framework="pt") as opened:
            tensor = opened.get_slice(self.name)
            return tensor[start:stop] if self.shape else opened.get_tensor(self.name)


def read_weights(backbone: Any, path: str, key: str, parameters: str, buffers: str) -> None:
    """Read the values of every parameter and buffer of `backbone` that is on the meta device. They get the
    dtypes that `backbone` has (float32 in an `empty_policy`), not those of the files.

    parameters, buffers: the devices on which they shall be.

    Parameters may be sharded. Loading needs the memory of this rank's shards and of one more tensor.
    path: the model's folder or hub name. key: the setting that holds the path, for messages.
    Raises SetupError if the files cannot be read, or if they do not have exactly the model's tensors.
    """
    try:
        stored = _stored(backbone, _files(path, key), f"{key}: {path}")
        for name, places in _places(backbone).items():
            with torch.no_grad():
                _fill(places, stored[name], parameters, buffers)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise SetupError(f"{key}: the model cannot be loaded; got {path}: {error}") from error


def _files(path: str, key: str) -> Sequence[str]:
    """The safetensors files of a folder or hub name."""
    from transformers.utils import cached_file

    single = cached_file(path, _SINGLE, _raise_exceptions_for_missing_entries=False)
    if single is not None:
        return [single]
    index = cached_file(path, _INDEX, _raise_exceptions_for_missing_entries=False)
    if index is None:
        # A pickle is not loaded, because it could run code.
        raise OSError(f"it has neither {_SINGLE} nor {_INDEX}; convert the weights to safetensors")
    return [cached_file(path, shard) for shard in sorted(set(read_weight_map(Path(index), key).values()))]


def _stored(backbone: Any, files: Iterable[str], where: str) -> dict[str, StoredTensor]:
    """Name of a parameter or buffer of the model -> its tensor in a file. Has every name of a tied weight.

    Raises SetupError if tensors are missing, if there are too many, or if a shape or dtype is wrong. where: names the
    files in messages.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = list(get_model_conversion_mapping(backbone))
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    wanted = {place.name: place.tensor for places in _places(backbone).values() for place in places}
    found: dict[str, StoredTensor] = {}
    unexpected: dict[str, str] = {}  # name in the model -> in the file
    for tensor in _tensors(files):
        name, converted = rename_source_key(tensor.name, renamings, converters, backbone.base_model_prefix, wanted)
        if name not in wanted and tensor.name in wanted:
            name, converted = tensor.name, None
        if converted is not None:
            raise SetupError(
                f"{where}: {tensor.name} is stored in a form that must be converted, which mars cannot do while it "
                "reads shards; load the model with transformers' from_pretrained and save it again"
            )
        if name in wanted:
            _refuse_integers(tensor, wanted[name], where)
            _refuse_another(found.setdefault(name, tensor), tensor, where)
        else:
            unexpected[name] = tensor.name
    # `save_pretrained` reads this attribute, to save the weights under the names that they had in the files.
    backbone._weight_conversions = [one for one in conversions if one.was_used()]
    _share_tied(backbone, found, where)
    info: Any = SimpleNamespace(missing_keys=set(wanted) - set(found), unexpected_keys=set(unexpected))
    backbone._adjust_missing_and_unexpected_keys(info)  # drops what transformers ignores, such as old rotary tables
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    _refuse_differences(found, shapes, info.missing_keys, {unexpected[name] for name in info.unexpected_keys}, where)
    return found


def _tensors(files: Iterable[str]) -> Iterator[StoredTensor]:
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - the file is no mapping
                tensor = opened.get_slice(name)
                yield StoredTensor(file, name, tensor.get_dtype(), tuple(tensor.get_shape()))


def _refuse_integers(tensor: StoredTensor, place: Tensor, where: str) -> None:
    """Raises SetupError for quantized weights: integers, or floating-point numbers of 8 bits and fewer."""
    if place.is_floating_point() and tensor.dtype not in _FLOATS:
        raise SetupError(
            f"{where}: {tensor.name} must be stored in one of {', '.join(_FLOATS)}; got {tensor.dtype}; quantized "
            "weights cannot be trained: use the model that they were made from"
        )


def _refuse_another(first: StoredTensor, second: StoredTensor, where: str) -> None:
    """Raises SetupError if one weight is stored twice with different values: under an old and a new name, or under the
    same name in two files. The engine might use one of the two tensors, and the trainer the other."""
    if not _equal(first, second):
        raise SetupError(
            f"{where}: one weight is stored twice with different values: {first.name} in {Path(first.file).name}, "
            f"and {second.name} in {Path(second.file).name}; download the model again, or delete one of them"
        )


def _share_tied(backbone: Any, found: dict[str, StoredTensor], where: str) -> None:
    """Give every name of a tied weight the tensor that is stored under one of its names.

    Raises SetupError if several tensors with different values are stored.
    """
    for places in _places(backbone).values():
        names, shape = [place.name for place in places], tuple(places[0].tensor.shape)
        given = [name for name in names if name in found]
        if any(found[name].shape != shape for name in given):
            continue  # _refuse_differences names the shape
        for name in given[1:]:
            if not _equal(found[given[0]], found[name]):
                raise SetupError(
                    f"{where}: config.json ties {name} to {given[0]}, but the weights hold different values for them; "
                    "set tie_word_embeddings to false in config.json"
                )
        found |= {name: found[given[0]] for name in names if given}


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether the model gets the same float32 bits from both."""
    if one is other or one.shape != other.shape:
        return one is other
    if not one.shape:
        return torch.equal(_bits(one, 0, 1), _bits(other, 0, 1))
    count = one.shape[0]
    step = max(1, _COMPARED // max(1, torch.Size(one.shape[1:]).numel()))
    ranges = [(start, min(start + step, count)) for start in range(0, count, step)]
    return all(torch.equal(_bits(one, *rows), _bits(other, *rows)) for rows in ranges)


def _bits(tensor: StoredTensor, start: int, stop: int) -> Tensor:
    return tensor.rows(start, stop).float().reshape(-1).view(torch.int32)


def _refuse_differences(
    found: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    missing: set[str],
    unexpected: set[str],
    where: str,
) -> None:
    problems = []
    if missing:
        problems.append(f"lack {_some(missing)}, which would start with random values")
    if unexpected:
        problems.append(f"hold {_some(unexpected)}, which the model has no place for")
    wrong = {name: tensor.shape for name, tensor in found.items() if tensor.shape != shapes[name]}
    if wrong:
        name, shape = min(wrong.items())
        problems.append(f"hold {name} of shape {list(shape)} where config.json makes it {list(shapes[name])}")
    if problems:
        raise SetupError(
            f"{where}: the weights are not those of config.json: they {'; they '.join(problems)}; "
            "use the configuration and the weights of one model"
        )


def _some(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


@dataclass(frozen=True)
class _Place:
    """A place of a tensor in the model. name: the tensor's name in the whole model; own: its name in `module`."""

    module: nn.Module
    own: str
    name: str

    @property
    def tensor(self) -> Tensor:
        return getattr(self.module, self.own)


def _places(backbone: nn.Module) -> dict[str, list[_Place]]:
    """The places of each tensor on the meta device, by the name of its first place. A tied weight has several
    places."""
    found: dict[int, list[_Place]] = {}
    for path, module in backbone.named_modules():
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.is_meta:
                found.setdefault(id(tensor), []).append(_Place(module, own, f"{path}.{own}" if path else own))
    return {places[0].name: places for places in found.values()}


def _fill(places: Sequence[_Place], stored: StoredTensor, parameters: str, buffers: str) -> None:
    empty = places[0].tensor
    device = parameters if isinstance(empty, nn.Parameter) else buffers
    start, stop = local_rows(empty) if empty.ndim else (0, 1)
    shape = (stop - start, *empty.shape[1:]) if empty.ndim else ()
    values = torch.empty(shape, dtype=empty.dtype, device=device)
    if stop > start:
        values.copy_(stored.rows(start, stop))
    if isinstance(empty, DTensor):
        values = DTensor.from_local(
            values, empty.device_mesh, empty.placements, run_check=False, shape=empty.shape, stride=empty.stride()
        )
    if isinstance(empty, nn.Parameter):
        values = nn.Parameter(values, requires_grad=empty.requires_grad)
    for place in places:
        setattr(place.module, place.own, values)
