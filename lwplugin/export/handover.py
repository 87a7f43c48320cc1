"""What a toolchain is handed: one ``.pt2`` program, float or with the bundle's integers, and what it was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from lwplugin.data.batch import Inputs, tensors
from lwplugin.errors import ExportError
from lwplugin.export.in_float import in_float
from lwplugin.export.parity import check
from lwplugin.export.program import Arguments, to_program
from lwplugin.export.pt2e import float_twin, lower, reads_own_range
from lwplugin.export.pt2e_ranges import packet
from lwplugin.export.source import OneOutput
from lwplugin.quantize.encodings import Groups, Half
from lwplugin.quantize.layers import QuantConv3d, QuantLayer
from lwplugin.quantize.packed import (
    PACKED_CONVOLUTIONS,
    PackedEmbedding,
    PackedLayer,
    PackedLinear,
)

if TYPE_CHECKING:
    from lwplugin.data import Data, Task
    from lwplugin.export.base import ExportOptions
    from lwplugin.model.bundle import LightModel

_PREFIX = "module."


@dataclass(frozen=True)
class Handover:
    """The program on disk, and what it was made from.

    ``integer``: the program rounds to integers; ``half``: layers whose weights are numbers of 16 bits; ``dynamic``:
    integers [out, in] and scales [out] of the layers that read their own range.
    """

    module: nn.Module
    example: Inputs
    scheme: dict[str, Any]
    integer: bool
    half: tuple[str, ...]
    inputs: tuple[str, ...]
    dynamic: tuple[tuple[Tensor, Tensor], ...]

    @property
    def rounds(self) -> bool:
        """Whether the file's answers may differ from the module's by more than float noise."""
        return self.integer or bool(self.half)

    def compared(
        self, file: Path, task: Task, options: ExportOptions, *, runtime: str, batch: int | None
    ) -> dict[str, float]:
        """How far the converted file lies from the module; see `lwplugin.export.parity.check`."""
        return check(
            file, self.module, task, self.example, options, runtime=runtime, rounds=self.rounds, batch=batch
        )


class CodedEmbedding(nn.Module):
    """An embedding whose table stays in 8-bit codes: only the rows that are looked up become floats."""

    def __init__(self, layer: PackedEmbedding, encoding: Groups) -> None:
        super().__init__()
        stored, shape = layer.stored, layer.weight_shape
        # Signed: LiteRT's converter refuses constants of unsigned integers.
        self.register_buffer("codes", (encoding.codes(stored, shape).int() - 128).to(torch.int8))
        self.register_buffer("scale", stored["scale"].float())
        self.register_buffer("zero", encoding.zeros(stored, shape).float() - 128)
        self._size = encoding.group_size

    def forward(self, indices: Tensor) -> Tensor:
        """Integers of any shape → […, embedding_dim]."""
        parts = self.codes[indices].float().unflatten(-1, (-1, self._size))  # type: ignore[index]
        scale, zero = self.scale[indices], self.zero[indices]  # type: ignore[index]
        return ((parts - zero.unsqueeze(-1)) * scale.unsqueeze(-1)).flatten(-2)


class HalfInside(nn.Module):
    """Computes in 16 bits between float inputs and a float output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Integers pass as they are."""
        narrow = [x.half() if x.is_floating_point() else x for x in inputs]
        answer: Tensor = self.module(*narrow)
        return answer.float()


class HalfLinear(nn.Module):
    """A product in 16 bits between float neighbours."""

    def __init__(self, layer: PackedLayer) -> None:
        super().__init__()
        self.register_buffer("numbers", layer.stored["numbers"])
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]."""
        answer = nn.functional.linear(x.half(), self.numbers).float()
        return answer if self.bias is None else answer + self.bias


class HalfEmbedding(nn.Module):
    """A table in 16 bits: only the rows that are looked up become float32."""

    def __init__(self, layer: PackedLayer) -> None:
        super().__init__()
        self.register_buffer("numbers", layer.stored["numbers"])

    def forward(self, indices: Tensor) -> Tensor:
        """Integers of any shape → […, embedding_dim]."""
        return nn.functional.embedding(indices, self.numbers).float()


def hand_over(
    light: LightModel,
    data: Data,
    file: Path,
    *,
    examples: int,
    batch: int | None,
    weights_as_integers: bool,
    half_inside: bool = False,
) -> Handover:
    """Write the program to ``file``; a free batch where ``batch`` is None.

    ``half_inside``: half layers compute in 16 bits, for runtimes that store what they compute with: a network with
    convolutions throughout, so that it stays in one piece; linear layers and tables alone, since what lies between
    them in a transformer (norms, masks) does not fit the range. Else the program is float and the converter is told
    to store halves.
    Raises ExportError for layers that no toolchain can take as the bundle has them.
    """
    module = in_float(light.copy_module().eval().to("cpu"), also=(QuantConv3d,))
    example = data.example(max(examples, batch or 2))
    packed = {name: layer for name, layer in module.named_modules() if isinstance(layer, PackedLayer)}
    integer = {name: layer for name, layer in module.named_modules() if isinstance(layer, QuantLayer)}
    half = tuple(name for name, layer in packed.items() if isinstance(layer.encoding, Half))
    convolves = any(isinstance(packed[name], PACKED_CONVOLUTIONS) for name in half)
    plain = _without_packing(module, packed, narrow=half_inside and not convolves)
    wrapper: nn.Module = OneOutput(float_twin(plain, integer), data.task, example)
    if half_inside and convolves and not integer:
        wrapper = HalfInside(wrapper)
    arguments: Arguments = tuple(tensor[: batch or 2].contiguous() for tensor in tensors(example).values())
    program = to_program(wrapper.eval(), arguments, dynamic=batch is None)
    graph = program.module(check_guards=False)
    _keep_pooled_dimensions(graph)
    if integer:
        lower(graph, integer, prefix=_PREFIX, weights_as_integers=weights_as_integers)
    torch.export.save(to_program(graph, arguments, dynamic=batch is None), file)
    return Handover(
        module=module,
        example=example,
        scheme=_scheme(integer, packed, half),
        integer=bool(integer),
        half=half,
        inputs=tuple(tensors(example)),
        dynamic=tuple(
            (layer.integers(), layer.scale[:, 0]) for layer in integer.values() if reads_own_range(layer)
        ),
    )


_HALVES: dict[type[PackedLayer], Callable[[PackedLayer], nn.Module]] = {
    PackedLinear: HalfLinear,
    PackedEmbedding: HalfEmbedding,
}


def _without_packing(module: nn.Module, packed: dict[str, PackedLayer], *, narrow: bool) -> nn.Module:
    """A copy with float layers in place of packed ones; 8-bit tables stay codes, ``narrow`` halves stay halves."""
    plain = copy.deepcopy(module)
    for name, layer in packed.items():
        encoding = layer.encoding
        stands: nn.Module
        if isinstance(encoding, Half) and encoding.dtype == "float16":
            stands = _HALVES[type(layer)](layer) if narrow else layer.to_float()
        elif (
            isinstance(layer, PackedEmbedding)
            and isinstance(encoding, Groups)
            and layer.weight_shape[1] % encoding.group_size == 0
        ):
            stands = CodedEmbedding(layer, encoding)
        else:
            raise ExportError(
                "No kernel here reads this packing: the file would hold these weights in float",
                got=f"layer '{name}' with {encoding}",
                do="quantize with method int8, or export format 'onnx', which unpacks when it is loaded",
            )
        if not name:
            return stands
        plain.set_submodule(name, stands)
    return plain


def _keep_pooled_dimensions(graph: fx.GraphModule) -> None:
    """A mean over space keeps its dimensions and is squeezed after: the form that backends take whole."""
    for node in list(graph.graph.nodes):
        if (
            packet(node) is not torch.ops.aten.mean
            or len(node.args) < 2
            or (len(node.args) > 2 and node.args[2])
        ):
            continue
        value = node.args[0].meta.get("val")
        axes = node.args[1]
        if value is None or value.ndim != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        with graph.graph.inserting_after(node):
            kept = graph.graph.call_function(torch.ops.aten.mean.dim, (node.args[0], [2, 3], True))
        with graph.graph.inserting_after(kept):
            squeezed = graph.graph.call_function(torch.ops.aten.squeeze.dims, (kept, [2, 3]))
        node.replace_all_uses_with(squeezed)
        graph.graph.erase_node(node)
    graph.recompile()


def _scheme(
    integer: dict[str, QuantLayer], packed: dict[str, PackedLayer], half: tuple[str, ...]
) -> dict[str, Any]:
    """What ``export.json`` says about layers that are not plain float ones; empty without any."""
    told: dict[str, Any] = {}
    if integer:
        told = {
            "name": "s8s8",
            "activations": "s8 asymmetric",
            "weights": "s8 symmetric per channel",
            "bias": "int32",
            "largest_weight": max(int(layer.integers().abs().max()) for layer in integer.values()),
            "layers": len(integer),
            "dynamic_layers": sum(map(reads_own_range, integer.values())),
        }
    if len(packed) > len(half):
        told["coded_tables"] = len(packed) - len(half)
    if half:
        told["half_layers"] = len(half)
    return told
