from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lwplugin.pipelines.plan import make_plan

from lwplugin.errors import RecipeError
from lwplugin.recipe import load_recipe
from lwplugin.registry import Listed, Resolved
from lwplugin.serve.intent import intents, made_by
from lwplugin.serve.rules import RuleBook

CHART = Path(__file__).resolve().parents[3] / "charts" / "lwplugin"
Write = Callable[[str], RuleBook]
CHAMPION = "  - {name: r, when: {models: fashion-*, alias: champion}, run: recipe.yaml}\n"


def version(**changes: Any) -> Listed:
    fields: dict[str, Any] = {"name": "fashion-net", "version": 3, "aliases": ("champion",), "source": "m-1"}
    return Listed(**{**fields, **changes})


def rule(when: str) -> str:
    return f"  - {{name: r, when: {when}, run: recipe.yaml}}\n"


@pytest.mark.parametrize(
    ("when", "changes", "expected"),
    [
        ("{alias: champion}", {}, 1),
        ("{alias: champion}", {"aliases": ()}, 0),
        ("{models: digits-*, alias: champion}", {}, 0),
        ("{stage: Production}", {"stage": "Production"}, 1),
        ("{stage: Production}", {}, 0),
        ("{tag: {compress: 'yes'}}", {"tags": {"compress": "yes"}}, 1),
        ("{tag: {compress: 'yes'}}", {"tags": {"compress": "no"}}, 0),
        ("{registered: true}", {}, 1),
        ("{registered: true}", {"ready": False}, 0),
        ("{registered: true}", {"tags": {"lwplugin.digest": "d"}}, 0),  # else every light version begets one
    ],
)
def test_a_rule_speaks_of_what_holds_now(
    book: Write, when: str, changes: dict[str, Any], expected: int
) -> None:
    assert len(list(intents(book(rule(when)), version(**changes)))) == expected


def test_work_is_the_same_however_it_is_noticed_and_another_for_another_version_or_recipe(
    book: Write,
) -> None:
    def key(rules: RuleBook, **changes: Any) -> str:
        (found,) = intents(rules, version(**changes))
        return found.key

    rules = book(CHAMPION)
    same = key(rules)
    assert key(rules, tags={"note": "x"}, aliases=("champion", "b"), stage="Staging") == same
    assert len({same, key(rules, version=4), key(rules, source="m-2"), key(rules, created_ms=5)}) == 4
    recipe = rules.path_of(rules.rules.rules[0])
    recipe.write_text(recipe.read_text().replace("0.01", "0.02"))
    assert key(RuleBook(rules.folder / "serve.yaml")) != same


def test_what_the_registry_holds_already_is_not_asked_for(book: Write) -> None:
    rules, parent = book(CHAMPION), version()
    (wanted,) = intents(rules, parent)
    tags = {"digest": "d", "parent_version": parent.uri, "recipe_digest": wanted.recipe_digest}
    light = version(version=9, tags={f"lwplugin.{k}": v for k, v in {**tags, "target": "edge-cpu"}.items()})
    other = version(version=9, tags={f"lwplugin.{k}": v for k, v in {**tags, "target": "phone"}.items()})
    assert list(intents(rules, parent, made=made_by([light]))) == []
    assert list(intents(rules, parent, made=made_by([other]))) == [wanted]


def test_what_a_run_by_alias_made_is_not_asked_for(book: Write) -> None:
    rules, parent = book(CHAMPION), version()
    recipe = load_recipe(rules.path_of(rules.rules.rules[0]))
    assert recipe.model == "models:/any@champion"
    meant = Resolved(name=parent.name, version="3", uri=parent.uri, alias="champion", source="m-1")
    register = make_plan(recipe, meant).steps[-1].config
    tags = {"digest": "d", "target": register["target"], "parent_version": register["parent"]["uri"]}
    tags |= {"recipe_digest": register["recipe_digest"]}
    light = version(version=9, tags={f"lwplugin.{key}": value for key, value in tags.items()})
    assert list(intents(rules, parent, made=made_by([light]))) == []


def test_the_rules_that_the_chart_installs_by_itself_start(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for name, text in values["config"]["files"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(intents(RuleBook(tmp_path / "serve.yaml"), version())) == []


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("  - {name: r, when: {models: a}, run: recipe.yaml}\n", "say when"),
        ("  - {name: r, when: {alais: a}, run: recipe.yaml}\n", "did you mean 'alias'?"),
        ("  - {name: r, when: {alias: a}, run: absent.yaml}\n", "absent.yaml cannot be read"),
        (CHAMPION + CHAMPION, "two rules share a name"),
        (CHAMPION.replace("run:", "engine: prefct, run:"), "'local', 'kubeflow' or 'prefect'; got 'prefct'"),
    ],
)
def test_wrong_rules_stop_the_start(book: Write, rules: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        book(rules)
    assert said in str(error.value)
