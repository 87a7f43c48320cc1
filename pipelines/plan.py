"""From a recipe and the parent version it names to the steps that make, judge and register.

Pure and quick: no model is read, nothing runs. Every runner carries out this same list in order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lwplugin.export.base import FORMATS
from lwplugin.recipe import Recipe, Target
from lwplugin.registry import Resolved

# Which earlier step a student learns from: always the registered version itself.
_TEACHER = {"distill": {"teacher": "pull"}}


@dataclass(frozen=True)
class PlannedStep:
    """One step to run.

    ``config`` is the step's config as JSON; ``inputs`` maps input names to ids of earlier steps;
    ``target`` is None for what all targets share; ``only_if_passed`` is the id of the gate step
    whose verdict must be a pass.
    """

    id: str
    step: str
    config: dict[str, Any]
    inputs: dict[str, str]
    target: str | None = None
    only_if_passed: str | None = None


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which every input is made before it is used."""

    recipe_digest: str
    parent: Resolved
    tracking_uri: str | None
    targets: tuple[str, ...]
    steps: tuple[PlannedStep, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-able; :meth:`from_json` reads it back equal."""
        document = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return document | {
            "parent": self.parent.model_dump(mode="json"),
            "targets": list(self.targets),
            "steps": [asdict(step) for step in self.steps],
        }

    def hindrance(self, step_id: str, ended: Collection[str], made: Collection[str]) -> str | None:
        """Why a step cannot or need not run once these have ``ended``, of which ``made`` have a result; else None.

        Training for targets that can no longer be judged would be in vain.
        """
        lost = {step.id: step.id for step in self.steps if step.id in ended and step.id not in made}
        for step in self.steps:  # what is lost with them, and through which
            lacking = [lost[source] for source in step.inputs.values() if source in lost]
            if lacking:
                lost.setdefault(step.id, lacking[0])
        if step_id in lost:
            this = next(step for step in self.steps if step.id == step_id)
            absent = next(source for source in this.inputs.values() if source in lost)
            return f"{absent} has no result"
        wanted = set[str]()
        for step in reversed(self.steps):
            users = [user.id for user in self.steps if step.id in user.inputs.values()]
            if step.id not in lost and (not users or not wanted.isdisjoint(users)):
                wanted.add(step.id)
        if step_id in wanted:
            return None
        return f"no target can use it without {', '.join(dict.fromkeys(lost.values()))}"

    def awaited(self) -> dict[str, tuple[str, ...]]:
        """Step id → earlier steps that it does not use and without any one of which it need not run."""
        found: dict[str, tuple[str, ...]] = {}
        behind: dict[str, set[str]] = {}  # what has ended once a step begins
        everything = {step.id for step in self.steps}
        for position, step in enumerate(self.steps):
            known = {earlier for source in step.inputs.values() for earlier in (source, *behind[source])}
            waits = [
                earlier.id
                for earlier in self.steps[:position]
                if earlier.id not in known
                and self.hindrance(step.id, {earlier.id}, everything - {earlier.id}) is not None
            ]
            found[step.id] = tuple(waits)
            behind[step.id] = known.union(waits, *(behind[earlier] for earlier in waits))
        return found

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_json`."""
        return cls(
            recipe_digest=document["recipe_digest"],
            parent=Resolved.model_validate(document["parent"]),
            tracking_uri=document["tracking_uri"],
            targets=tuple(document["targets"]),
            steps=tuple(PlannedStep(**step) for step in document["steps"]),
        )


def make_plan(recipe: Recipe, parent: Resolved, *, tracking_uri: str | None = None) -> Plan:
    """The plan of ``recipe`` for one parent version.

    Raises RecipeError where a method or one of its options is not known.
    """
    tracking_uri = tracking_uri or recipe.tracking_uri
    version = parent.pinned.model_dump(mode="json")
    shared = {
        "data": recipe.data.model_dump(mode="json"),
        "task": recipe.task.model_dump(mode="json"),
    }
    steps = [PlannedStep("pull", "pull", {"version": version, "tracking_uri": tracking_uri}, inputs={})]
    parents = {_parent_export(target): _file(target) for target in recipe.targets}
    steps += [  # first, for what cannot be exported, lacks a package or cannot be judged shows here in seconds
        PlannedStep(step, "export", {**file, **_judged_later(recipe), **shared}, {"bundle": "pull"})
        for step, file in parents.items()
    ]
    steps += _compress(recipe, shared, tracking_uri)
    light = steps[-1].id
    digest = recipe.digest
    for target in recipe.targets:
        steps += _for_target(recipe, target, light, shared, version, digest, tracking_uri)
    return Plan(digest, parent, tracking_uri, tuple(target.name for target in recipe.targets), tuple(steps))


def _judged_later(recipe: Recipe) -> dict[str, Any]:
    """What the examples must have for the measurement and the gate at the end."""
    corruptions = [*recipe.measure.corruptions]
    return ({"corruptions": corruptions} if corruptions else {}) | (
        {"needs_labels": True} if recipe.gate.needs_labels else {}
    )


def _compress(recipe: Recipe, shared: dict[str, Any], tracking_uri: str | None) -> list[PlannedStep]:
    steps: list[PlannedStep] = []
    before = "pull"
    for line in recipe.compress:
        complete = line.complete(recipe.seed)
        times = 1 + sum(step.step == line.family for step in steps)
        step = PlannedStep(
            id=line.family if times == 1 else f"{line.family}-{times}",
            step=line.family,
            config={"method": complete.method, "options": _for_targets(complete.options, recipe), **shared}
            | ({"tracking_uri": tracking_uri} if line.family in _TEACHER else {}),
            inputs={"bundle": before, **_TEACHER.get(line.family, {})},
        )
        steps.append(step)
        before = step.id
    return steps


def _for_targets(options: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What `auto` leaves open is decided for all targets where they are alike: calibrated ranges, symmetric grids."""
    formats = [FORMATS[target.format] for target in recipe.targets]
    common: dict[str, Any] = {}
    if all(each.calibrated_ranges for each in formats):
        common["activations"] = "static"
    if all(each.symmetric_grids for each in formats) and options.get("activations") != "dynamic":
        common["symmetric"] = True
    return options | {name: value for name, value in common.items() if options.get(name) == "auto"}


def _file(target: Target) -> dict[str, Any]:
    """What kind of file a target runs: its format, and its batch where a file has one."""
    fixed = FORMATS[target.format].fixed_batch
    return {"format": target.format, **({"batch": target.batch} if fixed else {})}


def _parent_export(target: Target) -> str:
    """The id of the step that makes such a file of the parent; targets of the same kind share it."""
    return "-".join(("export-parent", *map(str, _file(target).values())))


def _for_target(
    recipe: Recipe,
    target: Target,
    light: str,
    shared: dict[str, Any],
    version: dict[str, Any],
    recipe_digest: str,
    tracking_uri: str | None,
) -> list[PlannedStep]:
    def planned(step: str, config: dict[str, Any], inputs: dict[str, str], **more: Any) -> PlannedStep:
        return PlannedStep(f"{step}-{target.name}", step, config, inputs, target.name, **more)

    parent_export, export = _parent_export(target), f"export-{target.name}"
    measure, gate, report = f"measure-{target.name}", f"gate-{target.name}", f"report-{target.name}"
    runtime = {"device": target.device, "threads": target.threads, "batch": target.batch}
    options = recipe.measure.model_dump(mode="json", exclude_unset=True)
    steps = [
        planned("export", {**_file(target), **shared}, {"bundle": light}),
        planned(
            "measure",
            {**runtime, "options": options, **shared},
            {"candidate": export, "baseline": parent_export, "light": light, "parent": "pull"},
        ),
        planned(
            "gate",
            {
                "policy": recipe.gate.model_dump(mode="json"),
                "budget": target.budget.model_dump(mode="json"),
            },
            {"comparison": measure, "export": export},
        ),
        planned(
            "report",
            {
                "parent": version,
                "target": target.model_dump(mode="json"),
                "recipe": recipe.document(),
                **shared,
            },
            {
                "light": light,
                "export": export,
                "parent_export": parent_export,
                "comparison": measure,
                "verdict": gate,
            },
        ),
    ]
    if recipe.register_ is not None:
        config = {
            "parent": version,
            "target": target.name,
            "threads": target.threads,
            "alias": recipe.register_.alias.format(target=target.name),
            "name": recipe.register_.name,
            "recipe_digest": recipe_digest,
            "recipe": recipe.document(),
            "tracking_uri": tracking_uri,
            **shared,
        }
        inputs = {"light": light, "export": export, "comparison": measure, "verdict": gate, "report": report}
        steps.append(planned("register", config, inputs, only_if_passed=gate))
    return steps
