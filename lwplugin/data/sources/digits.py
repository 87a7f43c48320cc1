"""scikit-learn's 1,797 handwritten digits, 8×8, in its wheel: real input that needs no download."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from lwplugin.data.sources.base import Parts, Request, Source, SourceOptions, file_digest, no_slices


class DigitsOptions(SourceOptions):
    """Options of the digits source."""

    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share drawn for testing, stratified by label.")


def read(options: DigitsOptions, request: Request) -> Parts:
    """Images float32 [n, 1, 8, 8] in [0, 1], labels 0 to 9."""
    import torch
    from sklearn.datasets import load_digits

    from lwplugin.data.readers import TensorReader
    from lwplugin.data.split import Split

    check(options, request)
    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).float().div_(16).reshape(-1, 1, 8, 8)
    whole = Split("digits", TensorReader(inputs, torch.from_numpy(labels).long()))
    return Parts(whole=whole, test_fraction=options.test_fraction)


def check(options: DigitsOptions, request: Request) -> None:
    """Refuses slice columns."""
    no_slices("digits", request)


def contents(source: str, options: DigitsOptions) -> Any:
    """The packaged file's digest, found without importing scikit-learn; else the package's version."""
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.origin is not None:
        packaged = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if packaged.is_file():
            return {"file": file_digest(packaged), **options.model_dump()}
    return {"scikit-learn": version("scikit-learn"), **options.model_dump()}


SOURCE: Source = Source(
    "digits", DigitsOptions, read, check, contents, "scikit-learn's 8×8 handwritten digits"
)
