"""The int8 of others, from one float ONNX file and one set of calibration inputs: onnxruntime's and NNCF's.

pip install nncf==3.4.0 -c constraints.txt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, np.ndarray]
Maker = Callable[[Path, Sequence[Feed], Path], Path]
"""(float ONNX file, calibration batches, directory) → the file it wrote there."""


def _prepared(floating: Path, directory: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = directory / "prepared.onnx"
    quant_pre_process(str(floating), str(prepared), skip_symbolic_shape=True)
    return prepared


def onnxruntime_static(*, reduced: bool = False, calibrator: str = "MinMax") -> Maker:
    """quantize_static per channel, u8s8, as Q/DQ."""

    def make(floating: Path, batches: Sequence[Feed], directory: Path) -> Path:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left = iter(batches)

            def get_next(self) -> Any:
                return next(self.left, None)

        file = directory / "model.onnx"
        quantize_static(
            str(_prepared(floating, directory)),
            str(file),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[calibrator],
        )
        return file

    return make


def onnxruntime_dynamic(*, reduced: bool = False) -> Maker:
    """quantize_dynamic per channel."""

    def make(floating: Path, batches: Sequence[Feed], directory: Path) -> Path:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        file = directory / "model.onnx"
        prepared = _prepared(floating, directory)
        quantize_dynamic(
            str(prepared), str(file), per_channel=True, reduce_range=reduced, weight_type=QuantType.QInt8
        )
        return file

    return make


def nncf(to: str, *, bias: str = "fast", preset: str = "performance", transformer: bool = False) -> Maker:
    """nncf.quantize of the float file: ``to`` openvino or onnx; ``bias`` correction fast, accurate or no."""

    def make(floating: Path, batches: Sequence[Feed], directory: Path) -> Path:
        import nncf

        # NNCF estimates a bias's shift example by example.
        singles = [
            {name: value[k : k + 1] for name, value in feed.items()}
            for feed in batches
            for k in range(len(next(iter(feed.values()))))
        ]
        options: dict[str, Any] = {
            "subset_size": len(singles),
            "preset": nncf.QuantizationPreset(preset),
            "fast_bias_correction": bias != "accurate",
            "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
            "advanced_parameters": nncf.AdvancedQuantizationParameters(disable_bias_correction=bias == "no"),
        }
        if to == "onnx":
            import onnx

            made = nncf.quantize(onnx.load(floating), nncf.Dataset(singles), **options)
            file = directory / "model.onnx"
            onnx.save(made, file)
        else:
            import openvino

            made = nncf.quantize(openvino.convert_model(str(floating)), nncf.Dataset(singles), **options)
            file = directory / "model.xml"
            openvino.save_model(made, str(file), compress_to_fp16=False)
        return file

    return make
