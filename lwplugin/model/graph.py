"""The dependency graph: which channels, heads and hidden units of a model can be removed, and what goes with them.

Built below the module level (see ``trace.py``) by propagating single indices of every parameter dimension
through the aten graph (``walk.py``, with the rules in ``layer_rules.py`` and ``shape_rules.py``). What comes out
is a list of *groups*; each group is a set of equal *units* (a channel with its norm, its bias and everything that
reads it; a whole attention head; a hidden unit with its four gates) that may be removed one by one. A group is
offered only after a trial cut on the real model left its outputs where they were (``oracle.py``); everything else
is left alone with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import nn

from lwplugin.data.batch import Inputs
from lwplugin.model import layer_rules, shape_rules  # noqa: F401  (their rules register themselves)
from lwplugin.model.atoms import Atoms, IntArray
from lwplugin.model.reshape import shape_of
from lwplugin.model.trace import aten_trace, states_of
from lwplugin.model.walk import Contraction, Value, Walk, visit

Removal = Mapping[int, Sequence[int]]
"""Group index → units to remove."""

Member = tuple[str, int]
"""(parameter or buffer name, dimension)."""


@dataclass(frozen=True)
class Group:
    """Units that are removed one by one, and the parameter slices each takes along."""

    index: int
    roots: IntArray
    owners: dict[Member, IntArray]
    """For each member dimension, the unit that each of its indices belongs to, or −1."""
    readers: tuple[Member, ...]
    """Members that sum over the units: with these slices at zero, a unit has no effect on the output."""
    writers: tuple[Member, ...]
    """Members that compute the units (weights whose rows are the units)."""

    def __len__(self) -> int:
        return len(self.roots)

    @property
    def name(self) -> str:
        """The layers that write this group's units, shortest first."""
        return ", ".join(dict.fromkeys(p.rpartition(".")[0] or p for p, _ in self.writers))

    @property
    def width(self) -> int:
        """Channels a unit takes in its first writer (32 for an attention head of 32, 1 for a plain channel)."""
        member = self.writers[0] if self.writers else next(iter(self.owners))
        owner = self.owners[member]
        return max(1, int((owner >= 0).sum()) // len(self))


@dataclass(frozen=True)
class SizeAttribute:
    """An integer attribute of a user's module that holds a width and must follow it (``self.num_heads``)."""

    module: str
    attribute: str
    roots: IntArray
    """The living size of this dimension is the attribute's new value."""


@dataclass
class Graph:
    """What can be removed from a model, and what that would cost or save."""

    groups: list[Group]
    left_alone: dict[str, str]
    """Layer → why its output channels cannot be removed."""
    shapes: dict[str, tuple[int, ...]]
    atoms: Atoms
    contractions: list[Contraction]
    dims: dict[str, list[IntArray | None]]
    """Parameter → the atoms of each of its dimensions."""
    values: list[IntArray]
    """Every tracked dimension of every tensor; used to find attributes that hold a width."""
    batch: int
    attributes: list[SizeAttribute] = field(default_factory=list)

    def alive(self, removed: Removal) -> npt.NDArray[np.bool_]:
        """A mask over atom representatives with the removed units off."""
        mask = np.ones(len(self.atoms), dtype=np.bool_)
        for index, units in removed.items():
            mask[self.groups[index].roots[np.asarray(list(units), dtype=np.int64)]] = False
        return mask

    def macs(self, removed: Removal | npt.NDArray[np.bool_] | None = None) -> float:
        """Multiply-accumulates of one example after a removal (products and convolutions)."""
        mask = self._mask(removed)
        total = 0.0
        for contraction in self.contractions:
            total += contraction.constant * math.prod(int(mask[roots].sum()) for roots in contraction.dims)
        return total / self.batch

    def params(self, removed: Removal | npt.NDArray[np.bool_] | None = None) -> int:
        """Parameters and buffers left after a removal; shared ones count once."""
        mask = self._mask(removed)
        total = 0
        for name, shape in self.shapes.items():
            sizes = [
                s if d is None else int(mask[d].sum()) for s, d in zip(shape, self.dims[name], strict=True)
            ]
            total += math.prod(sizes)
        return total

    def kept(self, name: str, mask: npt.NDArray[np.bool_]) -> list[IntArray | None]:
        """For each dimension of a parameter the indices to keep; None where all stay."""
        out: list[IntArray | None] = []
        for dim in self.dims[name]:
            living = None if dim is None else np.flatnonzero(mask[dim])
            out.append(None if living is None or dim is None or len(living) == len(dim) else living)
        return out

    def _mask(self, removed: Removal | npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        return removed if isinstance(removed, np.ndarray) else self.alive(removed or {})


def trace(module: nn.Module, inputs: Inputs, *, verify: bool = True) -> Graph:
    """The dependency graph of ``module`` in eval mode, traced on a few real examples.

    Args:
        module: left untouched.
        inputs: one or two examples are enough; shapes other than the batch should be typical.
        verify: try each group's cut on a copy and keep only those that leave the outputs in place.

    Raises:
        ModelError: the forward does not run on the inputs.
    """
    graph = build(module, inputs)
    if verify:
        from lwplugin.model.oracle import verify_groups

        verify_groups(module, inputs, graph)
    return graph


def build(module: nn.Module, inputs: Inputs) -> Graph:
    """The graph as the rules see it, before any trial cut."""
    traced = aten_trace(module, inputs)
    walk = Walk(Atoms())
    states = states_of(module)
    trained = {name for name, _ in module.named_parameters()}
    dims: dict[str, list[IntArray | None]] = {
        name: [walk.atoms.new(s) if s > 1 else None for s in tensor.shape] for name, tensor in states.items()
    }
    _couple_recurrent_layers(module, walk.atoms, dims)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            owner = traced.names[node.name]
            walk.values[node] = Value(list(dims[owner]), owner, list(range(len(dims[owner]))))
        elif node.op == "call_function":
            visit(walk, node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                walk.freeze(walk.value(result), "the model's output")
        else:
            walk.values[node] = Value([None] * len(shape_of(node)))
    used = {traced.names[n.name] for n in traced.graph.nodes if n.op == "placeholder" and n.users}
    for name in set(dims) - used:
        for dim in dims[name]:
            if dim is not None:
                walk.atoms.freeze(dim, "not used in the traced forward")
    resolved = {
        name: [None if dim is None else walk.atoms.roots(dim) for dim in found]
        for name, found in dims.items()
    }
    contractions = [
        Contraction(c.node, c.parameter, c.constant, tuple(walk.atoms.roots(d) for d in c.dims))
        for c in walk.contractions
    ]
    values = [
        walk.atoms.roots(dim)
        for value in walk.values.values()
        for one in (value if isinstance(value, list) else [value])
        for dim in one.dims
        if dim is not None
    ]
    frozen = walk.atoms.frozen_roots()
    return Graph(
        groups=_groups(resolved, frozen, walk.readers, trained, states),
        left_alone=_left_alone(module, resolved, frozen),
        shapes={name: tuple(t.shape) for name, t in states.items() if name in trained},
        atoms=walk.atoms,
        contractions=contractions,
        dims=resolved,
        values=values,
        batch=traced.batch,
    )


def _couple_recurrent_layers(module: nn.Module, atoms: Atoms, dims: dict[str, list[IntArray | None]]) -> None:
    """The layers and directions of one recurrent module share a hidden size: unit i goes from all or none."""
    for prefix, layer in module.named_modules():
        if not isinstance(layer, nn.RNNBase):
            continue
        hidden = [name for name, _ in layer.named_parameters(recurse=False) if name.startswith("weight_hh")]
        columns = [dims.get(f"{prefix}.{name}" if prefix else name, [None, None])[1] for name in hidden]
        known = [column for column in columns if column is not None]
        for column in known[1:]:
            atoms.join(known[0], column)
        if getattr(layer, "proj_size", 0):
            for column in known:
                atoms.freeze(column, "recurrent layer with a projection")


def _groups(
    dims: dict[str, list[IntArray | None]],
    frozen: dict[int, str],
    readers: set[Member],
    trained: set[str],
    states: Mapping[str, object],
) -> list[Group]:
    touched: dict[int, set[Member]] = {}
    for name, found in dims.items():
        for axis, dim in enumerate(found):
            if dim is None:
                continue
            for root in np.unique(dim).tolist():
                if root not in frozen:
                    touched.setdefault(root, set()).add((name, axis))
    together: dict[frozenset[Member], list[int]] = {}
    for root, members in touched.items():
        together.setdefault(frozenset(members), []).append(root)
    order = {name: position for position, name in enumerate(states)}
    groups: list[Group] = []
    for owned, roots in sorted(together.items(), key=lambda item: min(order[n] for n, _ in item[0])):
        unit_of = {root: unit for unit, root in enumerate(sorted(roots))}
        owners = {}
        for name, axis in sorted(owned, key=lambda m: (order[m[0]], m[1])):
            dim = dims[name][axis]
            assert dim is not None
            owners[name, axis] = np.array([unit_of.get(r, -1) for r in dim.tolist()], dtype=np.int64)
        reads = tuple(m for m in owners if m in readers)
        writes = tuple(m for m in owners if m not in readers and m[0] in trained and len(dims[m[0]]) >= 2)
        if reads and (writes or len(owners) > len(reads)):
            groups.append(Group(len(groups), np.array(sorted(roots), dtype=np.int64), owners, reads, writes))
    return groups


def _left_alone(
    module: nn.Module, dims: dict[str, list[IntArray | None]], frozen: dict[int, str]
) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2 or name not in dims:
            continue
        owner = module.get_submodule(name.rpartition(".")[0])
        axis = 1 if isinstance(owner, (nn.modules.conv._ConvTransposeNd, nn.Embedding)) else 0
        dim = dims[name][axis]
        if dim is None:
            continue
        found = [frozen[root] for root in np.unique(dim).tolist() if root in frozen]
        if found:
            reasons[name.rpartition(".")[0] or name] = found[0]
    return reasons
