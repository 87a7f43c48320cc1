"""Decodes, scales and normalises pictures, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from lwplugin.data.batch import Inputs
from lwplugin.data.readers import Reader, Rows
from lwplugin.data.sources.image_folder import ImageFolderOptions
from lwplugin.errors import DataError, RecipeError


class ImageReader(Reader):
    """Nothing but paths and labels is kept in memory."""

    def __init__(self, files: Sequence[tuple[Path, int]], options: ImageFolderOptions) -> None:
        channels = 3 if options.mode == "RGB" else 1
        self._files = [path for path, _ in files]
        self._labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        self._options = options
        self._mean = _per_channel("mean", options.mean, channels)
        self._std = _per_channel("std", options.std, channels)
        if (self._std == 0).any():
            raise RecipeError("data.std must not hold a zero", got=list(options.std))

    def __len__(self) -> int:
        return len(self._files)

    def labels(self) -> np.ndarray:
        return self._labels.numpy()

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        positions = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        paths = [self._files[position] for position in positions]
        if self._options.workers:
            with ThreadPoolExecutor(self._options.workers) as pool:
                pictures = list(pool.map(self._decode, paths))
        else:
            pictures = [self._decode(path) for path in paths]
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)
        return (pixels - self._mean).div_(self._std).contiguous(), self._labels[torch.from_numpy(positions)]

    def _decode(self, path: Path) -> np.ndarray:
        height, width = self._options.pixels
        try:
            with Image.open(path) as opened:
                picture = opened.convert(self._options.mode)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DataError(f"The picture '{path}' cannot be decoded", got=error, do="remove it") from error
        if self._options.fit == "crop":
            scale = max(height / picture.height, width / picture.width)
            size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.BILINEAR)
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        else:
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        array = np.asarray(picture)
        return array if array.ndim == 3 else array[:, :, None]


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> torch.Tensor:
    if len(values) not in (1, channels):
        # ImageNet's three numbers are the default; for grey pictures their mean is the nearest thing.
        if channels == 1 and len(values) == 3:
            values = (sum(values) / 3,)
        else:
            raise RecipeError(f"data.{name} needs 1 or {channels} numbers", got=list(values))
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
