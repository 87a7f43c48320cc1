"""The recipe's ``data`` and ``task`` blocks. Nothing here imports torch, so reading a recipe is fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lwplugin.data.foreseen import foresee
from lwplugin.data.sources import PYTHON_FUNCTION, SOURCES, source_named
from lwplugin.data.sources.base import Request, Source
from lwplugin.errors import RecipeError, did_you_mean

TASKS: dict[str, str] = {
    "classification": "lwplugin.data.tasks.classification:Classification",
    "multi_label": "lwplugin.data.tasks.multi_label:MultiLabel",
    "regression": "lwplugin.data.tasks.regression:Regression",
    "embedding": "lwplugin.data.tasks.embedding:Embedding",
    "token_classification": "lwplugin.data.tasks.token_classification:TokenClassification",
}
"""Built-in tasks and where their classes lie."""


class TaskSpec(BaseModel):
    """The recipe's ``task``: a name, or a name with options; ``module:Class`` for a task of your own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("classification", description="A built-in task, or 'module:Class' of your own.")
    options: dict[str, Any] = Field(default_factory=dict, description="The task's options.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if isinstance(value, Mapping):
            for key in value:
                if key not in ("name", "options"):
                    raise RecipeError(
                        f"Unknown key '{key}' in task", do=did_you_mean(key, ["name", "options"])
                    )
            name = value.get("name", "classification")
            if isinstance(name, str) and ":" not in name and name not in TASKS:
                raise RecipeError(f"Unknown task '{name}'", do=did_you_mean(name, [*TASKS, "module:Class"]))
        return value

    @classmethod
    def of(cls, value: TaskSpec | str | Mapping[str, Any]) -> TaskSpec:
        """The spec of whatever a recipe or a caller writes. Raises RecipeError."""
        if isinstance(value, TaskSpec):
            return value
        try:
            return cls.model_validate(value if isinstance(value, str) else dict(value))
        except ValidationError as error:
            raise recipe_error("task", error) from error


class DataSpec(BaseModel):
    """The recipe's ``data``: a source, its own options beside these common ones.

    >>> DataSpec.of({"source": "digits", "test_fraction": 0.25}).options.test_fraction
    0.25
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="A built-in source, or 'module:function' (or 'file.py:function').")
    calibration: int | None = Field(
        None,
        ge=1,
        description="Examples drawn out of train for calibration where the source has none of its own; "
        "left out: 512, or a quarter of train where that is less. They are no longer in train.",
    )
    seed: int = Field(0, ge=0, description="Decides every draw: calibration, and test where there is none.")
    batch_size: int | None = Field(
        None, ge=1, description="Batch for calibration and evaluation; left out: the step's default."
    )
    slices: tuple[str, ...] = Field(
        (), description="Extra columns to judge separately; the label of a classification is always there."
    )
    duplicates: Literal["warn", "error", "drop", "ignore"] = Field(
        "warn",
        description="What to do about examples of test that are also in train or calibration, byte for "
        "byte; 'drop' removes them from train and calibration. Checked for sets held in memory.",
    )
    short_texts: bool = Field(
        True,
        description="Cut half of the calibration texts short where ranges and weights are fitted to them, so that they "
        "fit short texts and padding too. Means nothing to other examples.",
    )
    options: Any = Field(None, description="The source's own options; written flat, beside 'source'.")

    @model_validator(mode="before")
    @classmethod
    def _split_options(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"source": value}
        if not isinstance(value, Mapping):
            return value
        name = value.get("source")
        if not isinstance(name, str):
            raise RecipeError("The data block needs a source", got=name, do=f"known: {_known_sources()}")
        source = source_named(name)
        if source is None:
            raise RecipeError(
                f"Unknown data source '{name}'", do=did_you_mean(name, [*SOURCES, "module:function"])
            )
        own = value.get("options")
        flat = {key: value[key] for key in value if key not in cls.model_fields}
        if isinstance(own, BaseModel):
            own = own.model_dump()
        options = {**(own or {}), **flat}
        known = [*source.options.model_fields, *(set(cls.model_fields) - {"options"})]
        for key in options:
            if key not in source.options.model_fields:
                raise RecipeError(
                    f"The data source '{name}' has no option '{key}'", do=did_you_mean(key, known)
                )
        try:
            parsed = source.options.model_validate(options)
        except ValidationError as error:
            raise recipe_error("data", error, f"data {name}") from error
        common = {key: value[key] for key in value if key in cls.model_fields}
        return {**common, "options": parsed}

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        common: dict[str, Any] = handler(self)
        common.pop("options", None)
        return {**common, **self.options.model_dump(mode="json")}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        common = _common_schema(cls)
        variants = [_variant(common, source, {"const": source.name}) for source in SOURCES.values()]
        pattern = {"type": "string", "pattern": ".+:.+", "description": "module:function or file.py:function"}
        variants.append(_variant(common, PYTHON_FUNCTION, pattern))
        return {"title": "DataSpec", "description": cls.__doc__ or "", "oneOf": variants}

    @classmethod
    def of(cls, value: DataSpec | str | Mapping[str, Any]) -> DataSpec:
        """The spec of whatever a recipe or a caller writes. Raises RecipeError."""
        if isinstance(value, DataSpec):
            return value
        try:
            return cls.model_validate(value if isinstance(value, str) else dict(value))
        except ValidationError as error:
            raise recipe_error("data", error) from error

    def request(self, task: str) -> Request:
        """What is asked of the source for the task of this name."""
        return Request(
            source=self.source,
            seed=self.seed,
            slices=tuple(name for name in self.slices if name != "label"),
            token_labels=task == "token_classification",
        )

    def check(self, task: TaskSpec) -> None:
        """Refuse what shows without reading an example: absent files, columns, functions, packages.

        Imports no torch, runs nobody's code and loads nothing, so it is over in milliseconds. Raises DataError.
        """
        self.reader.check(self.options, self.request(task.name))
        if ":" in task.name:
            foresee(task.name, what="task")

    @property
    def reader(self) -> Source:
        """The registry line of the source."""
        source = source_named(self.source)
        if source is None:
            raise RecipeError(f"Unknown data source '{self.source}'", do=f"known: {_known_sources()}")
        return source


def recipe_error(block: str, error: ValidationError, explained: str | None = None) -> RecipeError:
    """The first fault of a pydantic validation as an error of ours; ``explained``: what to ask `lwplugin explain`."""
    first = error.errors(include_url=False)[0]
    where = ".".join([block, *(str(part) for part in first["loc"])])
    more = len(error.errors()) - 1
    also = f" (and {more} more)" if more else ""
    return RecipeError(
        f"{where}: {first['msg'].removeprefix('Value error, ')}{also}",
        got=repr(first["input"]),
        do=f"correct {'them' if more else 'it'}; `lwplugin explain {explained or block}` lists every key",
    )


def _known_sources() -> str:
    return ", ".join([*SOURCES, "module:function"])


def _common_schema(cls: type[DataSpec]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "calibration": {"type": "integer", "minimum": 1},
        "seed": {"type": "integer", "minimum": 0, "default": 0},
        "batch_size": {"type": "integer", "minimum": 1},
        "slices": {"type": "array", "items": {"type": "string"}},
        "duplicates": {"enum": ["warn", "error", "drop", "ignore"], "default": "warn"},
        "short_texts": {"type": "boolean", "default": True},
    }
    for name, schema in properties.items():
        schema["description"] = cls.model_fields[name].description
    return properties


def _variant(common: dict[str, Any], source: Source, name: dict[str, Any]) -> dict[str, Any]:
    own = source.options.model_json_schema(ref_template="#/$defs/{model}")
    return {
        "title": source.name,
        "description": source.summary,
        "type": "object",
        "properties": {"source": name, **own.get("properties", {}), **common},
        "required": ["source", *own.get("required", [])],
        "additionalProperties": False,
    }
