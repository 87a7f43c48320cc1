"""What no event tells: the reconciler finds it."""

from __future__ import annotations

from typing import Any

import mlflow
import pytest


@pytest.mark.filterwarnings("ignore")
def test_stages_direct_writes_and_lost_deliveries_are_found_once(site: Any) -> None:
    site.rules("{models: quiet-*, alias: champion}", "{models: quiet-*, stage: Production}")
    registry = site.registry
    staged = registry.add("quiet-stage")
    registry.client.transition_model_version_stage("quiet-stage", staged, "Production")
    registry.add("quiet-lost", "champion")  # no webhook: the delivery is lost
    direct = mlflow.MlflowClient(registry.backend)
    registry.add("quiet-direct", "champion", client=direct)
    registry.add("quiet-other")
    queued = site.once()["queued"]
    assert {job["model"] for job in queued} == {"quiet-stage", "quiet-lost", "quiet-direct"}
    assert site.once()["queued"] == []
    # A light version that somebody registered by hand is what should exist.
    wanted = next(job for job in queued if job["model"] == "quiet-lost")
    registry.add("quiet-made", "champion")
    recipe = next(job for job in site.once()["queued"] if job["model"] == "quiet-made")
    assert recipe["recipe_digest"] == wanted["recipe_digest"]  # one recipe, two versions: two pieces of work
    assert recipe["key"] != wanted["key"]

    site.serve("--workers", "2", "--reconcile-every", "1")
    site.wait(lambda: len(site.runs()) == 4)
    assert len(set(site.runs("began"))) == 4
