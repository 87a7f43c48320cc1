from __future__ import annotations

from typing import Any

import pytest

from lwplugin.errors import RecipeError
from lwplugin.recipe_file import parse_recipe
from lwplugin.resources import Resources, resources_of

RECIPE = """\
model: models:/net@champion
data: {source: digits}
compress: [{prune: {method: taylor, macs: 0.5}}]
targets: [{name: edge}]
gate: {max_drop: {accuracy: 0.1}}
resources:
"""


def resources(text: str) -> Any:
    return parse_recipe(RECIPE + text).resources


def test_a_step_takes_what_it_leaves_out_from_all() -> None:
    given = resources(
        "  all: {retries: 2, env: {A: '1', B: '1'}, memory: 1Gi}\n  prune: {env: {B: '2'}, memory: 8Gi}\n"
    )
    prune = resources_of(given, "prune")
    assert (prune.retries, prune.memory, prune.env) == (2, "8Gi", {"A": "1", "B": "2"})
    assert resources_of(given, "gate").memory == "1Gi"
    assert resources_of({}, "gate") == Resources()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prun: {cpu: 1}", "'prun' is no step; did you mean 'prune'?"),
        ("prune: {memory: lots}", "memory"),
        ("prune: {memroy: 1Gi}", "memory"),
        ("prune: {volumes: [{claim: Upper, path: /x}]}", "claim"),
        ("prune: {volumes: [{claim: data, path: relative}]}", "path"),
        ("prune: {volumes: [{claim: data, path: /x, sub_path: ../up}]}", "sub_path"),
        ("prune: {secrets: {TOKEN: hunter2}}", "must name a Kubernetes secret and its key"),
        ("prune: {env: {URI: 'https://me:hunter2@host'}}", "use `secrets`"),
        ("prune: {env: {'not a name': x}}", "letters, digits and _"),
        ("prune: {timeout_s: 0}", "timeout_s"),
    ],
)
def test_what_cannot_be_given_is_refused_where_it_stands(line: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resources(f"  {line}\n")
    assert said in str(caught.value)
    assert ": resources" in str(caught.value)
    assert "hunter2@" not in str(caught.value)


def test_where_a_recipe_runs_does_not_change_what_it_means() -> None:
    here, there = parse_recipe(RECIPE + "  {}\n"), parse_recipe(RECIPE + "  all: {retries: 3}\n")
    assert here.digest == there.digest
