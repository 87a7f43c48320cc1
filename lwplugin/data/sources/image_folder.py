"""Pictures in one folder per class, decoded when a batch needs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lwplugin.data.sources.base import Parts, Request, Source, SourceOptions, absent, no_slices, tree_digest
from lwplugin.errors import DataError, MissingExtraError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SPLITS = ("train", "calibration", "test")


class ImageFolderOptions(SourceOptions):
    """Options of the image folder source."""

    path: Path = Field(
        description="A folder of class folders, or one with folders train, test (and calibration) of those."
    )
    size: int | tuple[int, int] = Field(224, description="Height and width in pixels; one number for both.")
    fit: Literal["crop", "squash"] = Field(
        "crop", description="'crop' scales the short side and cuts the middle, 'squash' changes proportions."
    )
    mode: Literal["RGB", "L"] = Field("RGB", description="Three colour channels, or one grey.")
    mean: tuple[float, ...] = Field(
        (0.485, 0.456, 0.406), description="Subtracted per channel, in [0, 1] (default: ImageNet's)."
    )
    std: tuple[float, ...] = Field(
        (0.229, 0.224, 0.225), description="Divided by per channel (default: ImageNet's)."
    )
    workers: int = Field(0, ge=0, le=64, description="Threads that decode a batch; 0 decodes in place.")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share for testing where there is no test folder."
    )

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def read(options: ImageFolderOptions, request: Request) -> Parts:
    """Pictures float32 [n, channels, height, width], normalised; classes numbered in sorted order."""
    from lwplugin.data.sources.image_reader import ImageReader
    from lwplugin.data.split import Split

    check(options, request)
    roots = _roots(options.path)
    classes = _classes(next(iter(roots.values())))
    splits: dict[str, Split] = {}
    for name, root in roots.items():
        files = [(path, classes.index(label)) for label in _classes(root) for path in _pictures(root / label)]
        if not files:
            raise DataError(f"No pictures under '{root}'", do=f"known endings: {', '.join(SUFFIXES)}")
        splits[name] = Split(name, ImageReader(files, options))
    return Parts(
        train=splits.get("train"),
        calibration=splits.get("calibration"),
        test=splits.get("test"),
        whole=splits.get("whole"),
        test_fraction=options.test_fraction,
    )


def check(options: ImageFolderOptions, request: Request) -> None:
    """Refuses absent folders, classes that only the test has, slice columns, and pictures without Pillow."""
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError("pillow", extra="images", why="Reading pictures")
    no_slices("image_folder", request)
    roots = _roots(options.path)
    classes = _classes(next(iter(roots.values())))
    for root in roots.values():
        unknown = [label for label in _classes(root) if label not in classes]
        if unknown:
            raise DataError(f"'{root}' has classes that train has not", got=", ".join(unknown))


def contents(source: str, options: ImageFolderOptions) -> Any:
    """Digest over every picture's bytes and place, and how they are prepared."""
    files = [
        path
        for root in _roots(options.path).values()
        for label in _classes(root)
        for path in _pictures(root / label)
    ]
    prepared = options.model_dump(mode="json", exclude={"path", "workers"})
    return {"files": tree_digest(options.path, files), **prepared}


def _roots(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise absent("picture folder", path, do="check data.path")
    roots = {name: path / name for name in _SPLITS if (path / name).is_dir()}
    return roots if "train" in roots or "test" in roots else {"whole": path}


def _classes(root: Path) -> list[str]:
    names = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise DataError(
            f"'{root}' has no class folders", do="put the pictures of each class in its own folder"
        )
    return names


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


SOURCE: Source = Source(
    "image_folder", ImageFolderOptions, read, check, contents, "pictures in one folder per class"
)
