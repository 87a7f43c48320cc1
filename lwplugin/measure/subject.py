"""The file under measurement: what its export.json says, and its size as deployment sees it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwplugin.errors import MeasureError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Input:
    """One named input; ``shape`` has None (or a name) where the size is free, batch first."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Subject:
    """An exported file with what is needed to run it. ``digest`` is the export's own."""

    file: Path
    format: str
    inputs: tuple[Input, ...]
    output: str
    scheme: Mapping[str, Any] | None
    digest: str
    beside: tuple[Path, ...] = ()

    @classmethod
    def of(cls, exported: Any) -> Subject:
        """From an Exported, or from the directory an export wrote.

        Raises ExportError where the directory holds no export or the file has changed since, MeasureError for a model.
        """
        if isinstance(exported, str | Path):
            from lwplugin.export import load_exported

            exported = load_exported(exported)
        if not hasattr(exported, "file"):
            raise MeasureError(
                "Only exported files are measured",
                got=f"a {type(exported).__name__}",
                do="export it first: file = lwplugin.export(light, data, path=…)",
            )
        return cls(
            file=Path(exported.file),
            format=str(exported.format),
            inputs=tuple(
                Input(
                    name=name,
                    dtype=str(spec["dtype"]).removeprefix("torch."),
                    shape=tuple(size if isinstance(size, int) else None for size in spec["shape"]),
                )
                for name, spec in exported.inputs.items()
            ),
            output=str(exported.output),
            scheme=exported.scheme or None,
            digest=str(exported.digest),
            beside=tuple(exported.beside),
        )

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the file takes, or None where it takes any."""
        sizes = {entry.shape[0] for entry in self.inputs if entry.shape and entry.shape[0] is not None}
        return sizes.pop() if len(sizes) == 1 else None

    def parts(self) -> list[Path]:
        """The file and what belongs to it (named so, or under the same name), or a directory's files."""
        if self.file.is_dir():
            return sorted(path for path in self.file.rglob("*") if path.is_file())
        found = {path for path in self.file.parent.glob(f"{self.file.name}*") if path.is_file()}
        return sorted(found | set(self.beside))

    def size_bytes(self) -> int:
        return sum(part.stat().st_size for part in self.parts())

    def compressed_bytes(self) -> int:
        """All parts through gzip level 6, streamed; what a download or an over-the-air update takes."""
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        size = sum(len(packer.compress(chunk)) for chunk in self._chunks())
        return size + len(packer.flush())

    def mentions(self, *operators: str) -> bool:
        """Whether any of these operator names stands in the file; ONNX keeps them as plain text."""
        wanted = [name.encode() for name in operators]
        overlap = max(map(len, wanted))
        tail = b""
        for chunk in self._chunks():
            window = tail + chunk
            if any(name in window for name in wanted):
                return True
            tail = window[-overlap:]
        return False

    def _chunks(self) -> Iterator[bytes]:
        for part in self.parts():
            with part.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
