"""Signatures of parents and of what is registered, and the bill of materials beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lwplugin import registry
from lwplugin.errors import RegistryError
from lwplugin.registry.signing import trust_digest


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """`owner`'s private key is encrypted; `stranger` is nobody we know."""
    made = {}
    for name, password in (("owner", b"planted-key-password"), ("stranger", None)):
        key = ec.generate_private_key(ec.SECP256R1())
        encryption: Any = (
            serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        )
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        made[name] = tmp_path / f"{name}.key"
        made[name].write_bytes(key.private_bytes(pem, pkcs8, encryption))
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        made[f"{name}.pem"] = tmp_path / f"{name}.pem"
        made[f"{name}.pem"].write_bytes(public)
    return made


@pytest.fixture
def signs_as(keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(name: str) -> None:
        monkeypatch.setenv("LWPLUGIN_SIGNING_KEY_FILE", str(keys[name]))
        monkeypatch.delenv("LWPLUGIN_SIGNING_KEY_PASSWORD", raising=False)
        if name == "owner":
            monkeypatch.setenv("LWPLUGIN_SIGNING_KEY_PASSWORD", "planted-key-password")

    return use


def _place(uri: str, version: str) -> Path:
    """The artifacts on disk of a version in a registry without a server."""
    client = mlflow.MlflowClient(uri)
    return Path(client.get_model_version_download_uri("digits", version).removeprefix("file://"))


def test_a_parent_is_pulled_if_its_owner_signed_all_of_it(
    log_parent: Any,
    sqlite_uri: str,
    keys: dict[str, Path],
    signs_as: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    log_parent(sqlite_uri)
    parent = registry.resolve("models:/digits/1", tracking_uri=sqlite_uri)

    def pulled(name: str) -> str:
        bundle = registry.pull(parent, tmp_path / name, tracking_uri=sqlite_uri)
        return str(json.loads((bundle / "model.json").read_text())["source"]["digest"])

    before = pulled("before")
    assert trust_digest() is None
    monkeypatch.setenv("LWPLUGIN_TRUSTED_KEYS", str(keys["owner.pem"]))
    trusted = trust_digest()
    with pytest.raises(RegistryError, match="models:/digits/1 is not signed"):
        pulled("unsigned")
    signs_as("stranger")
    registry.sign_version("models:/digits/1", tracking_uri=sqlite_uri)
    with pytest.raises(RegistryError, match="a key that is not trusted"):
        pulled("strange")
    signs_as("owner")
    signer = registry.sign_version("models:/digits/1", tracking_uri=sqlite_uri)
    assert signer == hashlib.sha256(keys["owner.pem"].read_bytes()).hexdigest()
    assert registry.verify_version("models:/digits@champion", tracking_uri=sqlite_uri) == signer
    assert pulled("signed") == before  # a signature is not part of the content
    assert (trust_digest(), trusted is None) == (trusted, False)
    place = _place(sqlite_uri, "1")
    for extra in ("more.py", ".gitignore"):  # the second is a path that model-signing leaves out by itself
        (place / extra).write_text("import os")
        with pytest.raises(RegistryError, match="does not carry a good signature"):
            pulled("more")
        (place / extra).unlink()
    (place / "MLmodel").write_text("changed")
    with pytest.raises(RegistryError, match="does not carry a good signature"):
        pulled("changed")
    monkeypatch.setenv("LWPLUGIN_TRUSTED_KEYS", str(tmp_path / "nowhere.pem"))
    with pytest.raises(RegistryError, match="names no usable keys"):
        pulled("nobody")


def test_what_is_registered_is_signed_and_listed(
    prepared: Any, keys: dict[str, Path], signs_as: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    signs_as("owner")
    made = registry.register(**prepared.arguments, data_digest="da" * 32)
    uri = prepared.uri
    monkeypatch.setenv("LWPLUGIN_TRUSTED_KEYS", str(keys["owner.pem"]))
    registry.verify_version(made.uri, tracking_uri=uri)
    place = _place(uri, made.version)
    text = (place / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    listed = {c["name"]: c["hashes"][0]["content"] for c in bill["components"] if c["type"] == "file"}
    on_disk = {
        str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in place.rglob("*")
        if file.is_file() and file.name not in ("bom.cdx.json", "model.sig")
    }
    assert listed == on_disk
    assert "report/model_card.md" in listed
    assert {c["name"] for c in bill["components"] if c["type"] == "library"} >= {"onnxruntime", "numpy"}
    model = bill["metadata"]["component"]
    (ancestor,) = model["pedigree"]["ancestors"]
    assert ancestor["hashes"][0]["content"] == made.tags["lwplugin.parent_digest"]
    card = model["modelCard"]
    assert {"type": "accuracy", "value": "0.95"} in card["quantitativeAnalysis"]["performanceMetrics"]
    assert card["modelParameters"]["inputs"] == [{"format": "float32[-1, 1, 8, 8]"}]
    client = mlflow.MlflowClient(uri)
    assert {file.path for file in client.list_artifacts(made.run_id)} == {
        "bom.cdx.json",
        "report",
        "verdict.json",
    }

    registry.promote("digits", made.version, "best", reason="smaller", tracking_uri=uri)
    (place / "report" / "model_card.md").write_text("# another card")
    with pytest.raises(RegistryError, match=r"model_card\.md"):
        registry.promote("digits", made.version, "best", reason="x", override="y", tracking_uri=uri)
    everything = [file for file in tmp_path.rglob("*") if file.is_file()]
    holding = [file.name for file in everything if b"planted-key-password" in file.read_bytes()]
    assert holding == []


def test_a_later_verdict_is_believed_if_it_is_signed_too(
    prepared: Any,
    verdict: Any,
    keys: dict[str, Path],
    signs_as: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signs_as("owner")
    failed = {**prepared.arguments, "verdict": verdict(prepared.arguments["exported"], "fail")}
    made = registry.register(**failed, override="field trial")
    monkeypatch.delenv("LWPLUGIN_SIGNING_KEY_FILE")
    registry.register(**prepared.arguments)
    monkeypatch.setenv("LWPLUGIN_TRUSTED_KEYS", str(keys["owner.pem"]))
    with pytest.raises(
        RegistryError, match=r"later verdict of .* does not carry a good signature: got no model\.sig"
    ):
        registry.promote("digits", made.version, "best", reason="x", tracking_uri=prepared.uri)
    signs_as("owner")
    registry.register(**prepared.arguments)
    registry.promote("digits", made.version, "best", reason="x", tracking_uri=prepared.uri)


def test_nothing_is_registered_with_a_key_that_cannot_sign(
    prepared: Any, keys: dict[str, Path], signs_as: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs_as("owner")
    monkeypatch.setenv("LWPLUGIN_SIGNING_KEY_PASSWORD", "guessed")
    with pytest.raises(RegistryError, match="signing key cannot be used"):
        registry.register(**prepared.arguments)
    assert prepared.versions() == [1]
