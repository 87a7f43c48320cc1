from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lwplugin.errors import MeasureError
from lwplugin.export.base import file_digest
from lwplugin.measure import Comparison, measure
from lwplugin.measure.session import Worker

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def converted(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fast classifier as IR."""
    directory = tmp_path_factory.mktemp("ir")
    model = openvino.convert_model(str(exports["fast"] / "model.onnx"))
    openvino.save_model(model, str(directory / "model.xml"), compress_to_fp16=False)
    document = json.loads((exports["fast"] / "export.json").read_text())
    document |= {
        "format": "openvino",
        "file": "model.xml",
        "beside": ["model.bin"],
        "digest": file_digest(directory / "model.xml", directory / "model.bin"),
    }
    (directory / "export.json").write_text(json.dumps(document))
    return directory


def test_it_is_measured_interleaved_with_a_parent_in_onnx_runtime(
    converted: Path, exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    found = measure(converted, data, baseline=exports["slow"], **short)
    assert isinstance(found, Comparison)
    assert found.speedup.estimate > 0
    assert found.scores["agreement"].mean() == 1.0
    assert found.candidate.metrics["accuracy"] > 0.9
    sizes = [(converted / name).stat().st_size for name in ("model.xml", "model.bin")]
    assert found.candidate.size_bytes == sum(sizes)
    assert found.candidate.simulation is None


def test_int8_kernels_are_told_from_their_simulation(build: SimpleNamespace, tmp_path: Path) -> None:
    onnx_file = build.write(tmp_path / "onnx", build.conv_int8(weight_bits=7)) / "model.onnx"
    file = tmp_path / "model.xml"
    openvino.save_model(openvino.convert_model(str(onnx_file)), str(file), compress_to_fp16=False)
    x = build.examples(8)[0].repeat(32, 1).reshape(8, 8, 8, 8).clip(0, 1)
    answers = {}
    with Worker("openvino", label="candidate", threads=1, timeout_s=60) as worker:
        worker.receive()
        for optimize in (True, False):
            request = {"device": "cpu", "threads": 1, "output": "output", "optimize": optimize}
            assert worker.ask("load", file=str(file), **request)["providers"] == ["CPU"]
            answers[optimize] = worker.ask_arrays("score", {"input": x})[1]["output"]
    assert answers[True].shape == (8, 4)
    assert abs(answers[True] - answers[False]).max() < 0.05 * abs(answers[False]).max()


def test_another_device_and_another_output_are_refused(converted: Path) -> None:
    with Worker("openvino", label="candidate", threads=1, timeout_s=60) as worker:
        worker.receive()
        request = {"file": str(converted / "model.xml"), "threads": 1, "optimize": True}
        with pytest.raises(MeasureError, match="CPU"):
            worker.ask("load", device="cuda", output="output", **request)
        with pytest.raises(MeasureError, match="no output 'logits'"):
            worker.ask("load", device="cpu", output="logits", **request)
