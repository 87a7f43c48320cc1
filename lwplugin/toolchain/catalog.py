"""Which toolchains there are. Another one is a lock file, a worker and one entry here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lwplugin.errors import ToolchainError, did_you_mean

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Toolchain:
    """An environment with everything pinned; ``probes`` are the modules that must import in it."""

    name: str
    summary: str
    probes: tuple[str, ...]
    folder: Path = _HERE

    @property
    def lock(self) -> Path:
        """The file with one ``package==version`` a line."""
        return self.folder / "locks" / f"{self.name}.txt"

    @property
    def worker(self) -> Path:
        """The script that its Python runs; imports nothing of lwplugin."""
        return self.folder / "workers" / f"{self.name}.py"

    @property
    def packages(self) -> dict[str, str]:
        """Pinned versions by package name."""
        lines = self.lock.read_text(encoding="utf-8").splitlines()
        pins = (line.partition("==") for line in lines if line and not line.startswith("#"))
        return {name: version for name, _, version in pins}

    @property
    def lock_digest(self) -> str:
        """SHA-256 of the lock: another lock is another environment."""
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()


TOOLCHAINS: dict[str, Toolchain] = {
    entry.name: entry
    for entry in (
        Toolchain("litert", "litert-torch: torch programs to TFLite", ("litert_torch", "ai_edge_quantizer")),
        Toolchain("executorch", "ExecuTorch with XNNPACK: converter and runtime", ("executorch.exir",)),
    )
}


def toolchain(name: str) -> Toolchain:
    """Raises ToolchainError with the nearest known name."""
    if name not in TOOLCHAINS:
        raise ToolchainError("Unknown toolchain", got=repr(name), do=did_you_mean(name, TOOLCHAINS))
    return TOOLCHAINS[name]
