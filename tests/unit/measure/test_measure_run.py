from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from lwplugin.data import from_arrays
from lwplugin.errors import ExportError, MeasureError, RecipeError
from lwplugin.measure import Comparison, Measurement, int8_saturates, load_comparison, measure
from lwplugin.measure.subject import Subject


@pytest.fixture(scope="module")
def comparison(exports: dict[str, Path], data: Any) -> Comparison:
    found = measure(exports["fast"], data, baseline=exports["slow"], min_seconds=0.5, max_seconds=2.0)
    assert isinstance(found, Comparison)
    return found


def test_a_model_with_less_work_is_faster(comparison: Comparison) -> None:
    assert comparison.speedup.low is not None
    assert comparison.speedup.low > 1.3 or comparison.noisy
    assert comparison.speedup.estimate > 1.3
    for side in (comparison.baseline, comparison.candidate):
        latency = side.latency
        assert latency.p50_low_ms <= latency.p50_ms <= latency.p50_high_ms
        assert latency.p50_ms <= latency.p95_ms
        assert latency.n >= len(latency.samples_ms) > 100


def test_every_example_is_scored_in_both_runtimes(comparison: Comparison, data: Any) -> None:
    scores = comparison.scores
    assert scores["ids"].tolist() == list(range(150))
    assert scores["baseline_scores"].mean() == comparison.baseline.metrics["accuracy"] > 0.9
    assert scores["agreement"].mean() == 1.0
    np.testing.assert_array_equal(scores["slice_label"], data.test.targets())
    assert scores["candidate_predictions"].shape == (150,)


def test_sizes_and_memory_are_those_of_the_file_and_its_process(
    comparison: Comparison, exports: dict[str, Path]
) -> None:
    side = comparison.candidate
    assert side.size_bytes == (exports["fast"] / "model.onnx").stat().st_size
    assert 0 < side.compressed_bytes < side.size_bytes
    assert 0 < side.model_memory_bytes < side.peak_memory_bytes < 300e6
    assert side.load_ms > 0
    assert side.first_ms > 0
    assert side.energy.state in ("measured", "unavailable")
    assert side.energy.state == "measured" or side.energy.reason
    assert side.simulation is None


def test_it_is_saved_and_read_back_unchanged(comparison: Comparison, tmp_path: Path) -> None:
    saved = comparison.save(tmp_path)
    back = load_comparison(tmp_path)
    assert back == saved
    assert sorted(back.scores) == sorted(comparison.scores)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "scores.npz"]
    strict = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert strict["candidate"]["latency"]["p95_ms"] == comparison.candidate.latency.p95_ms


def test_scores_of_another_comparison_are_refused(comparison: Comparison, tmp_path: Path) -> None:
    comparison.save(tmp_path)
    content = (tmp_path / "scores.npz").read_bytes()
    (tmp_path / "scores.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(MeasureError, match=r"does not belong to comparison\.json"):
        load_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(MeasureError, match="Cannot read a comparison"):
        load_comparison(tmp_path)


def test_one_file_alone_gives_a_measurement(
    exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    found = measure(exports["fast"], data, batch=8, max_examples=50, **short)
    assert isinstance(found, Measurement)
    assert (found.batch, found.n) == (8, 50)
    assert found.metrics["accuracy"] > 0.9
    assert found.parity is None


def test_parity_is_against_the_torch_model(
    exports: dict[str, Path], build: SimpleNamespace, data: Any, short: dict[str, Any]
) -> None:
    rows = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32))
    module = torch.nn.Linear(16, 4)
    with torch.no_grad():
        module.weight.copy_(rows)
        module.bias.copy_(-0.5 * rows.square().sum(1))
    module.train()
    found = measure(exports["fast"], data, reference=module, parity_examples=100, **short)
    assert found.parity.n == 100
    assert found.parity.max_abs_error < 1e-4
    assert found.parity.sqnr_db is None or found.parity.sqnr_db > 100
    assert module.training


def test_labels_that_are_not_the_models_are_told(
    exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    inputs = next(data.test.batches(150)).inputs
    others = from_arrays(test=(inputs, (data.test.targets() + 1) % 4))
    found = measure(exports["fast"], others, baseline=exports["slow"], **short)
    (told,) = found.baseline.warnings
    assert "The parent is right on 0.0% of the test" in told
    assert "preprocessing those of the training?" in told
    assert found.candidate.warnings == []


def test_nan_outputs_are_an_error_not_a_score(
    exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    with pytest.raises(
        MeasureError, match=r"candidate 1: outputs are NaN or infinite: got \d+ of 64 examples"
    ):
        measure(exports["nan"], data, baseline=exports["slow"], **short)


def test_a_fixed_batch_is_filled_up_and_scored_right(
    exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    with pytest.raises(MeasureError, match="takes batches of 4 only"):
        measure(exports["fixed"], data, **short)
    found = measure(exports["fixed"], data, baseline=exports["fast"], batch=4, **short)
    assert found.candidate.n == 150
    assert found.difference.max_abs_error < 1e-4


def test_without_labels_there_is_agreement_and_no_metric(
    exports: dict[str, Path], build: SimpleNamespace, short: dict[str, Any]
) -> None:
    unlabelled = from_arrays(test=build.examples(40)[0])
    found = measure(exports["fast"], unlabelled, baseline=exports["slow"], **short)
    assert found.candidate.metrics == {}
    assert "candidate_scores" not in found.scores
    assert found.scores["agreement"].mean() == 1.0


def test_without_a_test_split_nothing_is_scored_and_that_is_said(
    exports: dict[str, Path], build: SimpleNamespace, short: dict[str, Any]
) -> None:
    found = measure(exports["fast"], from_arrays(calibration=build.examples(40)[0]), **short)
    assert found.n == 0
    assert found.metrics == {}
    assert any("no test split" in warning for warning in found.warnings)


@pytest.mark.parametrize("bits", [7, 8])
def test_int8_is_told_from_its_simulation(
    bits: int, build: SimpleNamespace, tmp_path: Path, short: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    images = from_arrays(test=(rng.uniform(0.4, 1.0, (40, 8, 8, 8)), rng.integers(0, 4, 40)))
    export = build.write(tmp_path, build.conv_int8(weight_bits=bits), scheme={"weight_bits": bits})
    found = measure(export, images, **short)
    assert set(found.simulation) >= {"accuracy"}
    assert set(found.kernel_gap) == set(found.simulation)
    overflows = bits == 8 and int8_saturates()
    if overflows:
        assert found.kernel_sqnr_db < 30
        assert "reduce_range=True" in found.warnings[0]
    else:
        assert found.kernel_sqnr_db is None or found.kernel_sqnr_db > 30
        assert "reduce_range" not in " ".join(found.warnings)


def test_dynamic_quantization_is_scored_at_the_deployed_batch(tmp_path: Path, build: SimpleNamespace) -> None:
    from onnxruntime.quantization import quantize_dynamic

    from lwplugin.measure.score import Side

    onnx.save(build.classifier(hidden=32), tmp_path / "float.onnx")
    quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"))
    subject = Subject.of(build.write(tmp_path / "export", onnx.load(tmp_path / "int8.onnx")))
    assert subject.mentions("DynamicQuantizeLinear")
    assert Side("candidate", None, subject, batch=2).score_batch == 2  # type: ignore[arg-type]


def test_inputs_that_the_file_does_not_take_are_named(
    exports: dict[str, Path], build: SimpleNamespace, short: dict[str, Any]
) -> None:
    x, y = build.examples(20)
    named = from_arrays(test=({"pixels": x}, y))
    with pytest.raises(MeasureError, match="data: pixels; file: input"):
        measure(exports["fast"], named, **short)


def test_external_data_counts_as_size_and_a_missing_file_is_named(
    exports: dict[str, Path], data: Any, tmp_path: Path
) -> None:
    shutil.copytree(exports["fast"], tmp_path / "e")
    (tmp_path / "e" / "model.onnx.data").write_bytes(b"x" * 1000)
    subject = Subject.of(tmp_path / "e")
    assert subject.size_bytes() == (exports["fast"] / "model.onnx").stat().st_size + 1000
    (tmp_path / "e" / "model.onnx").unlink()
    with pytest.raises(ExportError, match="not in its directory"):
        measure(tmp_path / "e", data)
    with pytest.raises(ExportError, match="Not a directory with an exported model"):
        measure(tmp_path / "nowhere", data)


def test_options_are_checked_before_anything_starts(exports: dict[str, Path], data: Any) -> None:
    with pytest.raises(RecipeError, match="did you mean 'threads'"):
        measure(exports["fast"], data, thread=2)
    with pytest.raises(RecipeError, match="Option 'batch' of measure"):
        measure(exports["fast"], data, batch=0)


def test_progress_is_told(exports: dict[str, Path], data: Any, short: dict[str, Any]) -> None:
    said: list[tuple[str, int, int | None]] = []
    measure(exports["fast"], data, progress=lambda *told: said.append(told), **short)
    assert {label for label, _, _ in said} >= {"time", "score"}
    assert all(total is None or done <= total for _, done, total in said)


def test_an_embedding_is_judged_by_its_parents(
    exports: dict[str, Path], build: SimpleNamespace, short: dict[str, Any]
) -> None:
    vectors = from_arrays(test=build.examples(40)[0], task="embedding")
    found = measure(exports["fast"], vectors, baseline=exports["slow"], **short)
    assert found.scores["candidate_scores"].mean() == pytest.approx(1.0)
    assert found.scores["baseline_scores"].mean() == pytest.approx(1.0)
    assert found.candidate.metrics[vectors.task.metric] == pytest.approx(1.0)


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, lwplugin.measure; print(sorted({'torch', 'pydantic', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
