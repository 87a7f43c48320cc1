from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lwplugin.registry.serving import ExportedModel

X = np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32)
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
EXPECTED = X.reshape(5, 4) @ WEIGHT

Make = Callable[..., Path]


@pytest.mark.parametrize(
    "given",
    [X, X.astype(np.float64), X.tolist(), {"input": X}, {"image": X}, X.reshape(5, 4)],
    ids=["array", "float64", "nested list", "dict", "dict under the signature's name", "flat rows"],
)
def test_one_input_takes_what_mlflow_passes(make_export: Make, given: object) -> None:
    output = ExportedModel(make_export(), {}).predict(given)
    assert isinstance(output, np.ndarray)
    np.testing.assert_allclose(output, EXPECTED, rtol=1e-5)


def test_a_frame_answers_a_frame_with_its_index(make_export: Make) -> None:
    frame = pd.DataFrame(X.reshape(5, 4), index=list("abcde"))
    output = ExportedModel(make_export(), {}).predict(frame)
    assert list(output.index) == list("abcde")
    np.testing.assert_allclose(output.to_numpy(), EXPECTED, rtol=1e-5)


def test_a_frame_with_one_column_of_arrays(make_export: Make) -> None:
    output = ExportedModel(make_export(), {}).predict(pd.DataFrame({"image": list(X)}))
    np.testing.assert_allclose(output.to_numpy(), EXPECTED, rtol=1e-5)


@pytest.mark.parametrize("as_kind", ["dict", "list", "frame"])
def test_two_inputs(make_export: Make, as_kind: str) -> None:
    left, right = X.reshape(5, 4)[:, :3], np.ones((5, 3), np.float32)
    given: object = {"right": right, "left": left}
    if as_kind == "list":
        given = [left, right]
    if as_kind == "frame":
        given = pd.DataFrame({"left": list(left), "right": list(right)})
    output = ExportedModel(make_export(two_inputs=True), {}).predict(given)
    np.testing.assert_allclose(np.asarray(output), left + 1, rtol=1e-5)


def test_loading_reads_the_manifest_once(make_export: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    export, read = make_export(), Path.read_text
    seen: list[str] = []
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: seen.append(self.name) or read(self, *a, **k)
    )
    ExportedModel(export, {})
    assert seen == ["export.json"]


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_any_number_of_rows_in_batches(
    make_export: Make, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWPLUGIN_SERVE_BATCH", str(batch))
    np.testing.assert_allclose(ExportedModel(make_export(), {}).predict(X), EXPECTED, rtol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5])
def test_a_file_of_fixed_batch_serves_any_number_of_rows(make_export: Make, rows: int) -> None:
    output = ExportedModel(make_export(batch=2), {}).predict(X[:rows])
    assert output.shape == (rows, 3)
    np.testing.assert_allclose(output, EXPECTED[:rows], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X.astype(complex), "takes float32, got complex128"),
        (np.zeros((5, 3, 3), np.float32), r"shape \[5, 3, 3\], the model takes \[-1, 2, 2\]"),
        (np.zeros((5, 5), np.float32), "the model takes"),
    ],
)
def test_what_does_not_fit_is_named(make_export: Make, given: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportedModel(make_export(), {}).predict(given)


def test_names_and_rows_of_several_inputs_must_agree(make_export: Make) -> None:
    model = ExportedModel(make_export(two_inputs=True), {})
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"takes inputs \['left', 'right'\], got \['left', 'up'\]"):
        model.predict({"left": ones, "up": ones})
    with pytest.raises(ValueError, match="differ in their number of rows"):
        model.predict({"left": ones, "right": ones[:1]})
    with pytest.raises(ValueError, match="give a dict of arrays"):
        model.predict(ones)


def test_a_setting_that_is_no_number_is_named(make_export: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWPLUGIN_SERVE_THREADS", "many")
    with pytest.raises(ValueError, match="LWPLUGIN_SERVE_THREADS must be a whole number, got 'many'"):
        ExportedModel(make_export(), {})


def test_a_file_outside_its_directory_is_refused(make_export: Make) -> None:
    directory = make_export()
    description = json.loads((directory / "export.json").read_text())
    (directory / "export.json").write_text(json.dumps({**description, "file": "../elsewhere.onnx"}))
    with pytest.raises(ValueError, match="outside its directory"):
        ExportedModel(directory, {})


def test_an_unknown_format_names_the_known_ones(make_export: Make) -> None:
    with pytest.raises(
        ValueError, match=r"No serving runtime for format 'caffe'\. Known: aotinductor, executorch, onnx, "
    ):
        ExportedModel(make_export(kind="caffe"), {})


@pytest.mark.parametrize("batch", [1, 100])
def test_openvino_answers_as_onnxruntime_from_several_threads(
    make_export: Make, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    directory = make_export()
    openvino.save_model(openvino.convert_model(str(directory / "model.onnx")), str(directory / "model.xml"))
    document = json.loads((directory / "export.json").read_text())
    described = {**document, "format": "openvino", "file": "model.xml"}
    (directory / "export.json").write_text(json.dumps(described))
    monkeypatch.setenv("LWPLUGIN_SERVE_BATCH", str(batch))
    model = ExportedModel(directory, {})
    with ThreadPoolExecutor(4) as threads:
        for output in threads.map(model.predict, [X] * 40):
            np.testing.assert_allclose(output, EXPECTED, rtol=1e-5)
    assert model.predict(X[:0]).shape == (0, 3)
