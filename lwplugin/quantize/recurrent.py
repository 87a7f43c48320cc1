"""Recurrent layers whose matrices are layers of their own, so that any packing may take them.

What such a layer computes stays torch's: its kernels are given the decoded matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lwplugin.errors import ModelError, did_you_mean
from lwplugin.model.hooks import hooks_on
from lwplugin.model.layers import LayerSpec, build, register_layer, spec_of
from lwplugin.model.weight_layout import RECURRENT
from lwplugin.quantize.base import Selection

_KINDS = {kind.__name__: kind for kind in RECURRENT}
_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


class Matrix(nn.Linear):
    """A weight [out, in] that is read by the layer whose part it is; called only where someone watches it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def args(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"in_features": self.in_features, "out_features": self.out_features}


class PartedRecurrent(nn.Module):
    """nn.LSTM, nn.GRU or nn.RNN, by ``kind`` and torch's ``arguments``, with a part for each of its ``weight_…``.

    Parts and biases are named as torch's parameters; it is called as torch's layer is.
    """

    recurrent = True

    def __init__(self, kind: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise ModelError("Unknown recurrent layer", got=repr(kind), do=did_you_mean(kind, _KINDS))
        self.kind, self.arguments = kind, dict(arguments)
        twin: Any = build(LayerSpec(type=kind, args=self.arguments), device="meta")
        for name, parameter in twin.named_parameters():
            if parameter.ndim == 2:
                self.add_module(name, Matrix(*reversed(parameter.shape)))
            else:
                self.register_parameter(name, nn.Parameter(torch.zeros(parameter.shape)))
        self._names = tuple(name for name, _ in twin.named_parameters())
        self._kernel, self._directions = _KERNELS[twin.mode], 1 + twin.bidirectional
        self._widths = (twin.proj_size or twin.hidden_size, twin.hidden_size)
        self.input_size, self.hidden_size, self.proj_size = twin.input_size, twin.hidden_size, twin.proj_size
        self.num_layers, self.bidirectional, self.batch_first = (
            twin.num_layers,
            twin.bidirectional,
            twin.batch_first,
        )
        self.bias, self.dropout = twin.bias, twin.dropout

    def args(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"kind": self.kind, "arguments": self.arguments}

    def flatten_parameters(self) -> None:
        """Models call it before they run torch's layer; here nothing lies in memory by torch's rules."""

    def parts(self) -> dict[str, Any]:
        """The matrices by name, float or packed."""
        return dict(self.named_children())

    def tensors(self) -> dict[str, Tensor]:
        """All weights and biases as floats, by torch's names and in its order."""
        held = {name: getattr(self, name) for name in self._names}
        return {name: each if isinstance(each, Tensor) else each.weight for name, each in held.items()}

    @torch.no_grad()
    def to_float(self) -> nn.Module:
        """Torch's layer with the decoded matrices."""
        tensors = self.tensors()
        made = build(
            LayerSpec(type=self.kind, args=self.arguments), device=next(iter(tensors.values())).device
        )
        made.load_state_dict(tensors)
        return made.train(self.training).requires_grad_(False)

    def forward(self, x: Any, state: Any = None) -> Any:
        """[n, length, in] → [n, length, out] and the last state, or whatever else torch's layer takes and answers."""
        if not isinstance(x, Tensor) or x.ndim != 3:
            twin = build(LayerSpec(type=self.kind, args=self.arguments), device="meta").train(self.training)
            return functional_call(twin, self.tensors(), (x, state))
        if state is None:
            batch = x.shape[0 if self.batch_first else 1]
            zeros = [x.new_zeros(self.num_layers * self._directions, batch, width) for width in self._widths]
            state = (zeros[0], zeros[1]) if self.kind == "LSTM" else zeros[0]
        if any(isinstance(part, Matrix) and hooks_on(part) for part in self.parts().values()):
            self._show(x, state)
        answer, *last = self._run(x, state, list(self.tensors().values()), self.num_layers)
        return answer, tuple(last) if self.kind == "LSTM" else last[0]

    def _run(self, x: Tensor, state: Any, weights: list[Tensor], layers: int) -> tuple[Tensor, ...]:
        return self._kernel(
            x,
            state,
            weights,
            self.bias,
            layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
        )

    def _show(self, x: Tensor, state: Any) -> None:
        """Calls the matrices for inputs and states with what they multiply, [n, length, in], in the order in which they
        matter to each other, so that one that changes when it is called is seen by those after it."""
        ways = ("", "_reverse")[: self._directions]
        time = 1 if self.batch_first else 0
        for layer in range(self.num_layers):
            span = slice(layer * self._directions, (layer + 1) * self._directions)
            first = tuple(part[span] for part in state) if self.kind == "LSTM" else state[span]
            start = first[0] if self.kind == "LSTM" else first

            def answer(x: Tensor = x, first: Any = first, layer: int = layer) -> Tensor:
                held = self.tensors()
                names = [
                    name for name in self._names if name.endswith(tuple(f"_l{layer}{way}" for way in ways))
                ]
                return self._run(x, first, [held[name] for name in names], 1)[0]

            for way in ways:
                self.get_submodule(f"weight_ih_l{layer}{way}")(x if self.batch_first else x.transpose(0, 1))
            for way, given, before in zip(ways, answer().chunk(self._directions, -1), start, strict=True):
                step = before.unsqueeze(time)
                steps = given.shape[time] - 1
                seen = (
                    torch.cat([given.narrow(time, 1, steps), step], time)
                    if way
                    else torch.cat([step, given.narrow(time, 0, steps)], time)
                )
                self.get_submodule(f"weight_hh_l{layer}{way}")(
                    seen if self.batch_first else seen.transpose(0, 1)
                )
            x = answer()

    def extra_repr(self) -> str:
        """Torch's layer."""
        return f"{self.kind}, {self.arguments}"


@torch.no_grad()
def parted_recurrent(layer: nn.Module) -> PartedRecurrent:
    """The layer, one of ``RECURRENT``, with its matrices as parts."""
    spec = spec_of(layer)
    if spec is None or spec.type not in _KINDS:
        raise ModelError("Not a recurrent layer of torch's", got=type(layer).__name__)
    made = PartedRecurrent(spec.type, spec.args)
    for name, parameter in layer.named_parameters():
        part = getattr(made, name)
        (part.weight if isinstance(part, Matrix) else part).copy_(parameter)
    return made.to(next(layer.parameters()).device).train(layer.training)


def matrices_apart(module: nn.Module, selection: Selection) -> Selection:
    """Parts the chosen recurrent layers in place; the selection with their matrices in their places."""
    chosen: list[str] = []
    for name in selection.chosen:
        layer = module.get_submodule(name)
        if name and type(layer) in RECURRENT:
            made = parted_recurrent(layer)
            module.set_submodule(name, made)
            chosen += [f"{name}.{part}" for part in made.parts()]
        else:
            chosen.append(name)
    return replace(selection, chosen=chosen)


register_layer(Matrix, lambda layer: layer.args())
register_layer(PartedRecurrent, lambda layer: layer.args())
