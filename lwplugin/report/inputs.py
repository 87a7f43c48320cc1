"""What a report is made of. Every part may be missing; the page then says so in a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from lwplugin.errors import DataError
from lwplugin.gate.verdict import Verdict


class Json(dict[str, Any]):
    """A JSON object in which what is not there reads as None."""

    def __missing__(self, key: str) -> None:
        return None


# A pydantic model, a dataclass or plain JSON.
Part = Any


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """One candidate beside its parent. A part is a pydantic model, a dataclass or plain JSON.

    ``history`` holds the bundle's entries (step, method, config, metrics, seed, details); ``cost_before`` and
    ``cost_after`` hold params, macs, size_bytes and ``layers`` (name, kind, params, macs, size_bytes,
    out_shape). ``scores`` are the arrays saved beside the comparison. ``flips_images`` [n, c, h, w], of which
    24 are shown, are the examples of ``flips_image_ids`` [n], or ``flips_texts`` [n], of which 24 are shown, those of
    ``flips_text_ids``; ``labels`` names the classes.
    """

    name: str = "model"
    parent: Part = None
    candidate: Part = None
    history: Sequence[Part] = ()
    cost_before: Part = None
    cost_after: Part = None
    comparison: Part = None
    scores: Mapping[str, npt.NDArray[Any]] | None = None
    verdict: Part = None
    recipe: str | None = None
    target: Part = None
    environment: Part = None
    flips_images: npt.NDArray[Any] | None = None
    flips_image_ids: Sequence[int] | None = None
    flips_texts: Sequence[str] | None = None
    flips_text_ids: Sequence[int] | None = None
    labels: Sequence[str] | None = None
    notes: Sequence[str] = field(default=(), metadata={"help": "sentences shown under the banner"})


@dataclass(frozen=True)
class Content:
    """The same as plain JSON and arrays: what page, card and JSON file are drawn from."""

    name: str
    parent: Json
    candidate: Json
    history: list[Json]
    cost_before: Json
    cost_after: Json
    comparison: Json
    scores: dict[str, npt.NDArray[Any]]
    verdict: Json
    recipe: str | None
    target: Json
    environment: Json
    flips_images: npt.NDArray[Any] | None
    flips_image_ids: list[int]
    flips_texts: list[str]
    flips_text_ids: list[int]
    labels: list[str]
    notes: list[str]

    @classmethod
    def of(cls, inputs: ReportInputs) -> Content:
        """Raises DataError where images and their ids do not belong together, ValidationError for a verdict
        that is none."""
        images = None if inputs.flips_images is None else np.asarray(inputs.flips_images)
        if images is not None and images.ndim != 4:
            raise DataError(
                "Images of flipped examples must be [n, channels, height, width]",
                got=f"shape {images.shape}",
                do="pass four dimensions, or none at all",
            )
        ids = [int(i) for i in inputs.flips_image_ids or ()]
        if images is not None and len(ids) != len(images):
            raise DataError(
                "Every image of a flipped example needs its id",
                got=f"{len(images)} images, {len(ids)} ids",
                do="pass flips_image_ids of the same length",
            )
        texts = [str(text) for text in inputs.flips_texts or ()]
        text_ids = [int(i) for i in inputs.flips_text_ids or ()]
        if len(texts) != len(text_ids):
            raise DataError(
                "Every text of a flipped example needs its id",
                got=f"{len(texts)} texts, {len(text_ids)} ids",
                do="pass flips_text_ids of the same length",
            )
        return cls(
            name=inputs.name,
            parent=as_json(inputs.parent),
            candidate=as_json(inputs.candidate),
            history=[as_json(entry) for entry in inputs.history],
            cost_before=as_json(inputs.cost_before),
            cost_after=as_json(inputs.cost_after),
            comparison=as_json(inputs.comparison),
            scores={name: np.asarray(values) for name, values in (inputs.scores or {}).items()},
            verdict=as_json(Verdict.model_validate(as_json(inputs.verdict)) if inputs.verdict else None),
            recipe=inputs.recipe,
            target=as_json(inputs.target),
            environment=as_json(inputs.environment),
            flips_images=images,
            flips_image_ids=ids,
            flips_texts=texts,
            flips_text_ids=text_ids,
            labels=[str(label) for label in inputs.labels or ()],
            notes=[str(note) for note in inputs.notes],
        )


def as_json(value: Part) -> Json:
    """A plain JSON object; numbers that are not finite become the strings NaN, Infinity, -Infinity."""
    plain = Json() if value is None else _plain(value)
    if not isinstance(plain, Json):
        raise DataError(
            "A part of the report must be a JSON object", got=type(value).__name__, do="pass a mapping"
        )
    return plain


def number(value: object) -> float | None:
    """A finite number, or None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def canonical(value: object) -> str:
    """Indented JSON with sorted keys, strictly JSON."""
    return json.dumps(_plain(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="python"))
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return Json({str(key): _plain(item) for key, item in value.items()})
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(item) for item in items]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
