"""Where workers run: this machine here, a device behind an agent in remote.py."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from lwplugin.measure.energy import measure_energy
from lwplugin.measure.machine import QUESTIONS
from lwplugin.measure.session import Peer, workers
from lwplugin.measure.subject import Subject
from lwplugin.progress import Progress, silent


class Host(Protocol):
    """``name`` is what the result calls the device, ``accelerator`` (cpu or cuda) what a runtime there is
    told to run on."""

    name: str
    accelerator: str

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def ask(self, question: str, **fields: Any) -> Any:
        """One of ``machine.QUESTIONS``, about the machine that measures."""
        ...

    def place(self, subject: Subject) -> str:
        """The path under which workers find the file."""
        ...

    def workers(
        self, runtimes: Mapping[str, str], *, threads: int, timeout_s: float
    ) -> AbstractContextManager[Mapping[str, Peer]]:
        """One process per label; each first answers ``hello``."""
        ...

    def energy(self, worker: Peer, *, run_ms: float, seconds: float) -> dict[str, Any]:
        """The fields of ``Energy``."""
        ...


class ThisMachine:
    """The machine this process runs on."""

    def __init__(self, accelerator: str) -> None:
        self.name = self.accelerator = accelerator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held."""

    def ask(self, question: str, **fields: Any) -> Any:
        return QUESTIONS[question](**fields)

    def place(self, subject: Subject) -> str:
        return str(subject.file.resolve())

    def workers(
        self, runtimes: Mapping[str, str], *, threads: int, timeout_s: float
    ) -> AbstractContextManager[Mapping[str, Peer]]:
        return workers(runtimes, threads=threads, timeout_s=timeout_s)

    def energy(self, worker: Peer, *, run_ms: float, seconds: float) -> dict[str, Any]:
        return measure_energy(worker, self.accelerator, run_ms=run_ms, seconds=seconds)


def host_of(device: str, *, progress: Progress = silent) -> Host:
    """This machine for ``cpu`` and ``cuda``, else the device of that name in the inventory.

    Raises RecipeError naming the nearest known device.
    """
    from lwplugin.measure.inventory import LOCAL, device_named

    if device in LOCAL:
        return ThisMachine(device)
    from lwplugin.measure.remote import RemoteDevice

    return RemoteDevice(device, device_named(device), progress=progress)
