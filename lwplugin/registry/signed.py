"""Signing and verifying what the registry holds already."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lwplugin.errors import RegistryError
from lwplugin.registry import signing
from lwplugin.registry.connect import connected
from lwplugin.registry.download import fetch
from lwplugin.registry.versions import resolve


def sign_version(uri: str, *, tracking_uri: str | None = None, registry_uri: str | None = None) -> str:
    """Signs a version as it lies there and puts `model.sig` beside its files; the sha256 of the public key.

    Raises RegistryError where no key is set or the store takes no further file.
    """
    version = resolve(uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
    with tempfile.TemporaryDirectory(prefix="lwplugin-sign-") as folder:
        directory = fetch(
            version, Path(folder, "model"), tracking_uri=tracking_uri, registry_uri=registry_uri
        )
        signer = signing.sign(directory)
        if signer is None:
            raise RegistryError(
                "There is no key to sign with",
                do=f"set {signing.SIGNING_KEY} or {signing.SIGNING_KEY}_FILE to an EC private key in PEM",
            )
        with connected(tracking_uri, registry_uri) as client:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            place = client.get_model_version_download_uri(version.name, version.version)
            get_artifact_repository(place).log_artifact(str(directory / signing.SIGNATURE))
    return signer


def verify_version(uri: str, *, tracking_uri: str | None = None, registry_uri: str | None = None) -> str:
    """The sha256 of the trusted key that signed a version. Raises RegistryError where none did."""
    version = resolve(uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
    if not signing.trusted_keys():
        raise RegistryError(
            "No keys are trusted", do="set LWPLUGIN_TRUSTED_KEYS to a PEM file of public keys"
        )
    with tempfile.TemporaryDirectory(prefix="lwplugin-verify-") as folder:
        directory = fetch(
            version, Path(folder, "model"), tracking_uri=tracking_uri, registry_uri=registry_uri
        )
        return signing.verify(directory, about=version.uri)
