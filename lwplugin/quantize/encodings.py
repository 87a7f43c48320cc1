"""How a packed layer stores its weight: each encoding names its tensors and turns them back into floats.

An encoding is plain data, so a bundle records it among the layer's arguments; its tensors are buffers of the
layer. ``decode`` is the one definition of the weight: torch runs it, exporters must reproduce it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lwplugin.errors import ModelError, did_you_mean
from lwplugin.quantize.packing import pack_codes, packed_bytes, unpack_codes

Shape = tuple[int, ...]
HalfType = Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class Encoding(ABC):
    """One way to store a weight of shape [out, …]."""

    kind: ClassVar[str]

    @abstractmethod
    def tensors(self, shape: Shape) -> dict[str, Tensor]:
        """Fresh tensors by buffer name, for a weight of this shape."""

    @abstractmethod
    def decode(self, stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """The weight, float32 in its shape."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits of one stored number, without what its scales or table take."""

    def spec(self) -> dict[str, Any]:
        """As JSON."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Half(Encoding):
    """Floating point numbers of 16 bits; ``native`` layers also compute in them."""

    kind: ClassVar[str] = "half"
    dtype: HalfType = "float16"
    native: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """As torch names it."""
        return torch.float16 if self.dtype == "float16" else torch.bfloat16

    @property
    def bits(self) -> int:
        """16."""
        return 16

    def tensors(self, shape: Shape) -> dict[str, Tensor]:
        """``numbers``: the weight itself."""
        return {"numbers": torch.zeros(shape, dtype=self.torch_dtype)}

    def decode(self, stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """Every 16-bit number is a float32 number: nothing is rounded."""
        return stored["numbers"].float()

    def rows(self, stored: Mapping[str, Tensor], shape: Shape, index: Tensor) -> dict[str, Tensor]:
        """What is stored of some rows (int64 [rows]) of the weight alone."""
        return {"numbers": stored["numbers"][index]}


@dataclass(frozen=True)
class Groups(Encoding):
    """Asymmetric integers with a float16 scale and an integer zero point for every group of a row.

    weight = scale · (code − zero). The last group of a row may be shorter.
    """

    kind: ClassVar[str] = "groups"
    width: int = 4
    group_size: int = 64

    @property
    def bits(self) -> int:
        """Of one code."""
        return self.width

    def groups(self, shape: Shape) -> int:
        """Groups in a row."""
        return -(-math.prod(shape[1:]) // self.group_size)

    def tensors(self, shape: Shape) -> dict[str, Tensor]:
        """``codes`` packed, ``scale`` float16 [out, groups], ``zero`` packed."""
        groups = self.groups(shape)
        return {
            "codes": torch.zeros(packed_bytes(math.prod(shape), self.width), dtype=torch.uint8),
            "scale": torch.ones(shape[0], groups, dtype=torch.float16),
            "zero": torch.zeros(packed_bytes(shape[0] * groups, self.width), dtype=torch.uint8),
        }

    def codes(self, stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """uint8 [out, row]."""
        return unpack_codes(stored["codes"], self.width, math.prod(shape)).view(shape[0], -1)

    def zeros(self, stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """uint8 [out, groups]."""
        count = shape[0] * self.groups(shape)
        return unpack_codes(stored["zero"], self.width, count).view(shape[0], -1)

    def rows(self, stored: Mapping[str, Tensor], shape: Shape, index: Tensor) -> dict[str, Tensor]:
        """What is stored of some rows (int64 [rows]) of the weight alone."""
        return {
            "codes": pack_codes(self.codes(stored, shape)[index].reshape(-1), self.width),
            "scale": stored["scale"][index],
            "zero": pack_codes(self.zeros(stored, shape)[index].reshape(-1), self.width),
        }

    def decode(self, stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """One exact subtraction and one float32 product an element."""
        codes, zeros = self.codes(stored, shape), self.zeros(stored, shape)
        row, groups = codes.shape[1], zeros.shape[1]
        if row % self.group_size:
            codes = torch.nn.functional.pad(codes, (0, groups * self.group_size - row))
        parts = codes.view(len(codes), groups, -1).float()
        scale = stored["scale"].float()
        weight = ((parts - zeros.unsqueeze(-1)) * scale.unsqueeze(-1)).view(len(codes), -1)
        return weight[:, :row].reshape(shape)


@dataclass(frozen=True)
class Codebook(Encoding):
    """Indices into a table of shared float16 values; one table for each of ``tables`` equal runs of rows."""

    kind: ClassVar[str] = "codebook"
    width: int = 4
    tables: int = 1

    @property
    def bits(self) -> int:
        """Of one index."""
        return self.width

    def tensors(self, shape: Shape) -> dict[str, Tensor]:
        """``codes`` packed, ``table`` float16 [tables, 2^width]."""
        return {
            "codes": torch.zeros(packed_bytes(math.prod(shape), self.width), dtype=torch.uint8),
            "table": torch.zeros(self.tables, 2**self.width, dtype=torch.float16),
        }

    def decode(self, stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """Looks every index up."""
        codes = unpack_codes(stored["codes"], self.width, math.prod(shape)).to(torch.int64)
        parts = codes.view(self.tables, -1)
        return stored["table"].float().gather(1, parts).reshape(shape)


@dataclass(frozen=True)
class Signs(Encoding):
    """One bit a weight: ±scale, one float32 scale a row (Rastegari 2016, 1603.05279)."""

    kind: ClassVar[str] = "signs"

    @property
    def bits(self) -> int:
        """1."""
        return 1

    def tensors(self, shape: Shape) -> dict[str, Tensor]:
        """``codes`` packed (1 is plus), ``scale`` float32 [out], ``shift`` float32 [out]."""
        return {
            "codes": torch.zeros(packed_bytes(math.prod(shape), 1), dtype=torch.uint8),
            "scale": torch.ones(shape[0]),
            "shift": torch.zeros(shape[0]),
        }

    def decode(self, stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """shift ± scale, row by row."""
        signs = unpack_codes(stored["codes"], 1, math.prod(shape)).view(shape[0], -1).float() * 2 - 1
        return (signs * stored["scale"][:, None] + stored["shift"][:, None]).reshape(shape)


ENCODINGS: dict[str, type[Encoding]] = {cls.kind: cls for cls in (Half, Groups, Codebook, Signs)}


def encoding_of(spec: Mapping[str, Any]) -> Encoding:
    """The encoding of a spec as a bundle records it. Raises ModelError for an unknown kind or field."""
    kind = str(spec.get("kind"))
    if kind not in ENCODINGS:
        raise ModelError("Unknown weight encoding", got=repr(kind), do=did_you_mean(kind, ENCODINGS))
    try:
        return ENCODINGS[kind](**{name: value for name, value in spec.items() if name != "kind"})
    except TypeError as error:
        raise ModelError(
            f"A weight encoding '{kind}' cannot have these fields", got=dict(spec), do="check the bundle"
        ) from error
