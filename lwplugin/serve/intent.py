"""What should be run: a rule's recipe on a version, under a key that is the same however it was noticed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lwplugin.artifact import digest_json
from lwplugin.recipe import Recipe
from lwplugin.registry import Listed
from lwplugin.registry.lineage import PARENT_VERSION, RECIPE_DIGEST
from lwplugin.serve.rules import RuleBook

Made = Mapping[tuple[str, str], set[str | None]]


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One piece of work; ``key`` is the digest of the version's identity, the recipe and the engine."""

    key: str
    rule: str
    model: str
    version: int
    recipe: str
    recipe_digest: str
    engine: str


def intents(book: RuleBook, version: Listed, *, made: Made | None = None) -> Iterator[Intent]:
    """What the rules ask for of this version as it is listed now; without what ``made`` has already."""
    for rule in book.rules.rules:
        if not rule.when.holds(version):
            continue
        recipe = book.recipe_of(rule)
        digest = recipe.digest
        if made is not None and _complete(recipe, made.get((version.uri, digest), set())):
            continue
        identity = {
            "version": [version.name, version.version, version.source, version.created_ms],
            "recipe": digest,
            "engine": rule.engine,
        }
        yield Intent(
            key=digest_json(identity),
            rule=rule.name,
            model=version.name,
            version=version.version,
            recipe=str(book.path_of(rule)),
            recipe_digest=digest,
            engine=rule.engine,
        )


def made_by(versions: Iterable[Listed]) -> Made:
    """(parent, recipe digest) → targets that have their light version."""
    found: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for version in versions:
        if version.light:
            key = (version.tags.get(PARENT_VERSION, ""), version.tags.get(RECIPE_DIGEST, ""))
            found[key].add(version.target)
    return found


def _complete(recipe: Recipe, targets: set[str | None]) -> bool:
    return recipe.register_ is not None and all(target.name in targets for target in recipe.targets)
