"""Removing units from a module: tensors sliced, then the size attributes of every layer made to agree."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lwplugin.model.attention import HeadAttention
from lwplugin.model.graph import Graph, Removal
from lwplugin.model.trace import states_of


def cut(module: nn.Module, graph: Graph, removed: Removal) -> None:
    """Remove units from ``module`` in place.

    ``graph`` must have been traced on this module or on one of the same structure. Parameters keep their
    ``requires_grad``; tied parameters stay tied.
    """
    mask = graph.alive(removed)
    replaced: dict[int, torch.Tensor] = {}
    for name, tensor in states_of(module).items():
        keep = graph.kept(name, mask)
        if all(indices is None for indices in keep):
            continue
        replaced[id(tensor)] = slice_tensor(tensor, keep)
    for layer in module.modules():
        for slots in (layer._parameters, layer._buffers):
            for key, tensor in slots.items():
                if tensor is not None and id(tensor) in replaced:
                    slots[key] = replaced[id(tensor)]  # type: ignore[assignment]
    fit_sizes(module)
    for rule in graph.attributes:
        owner = module.get_submodule(rule.module)
        setattr(owner, rule.attribute, int(mask[rule.roots].sum()))


def silence(module: nn.Module, graph: Graph, removed: Removal) -> None:
    """Zero, in place, every weight that reads the given units: the module then computes as if they were gone."""
    states = states_of(module)
    with torch.no_grad():
        for index, units in removed.items():
            group = graph.groups[index]
            for name, axis in group.readers:
                gone = np.flatnonzero(np.isin(group.owners[name, axis], np.asarray(list(units))))
                tensor = states[name]
                tensor.index_fill_(axis, torch.from_numpy(gone).to(tensor.device), 0)


def slice_tensor(tensor: torch.Tensor, keep: list[np.ndarray | None]) -> torch.Tensor:
    """The kept indices of each dimension; a parameter stays a parameter."""
    out = tensor.detach()
    for axis, indices in enumerate(keep):
        if indices is not None:
            out = out.index_select(axis, torch.from_numpy(indices).to(out.device))
    out = out.contiguous().clone()
    return nn.Parameter(out, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else out


def fit_sizes(module: nn.Module) -> None:
    """Make the size attributes of torch's own layers agree with the tensors they hold."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            _fit_convolution(layer)
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.modules.batchnorm._NormBase):
            held = layer.running_mean if layer.running_mean is not None else layer.weight
            if held is not None:
                layer.num_features = held.shape[0]
        elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
            per_group = layer.num_channels // layer.num_groups
            layer.num_channels = layer.weight.shape[0]
            layer.num_groups = layer.num_channels // per_group
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = layer.weight.shape[0]
        elif isinstance(layer, nn.Embedding):
            layer.num_embeddings, layer.embedding_dim = layer.weight.shape
        elif isinstance(layer, nn.RNNBase):
            layer.hidden_size = layer.weight_hh_l0.shape[1]
            layer.input_size = layer.weight_ih_l0.shape[1]
            layer.flatten_parameters()
        elif isinstance(layer, HeadAttention):
            layer.fit_sizes()


def _fit_convolution(layer: nn.modules.conv._ConvNd) -> None:
    first, second = layer.weight.shape[:2]
    if layer.groups > 1 and second == 1 and not layer.transposed:
        layer.groups = first // (layer.out_channels // layer.groups)
        layer.in_channels, layer.out_channels = layer.groups, first
    elif layer.groups > 1 and second == 1:
        layer.groups = layer.in_channels = layer.out_channels = first
    elif layer.transposed:
        layer.in_channels, layer.out_channels = first, second * layer.groups
    else:
        layer.in_channels, layer.out_channels = second * layer.groups, first
