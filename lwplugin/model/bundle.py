"""The light model, and the bundle it is on disk: ``model.json``, ``weights.safetensors``, ``origin/``."""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from lwplugin.artifact import canonical_json, digest_directory, digest_file, digest_json, list_files
from lwplugin.errors import LwpluginError, ModelError, StoreError
from lwplugin.model import tensors as files
from lwplugin.model.adopt import adopt, unwrapped
from lwplugin.model.batch_statistics import warn_of_batch_statistics
from lwplugin.model.difference import Changes, compare, diff
from lwplugin.model.origin import InMemoryOrigin, Origin, read_origin
from lwplugin.model.padded import keep_padded
from lwplugin.model.plain_weights import to_plain_weights
from lwplugin.model.replay import apply
from lwplugin.model.skeleton import Skeleton, own_tensors
from lwplugin.settings import settings

if TYPE_CHECKING:
    from lwplugin.data import Inputs
    from lwplugin.model.cost import Cost

SCHEMA: Literal[1] = 1
MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
ORIGIN_DIRECTORY = "origin"
_MAX_JSON_BYTES = 64 * 2**20


class Source(BaseModel):
    """The registered version that a light model came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(description="models:/name/3")
    version: str | None = None
    digest: str = Field(description="digest of the version's model directory as pulled")


class HistoryEntry(BaseModel):
    """One step that changed the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str = Field(description="pull, prune, quantize, factorize, distill")
    method: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict, description="by name with unit")
    seed: int | None = None
    details: dict[str, Any] = Field(default_factory=dict, description="what the report shows, as JSON")


class Record(BaseModel):
    """What ``model.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(alias="schema")
    source: Source | None
    task: dict[str, Any] | None
    signature: dict[str, Any] | None
    changes: Changes
    tied: dict[str, str]
    channels_last: tuple[str, ...]
    history: tuple[HistoryEntry, ...]
    weights: str = Field(description="sha256 of weights.safetensors")
    origin: str = Field(description="digest of the origin directory")
    origin_integers: str = Field(description="digest of the integers in the modules that the origin builds")


@dataclass(frozen=True)
class LightModel:
    """A module that may differ in structure from its source code, with all that rebuilds it.

    ``module`` is in eval mode; work on ``copy_module()`` and hand the result to ``evolve``.
    """

    module: nn.Module
    origin: Origin
    skeleton: Skeleton
    source: Source | None = None
    task: dict[str, Any] | None = None
    signature: dict[str, Any] | None = None
    history: tuple[HistoryEntry, ...] = ()

    @property
    def changes(self) -> Changes:
        """What of the structure differs from the unmodified model's; relative to the origin, always."""
        return diff(self.skeleton, self.module)

    def evolve(self, module: nn.Module, entry: HistoryEntry) -> LightModel:
        """The next light model of the same origin, with one more step in its history."""
        return replace(self, module=module.eval(), history=(*self.history, entry))

    def copy_module(self) -> nn.Module:
        """A deep copy to work on."""
        return copy_module(self.module)

    def cost(self, inputs: Inputs) -> Cost:
        """Parameters, MACs and bytes, for one example of ``inputs``."""
        from lwplugin.model.cost import cost

        return cost(self.module, inputs)

    def save(self, path: str | Path) -> str:
        """Writes the bundle and returns the digest of its directory.

        An earlier bundle at ``path`` is replaced at once and whole; anything else there is an error, as is a
        structure that could not be rebuilt.
        """
        place = Path(path)
        if place.is_symlink() or (
            place.exists() and not (place / MODEL_FILE).is_file() and any(_listing(place))
        ):
            raise ModelError(
                "The place for the bundle is taken by something else", got=place, do="give another path"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}")
        try:
            digest = self._write(temporary)
            _swap(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return digest

    def _write(self, directory: Path) -> str:
        changes, names = compare(self.skeleton, self.module)
        gathered = files.gather(self.module, names)
        origin = directory / ORIGIN_DIRECTORY
        origin.mkdir(parents=True)
        self.origin.write(origin)
        weights = files.write(gathered.stored, directory / WEIGHTS_FILE)
        origin_files = {name: digest_file(file) for name, file in list_files(origin).items()}
        record = Record(
            schema_version=SCHEMA,
            source=self.source,
            task=self.task,
            signature=self.signature,
            changes=changes,
            tied=dict(gathered.tied),
            channels_last=gathered.channels_last,
            history=self.history,
            weights=weights,
            origin=digest_directory(origin, known=origin_files),
            origin_integers=_integers_digest(self.skeleton),
        ).model_dump(by_alias=True)
        try:
            record = json.loads(canonical_json(record))
        except StoreError as error:
            raise ModelError("The model's history cannot be written", got=error.got, do=error.do) from error
        (directory / MODEL_FILE).write_text(json.dumps({**record, "digest": digest_json(record)}, indent=1))
        known = {f"{ORIGIN_DIRECTORY}/{name}": digest for name, digest in origin_files.items()}
        return digest_directory(directory, known={**known, WEIGHTS_FILE: weights})

    def __repr__(self) -> str:
        steps = " → ".join(
            f"{entry.step}:{entry.method}" if entry.method else entry.step for entry in self.history
        )
        packed = sum(int(getattr(layer, "packed_params", 0)) for layer in self.module.modules())
        parameters = packed + sum(p.numel() for p in self.module.parameters())
        origin = self.source.uri if self.source else type(self.origin).__name__
        name = type(self.module).__name__
        return f"LightModel({name}, {parameters:,} parameters, {origin}, {steps or 'as built'})"


def light(model: nn.Module | LightModel, origin: Origin | None = None) -> LightModel:
    """A light model of a module; the module is copied, so later changes to it do not reach here.

    Weights that a parametrization or a mask of ``torch.nn.utils`` computes become plain; a compiled module and
    ``DataParallel`` are taken off; ``nn.TransformerEncoder`` makes no nested tensors (`padded.py`).

    ``origin`` says how to build the unmodified module. Without it, a class that builds the same structure
    with no arguments is its own factory, and a Sequential of listed layers needs none. Otherwise the model
    can be worked on and measured, and saving says what to pass. A BatchNorm without running statistics brings a
    ModelWarning, as its answers depend on the batch.
    """
    if isinstance(model, LightModel):
        if origin is not None and origin != model.origin:
            raise ModelError("A light model keeps its origin", got=origin, do="leave origin out")
        return model
    if not isinstance(model, nn.Module):
        raise ModelError(
            "Not a model",
            got=f"a {type(model).__name__}",
            do="give a torch module or a light model; lwplugin.load reads a bundle, and "
            "lwplugin.registry.pull makes one of a registered version",
        )
    if origin is not None and not isinstance(origin, Origin):
        raise ModelError(
            "Not an origin",
            got=f"a {type(origin).__name__}",
            do="name what builds the unmodified model: lwplugin.FactoryOrigin('pkg.module:function', {…})",
        )
    module = keep_padded(copy_module(unwrapped(model)).eval())
    found, skeleton = adopt(module, origin)
    if to_plain_weights(module) and isinstance(found, InMemoryOrigin):
        found, skeleton = adopt(module, origin)
    warn_of_batch_statistics(module, stacklevel=2)
    return LightModel(module=module, origin=found, skeleton=skeleton)


def load(
    path: str | Path, *, allow_pickle: bool | None = None, expected_digest: str | None = None
) -> LightModel:
    """Reads a bundle: builds its origin, replays the changes, fills in every weight.

    ``allow_pickle`` None means what LWPLUGIN_ALLOW_PICKLE says; ``expected_digest`` is what ``save``
    returned. Raises ModelError for any mismatch between the parts, and before anything of a changed origin
    is run.
    """
    directory = Path(path)
    listing = _checked_listing(directory)
    if expected_digest is not None and digest_directory(directory) != expected_digest:
        raise ModelError(
            "The bundle is not the expected one",
            got=f"another digest than {expected_digest}",
            do="copy it again",
        )
    record = _read_record(listing[MODEL_FILE])
    if digest_directory(directory / ORIGIN_DIRECTORY) != record.origin:
        raise ModelError("The bundle's origin has been changed", got=directory, do="copy the bundle again")
    origin = read_origin(directory / ORIGIN_DIRECTORY)
    with ThreadPoolExecutor(1) as pool:
        hashed = pool.submit(digest_file, listing[WEIGHTS_FILE])
        stored = files.read(listing[WEIGHTS_FILE])
        module = origin.build(numbers=False, allow_pickle=allow_pickle)
        skeleton = Skeleton.of(module)
        if _integers_digest(skeleton) != record.origin_integers:
            raise ModelError(
                "The origin builds another model than when the bundle was saved",
                got=origin,
                do="use the code version it was saved with; a constructor must not draw random numbers",
            )
        try:
            apply(record.changes, module, device="meta")
            files.fill(module, files.Tensors(stored, record.tied, record.channels_last))
        except (LwpluginError, MemoryError):
            raise
        except Exception as error:
            raise ModelError("The bundle does not fit its origin", got=repr(error)) from error
        if hashed.result() != record.weights:
            raise ModelError(
                "The bundle's weights have been changed", got=directory, do="copy the bundle again"
            )
    return LightModel(
        module=keep_padded(module.eval()),
        origin=origin,
        skeleton=skeleton,
        source=record.source,
        task=record.task,
        signature=record.signature,
        history=record.history,
    )


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy; raises ModelError where the module holds something that cannot be copied."""
    # A weight that a hook computes (torch's older weight norm) is not copied by deepcopy: its numbers are.
    held = (found for part in module.modules() for _, found in own_tensors(part).values())
    memo = {id(found): found.detach().clone() for found in held if found is not None and not found.is_leaf}
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise ModelError(
            f"The {type(module).__name__} cannot be copied",
            got=f"{type(error).__name__}: {error}",
            do="hand over a module that has not kept tensors of a running graph (use torch.no_grad)",
        ) from error


def _checked_listing(directory: Path) -> dict[str, Path]:
    if not directory.is_dir():
        of_registry = str(directory).startswith("models:")
        raise ModelError(
            "There is no bundle",
            got=directory,
            do="bring it here first, with lwplugin.registry.resolve and pull"
            if of_registry
            else "give the directory that was saved",
        )
    try:
        listing = list_files(directory)
    except StoreError as error:
        raise ModelError("The bundle cannot be read", got=error, do="copy the bundle again") from error
    for name in (MODEL_FILE, WEIGHTS_FILE):
        if name not in listing:
            raise ModelError(
                f"'{directory}' is not a bundle", got=f"no {name}", do="give the directory that was saved"
            )
    size, limit = sum(file.stat().st_size for file in listing.values()), settings().max_model_bytes
    if size > limit:
        raise ModelError(
            "The bundle is larger than allowed",
            got=f"{size:,} bytes, the limit is {limit:,}",
            do="raise LWPLUGIN_MAX_MODEL_BYTES",
        )
    return listing


def _read_record(file: Path) -> Record:
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"{file.stat().st_size:,} bytes of JSON")
        data = json.loads(file.read_bytes(), parse_constant=_no_constant)
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
        if data.get("schema") != SCHEMA or isinstance(data.get("schema"), bool):
            raise ModelError(
                "The bundle has an unknown schema version",
                got=repr(data.get("schema"))[:80],
                do=f"use a version of lwplugin that reads it; this one reads {SCHEMA}",
            )
        digest = data.pop("digest", None)
        if digest != digest_json(data):
            raise ModelError(f"The bundle's {MODEL_FILE} has been changed", do="copy the bundle again")
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"The bundle's {MODEL_FILE} is not valid",
            got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
        ) from error
    except (OSError, ValueError, RecursionError, StoreError) as error:
        raise ModelError(
            f"The bundle's {MODEL_FILE} cannot be read", got=error, do="copy the bundle again"
        ) from error


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} in JSON")


def _integers_digest(skeleton: Skeleton) -> str:
    """What a constructor decides besides tensors; torch's own layers gain attributes and are left out."""
    return digest_json(
        {
            name: {key: value for key, value in entry.attributes.items() if value is not None}
            for name, entry in skeleton.entries.items()
            if entry.attributes and not entry.type.startswith("torch.")
        }
    )


def _listing(place: Path) -> list[Path]:
    return list(place.iterdir()) if place.is_dir() else [place]


def _swap(new: Path, place: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    aside = new.with_name(new.name + ".old")
    place.rename(aside)
    new.rename(place)
    shutil.rmtree(aside, ignore_errors=True)
