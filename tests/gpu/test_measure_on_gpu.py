"""Measuring on a GPU: parent and light side by side, energy by NVML, engines in the states they are in."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gpu_notes import Saw

import lwplugin
from lwplugin.data import Data, load
from lwplugin.measure.energy import find_counter

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
import networks


@pytest.fixture(scope="module")
def data() -> Data:
    return load({"source": "digits", "calibration": 256}, "classification")


@pytest.fixture(scope="module")
def models(data: Data) -> tuple[lwplugin.LightModel, lwplugin.LightModel]:
    torch.manual_seed(0)
    parent = lwplugin.light(
        networks.Blocks(128).eval(), origin=lwplugin.FactoryOrigin("networks:Blocks", {"width": 128})
    )
    return parent, lwplugin.prune(parent, data, macs=0.3, collapse=0.0)


def test_parent_and_light_side_by_side(
    models: tuple[lwplugin.LightModel, lwplugin.LightModel], data: Data, tmp_path: Path, saw: Saw
) -> None:
    parent, light = (
        lwplugin.export(model, data, format="torch_export", path=tmp_path / name)
        for name, model in zip(("parent", "light"), models)
    )
    found = lwplugin.measure(light, data, baseline=parent, device="cuda", batch=256, max_seconds=20)
    speedup = found.speedup
    p50 = found.candidate.latency.p50_ms, found.baseline.latency.p50_ms
    saw(
        "torch_export on the GPU, batch 256, 0.3 of the MACs",
        f"p50 {p50[0]:.2f} ms beside {p50[1]:.2f} ms, {speedup.estimate:.2f}× ({speedup.low:.2f} to {speedup.high:.2f})"
        f"{', noisy' if found.noisy else ''}",
    )
    assert p50[0] > 0
    energy = found.candidate.energy
    saw(
        "energy an inference",
        f"{energy.state} {energy.joules_per_inference or ''} {energy.reason or energy.source}",
    )


def test_the_board_counts_energy(saw: Saw) -> None:
    counter = find_counter("cuda")
    if isinstance(counter, str):
        saw("NVML", counter)
        pytest.skip(counter)
    before = counter.joules()
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        x = torch.tanh(x @ x)
    torch.cuda.synchronize()
    spent = counter.between(before, counter.joules())
    saw("NVML", f"200 products of 4096² matrices: {spent:.1f} J")
    assert spent > 0


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_engines(
    models: tuple[lwplugin.LightModel, lwplugin.LightModel],
    data: Data,
    tmp_path: Path,
    saw: Saw,
    library: str,
) -> None:
    if find_spec(library) is None:
        saw(library, "unavailable: not installed")
        pytest.skip("not installed")
    light = models[1]
    for name, model, precision in (
        ("float", light, "float"),
        ("half", light, "half"),
        ("int8", lwplugin.quantize(light, data), "float"),
    ):
        made = lwplugin.export(
            model, data, format="tensorrt", path=tmp_path / name, library=library, precision=precision
        )
        saw(
            f"{library} {name}",
            f"{made.meta['state']}, {made.file.stat().st_size:,} bytes, {made.meta.get('parity')}",
        )
        assert made.meta["state"] == "verified" or "compute capability" in made.meta["state"]
