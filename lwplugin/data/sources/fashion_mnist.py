"""Fashion-MNIST (Xiao 2017, 1708.07747): 60,000 + 10,000 grey 28×28 pictures of clothes in 10 classes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lwplugin.data.sources.base import Parts, Request, Source, SourceOptions, file_digest, no_slices
from lwplugin.errors import DataError

if TYPE_CHECKING:
    import torch

MEAN, DEVIATION = 0.2860, 0.3530
_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class FashionMnistOptions(SourceOptions):
    """Options of the Fashion-MNIST source."""

    directory: Path = Field(
        Path("/usr/share/datasets/fashion-mnist"), description="Where the four idx.gz files lie."
    )
    n_train: int | None = Field(None, ge=1, description="Take only the first n training pictures.")
    n_test: int | None = Field(None, ge=1, description="Take only the first n test pictures.")


def read(options: FashionMnistOptions, request: Request) -> Parts:
    """Pictures float32 [n, 1, 28, 28], normalised to mean 0 and deviation 1 over train; labels 0 to 9."""
    from lwplugin.data.readers import TensorReader
    from lwplugin.data.split import Split

    check(options, request)
    splits = {}
    for name, limit in (("train", options.n_train), ("test", options.n_test)):
        images, labels = (_idx(_file(options.directory, file)) for file in _FILES[name])
        if limit is not None and limit > len(images):
            raise DataError(f"Fashion-MNIST has {len(images)} {name} pictures", got=limit, do="ask for fewer")
        scaled = images[:limit].float().div_(255).sub_(MEAN).div_(DEVIATION)
        splits[name] = Split(name, TensorReader(scaled.unsqueeze_(1), labels[:limit].long()))
    return Parts(train=splits["train"], test=splits["test"])


def check(options: FashionMnistOptions, request: Request) -> None:
    """Refuses slice columns and absent files."""
    no_slices("fashion_mnist", request)
    for pair in _FILES.values():
        for file in pair:
            _file(options.directory, file)


def contents(source: str, options: FashionMnistOptions) -> Any:
    """The four files' digests."""
    files = {file: file_digest(_file(options.directory, file)) for pair in _FILES.values() for file in pair}
    return {"files": files, "n_train": options.n_train, "n_test": options.n_test}


def _file(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        raise DataError(
            "Fashion-MNIST is not there",
            got=f"no file {path}",
            do="apt-get install dataset-fashion-mnist, or set data.directory to the idx.gz files",
        )
    return path


def _idx(path: Path) -> torch.Tensor:
    """An idx file of unsigned bytes: magic 00 00 08 <dims>, big-endian sizes, then the bytes."""
    import numpy as np
    import torch

    raw = gzip.decompress(path.read_bytes())
    dims = raw[3] if len(raw) > 4 else 0
    start = 4 + 4 * dims
    sizes = [int(size) for size in np.frombuffer(raw[4:start].ljust(4 * dims, b"\0"), ">u4")]
    if raw[:3] != b"\0\0\x08" or not dims or len(raw) - start != int(np.prod(sizes)):
        raise DataError(f"'{path}' is not an idx file of bytes", do="reinstall dataset-fashion-mnist")
    return torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8).reshape(sizes)


SOURCE: Source = Source(
    "fashion_mnist", FashionMnistOptions, read, check, contents, "Fashion-MNIST from idx.gz files"
)
