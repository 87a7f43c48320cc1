"""Who moved which alias, why, and on what proof: concurrent, tampered with, overridden."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from lwplugin import registry
from lwplugin.cli import invoke
from lwplugin.errors import GateError, RegistryError
from lwplugin.registry.aliases import ROLLED_BACK_TAG
from lwplugin.registry.connect import connected
from lwplugin.registry.registration import _set_alias
from lwplugin.registry.turn import PREFIX, turn


def register(prepared: Any, **changes: Any) -> str:
    return str(registry.register(**{**prepared.arguments, "alias": None, **changes}).version)


def promote(prepared: Any, version: str, **options: Any) -> Any:
    options = {"reason": "it is small", "tracking_uri": prepared.uri, **options}
    return registry.promote(prepared.parent.name, version, "prod", **options)


def _promote_in_a_process(uri: str, name: str, version: str, folder: str) -> None:
    import os

    os.chdir(folder)
    registry.promote(name, version, "prod", reason=f"process {version}", override="race", tracking_uri=uri)


def test_every_decision_is_in_the_log_with_who_what_and_why(prepared: Any) -> None:
    light = register(prepared, alias="light-edge-cpu")
    promote(prepared, "1", override="nothing light yet", who="ann")
    promote(prepared, light, who="bob")
    promote(prepared, light)  # points there already: no decision
    registry.rollback(
        prepared.parent.name, "prod", reason="wrong on 7s", who="ann", tracking_uri=prepared.uri
    )
    log = registry.decision_log(prepared.parent.name, tracking_uri=prepared.uri)
    assert [(e.who, e.action, e.previous, e.version) for e in log[1:]] == [
        ("ann", "promoted", None, "1"),
        ("bob", "promoted", "1", light),
        ("ann", "rolled back", light, "1"),
    ]
    assert (log[0].action, log[0].alias, log[0].version) == ("registered", "light-edge-cpu", light)
    assert log[1].override == "nothing light yet"
    assert (log[2].verdict, log[2].verdict_digest) == ("pass", prepared.arguments["verdict"]["digest"])


def test_a_container_without_an_account_decides_under_its_number(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 1_000_650_000)
    promote(prepared, "1", override="nothing light yet")
    (entry,) = registry.decision_log(prepared.parent.name, tracking_uri=prepared.uri)
    assert entry.who == "uid 1000650000"


def test_a_changed_or_removed_entry_shows(prepared: Any) -> None:
    light, name = register(prepared), prepared.parent.name
    promote(prepared, light)
    promote(prepared, "1", override="back")
    client = mlflow.MlflowClient(prepared.uri)
    key = "lwplugin.decision.000001"
    entry = client.get_registered_model(name).tags[key]
    client.set_registered_model_tag(name, key, entry.replace("it is small", "it is fast"))
    with pytest.raises(RegistryError, match="not as it was written"):
        registry.decision_log(name, tracking_uri=prepared.uri)
    client.delete_registered_model_tag(name, key)
    with pytest.raises(RegistryError, match="not as it was written"):
        registry.decision_log(name, tracking_uri=prepared.uri)


def test_only_a_passing_verdict_about_this_very_file_promotes(prepared: Any, verdict: Any) -> None:
    failed = verdict(prepared.arguments["exported"], "fail")
    light = register(prepared, verdict=failed, override="for the lab")
    with pytest.raises(RegistryError, match="verdict is 'fail'"):
        promote(prepared, light)
    assert prepared.alias("prod") is None
    promote(prepared, light, override="for the lab")
    with pytest.raises(RegistryError, match="no verdict"):
        promote(prepared, "1")
    with pytest.raises(RegistryError):
        promote(prepared, "1", override="  ")


def test_tags_that_claim_a_pass_are_not_believed(prepared: Any, verdict: Any) -> None:
    light = register(prepared, verdict=verdict(prepared.arguments["exported"], "fail"), override="lab")
    client, name = mlflow.MlflowClient(prepared.uri), prepared.parent.name
    client.set_model_version_tag(name, light, "lwplugin.verdict", "pass")
    with pytest.raises(RegistryError, match="verdict is 'fail'"):
        promote(prepared, light)
    forged = verdict(prepared.arguments["exported"], "pass")
    model_id = client.get_model_version(name, light).source.removeprefix("models:/")
    stored = Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://"))
    (stored / "verdict.json").write_text(json.dumps(forged))
    with pytest.raises(GateError, match="not the one it was registered with"):
        promote(prepared, light, override="even so")


def test_promotions_at_once_happen_one_after_another(prepared: Any, tmp_path: Path) -> None:
    name = prepared.parent.name
    client = mlflow.MlflowClient(prepared.uri)
    source = client.get_model_version(name, "1").source
    versions = ["1", *(client.create_model_version(name, source).version for _ in range(3))]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_promote_in_a_process, args=(prepared.uri, name, str(version), str(tmp_path)))
        for version in versions
    ]
    [process.start() for process in processes]
    [process.join(120) for process in processes]
    assert [process.exitcode for process in processes] == [0] * 4
    log = registry.decision_log(name, tracking_uri=prepared.uri)
    assert {entry.version for entry in log} == set(map(str, versions))
    # Each saw what the one before had done: the chain of previous versions has no fork and no gap.
    assert [entry.previous for entry in log] == [None, *(entry.version for entry in log[:-1])]
    assert prepared.alias("prod") == log[-1].version
    assert prepared.alias("prod-previous") == log[-2].version
    assert not [tag for tag in client.get_registered_model(name).tags if tag.startswith(PREFIX)]


def test_a_dead_process_holds_nobody_up_for_long(prepared: Any) -> None:
    with connected(prepared.uri) as client:
        client.set_registered_model_tag(prepared.parent.name, f"{PREFIX}dead", "1")
        with turn(client, prepared.parent.name, abandoned_s=0.3):
            tags = client.get_registered_model(prepared.parent.name).tags
            assert f"{PREFIX}dead" not in tags


def test_a_rollback_goes_behind_a_promotion_that_died_half_way(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    light, name = register(prepared), prepared.parent.name
    promote(prepared, "1", override="first")
    promote(prepared, light)
    set_alias = mlflow.MlflowClient.set_registered_model_alias

    def dies(self: Any, name: str, alias: str, version: str) -> None:
        if alias == "prod":
            raise KeyboardInterrupt
        set_alias(self, name, alias, version)

    content = mlflow.MlflowClient(prepared.uri).get_model_version(name, light)
    other = mlflow.MlflowClient(prepared.uri).create_model_version(name, content.source).version
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", dies)
        with pytest.raises(KeyboardInterrupt):
            promote(prepared, other, override="third")
    assert (prepared.alias("prod"), prepared.alias("prod-previous")) == (light, light)
    back = registry.rollback(name, "prod", reason="r", tracking_uri=prepared.uri)
    assert (back.version, back.moved, prepared.alias("prod")) == ("1", True, "1")

    # A rollback that died right after it moved the alias is finished, and goes no further.
    promote(prepared, light)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "delete_registered_model_alias", dies_at_once)
        with pytest.raises(KeyboardInterrupt):
            registry.rollback(name, "prod", reason="r", tracking_uri=prepared.uri)
    assert (prepared.alias("prod"), prepared.alias("prod-previous")) == ("1", "1")
    again = registry.rollback(name, "prod", reason="r", tracking_uri=prepared.uri)
    assert (again.version, prepared.alias("prod"), prepared.alias("prod-previous")) == ("1", "1", None)


def dies_at_once(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_version_rolled_back_while_a_registration_waits_stays_rolled_back(prepared: Any) -> None:
    light, name = register(prepared, alias="prod"), prepared.parent.name
    client = mlflow.MlflowClient(prepared.uri)
    told: list[object] = []

    def again() -> None:
        try:
            told.append(_set_alias(client, name, light, "prod", "d"))
        except RegistryError as error:
            told.append(error)

    waiting = threading.Thread(target=again)
    with turn(client, name):
        waiting.start()
        while sum(tag.startswith(PREFIX) for tag in client.get_registered_model(name).tags) < 2:
            time.sleep(0.05)
        note = json.dumps({"reason": "wrong on 7s"})
        client.set_model_version_tag(name, light, ROLLED_BACK_TAG.format(alias="prod"), note)
        client.set_registered_model_alias(name, "prod", "1")
    waiting.join(60)
    assert "wrong on 7s" in str(told[0])
    assert prepared.alias("prod") == "1"


def test_who_waits_behind_a_dead_process_is_not_taken_for_dead(prepared: Any) -> None:
    at_once, most = 0, 0
    counting = threading.Lock()

    def wait_and_work(started: threading.Event) -> None:
        nonlocal at_once, most
        client = mlflow.MlflowClient(prepared.uri)
        started.set()
        with turn(client, prepared.parent.name, abandoned_s=1.5):
            with counting:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.8)
            with counting:
                at_once -= 1

    with connected(prepared.uri) as client:
        client.set_registered_model_tag(prepared.parent.name, f"{PREFIX}dead", "1")
        waiting = []
        for _ in range(3):
            started = threading.Event()
            waiting.append(threading.Thread(target=wait_and_work, args=(started,)))
            waiting[-1].start()
            started.wait()
        [thread.join(60) for thread in waiting]
        assert most == 1
        assert not any(
            tag.startswith(PREFIX) for tag in client.get_registered_model(prepared.parent.name).tags
        )


def test_a_policy_stops_a_promotion_and_names_what_would_do(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", prepared.uri)
    light, name = register(prepared), prepared.parent.name
    (tmp_path / "p.yaml").write_text("rules: [{name: prod, aliases: prod, budget: {size_bytes: 5_000}}]")
    command = [
        "promote",
        f"models:/{name}/{light}",
        "--alias",
        "prod",
        "--reason",
        "try",
        "--policy",
        "p.yaml",
    ]
    assert invoke(command) == 1
    assert "over the budget of 5,000 by 15,000" in capsys.readouterr().err
    assert prepared.alias("prod") is None
    assert invoke([*command, "--override", "the big board"]) == 0
    assert invoke(["decisions", name, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert entry["override"] == "the big board"
