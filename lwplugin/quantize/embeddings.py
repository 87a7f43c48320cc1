"""Embedding tables beside other layers: the options they share, and who decides the bits of a table's rows."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from lwplugin.data.batch import Inputs
from lwplugin.quantize.base import QuantizeConfig
from lwplugin.quantize.rare_rows import is_rare, set_rare_rows_apart


class TableOptions(QuantizeConfig):
    """Options of methods that pack embedding tables beside other layers."""

    embeddings: bool = Field(
        default=True,
        description="Store embedding tables in few bits too, a scale for each row or group of it.",
    )
    embedding_bits: int | None = Field(
        default=None,
        ge=2,
        le=8,
        description="Bits of an embedding's numbers; as the other layers by default.",
    )
    rare_bits: int | None = Field(
        default=None,
        ge=2,
        le=8,
        description="Bits of the rows of a table that calibration examples do not read; by default as its other rows.",
    )

    @field_validator("rare_bits")
    @classmethod
    def _needs_tables(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("embeddings") is False:
            raise ValueError(
                "tables stay in float with embeddings=false: leave rare_bits out, or embeddings=true"
            )
        return value

    def told(self, module: nn.Module, names: Iterable[str]) -> dict[str, int]:
        """Bits by name of the tables, or parts of one, for which the options tell them."""
        tables = [name for name in names if type(module.get_submodule(name)) is nn.Embedding]
        wishes = {
            name: self.rare_bits
            if self.rare_bits is not None and is_rare(module, name)
            else self.embedding_bits
            for name in tables
        }
        return {name: bits for name, bits in wishes.items() if bits is not None}

    def parted(
        self, module: nn.Module, names: list[str], inputs: Iterable[Inputs], *, chosen: bool = False
    ) -> list[str]:
        """Parts tables, in place, whose rare rows may get bits of their own: told, or where bits are ``chosen``.

        Returns the ``names``, those of its two parts in a table's place.
        """
        wanted = self.rare_bits is not None or (chosen and self.embedding_bits is None)
        return set_rare_rows_apart(module, names, inputs) if wanted else names
