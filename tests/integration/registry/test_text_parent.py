"""A transformers pipeline as parent: pulled as its network, served by what the network takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwplugin import registry
from lwplugin.model import load


def export_of_ids(directory: Path) -> Path:
    """An ONNX file that takes token ids, as an exported text classifier does."""
    import onnx
    from onnx import TensorProto, helper

    directory.mkdir()
    shape = ["batch", "tokens"]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, shape)
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1])
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["output"], keepdims=1),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "net", [ids, mask], [output], [axes])
    file = directory / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    inputs = [{"name": name, "dtype": "int64", "shape": shape} for name in ("input_ids", "attention_mask")]
    description = {"schema": 1, "format": "onnx", "file": file.name, "inputs": inputs, "output": "output"}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (directory / "export.json").write_text(json.dumps({**description, "scheme": None, "digest": digest}))
    return directory


@pytest.mark.slow
def test_a_text_classifier_is_pulled_and_registered_by_its_network(
    prepared: Any, verdict: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    import mlflow

    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    net = transformers.BertForSequenceClassification(config).eval()
    mlflow.set_tracking_uri(prepared.uri)
    mlflow.transformers.log_model(
        transformers_model={"model": net, "tokenizer": tokenizer},
        task="text-classification",
        name="bert",
        registered_model_name="reviews",
        pip_requirements=["transformers"],
    )
    mlflow.end_run()
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]

    parent = registry.resolve("models:/reviews/1", tracking_uri=prepared.uri)
    bundle = registry.pull(parent, tmp_path / "bundle", tracking_uri=prepared.uri)
    ids = torch.tensor([[2, 5, 3], [2, 6, 3]])
    with torch.no_grad():
        assert torch.equal(load(bundle).module(input_ids=ids).logits, net(input_ids=ids).logits)

    exported = export_of_ids(tmp_path / "export")
    made = registry.register(
        **{
            **prepared.arguments,
            "parent": parent,
            "bundle": bundle,
            "exported": exported,
            "verdict": verdict(exported),
        }
    )
    mlflow.set_tracking_uri(prepared.uri)
    served = mlflow.pyfunc.load_model(made.uri)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert served.metadata.signature.inputs.input_names() == ["input_ids", "attention_mask"]
    answered = served.predict({"input_ids": ids.numpy(), "attention_mask": np.ones((2, 3), np.int64)})
    np.testing.assert_allclose(answered, ids.float().mean(1, keepdim=True).numpy(), rtol=1e-6)
