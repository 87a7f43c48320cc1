"""What is refused, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwplugin import registry
from lwplugin.errors import GateError, RegistryError


@pytest.mark.parametrize("status", ["fail", "inconclusive", "error"])
def test_what_did_not_pass_is_not_registered(
    status: str, prepared: Any, exported: Path, verdict: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(RegistryError, match=f"verdict is '{status}': got Accuracy: {status}"):
        registry.register(**{**prepared.arguments, "verdict": verdict(exported, status)})
    assert prepared.versions() == [1]


def test_an_override_is_recorded(
    prepared: Any, exported: Path, verdict: Callable[..., dict[str, Any]]
) -> None:
    failed = {**prepared.arguments, "verdict": verdict(exported, "fail")}
    with pytest.raises(RegistryError, match="override needs a reason"):
        registry.register(**failed, override=" ")
    made = registry.register(**failed, override="field trial, agreed with the team")
    assert made.tags["lwplugin.verdict"] == "fail"
    assert made.tags["lwplugin.override"] == "field trial, agreed with the team"


def test_a_later_pass_sets_an_overridden_version_right(
    prepared: Any, exported: Path, verdict: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, uri = {**prepared.arguments, "alias": None}, prepared.uri
    failed, passed = verdict(exported, "fail"), verdict(exported)
    made = registry.register(**{**arguments, "verdict": failed}, override="field trial")
    again = registry.register(**{**arguments, "verdict": failed}, override="still a trial")
    assert again.tags == made.tags
    before = registry.resolve(made.uri, tracking_uri=uri)
    with pytest.raises(RegistryError, match="verdict is 'fail'"):
        registry.promote("digits", made.version, "prod", reason="x", tracking_uri=uri)

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.delete_model_version_tag", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            registry.register(**{**arguments, "verdict": passed})
    faster = {**arguments, "metrics": {**arguments["metrics"], "p50_ms": 0.11}, "recipe_digest": "cd" * 32}
    right = registry.register(**faster)
    assert (right.version, right.created) == (made.version, False)
    tags = right.tags
    assert (tags["lwplugin.verdict"], tags["lwplugin.verdict_digest"]) == ("pass", passed["digest"])
    assert (tags["lwplugin.p50_ms"], tags["lwplugin.recipe_digest"]) == ("0.11", "cd" * 32)
    assert "lwplugin.override" not in tags
    assert json.loads(tags["lwplugin.overridden"]) == {
        "reason": "field trial",
        "verdict": "fail",
        "verdict_digest": failed["digest"],
        "recipe_digest": "ab" * 32,
    }
    assert registry.resolve(made.uri, tracking_uri=uri).pinned == before.pinned
    registry.promote("digits", made.version, "prod", reason="x", tracking_uri=uri)
    (entry,) = registry.decision_log("digits", tracking_uri=uri)
    assert (entry.verdict, entry.override) == ("pass", None)

    import mlflow

    stored = mlflow.artifacts.list_artifacts(run_id=right.run_id, artifact_path="verdicts", tracking_uri=uri)
    place = Path(mlflow.MlflowClient(uri).get_run(right.run_id).info.artifact_uri.removeprefix("file://"))
    assert [file.path for file in stored] == [f"verdicts/{passed['digest']}"]
    (place / stored[0].path / "verdict.json").write_text(
        json.dumps(verdict(exported, baseline_digest="1" * 64))
    )
    with pytest.raises(GateError, match="not the one it was registered with"):
        registry.promote("digits", made.version, "other", reason="x", tracking_uri=uri)


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_an_edited_verdict_is_refused(
    prepared: Any, exported: Path, verdict: Callable[..., dict[str, Any]]
) -> None:
    edited = {**verdict(exported, "fail"), "status": "pass"}
    with pytest.raises(GateError, match="does not match its own digest"):
        registry.register(**{**prepared.arguments, "verdict": edited})


def test_a_verdict_about_another_file_is_refused(
    prepared: Any, exported: Path, verdict: Callable[..., dict[str, Any]]
) -> None:
    other = verdict(exported, candidate_digest="f" * 64)
    with pytest.raises(RegistryError, match="verdict is about another file"):
        registry.register(**{**prepared.arguments, "verdict": other})


def test_a_bundle_of_another_parent_is_refused(prepared: Any) -> None:
    parent = prepared.parent.model_copy(update={"uri": "models:/digits/7", "version": "7"})
    with pytest.raises(RegistryError, match="bundle was made from another model: got models:/digits/1"):
        registry.register(**{**prepared.arguments, "parent": parent})


def test_a_measurement_that_is_no_number_is_refused(prepared: Any) -> None:
    with pytest.raises(RegistryError, match="no finite number: got p95_ms"):
        registry.register(**{**prepared.arguments, "metrics": {"p50_ms": 1.0, "p95_ms": float("nan")}})


def test_a_file_that_answers_in_another_schema_is_refused(
    prepared: Any, log_parent: Callable[..., str], digits: Any, tmp_path: Path
) -> None:
    from mlflow.models import infer_signature

    wrong = infer_signature(digits.images[:3], np.zeros((3, 7), np.float32))
    log_parent(prepared.uri, signature=wrong)
    parent = registry.resolve("models:/digits@champion", tracking_uri=prepared.uri)
    bundle = registry.pull(parent, tmp_path / "bundle", tracking_uri=prepared.uri)
    with pytest.raises(RegistryError, match=r"another schema than its parent: got shape \(-1, 10\)"):
        registry.register(**{**prepared.arguments, "parent": parent, "bundle": bundle})
    assert prepared.versions() == [1, 2]


def test_a_parent_without_signature_and_example_gets_one_from_the_file(
    prepared: Any, log_parent: Callable[..., str], digits: Any, tmp_path: Path
) -> None:
    import mlflow

    log_parent(prepared.uri, name="bare", signature=None, input_example=None)
    parent = registry.resolve("models:/bare@champion", tracking_uri=prepared.uri)
    bundle = registry.pull(parent, tmp_path / "bundle", tracking_uri=prepared.uri)
    made = registry.register(**{**prepared.arguments, "parent": parent, "bundle": bundle})
    mlflow.set_tracking_uri(prepared.uri)
    served = mlflow.pyfunc.load_model(made.uri)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert served.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, 1, 8, 8)
    assert served.predict(digits.images[:5]).shape == (5, 10)


def test_under_a_name_of_its_own(prepared: Any) -> None:
    made = registry.register(**{**prepared.arguments, "name": "digits-light"})
    assert made.uri == "models:/digits-light/1"
    assert prepared.versions() == [1]
    lineage = registry.ancestors(made.uri, tracking_uri=prepared.uri)
    assert [version.uri for version in lineage] == ["models:/digits-light/1", "models:/digits/1"]


def test_the_torch_model_comes_back_through_the_flavor(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from lwplugin.registry import flavor

    made = registry.register(**prepared.arguments)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", prepared.uri)
    light = flavor.load_model(made.uri)
    assert light.module(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(RegistryError, match="holds no light torch model: got another flavor"):
        flavor.load_model(prepared.parent.uri)


def test_plain_log_model(
    prepared: Any, exported: Path, digits: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow

    from lwplugin.registry import flavor

    monkeypatch.setenv("MLFLOW_TRACKING_URI", prepared.uri)
    with mlflow.start_run():
        info = flavor.log_model(exported, name="light", registered_model_name="by-hand")
    assert mlflow.pyfunc.load_model(info.model_uri).predict(digits.images[:2]).shape == (2, 10)
    assert mlflow.pyfunc.load_model("models:/by-hand/1").predict(digits.images[:2]).shape == (2, 10)
    with pytest.raises(RegistryError, match="an export without a bundle"):
        flavor.load_model(info.model_uri)


def test_aliases_move_and_come_back(prepared: Any) -> None:
    uri, name = prepared.uri, prepared.parent.name
    registry.register(**prepared.arguments)
    third = registry.register(**{**prepared.arguments, "threads": 2})
    assert (third.version, third.previous) == ("3", "2")
    assert prepared.alias("light-edge-cpu") == "3"
    assert prepared.alias("light-edge-cpu-previous") == "2"

    moved = registry.promote(
        name, 1, "light-edge-cpu", reason="float again", override="the parent", tracking_uri=uri
    )
    assert (moved.version, moved.previous, moved.moved) == ("1", "3", True)
    assert not registry.promote(
        name, 1, "light-edge-cpu", reason="float again", override="the parent", tracking_uri=uri
    ).moved

    back = registry.rollback(name, "light-edge-cpu", reason="too slow", tracking_uri=uri)
    assert (back.version, back.previous) == ("3", "2")
    back = registry.rollback(name, "light-edge-cpu", reason="wrong on 7s", tracking_uri=uri)
    assert (back.version, back.previous) == ("2", None)
    assert prepared.alias("light-edge-cpu-previous") is None
    with pytest.raises(RegistryError, match="has no version to go back to"):
        registry.rollback(name, "light-edge-cpu", tracking_uri=uri)

    with pytest.raises(RegistryError, match=r"was rolled back from alias 'light-edge-cpu': got wrong on 7s"):
        registry.register(**{**prepared.arguments, "threads": 2})
    assert prepared.alias("light-edge-cpu") == "2"
    registry.promote(name, 3, "light-edge-cpu", reason="7s are fine now", tracking_uri=uri)
    assert registry.register(**{**prepared.arguments, "threads": 2}).version == "3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digit", 1, "live"), "no model 'digit'. Do: did you mean 'digits'"),
        (("digits", 9, "live"), "no version 9: got versions 1. Do"),
        (("digits", 1, "live-previous"), "kept by lwplugin for going back"),
        (("digits", 1, "v1"), "reserved"),
    ],
)
def test_promotion_errors_name_the_way_out(prepared: Any, arguments: Any, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        registry.promote(*arguments, reason="try", tracking_uri=prepared.uri)


def test_nothing_private_reaches_the_registry(prepared: Any, tmp_path: Path) -> None:
    made = registry.register(**prepared.arguments)
    written = "".join(path.read_text("utf-8", "ignore") for path in tmp_path.rglob("MLmodel"))
    assert str(tmp_path) not in json.dumps(made.model_dump())
    assert "mlflow.source.git" not in json.dumps(made.tags) + written


def test_a_signature_that_the_file_cannot_serve_is_refused_without_an_example_too(
    prepared: Any, log_parent: Callable[..., str], digits: Any, tmp_path: Path
) -> None:
    from mlflow.models import infer_signature

    flat = infer_signature(np.zeros((3, 63), np.float32), np.zeros((3, 10), np.float32))
    log_parent(prepared.uri, name="flat", signature=flat, input_example=None)
    parent = registry.resolve("models:/flat@champion", tracking_uri=prepared.uri)
    bundle = registry.pull(parent, tmp_path / "bundle", tracking_uri=prepared.uri)
    with pytest.raises(RegistryError, match="cannot answer what its parent answers"):
        registry.register(**{**prepared.arguments, "parent": parent, "bundle": bundle})
