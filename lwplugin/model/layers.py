"""The closed list of layers that a bundle may build, and how each is written down.

A layer is written as its type's name and the arguments of its constructor. Only types in this list are
ever constructed from a bundle, so a hostile file cannot name a class of its own choosing.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from lwplugin.errors import ModelError, did_you_mean

Args = dict[str, Any]
ToArgs = Callable[[Any], Args]

NOTHING = "None"
"""Spec type of a slot that exists and holds no module."""
REMOVED = "Removed"
"""Spec type of a slot that is gone."""
SHARED = "Shared"
"""Spec type of a slot that holds the module of another name: ``args["name"]``."""
SLOTS = (NOTHING, REMOVED, SHARED)

_REGISTERED_BY = (
    "lwplugin.model.attention",
    "lwplugin.quantize.layers",
    "lwplugin.quantize.packed",
    "lwplugin.quantize.parted",
    "lwplugin.quantize.recurrent",
    "lwplugin.factorize.layers",
    "lwplugin.prune.layers",
    "lwplugin.distill.layers",
)
"""Modules that register layers of our own on import; imported when an unknown type name is met."""


class LayerSpec(BaseModel):
    """One layer as data: ``{"type": "Linear", "args": {"in_features": 8, …}}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(description="name in the list of layers, not an import path")
    args: dict[str, Any] = Field(default_factory=dict, description="arguments of its constructor")


@dataclass(frozen=True)
class LayerType:
    """How one type is recognised, written and built."""

    name: str
    path: str
    to_args: ToArgs
    from_args: Callable[..., nn.Module] | None = None
    container: bool = False
    """Holds named children that are written as layers of their own."""
    loose: bool = False
    """Its shapes need not follow from its arguments: kept in place, with attributes and shapes recorded."""


LAYERS: dict[str, LayerType] = {}
_BY_PATH: dict[str, LayerType] = {}


def type_path(cls: type) -> str:
    """``torch.nn.modules.linear.Linear``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def register_layer(
    cls: type[nn.Module],
    to_args: ToArgs,
    *,
    name: str | None = None,
    from_args: Callable[..., nn.Module] | None = None,
) -> None:
    """Adds a layer type that bundles may hold.

    ``to_args(module)`` gives plain JSON values; ``from_args(**args)``, by default the class, must rebuild
    from them alone a module with the same tensors (names, kinds, shapes). It is called on the meta device
    when a bundle is loaded, so it must not read tensor values. Registering a class again replaces it.
    """
    layer = LayerType(name or cls.__name__, type_path(cls), to_args, from_args or cls)
    taken = LAYERS.get(layer.name)
    if layer.name in SLOTS or (taken is not None and taken.path != layer.path):
        raise ModelError(
            f"Layer name '{layer.name}' is taken", got=layer.path, do="register it under another name"
        )
    _add(layer)


def spec_of(module: nn.Module) -> LayerSpec | None:
    """The module as a spec, or None where its exact type is not in the list (a subclass is not)."""
    layer = layer_type(module)
    if layer is None:
        return None
    return LayerSpec(type=layer.name, args=_plain(layer.to_args(module)))


def layer_type(module: nn.Module) -> LayerType | None:
    """The entry of the module's exact type, or None."""
    return _BY_PATH.get(type_path(type(module)))


def type_listed(cls: type) -> bool:
    """Whether a bundle may hold layers of exactly this type."""
    return type_path(cls) in _BY_PATH


def build(spec: LayerSpec, *, device: str | torch.device | None = None) -> nn.Module:
    """The layer with fresh tensors, on ``device``; containers get an Identity in each named place.

    Raises ModelError for an unknown type and for arguments its constructor refuses.
    """
    layer = _named(spec.type)
    try:
        make = layer.from_args or _import(layer.path)
        if device is None:
            module = make(**_tuples(spec.args))
        else:
            with torch.device(device):
                module = make(**_tuples(spec.args))
    except Exception as error:
        raise ModelError(
            f"A layer {spec.type} cannot be built", got=f"{spec.args} ({error})", do="check the arguments"
        ) from error
    if type_path(type(module)) != layer.path:
        raise ModelError(f"A layer {spec.type} was built as something else", got=type_path(type(module)))
    return module


def _named(name: str) -> LayerType:
    if name not in LAYERS:
        for path in _REGISTERED_BY:
            package = path.rpartition(".")[0]
            if importlib.util.find_spec(package) and importlib.util.find_spec(path):
                importlib.import_module(path)
    if name not in LAYERS:
        raise ModelError("Unknown layer type", got=repr(name), do=did_you_mean(name, LAYERS))
    return LAYERS[name]


def _add(layer: LayerType) -> None:
    LAYERS[layer.name] = layer
    _BY_PATH[layer.path] = layer


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down, as JSON would give them back."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _tuples(value: Any) -> Any:
    """Lists as tuples, which constructors want."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _same_named(*names: str, **computed: Callable[[Any], Any]) -> ToArgs:
    """Arguments that the module keeps under the argument's own name, and some that are computed."""

    def to_args(module: Any) -> Args:
        return {name: getattr(module, name) for name in names} | {
            name: compute(module) for name, compute in computed.items()
        }

    return to_args


def _has(name: str) -> Callable[[Any], bool]:
    return lambda module: getattr(module, name) is not None


def _list_torch() -> None:
    conv = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    recurrent = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    table: dict[type[nn.Module], ToArgs] = {
        nn.Linear: _same_named("in_features", "out_features", bias=_has("bias")),
        nn.Embedding: _same_named(
            *("num_embeddings", "embedding_dim", "padding_idx"),
            *("max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
        ),
        nn.LSTM: _same_named(*recurrent, "proj_size"),
        nn.GRU: _same_named(*recurrent),
        nn.RNN: _same_named(*recurrent, "nonlinearity"),
        nn.Identity: lambda module: {},
        nn.Hardtanh: _same_named("min_val", "max_val", "inplace"),
        nn.PReLU: _same_named("num_parameters"),
        nn.ReLU6: _same_named("inplace"),
    }
    convs = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    table |= dict.fromkeys(convs, _same_named(*conv, "padding_mode", bias=_has("bias")))
    table |= dict.fromkeys(
        transposed, _same_named(*conv, "output_padding", "padding_mode", bias=_has("bias"))
    )
    norms = (
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
    )
    table |= {norm: _norm(norm) for norm in norms}
    for cls, to_args in table.items():
        _add(LayerType(cls.__name__, type_path(cls), to_args))
    _list_without_parameters()
    containers: tuple[type[nn.Module], ...] = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    for container in containers:
        _add(
            LayerType(
                container.__name__,
                type_path(container),
                lambda module: {"children": list(module._modules)},
                _container(container),
                container=True,
            )
        )
    attention = _same_named(
        *("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first"),
        bias=_has("in_proj_bias"),
        add_bias_kv=_has("bias_k"),
    )
    path = type_path(nn.MultiheadAttention)
    _add(LayerType("MultiheadAttention", path, attention, loose=True))
    # Hugging Face's linear layer with a transposed weight, named by path so that nothing is imported here.
    conv1d = _same_named(nf=lambda m: m.weight.shape[1], nx=lambda m: m.weight.shape[0])
    _add(LayerType("transformers.Conv1D", "transformers.pytorch_utils.Conv1D", conv1d))


def _norm(cls: type[nn.Module]) -> ToArgs:
    """Norms gain a ``bias`` argument with torch's versions: the signature says which have it."""
    names = [name for name in inspect.signature(cls).parameters if name not in ("device", "dtype", "bias")]
    if "bias" in inspect.signature(cls).parameters:
        return _same_named(*names, bias=_has("bias"))
    return _same_named(*names)


def _list_without_parameters() -> None:
    names = """
        ReLU LeakyReLU ELU SELU CELU GELU SiLU Mish Sigmoid Tanh Softplus Softsign Softmax LogSoftmax
        Hardswish Hardsigmoid LogSigmoid Tanhshrink Softshrink Hardshrink GLU
        Dropout Dropout1d Dropout2d Dropout3d AlphaDropout
        MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d
        AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
        AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
        Flatten Upsample PixelShuffle ZeroPad2d ConstantPad1d ConstantPad2d ReflectionPad1d ReflectionPad2d
        ReplicationPad1d ReplicationPad2d
    """
    for name in names.split():
        cls = getattr(nn, name)
        arguments = [name for name in inspect.signature(cls).parameters if name not in ("args", "kwargs")]
        _add(LayerType(name, type_path(cls), _same_named(*arguments)))


def _container(cls: Callable[[], nn.Module]) -> Callable[..., nn.Module]:
    def make(children: tuple[str, ...]) -> nn.Module:
        module = cls()
        for name in children:
            module.add_module(name, nn.Identity())
        return module

    return make


_list_torch()
