"""Where examples come from. A new source is one file and one line here."""

from __future__ import annotations

from lwplugin.data.sources import digits, fashion_mnist, image_folder, npz, parquet, python_function, text
from lwplugin.data.sources.base import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        digits.SOURCE,
        fashion_mnist.SOURCE,
        npz.SOURCE,
        parquet.SOURCE,
        image_folder.SOURCE,
        text.SOURCE,
    )
}
"""Sources by the name a recipe gives them."""

PYTHON_FUNCTION = python_function.SOURCE
"""The source of every name with a colon: ``module:function``."""


def source_named(name: str) -> Source | None:
    """The source of a recipe's ``data.source``, or None where there is none of that name."""
    return PYTHON_FUNCTION if ":" in name else SOURCES.get(name)
