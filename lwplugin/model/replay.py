"""Replays recorded changes on the unmodified model."""

from __future__ import annotations

import torch
from torch import nn

from lwplugin.errors import ModelError
from lwplugin.model.difference import Changes, diff
from lwplugin.model.layers import NOTHING, REMOVED, SHARED, LayerSpec, build, layer_type
from lwplugin.model.skeleton import Integers, Skeleton, integers, own_tensors


def apply(changes: Changes, module: nn.Module, *, device: str | torch.device | None = None) -> None:
    """Replays changes in place; new tensors are uninitialised or fresh, on ``device``.

    ``diff(Skeleton.of(origin), module) == changes`` holds afterwards, or ModelError is raised.
    """
    origin = Skeleton.of(module)
    by_depth = sorted(changes.modules.items(), key=lambda item: item[0].count(".") if item[0] else -1)
    for name, spec in by_depth:
        if spec.type not in (SHARED, REMOVED):
            _place(module, origin, changes, name, spec, device)
    for name, spec in by_depth:
        if spec.type == REMOVED:
            parent, leaf = _slot(module, name)
            del parent._modules[leaf]
        elif spec.type == SHARED:
            parent, leaf = _slot(module, name)
            parent._modules[leaf] = _find(module, str(spec.args.get("name")))
    for path, value in changes.attributes.items():
        _set_integers(module, path, value)
    for path, shape in changes.parameters.items():
        _reshape(module, path, shape, device)
    found = diff(origin, module)
    if found != changes:
        raise ModelError(
            "The recorded changes do not fit this model",
            got=_first_difference(found, changes),
            do="load the bundle with the origin it was made from",
        )


def _place(
    root: nn.Module,
    origin: Skeleton,
    changes: Changes,
    name: str,
    spec: LayerSpec,
    device: str | torch.device | None,
) -> None:
    """Puts a new layer at a name and at every other name of the module that was there."""
    if not name:
        _become(root, _renewed(root, spec, device, reuse=True))
        return
    parent, leaf = _slot(root, name)
    was = origin.entries.get(name)
    shared = was is not None and was.type == SHARED
    new = None if spec.type == NOTHING else _renewed(parent._modules[leaf], spec, device, reuse=not shared)
    parent._modules[leaf] = new
    for alias, entry in origin.entries.items():
        shares = entry.type == SHARED and entry.spec is not None and entry.spec.args["name"] == name
        if shares and alias not in changes.modules and _exists(root, alias):
            holder, place = _slot(root, alias)
            holder._modules[place] = new


def _renewed(
    present: nn.Module | None, spec: LayerSpec, device: str | torch.device | None, *, reuse: bool
) -> nn.Module:
    """The layer of a spec; a container of the same type is kept and only its children are changed."""
    fresh = build(spec, device=device)
    layer = layer_type(fresh)
    if not (reuse and present is not None and layer and layer.container and type(present) is type(fresh)):
        return fresh
    kept = {child: present._modules.get(child, fresh._modules[child]) for child in fresh._modules}
    present._modules.clear()
    present._modules.update(kept)
    return present


def _become(root: nn.Module, new: nn.Module) -> None:
    """Turns the root object itself into another layer: callers hold on to it."""
    if new is not root:
        root.__class__ = new.__class__
        root.__dict__ = new.__dict__


def _slot(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, leaf = name.rpartition(".")
    holder = _find(root, parent)
    if leaf not in holder._modules:
        raise ModelError(f"The changes name a module '{name}' that the origin does not have")
    return holder, leaf


def _find(root: nn.Module, name: str) -> nn.Module:
    found: nn.Module | None = root
    for part in name.split(".") if name else ():
        found = None if found is None else found._modules.get(part)
    if found is None:
        raise ModelError(f"The changes name a module '{name}' that the origin does not have")
    return found


def _exists(root: nn.Module, name: str) -> bool:
    found: nn.Module | None = root
    for part in name.split("."):
        if found is None or part not in found._modules:
            return False
        found = found._modules[part]
    return True


def _set_integers(root: nn.Module, path: str, value: Integers) -> None:
    name, _, attribute = path.rpartition(".")
    holder = _find(root, name)
    present = integers(holder)
    other_kind = isinstance(present.get(attribute), int) == isinstance(value, list)
    if attribute not in present or (other_kind and None not in (present[attribute], value)):
        raise ModelError(f"The changes set '{path}', which is no such integer of the origin", got=repr(value))
    kind = type(vars(holder)[attribute])
    as_before = isinstance(value, list) and kind in (tuple, torch.Size)
    vars(holder)[attribute] = kind(value) if as_before else value


def _reshape(root: nn.Module, path: str, shape: list[int] | None, device: str | torch.device | None) -> None:
    name, _, tensor_name = path.rpartition(".")
    holder = _find(root, name)
    found = own_tensors(holder)
    if tensor_name not in found:
        raise ModelError(f"The changes name a tensor '{path}' that the origin does not have")
    kind, present = found[tensor_name]
    new: torch.Tensor | None = None
    if shape is not None:
        try:
            dtype = torch.float32 if present is None else present.dtype
            where = device if device is not None or present is None else present.device
            new = torch.empty(shape, dtype=dtype, device=where)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ModelError(f"The changes give '{path}' an impossible shape", got=shape) from error
    if kind == "parameter":
        if new is not None:
            floating = new.is_floating_point() or new.is_complex()
            new = nn.Parameter(new, requires_grad=floating and (present is None or present.requires_grad))
        holder.register_parameter(tensor_name, new)
    elif kind == "buffer":
        holder._buffers[tensor_name] = new
    else:
        vars(holder)[tensor_name] = new


def _first_difference(found: Changes, wanted: Changes) -> str:
    for part in ("modules", "attributes", "parameters"):
        left, right = getattr(found, part), getattr(wanted, part)
        for name in sorted(left.keys() | right.keys()):
            if left.get(name) != right.get(name) or (name in left) != (name in right):
                return f"{part}['{name}'] becomes {left.get(name)}, recorded is {right.get(name)}"
    return "nothing"
