"""What of a model's structure differs from its source code's, found by comparing two skeletons."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from lwplugin.errors import ModelError
from lwplugin.model.layers import NOTHING, REMOVED, SHARED, LayerSpec, build
from lwplugin.model.skeleton import Entry, Integers, Kind, Skeleton, join


class Changes(BaseModel):
    """What to do to the unmodified model to get the light one's structure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modules: dict[str, LayerSpec] = Field(
        default_factory=dict, description="new layer by dotted name; for a container, which children it has"
    )
    attributes: dict[str, Integers] = Field(
        default_factory=dict, description="integer attributes of modules outside the list of layers"
    )
    parameters: dict[str, list[int] | None] = Field(
        default_factory=dict, description="shapes of tensors held by modules outside the list of layers"
    )

    def __bool__(self) -> bool:
        return bool(self.modules or self.attributes or self.parameters)


def diff(skeleton: Skeleton, module: nn.Module) -> Changes:
    """The changes that turn ``skeleton``'s model into ``module``'s structure.

    Raises ModelError for a difference that cannot be replayed.
    """
    return compare(skeleton, module)[0]


def compare(skeleton: Skeleton, module: nn.Module) -> tuple[Changes, set[str]]:
    """The changes, and the dotted names of all tensors that the rebuilt module will have."""
    now = Skeleton.of(module).entries
    base = dict(skeleton.entries)
    modules: dict[str, LayerSpec] = {}
    attributes: dict[str, Integers] = {}
    parameters: dict[str, list[int] | None] = {}
    tensors: set[str] = set()
    for name, entry in now.items():
        was = base.get(name)
        if entry.type in (NOTHING, SHARED):
            if entry != was:
                modules[name] = entry.spec or LayerSpec(type=NOTHING)
                _forget_below(base, name)
            continue
        if was is None or was.type != entry.type or _needs_building(entry, was):
            if entry.spec is None:
                raise ModelError(
                    f"Module '{name}' is new in the model and cannot be rebuilt",
                    got=entry.type,
                    do="replace modules only by layers in the list, or add the type with register_layer",
                )
            modules[name] = entry.spec
            template = Skeleton.of(build(entry.spec, device="meta")).entries
            if not (entry.container and was is not None and was.type == entry.type):
                _forget_below(base, name)
                if not entry.container:
                    base.update({join(name, below): found for below, found in template.items() if below})
            was = template[""]
        if entry.spec is not None and not entry.loose:
            _same_tensors(name, entry, was)
        else:
            attributes.update(_changed_attributes(name, entry, was))
            parameters.update(_changed_tensors(name, entry, was))
        kept = [t for t, (kind, shape) in entry.tensors.items() if shape is not None]
        tensors |= {join(name, t) for t in kept if t in was.tensors}
    modules.update(_removed(base, now, modules))
    return Changes(modules=modules, attributes=attributes, parameters=parameters), tensors


def _needs_building(entry: Entry, was: Entry) -> bool:
    """Another layer of the same type, by its arguments or because the one before computed its weights."""
    if entry.spec is None or entry.loose:
        return False
    return was.spec != entry.spec or (not entry.container and _filled(was) != _filled(entry))


def _filled(entry: Entry) -> dict[str, tuple[Kind, list[int] | None]]:
    """Tensors that are there, caches that forward may leave behind aside."""
    return {
        name: found for name, found in entry.tensors.items() if found[1] is not None and found[0] != "plain"
    }


def _changed_attributes(name: str, entry: Entry, was: Entry) -> dict[str, Integers]:
    """Integers that the unmodified module has too; others are scratch its code will make again."""
    changed: dict[str, Integers] = {}
    for attribute, value in was.attributes.items():
        if attribute in entry.attributes:
            if entry.attributes[attribute] != value:
                changed[join(name, attribute)] = entry.attributes[attribute]
        elif value is not None:
            raise ModelError(
                f"'{join(name, attribute)}' was the integer {value} and is now something else",
                do="keep it an integer, a list of integers or None",
            )
    return changed


def _changed_tensors(name: str, entry: Entry, was: Entry) -> dict[str, list[int] | None]:
    changed: dict[str, list[int] | None] = {}
    for tensor, (kind, shape) in entry.tensors.items():
        if tensor not in was.tensors:
            if kind == "plain" or shape is None:
                continue  # a cache that forward made, or an unused slot: the origin's code makes it again
            raise ModelError(
                f"Module '{name}' has a new {kind} '{tensor}' that its own code does not make",
                do="hold new tensors in a layer of the list or one added with register_layer",
            )
        old_kind, old_shape = was.tensors[tensor]
        if kind != old_kind:
            raise ModelError(f"'{join(name, tensor)}' was a {old_kind} and is now a {kind}")
        if shape != old_shape:
            changed[join(name, tensor)] = shape
    for tensor in was.tensors.keys() - entry.tensors.keys():
        raise ModelError(
            f"Module '{name}' lost its tensor '{tensor}'", do="set it to None instead of deleting it"
        )
    return changed


def _same_tensors(name: str, entry: Entry, was: Entry) -> None:
    """A listed layer's tensors must be the ones its arguments call for."""
    expected = {t: found for t, found in was.tensors.items() if found[1] is not None}
    actual = {t: found for t, found in entry.tensors.items() if found[1] is not None}
    actual = {t: found for t, found in actual.items() if found[0] != "plain" or t in expected}
    if expected != actual:
        raise ModelError(
            f"Layer '{name}' ({entry.spec.type if entry.spec else entry.type}) holds other tensors than its "
            "attributes say",
            got=f"{_shapes(actual)} where {_shapes(expected)} is expected",
            do="change the layer's attributes (such as out_features) with its weights, and remove hooks such "
            "as weight_norm first",
        )


def _shapes(tensors: Mapping[str, tuple[Kind, list[int] | None]]) -> str:
    return ", ".join(f"{name} {shape}" for name, (_, shape) in tensors.items()) or "no tensors"


def _forget_below(base: dict[str, Entry], name: str) -> None:
    prefix = f"{name}." if name else ""
    for below in [key for key in base if key != name and key.startswith(prefix)]:
        del base[below]


def _removed(
    base: Mapping[str, Entry], now: Mapping[str, Entry], modules: Mapping[str, LayerSpec]
) -> dict[str, LayerSpec]:
    removed: dict[str, LayerSpec] = {}
    for name in base:
        parent = name.rpartition(".")[0]
        if name not in now and parent in now and now[parent].type != SHARED and parent not in modules:
            removed[name] = LayerSpec(type=REMOVED)
    return removed
