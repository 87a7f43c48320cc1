"""The recipe: which model, which methods, which targets, which budgets, how much may be lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from lwplugin.artifact import digest_json
from lwplugin.data.spec import DataSpec, TaskSpec
from lwplugin.errors import RecipeError, did_you_mean
from lwplugin.export.base import FORMATS
from lwplugin.gate.policy import Budget, Policy
from lwplugin.measure.config import MeasureOptions
from lwplugin.methods import default_method, families, option_model
from lwplugin.resources import ALL, Resources
from lwplugin.secret import holds_password

STEPS = ("pull", *families(), "export", "measure", "gate", "report", "register")
MODEL = r"^models:/[^/@]+(@[^/@]+|/\d+)$"
_NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Compress(_Block):
    """One line of the recipe's `compress`: ``{prune: {method: taylor, macs: 0.5}}``."""

    family: str
    method: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_line(cls, line: Any) -> Any:
        if isinstance(line, Compress) or (isinstance(line, dict) and {"family", "method"} <= set(line)):
            return line
        if not isinstance(line, dict) or len(line) != 1:
            raise ValueError("one family with its options is needed, as in `- prune: {method: taylor}`")
        ((family, options),) = line.items()
        if family not in families():
            raise ValueError(f"'{family}' is no family of methods; {did_you_mean(str(family), families())}")
        options = {} if options is None else options
        if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
            raise ValueError(f"the options of {family} must be a mapping, as in `{{method: …}}`")
        method = options.get("method")
        if method is not None and not isinstance(method, str):
            raise ValueError(f"{family}.method must be a name")
        return {
            "family": family,
            "method": method or default_method(family),
            "options": {key: value for key, value in options.items() if key != "method"},
        }

    @model_serializer
    def _to_line(self) -> dict[str, Any]:
        return {self.family: {"method": self.method, **self.options}}

    def complete(self, seed: int, *, defaults: bool = True) -> Compress:
        """With every option of the method written out, the recipe's seed where the line names none.

        Without ``defaults`` only those that are not as they are by default.

        Raises RecipeError (unknown method) and pydantic's ValidationError (options).
        """
        model = option_model(self.family, self.method)
        options = dict(self.options)
        if "seed" in model.model_fields:
            options.setdefault("seed", seed)
        return Compress(
            family=self.family,
            method=self.method,
            options=model.model_validate(options).model_dump(
                mode="json", exclude={"method"}, exclude_defaults=not defaults
            ),
        )


class Target(_Block):
    """Where the light model will run, and what it may cost there."""

    name: str = Field(pattern=_NAME, description="lower-case letters, digits and dashes")
    format: str = Field("onnx", description="deployment format")
    device: str = Field("cpu", description="cpu, cuda, or a device of the inventory: where it is measured")
    threads: int = Field(1, ge=1, description="threads of the runtime")
    batch: int = Field(1, ge=1, description="examples per inference")
    budget: Budget = Field(default_factory=Budget, description="upper limits, checked on the bound")

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"'{name}' is no format; {did_you_mean(name, FORMATS)}")
        return name


class Register(_Block):
    """How what passed goes back into the registry."""

    alias: str = Field("light-{target}", description="alias of the new version; `{target}` is filled in")
    name: str | None = Field(None, min_length=1, description="registered model; default: the parent's own")

    @field_validator("alias")
    @classmethod
    def _alias(cls, template: str) -> str:
        try:
            alias = template.format(target="t")
        except (KeyError, IndexError, ValueError):
            raise ValueError("only `{target}` may stand in braces") from None
        if not re.fullmatch(r"[A-Za-z0-9_-]+", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
            raise ValueError("MLflow allows letters, digits, _ and - in an alias, but not `latest` or `v1`")
        return template


class Recipe(_Block):
    """Read with `lwplugin.load_recipe`; unknown keys are errors and nothing is interpolated."""

    model: str = Field(pattern=MODEL, description="models:/name@alias or models:/name/3")
    data: DataSpec
    task: TaskSpec = Field(default_factory=lambda: TaskSpec.model_validate("classification"))
    seed: int = Field(
        0, ge=0, lt=2**31, description="decides every draw of every step that names no own seed"
    )
    compress: tuple[Compress, ...] = Field(min_length=1)
    targets: tuple[Target, ...] = Field(min_length=1)
    measure: MeasureOptions = Field(
        default_factory=MeasureOptions, description="how every target is measured"
    )
    gate: Policy
    register_: Register | None = Field(
        None, alias="register", description="left out: the verdict is the result and nothing is registered"
    )
    resources: dict[str, Resources] = Field(
        default_factory=dict, description="step name, or `all` → what an engine gives it"
    )
    tracking_uri: str | None = Field(None, description="MLflow; default: MLflow's own MLFLOW_TRACKING_URI")

    @field_validator("targets")
    @classmethod
    def _unique_names(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        names = [target.name for target in targets]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"two targets share the name {twice}: give each its own")
        return targets

    @field_validator("resources")
    @classmethod
    def _known_steps(cls, resources: dict[str, Resources]) -> dict[str, Resources]:
        for name in resources:
            if name not in (ALL, *STEPS):
                raise ValueError(f"'{name}' is no step; {did_you_mean(name, (ALL, *STEPS))}")
        return resources

    @field_validator("tracking_uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and holds_password(uri):
            raise ValueError("a recipe holds no password: use MLFLOW_TRACKING_USERNAME and _PASSWORD")
        return uri

    @model_validator(mode="after")
    def _one_alias_a_target(self) -> Recipe:
        several = len(self.targets) > 1 and self.register_ is not None
        if several and self.register_ is not None and "{target}" not in self.register_.alias:
            raise ValueError("several targets would share one alias: write `{target}` in register.alias")
        return self

    @model_validator(mode="after")
    def _copies_for_the_gate(self) -> Recipe:
        if self.gate.max_drop_corrupted is not None and not self.measure.corruptions:
            raise ValueError(
                "gate.max_drop_corrupted judges corrupted copies of the test, and measure.corruptions asks for none"
            )
        return self

    def of_model(self, uri: str) -> Recipe:
        """The same recipe for another model. Raises RecipeError for what is no `models:/name@alias` or `/3`."""
        if not re.fullmatch(MODEL, uri):
            raise RecipeError(
                "Not a model version of a registry",
                got=repr(uri),
                do="write models:/<name>@<alias> or models:/<name>/<version>",
            )
        return self.model_copy(update={"model": uri})

    @property
    def digest(self) -> str:
        """Of the meaning: what is as by default counts as left out; comments, order and where it runs do not count.

        So a release that adds an option leaves the digest of a recipe that does not use it, and what was made stands.
        Nor does the model, which is the work's other half: an alias and the version it means now are one thing, and a
        version's lineage names its parent beside this digest.
        """
        outside = {"model", "resources", "tracking_uri"}
        told = self.document(defaults=False)
        return digest_json({key: value for key, value in told.items() if key not in outside})

    def document(self, *, defaults: bool = True) -> dict[str, Any]:
        """The recipe with everything written out, JSON-able, or without what is as by default."""
        complete = self.model_copy(
            update={"compress": tuple(line.complete(self.seed, defaults=defaults) for line in self.compress)}
        )
        document: dict[str, Any] = complete.model_dump(
            mode="json", by_alias=True, exclude_defaults=not defaults
        )
        return document


def load_recipe(path: Path | str) -> Recipe:
    """Read a recipe file (YAML or JSON).

    Raises RecipeError with line, place and the nearest known key of everything that is wrong.
    """
    from lwplugin.recipe_file import read_recipe

    return read_recipe(Path(path))


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, every method's options included: for editors and CI."""
    from lwplugin.methods import methods

    schema = Recipe.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    lines = []
    for family in families():
        variants = []
        for name, method in methods(family).items():
            options = method.config.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(options.pop("$defs", {}))
            options["properties"] = {"method": {"const": name, "description": method.summary}} | {
                key: value for key, value in options.get("properties", {}).items() if key != "method"
            }
            required = ["method"] if name != default_method(family) else []
            options["required"] = required + [key for key in options.get("required", ()) if key != "method"]
            variants.append(options)
        lines.append(
            {
                "type": "object",
                "properties": {family: {"anyOf": variants}},
                "required": [family],
                "additionalProperties": False,
            }
        )
    definitions["Compress"] = {"description": Compress.__doc__, "anyOf": lines}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "lwplugin recipe"}
