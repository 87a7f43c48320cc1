"""Where a convolution's response goes: through a batch norm, perhaps into a residual sum, through a ReLU.

What the model goes on with is what comes out at the end, so that is what a repaired layer should aim at: the parent's
*sum*, to make up for what the other branch gives wrongly, and where the ReLU cuts off, anything that it cuts off too
(nonlinear responses: Zhang 2015, 1505.06798).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from lwplugin.data.batch import Inputs, call
from lwplugin.model.batch_statistics import running_norms
from lwplugin.model.trace import tensors_of
from lwplugin.moments.norms import affine, clear

_SUMS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
_RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
_OUTPUT = -1


@dataclass(frozen=True)
class Relu:
    """A ReLU that reads a response: beyond the edge nothing comes through, so there any such response will do."""

    edge: Tensor
    """[rows, outputs]"""
    above: Tensor
    """Whether it is what lies above the edge that comes through, bool [outputs]."""

    def at(self, rows: Tensor) -> Relu:
        """The same for some of the rows, by their places."""
        return Relu(self.edge[rows.to(self.edge.device)], self.above)

    def wanted(self, values: Tensor, answered: Tensor) -> Tensor:
        """The nearest to what is ``answered`` that comes through as ``values`` do, [rows, outputs]."""
        stopped = (values < self.edge) == self.above
        as_well = (answered < self.edge) == self.above
        return torch.where(stopped, torch.where(as_well, answered, self.edge), values)


@dataclass(frozen=True)
class Path:
    """What the response of a layer meets before a ReLU reads it."""

    norm: nn.Module | None
    total: int | None
    """Number of the operation that adds it to another tensor of its shape; None where none does."""
    place: int
    """Which of the two operands it is."""

    def wanted(
        self, values: Tensor, added: Tensor | None, total: Tensor | None
    ) -> tuple[Tensor, Relu | None]:
        """What to answer, [rows, outputs], so that the sum is the parent's ``total``, and the ReLU that reads it.

        Args:
            values: the parent's own response.
            added: what is added to it now, [rows, outputs]; None where no sum is aimed at.
        """
        one = torch.ones_like(values[0])
        scale, shift = (one, 0 * one) if self.norm is None else affine(self.norm)
        told = clear(scale)
        rest = shift.expand_as(values) if added is None else shift + added
        if added is not None and total is not None:
            values = torch.where(told, (total - rest) / scale, values)
        if self.total is not None and added is None:
            return values, None
        edge = torch.where(told, -rest / scale, -torch.inf)
        return values, Relu(edge, (scale > 0) | ~told)

    def response(self, layer: nn.Module, x: Tensor) -> Tensor:
        """What comes to the sum from the input ``x`` of the layer; no hooks are called."""
        answer: Tensor = layer.forward(x)
        if self.norm is not None:
            answer = self.norm.forward(answer)
        return answer


class Paths(dict[str, Path]):
    """Path by layer, how many operations a forward pass has, and which residual sum adds to what the ReLU makes of
    another."""

    def __init__(
        self, found: Mapping[str, Path], operations: int, followed_by: Mapping[int, int] | None = None
    ) -> None:
        super().__init__(found)
        self.operations = operations
        self.followed_by = followed_by or {}


Look = Callable[[Any, Any], None]
"""(arguments, result; None before there is one); arguments may be written into."""


class Operations(TorchDispatchMode):
    """Counts the tensor operations of a forward pass in the order they run, and looks at chosen ones."""

    def __init__(
        self, before: Mapping[int, Look] | None = None, after: Mapping[int, Look] | None = None
    ) -> None:
        super().__init__()
        self._before, self._after = before or {}, after or {}
        self.done, self._paused = 0, False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs here is no part of the forward pass."""
        was, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = was

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        number, self.done = self.done, self.done + 1
        if number in self._before:
            self._before[number](args, None)
        result = func(*args, **kwargs)
        if number in self._after:
            self._after[number](args, result)
        self.seen(number, func, args, kwargs, result)
        return result

    def seen(self, number: int, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """For those that write all down."""


class _Record(Operations):
    """Which operation wrote each tensor last, and which ones read what it wrote."""

    def __init__(self) -> None:
        super().__init__()
        self._writer = WeakTensorKeyDictionary()
        self.readers: dict[int, list[int]] = {}
        self.sums: dict[int, tuple[int, int]] = {}
        """Sums of two tensors of one shape → which operations wrote them."""
        self.relus: set[int] = set()

    def writer(self, tensor: Tensor) -> int | None:
        found: int | None = self._writer.get(tensor)
        return found

    def read(self, value: Any, number: int) -> None:
        for leaf in pytree.tree_leaves(value):
            if isinstance(leaf, Tensor) and (written := self.writer(leaf)) is not None:
                self.readers.setdefault(written, []).append(number)

    def seen(self, number: int, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.read((args, kwargs), number)
        if func in _SUMS and kwargs.get("alpha", 1) == 1 and all(isinstance(a, Tensor) for a in args[:2]):
            one, other = (self.writer(a) for a in args[:2])
            if args[0].shape == args[1].shape and one is not None and other is not None:
                self.sums[number] = one, other
        if func in _RELUS:
            self.relus.add(number)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._writer[leaf] = number

    def only_reader(self, number: int) -> int | None:
        readers = self.readers.get(number, [])
        return readers[0] if len(readers) == 1 and readers[0] != _OUTPUT else None


def paths_of(module: nn.Module, inputs: Inputs, names: list[str]) -> Paths:
    """The path of each named convolution that ends in a ReLU, in one run on ``inputs`` (an example or two).

    Others have none: in what was measured (moments/README.md) aiming at sums that nothing cuts off, those of
    transformers and of linear bottlenecks, was no better than aiming at each layer's own response.
    """
    convolutions = [n for n in names if isinstance(module.get_submodule(n), (nn.Conv1d, nn.Conv2d))]
    if not convolutions:
        return Paths({}, 0)
    record, answered, calls = _Record(), dict[str, int](), dict[str, int]()
    norms: dict[int, tuple[nn.Module, int]] = {}

    def layer_hook(name: str) -> Any:
        def after(layer: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if (written := record.writer(output)) is not None:
                answered[name] = written

        return after

    def norm_hook(norm: nn.Module, args: Any, output: Tensor) -> None:
        read, written = record.writer(args[0]), record.writer(output)
        if read is not None and written is not None:
            norms[read] = norm, written

    handles = [module.get_submodule(name).register_forward_hook(layer_hook(name)) for name in convolutions]
    handles += [norm.register_forward_hook(norm_hook) for norm in running_norms(module)]
    try:
        with torch.no_grad(), record:
            outputs = call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    record.read(tensors_of(outputs), _OUTPUT)
    found = {name: _follow(record, norms, answered[name]) for name in answered if calls[name] == 1}
    followed_by = {
        number: later
        for number in record.sums
        for later, operands in record.sums.items()
        if (relu := record.only_reader(number)) in record.relus and relu in operands
    }
    return Paths({name: path for name, path in found.items() if path is not None}, record.done, followed_by)


def _follow(record: _Record, norms: Mapping[int, tuple[nn.Module, int]], number: int) -> Path | None:
    norm = None
    if number in norms and record.only_reader(number) == norms[number][1]:
        norm, number = norms[number]
    reader = record.only_reader(number)
    if reader in record.relus:
        return Path(norm, None, 0)
    if reader in record.sums and record.only_reader(reader) in record.relus:
        return Path(norm, reader, record.sums[reader].index(number))
    return None
