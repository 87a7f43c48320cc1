"""Measured latency as a cost: what the layers that remain take in ONNX Runtime on this machine.

MACs do not predict time: kernels work in blocks of channels, so nine channels may cost what sixteen do. Here every
convolution and linear layer is timed alone, at the very widths that a selection considers, in one thread and with the
activation that kernels fuse; the sum stands for the network. It leaves out what is not a layer (adds, pooling, norms
that were not folded), so it guides a choice; what the file really takes is for the measure step to say.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, take
from lwplugin.data.evaluation import kept_modes
from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph, Removal
from lwplugin.model.watching import watching
from lwplugin.progress import Progress, silent

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_LEAST_RUNS, _LEAST_S, _COPIES = 16, 0.012, 4


@dataclass(frozen=True)
class Layer:
    """One call of a layer: its weight's shape, and all else that decides its time."""

    kind: str
    weight: tuple[int, ...]
    """Linear [o, k]; convolution [o, k / groups, *kernel]."""
    rows: tuple[int, ...]
    """Linear: rows of one example. Convolution: spatial size of the input."""
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def narrowed(self, outputs: int, inputs: int) -> Layer:
        """The layer with fewer channels; a depthwise convolution loses groups, a grouped one what each holds."""
        groups = self.groups
        if groups > 1 and inputs == self.weight[1]:
            groups = max(1, outputs * groups // self.weight[0])
        return replace(self, weight=(outputs, inputs, *self.weight[2:]), groups=groups)


class Latency:
    """Milliseconds that the timed layers of a model take for one example, after a removal.

    Raises:
        MethodError: onnxruntime is missing, or the model has no layer that can be timed.
    """

    def __init__(
        self,
        module: nn.Module,
        graph: Graph | None,
        inputs: Inputs,
        progress: Progress = silent,
        seen: dict[Layer, float] | None = None,
    ) -> None:
        """``seen`` holds timings of another model's layers, and gets those of this one's; without a ``graph`` only the
        whole model can be asked for."""
        self._graph, self._progress = graph, progress
        self._layers = _layers_of(module, take(inputs, 1))
        self._seen = {} if seen is None else seen
        if not self._layers:
            raise MethodError(
                "No layer of this model can be timed", do="give the budget in macs or params instead"
            )

    def __call__(self, removed: Removal | None = None) -> float:
        if self._graph is None or not removed:
            return sum(self._ms(layer) for _, layer in self._layers)
        return sum(self._ms(layer) for layer in self._after(self._graph, self._graph.alive(removed)))

    def _after(self, graph: Graph, mask: npt.NDArray[np.bool_]) -> list[Layer]:
        found = []
        for name, layer in self._layers:
            dims = graph.dims.get(f"{name}.weight")
            left = [
                size if dims is None or dims[axis] is None else int(mask[dims[axis]].sum())
                for axis, size in enumerate(layer.weight[:2])
            ]
            found.append(layer.narrowed(max(1, left[0]), max(1, left[1])))
        return found

    def _ms(self, layer: Layer) -> float:
        if layer not in self._seen:
            self._seen[layer] = time_ms(layer)
            self._progress("timing layers", len(self._seen), None)
        return self._seen[layer]


def time_ms(layer: Layer) -> float:
    """What the kernel adds to a network, from the least of repeated runs in one thread.

    A file of one layer also pays for bringing its input and output into the kernels' own layout, which layers in the
    middle of a network do not. So four layers on one input, their outputs summed, are timed in turn with one.
    """
    sessions = [_session(layer, copies) for copies in (1, _COPIES)]
    least, spent, runs = [float("inf")] * 2, 0.0, 0
    while runs < _LEAST_RUNS or spent < _LEAST_S:
        for which, (session, feeds) in enumerate(sessions):
            began = time.perf_counter()
            session.run(None, feeds)
            took = time.perf_counter() - began
            spent, least[which] = spent + took, min(least[which], took)
        runs += 1
    return max(0.0, least[1] - least[0]) * 1000 / (_COPIES - 1)


def _session(layer: Layer, copies: int) -> tuple[Any, dict[str, npt.NDArray[np.float32]]]:
    """A session that holds only copies of this layer on one input, summed, then a ReLU; and the input."""
    helper, runtime = _onnx()
    from onnx import TensorProto, numpy_helper

    random = np.random.default_rng(0)
    if layer.kind == "linear":
        operator, options = "MatMul", {}
        weight_shape, shape = layer.weight[::-1], (*layer.rows, layer.weight[1])
    else:
        operator = "Conv"
        options = {
            "strides": layer.stride,
            "pads": (*layer.padding, *layer.padding),
            "dilations": layer.dilation,
            "group": layer.groups,
        }
        weight_shape, shape = layer.weight, (1, layer.weight[1] * layer.groups, *layer.rows)
    nodes, total = [], ""
    for copy in range(copies):
        nodes.append(helper.make_node(operator, ["x", f"w{copy}"], [f"h{copy}"], **options))
        if copy:
            nodes.append(helper.make_node("Add", [f"h{copy}", total], [f"s{copy}"]))
        total = f"s{copy}" if copy else "h0"
    graph = helper.make_graph(
        [*nodes, helper.make_node("Relu", [total], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(random.standard_normal(weight_shape, dtype=np.float32), f"w{copy}")
            for copy in range(copies)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    session = runtime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return session, {"x": random.standard_normal(shape, dtype=np.float32)}


@cache
def _onnx() -> tuple[Any, Any]:
    try:
        import onnxruntime
        from onnx import helper
    except ImportError as error:
        raise MethodError(
            "A latency budget needs ONNX Runtime",
            got=str(error),
            do="pip install 'lwplugin[onnx]', or give the budget in macs or params",
        ) from None
    return helper, onnxruntime


def _layers_of(module: nn.Module, inputs: Inputs) -> list[tuple[str, Layer]]:
    """Every call of a convolution or linear layer, with what it was called on."""
    names = [name for name, layer in module.named_modules() if type(layer) in (nn.Linear, *_CONVOLUTIONS)]
    found: list[tuple[str, Layer]] = []

    def keep(name: str, args: Any, output: Any) -> None:
        layer, x = module.get_submodule(name), args[0]
        found.append((name, _linear(layer, x) if isinstance(layer, nn.Linear) else _convolution(layer, x)))

    with torch.no_grad(), kept_modes(module), watching(module, names, keep):
        module.eval()
        call(module, inputs)
    return found


def _linear(layer: nn.Linear, x: Tensor) -> Layer:
    return Layer("linear", tuple(layer.weight.shape), (max(1, x.numel() // x.shape[-1]),))


def _convolution(layer: Any, x: Tensor) -> Layer:
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            padding = (0,) * len(layer.kernel_size)
        else:
            padding = tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    else:
        padding = tuple(layer.padding)
    return Layer(
        "convolution", tuple(layer.weight.shape), tuple(x.shape[2:]), layer.groups, tuple(layer.stride),
        padding, tuple(layer.dilation),
    )  # fmt: skip
