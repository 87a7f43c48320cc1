"""Triton repositories and KServe manifests, held against the servers' own definitions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from lwplugin.cli import invoke
from lwplugin.deploy import TritonOptions, deployable, inference_service, write_repository
from lwplugin.deploy.source import Deployable
from lwplugin.errors import ExportError
from lwplugin.export.base import Exported, file_digest


def triton_proto() -> Any:
    """Triton's message definitions, without the client around them, which wants grpc."""
    pytest.importorskip("tritonclient")
    name = "grpc/model_config_pb2.py"
    (file,) = [f for f in importlib.metadata.files("tritonclient") or () if str(f).endswith(name)]
    spec = importlib.util.spec_from_file_location("model_config_pb2", file.locate())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(model: Path) -> Any:
    """``config.pbtxt`` read by protobuf's own parser: an unknown field or a wrong type is an error."""
    from google.protobuf import text_format

    return text_format.Parse((model / "config.pbtxt").read_text(), triton_proto().ModelConfig())


def write_onnx(folder: Path, batch: int | str = "N", *, scalar: bool = False) -> Exported:
    folder.mkdir(parents=True, exist_ok=True)
    weight = np.ones((16, 4), np.float32)
    nodes = [helper.make_node("MatMul", ["pixels", "w"], ["y"])]
    if scalar:
        nodes.append(helper.make_node("ReduceSum", ["y", "axes"], ["output"], keepdims=0))
    else:
        nodes.append(helper.make_node("Identity", ["y"], ["output"]))
    shape = [batch] if scalar else [batch, 4]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "light.onnx")
    exported = Exported(
        path=folder,
        format="onnx",
        file=folder / "light.onnx",
        digest=file_digest(folder / "light.onnx"),
        inputs={"pixels": {"dtype": "float32", "shape": ["batch" if batch == "N" else batch, 16]}},
        output="output",
    )
    exported.save()
    return exported


def test_a_repository_is_what_triton_reads(tmp_path: Path) -> None:
    import onnxruntime

    source = Deployable(write_onnx(tmp_path / "export"), "net", version=3, threads=2)
    model = write_repository(source, tmp_path / "repository", TritonOptions(max_batch=16, queue_delay_us=200))
    config = parsed(model)
    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnxruntime", 16)
    assert [(i.name, list(i.dims)) for i in config.input] == [("pixels", [16])]
    assert [(o.name, list(o.dims)) for o in config.output] == [("output", [4])]
    types = triton_proto().DataType
    assert config.input[0].data_type == config.output[0].data_type == types.Value("TYPE_FP32")
    assert config.dynamic_batching.max_queue_delay_microseconds == 200
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.instance_group[0].Kind.Name(config.instance_group[0].kind) == "KIND_CPU"
    # The file that the server will find answers to exactly these names and shapes.
    session = onnxruntime.InferenceSession(str(model / "3" / "model.onnx"))
    feed = {i.name: np.ones((5, *i.dims), np.float32) for i in config.input}
    (answer,) = session.run([o.name for o in config.output], feed)
    assert answer.shape == (5, *config.output[0].dims)
    assert sorted(path.name for path in model.iterdir()) == ["3", "config.pbtxt"]


def test_a_second_version_joins_the_first_and_none_is_written_over(tmp_path: Path) -> None:
    exported = write_onnx(tmp_path / "export")
    for version in (1, 2):
        model = write_repository(Deployable(exported, "net", version=version), tmp_path)
    assert sorted(path.name for path in model.iterdir()) == ["1", "2", "config.pbtxt"]
    with pytest.raises(ExportError, match=r"repository holds this version already: got .*net/2"):
        write_repository(Deployable(exported, "net", version=2), tmp_path)


def test_a_fixed_batch_stays_whole_and_a_scalar_output_is_reshaped(tmp_path: Path) -> None:
    fixed = parsed(write_repository(Deployable(write_onnx(tmp_path / "a", 8), "fixed"), tmp_path))
    assert fixed.max_batch_size == 0
    assert list(fixed.input[0].dims) == [8, 16]
    assert not fixed.HasField("dynamic_batching")
    scalar = parsed(write_repository(Deployable(write_onnx(tmp_path / "b", scalar=True), "score"), tmp_path))
    assert list(scalar.output[0].dims) == [1]
    assert scalar.output[0].HasField("reshape")
    assert list(scalar.output[0].reshape.shape) == []


def test_an_ir_is_kept_with_its_weights(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    exported = write_onnx(tmp_path / "export")
    openvino.save_model(openvino.convert_model(str(exported.file)), str(tmp_path / "light.xml"))
    parts = (tmp_path / "light.xml", tmp_path / "light.bin")
    ir = Exported(
        path=tmp_path,
        format="openvino",
        file=parts[0],
        digest=file_digest(*parts),
        inputs=exported.inputs,
        output="output",
        beside=parts[1:],
    )
    model = write_repository(Deployable(ir, "net"), tmp_path / "r", TritonOptions(threads=4, gpu=True))
    config = parsed(model)
    assert config.backend == "openvino"
    assert config.parameters["INFERENCE_NUM_THREADS"].string_value == "4"
    assert list(config.output[0].dims) == [4]
    read = openvino.Core().compile_model(str(model / "1" / "model.xml"), "CPU")
    assert read({"pixels": np.ones((2, 16), np.float32)})["output"].shape == (2, 4)


def test_a_format_without_a_backend_is_refused(tmp_path: Path) -> None:
    exported = write_onnx(tmp_path / "export")
    other = Exported(**{**vars(exported), "format": "torch_export"})
    with pytest.raises(ExportError, match=r"no backend for format 'torch_export'"):
        write_repository(Deployable(other, "net"), tmp_path)


def test_a_manifest_is_a_pod_that_kubernetes_takes() -> None:
    import kubernetes_validate

    manifest = inference_service(
        "Fashion ResNet",
        "s3://models/r",
        server="mlflow",
        threads=3,
        gpu=True,
        image="serve:1",
        digest="ab" * 32,
    )
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert manifest["metadata"]["name"] == "fashion-resnet"
    model = dict(manifest["spec"]["predictor"]["model"])
    assert model.pop("modelFormat") == {"name": "mlflow", "version": "2"}
    assert model.pop("storageUri") == "s3://models/r"
    assert model.pop("protocolVersion") == "v2"
    # What is left of KServe's model is a container of Kubernetes.
    container = {"name": "kserve-container", **model}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": manifest["metadata"],
        "spec": {"containers": [container]},
    }
    kubernetes_validate.validate(pod, "1.31", strict=True)
    assert container["resources"]["limits"] == {"cpu": "3", "memory": "2Gi", "nvidia.com/gpu": "1"}
    assert container["env"] == [{"name": "LWPLUGIN_SERVE_THREADS", "value": "3"}]
    with pytest.raises(ExportError, match=r"cannot fetch a model from there: got /tmp/mlruns"):
        inference_service("net", "/tmp/mlruns")


def test_the_command_writes_repository_and_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_onnx(tmp_path / "step" / "export")
    place = str(tmp_path / "out")
    command = ["export-serving", str(tmp_path / "step"), "-o", place, "--for", "kserve", "--threads", "2"]
    assert invoke(command) == 4
    assert "--storage-uri" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert invoke([*command, "--storage-uri", "s3://bucket/r", "--name", "net", "--json"]) == 0
    model, manifest = map(Path, json.loads(capsys.readouterr().out)["written"])
    assert parsed(model).parameters["intra_op_thread_count"].string_value == "2"
    spec = yaml.safe_load(manifest.read_text())["spec"]["predictor"]["model"]
    assert (spec["modelFormat"]["name"], spec["storageUri"]) == ("triton", "s3://bucket/r")


def test_a_directory_that_holds_no_export_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"Not a directory with an exported model"),
        deployable(str(tmp_path)),
    ):
        pass
