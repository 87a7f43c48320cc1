"""The rules file: which change of the registry starts which recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lwplugin.errors import LwpluginError, did_you_mean
from lwplugin.notify import Channel
from lwplugin.policy.document import FleetPolicy, Patterns, load_policy, matches
from lwplugin.recipe import Recipe, load_recipe
from lwplugin.registry import Listed
from lwplugin.yaml_document import load_document

_WAY_OUT = "`lwplugin docs serve` has an example"


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Block):
    """Which versions. Everything given must hold; versions that lwplugin registered never start a recipe."""

    models: Patterns = Field(("*",), min_length=1, description="patterns of registered models' names")
    alias: Patterns = Field((), description="carries a fitting alias")
    stage: Patterns = Field((), description="is in a fitting stage")
    tag: dict[str, str] = Field(default_factory=dict, description="carries these tags; values are patterns")
    registered: bool = Field(False, description="true: every version, as soon as it is there")

    @field_validator("models", "alias", "stage", mode="before")
    @classmethod
    def _one_may_stand_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_when(self) -> When:
        if not (self.alias or self.stage or self.tag or self.registered):
            raise ValueError("say when: alias, stage, tag, or `registered: true` for every version")
        return self

    def holds(self, version: Listed) -> bool:
        """Of a version as the registry lists it now."""
        return (
            version.ready
            and not version.light
            and matches(version.name, self.models)
            and (not self.alias or any(matches(alias, self.alias) for alias in version.aliases))
            and (not self.stage or matches(version.stage, self.stage))
            and all(key in version.tags and matches(version.tags[key], (p,)) for key, p in self.tag.items())
        )


class Trigger(_Block):
    """One rule."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=80, description="lower-case letters, digits and dashes"
    )
    when: When
    run: Path = Field(
        description="a recipe, relative to the rules file; its model is replaced by the version"
    )
    engine: Literal["local", "kubeflow", "prefect"] = Field(
        "local", description="what `lwplugin run --engine` is told"
    )


class Rules(_Block):
    """The whole file."""

    rules: tuple[Trigger, ...] = Field(description="empty: pages and notices alone, no recipe is started")
    policy: Path | None = Field(
        None, description="a policy file, relative to this one: budgets on the fleet page"
    )
    tokens_file: Path | None = Field(
        None, description="digests of tokens that open the fleet page, relative to this one; none: it is open"
    )
    mlflow: str | None = Field(
        None,
        pattern=r"^https?://[^\s@]+$",
        description="MLflow's address as browsers reach it, for links; default: the tracking address",
    )
    notify: tuple[Channel, ...] = Field((), description="channels that are told of what happened")
    command: tuple[str, ...] = Field(
        (), description="a program to call instead of `lwplugin`, with the arguments of `lwplugin run`"
    )

    @model_validator(mode="after")
    def _own_names(self) -> Rules:
        for what, names in (
            ("rules", [r.name for r in self.rules]),
            ("channels", [c.name for c in self.notify]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what} share a name: give each its own")
        return self


class RuleBook:
    """The rules with their recipes and policy read, so that a wrong one stops the start and not the first event."""

    def __init__(self, file: Path) -> None:
        self.rules = load_document(file, Rules, holds="rules file", do=_WAY_OUT)
        self.folder = file.absolute().parent
        self._recipes = {rule.name: load_recipe(self.path_of(rule)) for rule in self.rules.rules}
        self.policy: FleetPolicy | None = (
            None if self.rules.policy is None else load_policy(self.folder / self.rules.policy)
        )

    def path_of(self, rule: Trigger) -> Path:
        """Absolute."""
        return self.folder / rule.run

    @property
    def tokens_file(self) -> Path | None:
        """Absolute."""
        return None if self.rules.tokens_file is None else self.folder / self.rules.tokens_file

    def channel(self, name: str) -> Channel:
        """Raises LwpluginError naming the known ones."""
        found = {channel.name: channel for channel in self.rules.notify}
        if name not in found:
            raise LwpluginError(f"The rules file has no channel '{name}'", do=did_you_mean(name, found))
        return found[name]

    def recipe_of(self, rule: Trigger) -> Recipe:
        """As it was when the service started; its model is replaced by the version."""
        return self._recipes[rule.name]
