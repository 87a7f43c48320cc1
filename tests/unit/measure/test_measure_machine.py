from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from lwplugin.measure import describe, int8_saturates, isa
from lwplugin.measure.energy import find_counter
from lwplugin.measure.machine import idle_cpus


@pytest.mark.parametrize(
    ("flags", "name", "saturates"),
    [
        (["sse2", "sse4_2", "avx2", "fma"], "avx2", True),
        (["avx2", "avx_vnni"], "vnni", False),
        (["avx2", "avx512f", "avx512bw"], "avx512", True),
        (["avx2", "avx512f", "avx512_vnni", "amx_int8"], "amx", False),
        (["asimd"], "neon", False),
        (["asimd", "asimddp", "i8mm"], "i8mm", False),
        ([], "unknown", False),
    ],
)
def test_the_instruction_set_decides_whether_int8_overflows(
    flags: list[str], name: str, saturates: bool
) -> None:
    assert isa(flags) == name
    assert int8_saturates(name) is saturates


def test_this_machine_is_described() -> None:
    machine = describe({"onnxruntime": "1.0"})
    assert machine.arch == platform.machine()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes > 1e8
    assert machine.runtimes == {"onnxruntime": "1.0"}
    assert machine.isa == isa()


def test_idle_cpus_are_allowed_ones() -> None:
    chosen = idle_cpus(1)
    assert len(chosen) == 1
    assert set(chosen) <= os.sched_getaffinity(0)
    assert len(idle_cpus(999)) == len(os.sched_getaffinity(0))


def write_zone(root: Path, name: str, microjoules: int) -> Path:
    zone = root / name
    zone.mkdir(parents=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("1000000\n")
    return zone


def test_rapl_packages_are_added_and_wrapping_is_repaired(tmp_path: Path) -> None:
    first = write_zone(tmp_path, "intel-rapl:0", 900_000)
    write_zone(tmp_path, "intel-rapl:1", 50_000)
    write_zone(tmp_path, "intel-rapl:0:0", 7)  # a part of package 0, which is counted already
    counter = find_counter("cpu", tmp_path)
    assert not isinstance(counter, str)
    before = counter.joules()
    assert before == pytest.approx(0.95)
    (first / "energy_uj").write_text("100000")
    assert counter.between(before, counter.joules()) == pytest.approx(0.2)


def test_without_a_counter_the_reason_is_said(tmp_path: Path) -> None:
    assert "no RAPL counter" in str(find_counter("cpu", tmp_path))
    zone = write_zone(tmp_path, "intel-rapl:0", 1)
    (zone / "energy_uj").write_text("not a number")
    assert "cannot be read" in str(find_counter("cpu", tmp_path))
