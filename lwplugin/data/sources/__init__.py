"""Where examples come from. A new source is one file and one line here."""

from __future__ import annotations

from lwplugin.data.sources.base import Source
from lwplugin.data.sources.digits import SOURCE as DIGITS
from lwplugin.data.sources.fashion_mnist import SOURCE as FASHION_MNIST
from lwplugin.data.sources.image_folder import SOURCE as IMAGE_FOLDER
from lwplugin.data.sources.npz import SOURCE as NPZ
from lwplugin.data.sources.parquet import SOURCE as PARQUET
from lwplugin.data.sources.python_function import SOURCE as _PYTHON_FUNCTION
from lwplugin.data.sources.text import SOURCE as TEXT

SOURCES: dict[str, Source] = {
    source.name: source for source in (DIGITS, FASHION_MNIST, NPZ, PARQUET, IMAGE_FOLDER, TEXT)
}
"""Sources by the name a recipe gives them; a name with a colon is ``module:function``."""

PYTHON_FUNCTION: Source = _PYTHON_FUNCTION


def source_named(name: str) -> Source | None:
    """The source of a recipe's ``data.source``, or None where there is none of that name."""
    return PYTHON_FUNCTION if ":" in name else SOURCES.get(name)
