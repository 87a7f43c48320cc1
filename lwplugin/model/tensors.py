"""The tensors of a model as one safetensors file: written and hashed in one pass, read back strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from lwplugin.errors import ModelError
from lwplugin.model.skeleton import join, own_tensors, walk

_DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT_BYTES = 64
"""Of every allocation of torch: vector kernels add up in another order on unaligned memory."""
_MAPPED_FROM_BYTES = 2**16


@dataclass(frozen=True)
class Tensors:
    """A model's tensors by dotted name, each piece of memory once."""

    stored: Mapping[str, torch.Tensor]
    tied: Mapping[str, str] = field(default_factory=dict)
    """Names whose tensor is that of another name."""
    channels_last: tuple[str, ...] = ()
    """Stored contiguous; in memory they were channels-last, which kernels may add up in another order."""


def gather(module: nn.Module, names: Iterable[str]) -> Tensors:
    """The named tensors on the CPU, contiguous. Raises ModelError for kinds of tensor a file cannot hold."""
    wanted = set(names)
    stored: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    channels_last: list[str] = []
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in _named(module):
        if name not in wanted:
            continue
        plain = tensor.detach()
        need_storable(name, plain)
        memory = (plain.data_ptr(), plain.shape, plain.stride(), plain.dtype, plain.device)
        first = seen.setdefault(memory, name) if plain.numel() else name
        if first != name:
            tied[name] = first
            continue
        if _only_channels_last(plain):
            channels_last.append(name)
        stored[name] = plain.cpu().resolve_conj().resolve_neg().contiguous()
    return Tensors(stored, tied, tuple(channels_last))


def need_storable(name: str, tensor: torch.Tensor) -> None:
    """Raises ModelError for a kind of tensor that a bundle cannot hold: sparse, nested, a subclass, no numbers."""
    plain = tensor.detach()
    if (
        type(plain) is not torch.Tensor
        or plain.layout != torch.strided
        or plain.is_quantized
        or plain.is_nested
        or plain.is_meta
        or plain.dtype not in _DTYPES
    ):
        raise ModelError(
            f"Tensor '{name}' cannot be stored",
            got=f"{type(plain).__name__}, {plain.dtype}, {plain.layout}, {plain.device}",
            do="keep ordinary dense tensors; packed integers as int8 or uint8",
        )


def write(tensors: Mapping[str, torch.Tensor], path: Path) -> str:
    """Writes a safetensors file; returns the sha256 of its bytes, computed while they are written."""
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % _ALIGNMENT_BYTES != 0, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT_BYTES)
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        head = len(text).to_bytes(8, "little") + text
        _write_all(file.write, head)
        pool.submit(digest.update, head)
        for name in order:
            data = memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
            pool.submit(digest.update, data)  # in order, beside the writing: both release the interpreter
            _write_all(file.write, data)
    return digest.hexdigest()


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, mapped and not yet copied. Raises ModelError for a damaged file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ModelError(f"'{path.name}' cannot be read", got=error, do="copy the bundle again") from error


def fill(module: nn.Module, tensors: Tensors) -> None:
    """Gives every tensor of ``module`` its value.

    Each name must be there exactly once, in the shape and kind of number that the structure calls for;
    floating point numbers may be of another width. Raises ModelError otherwise, naming the tensors.
    """
    expected = dict(_named(module))
    _check_names(set(expected), tensors)
    holders = {name: found for name, found in walk(module) if isinstance(found, nn.Module)}
    placed: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name in sorted(expected, key=lambda name: name in tensors.tied):
        present = expected[name]
        source = tensors.stored[tensors.tied.get(name, name)]
        if source.shape != present.shape or not _same_kind(source.dtype, present.dtype):
            raise ModelError(
                f"Tensor '{name}' does not fit the model's structure",
                got=f"{source.dtype} {list(source.shape)} for {present.dtype} {list(present.shape)}",
                do="load the bundle with the origin it was made from",
            )
        holder_name, _, attribute = name.rpartition(".")
        if name in tensors.tied:
            value = placed[tensors.tied[name]]
        else:
            value = _owned(source, channels_last=name in tensors.channels_last)
        reusable = name not in tensors.tied and id(present) not in taken and present.is_leaf
        placed[name] = _set(holders[holder_name], attribute, present, value, reusable)
        taken.add(id(placed[name]))


def _named(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    for name, found in walk(module):
        if isinstance(found, nn.Module):
            for tensor_name, (_, tensor) in own_tensors(found).items():
                if tensor is not None:
                    yield join(name, tensor_name), tensor


def _check_names(expected: set[str], tensors: Tensors) -> None:
    offered = tensors.stored.keys() | tensors.tied.keys()
    missing, extra = sorted(expected - offered), sorted(offered - expected)
    twice = sorted(tensors.stored.keys() & tensors.tied.keys())
    dangling = sorted(name for name, first in tensors.tied.items() if first not in tensors.stored)
    odd = sorted(
        name
        for name in tensors.channels_last
        if name not in tensors.stored or tensors.stored[name].dim() != 4
    )
    for what, names in {
        "Tensors of the model are missing from the file": missing,
        "The file holds tensors that the model does not have": extra,
        "Tensors are both stored and tied": twice,
        "Tensors are tied to names that are not stored": dangling,
        "Tensors are called channels-last and cannot be": odd,
    }.items():
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise ModelError(what, got=shown, do="copy the bundle again, or save it again")


def _owned(source: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """A tensor laid out as torch allocates it. Large aligned ones stay mapped, copied when written to."""
    if channels_last:
        return source.contiguous(memory_format=torch.channels_last)
    aligned = source.data_ptr() % _ALIGNMENT_BYTES == 0
    return source if aligned and source.nbytes >= _MAPPED_FROM_BYTES else source.clone()


def _only_channels_last(tensor: torch.Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _same_kind(found: torch.dtype, wanted: torch.dtype) -> bool:
    return found == wanted or (found.is_floating_point and wanted.is_floating_point)


def _set(
    holder: nn.Module, attribute: str, present: torch.Tensor, value: torch.Tensor, reusable: bool
) -> torch.Tensor:
    """Keeps the tensor object where it can: the model's code may hold on to it elsewhere."""
    if reusable and not present.is_meta and present.dtype == value.dtype and present.device == value.device:
        present.data = value
        return present
    if attribute in holder._parameters:
        if not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=present.requires_grad and value.is_floating_point())
        setattr(holder, attribute, value)  # recurrent layers keep a list of their parameters in step here
    elif attribute in holder._buffers:
        holder._buffers[attribute] = value
    else:
        vars(holder)[attribute] = value.detach()
    return value


def _write_all(write: Callable[[memoryview], int], data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[write(view) :]
