"""What others make of a float ONNX file: onnxruntime's MatMulNBits, NNCF's weight compression and its int8.

pip install nncf==3.4.0 -c constraints.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

Feed = dict[str, np.ndarray]


def matmul_nbits(floating: Path, file: Path, *, embeddings: bool, block_size: int = 32) -> None:
    """4 bits in blocks, each rounded to the nearest; with ``embeddings`` its Gather tables too.

    Raises SystemExit where nothing was packed: it passes over what it does not know without a word.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    kinds = {"MatMul": 0, "Gather": 1} if embeddings else {"MatMul": 0}
    quantizer = MatMulNBitsQuantizer(
        onnx.load(floating),
        bits=4,
        block_size=block_size,
        is_symmetric=False,
        op_types_to_quantize=tuple(kinds),
        quant_axes=tuple(kinds.items()),
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(file))
    made = [node.op_type for node in onnx.load(file).graph.node]
    print(
        f"# {made.count('MatMulNBits')} MatMulNBits, {made.count('GatherBlockQuantized')} GatherBlockQuantized"
    )
    if "MatMulNBits" not in made or (embeddings and "GatherBlockQuantized" not in made):
        raise SystemExit("onnxruntime packed nothing")


def nncf_int4(
    floating: Path, file: Path, feeds: Sequence[Feed], *, aware: bool, group_size: int = 64
) -> None:
    """4 bits in groups, asymmetric, embeddings in 8, as OpenVINO's model; ``aware`` of data: AWQ and scale estimation.

    Of an ONNX model NNCF writes one that ONNX Runtime refuses to load.
    """
    import nncf
    import openvino

    made = nncf.compress_weights(
        openvino.convert_model(str(floating)),
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        ratio=1.0,
        group_size=group_size,
        dataset=nncf.Dataset(list(feeds)) if aware else None,
        subset_size=len(feeds),
        awq=aware or None,
        scale_estimation=aware or None,
    )
    openvino.save_model(made, str(file), compress_to_fp16=False)


def nncf_int8(
    floating: Path, file: Path, feeds: Sequence[Feed], *, preset: str = "performance", bias: bool = True
) -> None:
    """Static int8, with its fast bias correction or none."""
    import nncf
    import onnx

    made = nncf.quantize(
        onnx.load(floating),
        nncf.Dataset(list(feeds)),
        subset_size=len(feeds),
        preset=nncf.QuantizationPreset(preset),
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=not bias),
    )
    onnx.save(made, file)
