"""Which version an address means, and what of it is let in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwplugin import registry
from lwplugin.errors import RegistryError, StoreError


def resolve(prepared: Any, uri: str) -> registry.Resolved:
    return registry.resolve(uri, tracking_uri=prepared.uri)


@pytest.mark.parametrize("written", ["models:/digits/1", "models:/digits@champion", "models:/digits/latest"])
def test_every_way_to_write_a_version(prepared: Any, written: str) -> None:
    found = resolve(prepared, written)
    assert (found.name, found.version, found.uri) == ("digits", "1", "models:/digits/1")
    assert found.source == f"models:/{found.model_id}"
    assert found.alias == ("champion" if "@" in written else None)


def test_latest_is_the_highest_number_and_not_what_was_touched_last(prepared: Any) -> None:
    import mlflow

    client = mlflow.MlflowClient(prepared.uri)
    made = client.create_model_version("digits", client.get_model_version("digits", "1").source)
    client.set_model_version_tag("digits", "1", "touched", "later")
    assert resolve(prepared, "models:/digits/latest").version == str(made.version)
    client.create_registered_model("empty")
    with pytest.raises(RegistryError, match="'empty' has no version yet"):
        resolve(prepared, "models:/empty/latest")


def test_one_odd_name_does_not_hide_what_lies_at_the_other_places(prepared: Any) -> None:
    import mlflow

    mlflow.MlflowClient(prepared.uri).create_registered_model('it\'s "odd"')
    odd = [('it\'s "odd"', "1"), ('it\'s "gone"', "@a"), ("a/b", "1"), (" ", "1"), ("digits", "9" * 30)]
    found = registry.look_up([*odd, ("digits", "@champion")], tracking_uri=prepared.uri)
    assert [found[place] for place in odd] == [None] * len(odd)
    version = found["digits", "@champion"]
    assert version is not None
    assert (version.version, version.aliases) == (1, ("champion",))


def test_a_stage_is_followed(prepared: Any) -> None:
    import mlflow

    mlflow.MlflowClient(prepared.uri).transition_model_version_stage("digits", "1", "Production")
    assert resolve(prepared, "models:/digits/Production").version == "1"
    with pytest.raises(RegistryError, match="no version in stage 'Staging'"):
        resolve(prepared, "models:/digits/Staging")


def test_copies_are_followed_to_the_logged_model(prepared: Any, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(prepared.uri)
    for source, name in (("digits", "staged"), ("staged", "live")):
        mlflow.set_tracking_uri(prepared.uri)
        client.copy_model_version(f"models:/{source}/1", name)
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    copied = resolve(prepared, "models:/live/1")
    assert copied.source == "models:/staged/1"
    assert copied.model_id == prepared.parent.model_id

    from lwplugin.model import load

    digests = {
        load(registry.pull(version, tmp_path / version.name, tracking_uri=prepared.uri)).source.digest  # type: ignore[union-attr]
        for version in (copied, prepared.parent)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("models:/digit/1", "no model 'digit'. Do: did you mean 'digits'"),
        ("models:/digits@champio", "no alias 'champio'. Do: did you mean 'champion'"),
        ("models:/digits/4", "no version 4: got versions 1. Do"),
        (
            "models:/digits/Producton",
            "neither a version nor a stage of model 'digits'. Do: did you mean 'Production'",
        ),
        ("models:/digits", r"says no version: got versions 1; aliases champion"),
        ("runs:/abc/model", "artifact is not a registered version"),
        (f"models:/m-{'0' * 32}", "logged model is not a registered version"),
        ("https://me:secret@host/model", "Not a model of a registry: got https://host/model"),
    ],
)
def test_what_is_not_there_names_what_is(prepared: Any, written: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        resolve(prepared, written)


def test_an_empty_registry_says_so(sqlite_uri: str) -> None:
    with pytest.raises(RegistryError, match="an empty registry"):
        registry.resolve("models:/digits/1", tracking_uri=sqlite_uri)


def test_a_server_that_is_away_is_waited_for_aloud_and_an_error_without_its_password(
    monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with pytest.raises(
        RegistryError, match=r"MLflow does not answer: got .*refused. Do: start its server"
    ) as caught:
        registry.resolve("models:/digits/1", tracking_uri="http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(caught.value)
    told = [record.getMessage() for record in heard.records if record.name == "lwplugin"]
    assert told == ["MLflow does not answer; it is asked again for some minutes"]


def test_the_callers_own_mlflow_settings_are_left_alone(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///theirs.db")
    resolve(prepared, "models:/digits/1")
    assert mlflow.get_tracking_uri() == "sqlite:///theirs.db"
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///theirs.db"
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def test_a_traced_graph_is_refused(prepared: Any, log_parent: Callable[..., str], tmp_path: Path) -> None:
    log_parent(prepared.uri, name="traced", serialization_format="pt2")
    with pytest.raises(RegistryError, match=r"traced graph \(pt2\).*serialization_format='pickle'"):
        registry.pull(resolve(prepared, "models:/traced/1"), tmp_path / "out", tracking_uri=prepared.uri)
    assert not (tmp_path / "out").exists()


def test_a_flavor_that_cannot_be_compressed_is_named(prepared: Any, tmp_path: Path) -> None:
    import mlflow
    from sklearn.dummy import DummyClassifier

    mlflow.set_tracking_uri(prepared.uri)
    model = DummyClassifier().fit([[0], [1]], [0, 1])
    mlflow.sklearn.log_model(
        model,
        name="m",
        registered_model_name="trees",
        pip_requirements=["scikit-learn"],
        serialization_format="pickle",
    )
    mlflow.end_run()
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="cannot be compressed: got sklearn"):
        registry.pull(resolve(prepared, "models:/trees/1"), tmp_path / "out", tracking_uri=prepared.uri)


def test_too_large_is_refused_before_the_download(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWPLUGIN_MAX_MODEL_BYTES", "1000")
    seen: list[str] = []
    with pytest.raises(RegistryError, match=r"larger than allowed: got [\d,]+ bytes, the limit is 1,000"):
        registry.pull(
            prepared.parent,
            tmp_path / "out",
            tracking_uri=prepared.uri,
            progress=lambda label, done, total=None: seen.append(label),
        )
    assert seen == []
    assert not (tmp_path / "out").exists()


def test_a_link_in_the_store_is_refused(
    prepared: Any, log_parent: Callable[..., str], tmp_path: Path
) -> None:
    log_parent(prepared.uri, name="linked")
    import mlflow

    root = Path(mlflow.MlflowClient(prepared.uri).get_model_version_download_uri("linked", "1"))
    (root / "extra").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="is a link, not a file"):
        registry.pull(resolve(prepared, "models:/linked/1"), tmp_path / "out", tracking_uri=prepared.uri)


def test_content_that_changed_is_noticed(prepared: Any, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="not what was expected"):
        registry.pull(prepared.parent, tmp_path / "out", expect_digest="0" * 64, tracking_uri=prepared.uri)
    assert list(tmp_path.glob(".pull-*")) == []


def test_the_download_shows_progress(prepared: Any, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    registry.pull(
        prepared.parent,
        tmp_path / "out",
        tracking_uri=prepared.uri,
        progress=lambda label, done, total=None: seen.append((label, done, total)),
    )
    assert seen[-1][0] == "download"
    assert seen[-1][1] == seen[-1][2]
