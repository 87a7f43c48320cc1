"""Signatures of model directories with elliptic keys, by sigstore's model-signing; offline, no transparency log.

A signature speaks of content: every file of the directory and no other. It says nothing of the name or number
under which a registry shows that content.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from lwplugin.artifact import digest_json, list_files
from lwplugin.errors import MissingExtraError, RegistryError
from lwplugin.secret import secret
from lwplugin.settings import settings

SIGNATURE = "model.sig"
SIGNING_KEY = "LWPLUGIN_SIGNING_KEY"
SIGNING_KEY_PASSWORD = "LWPLUGIN_SIGNING_KEY_PASSWORD"
_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_SIGNATURE_BYTES = 16 * 2**20


def sign(directory: Path) -> str | None:
    """Writes `model.sig` over all other files with the key of LWPLUGIN_SIGNING_KEY, a PEM text or file.

    Answers with the sha256 of the public key, None where there is no key to sign with. Raises RegistryError for a
    key that cannot be used.
    """
    with _signing_key() as key:
        if key is None:
            return None
        (directory / SIGNATURE).unlink(missing_ok=True)
        try:
            package = _package("signing")
            config = package.Config().use_elliptic_key_signer(private_key=key, password=_password())
            config.set_hashing_config(_every_file())
            with tempfile.TemporaryDirectory(prefix="lwplugin-sign-") as scratch:
                made = Path(scratch, SIGNATURE)  # beside the directory: it does not sign itself
                config.sign(directory, made)
                document = json.loads(made.read_text(encoding="utf-8"))
                (directory / SIGNATURE).write_bytes(made.read_bytes())
        except (ValueError, TypeError) as error:  # its text says what is wrong with the key, not what it is
            raise RegistryError(
                "The signing key cannot be used",
                got=type(error).__name__,
                do=f"give an EC key (P-256, P-384 or P-521) in PEM, and {SIGNING_KEY_PASSWORD} if it is encrypted",
            ) from None
    return _signed_by(document)


def verify(directory: Path, *, about: str) -> str:
    """The sha256 of the trusted key that signed the directory, `model.sig` aside: each of its files and no other.

    Raises RegistryError where it is not signed, signed by nobody trusted, or not what was signed.
    """
    file = directory / SIGNATURE
    if not file.is_file() or file.stat().st_size > _SIGNATURE_BYTES:
        raise RegistryError(
            f"{about} is not signed",
            got=f"no {SIGNATURE} among its files, and LWPLUGIN_TRUSTED_KEYS asks for one",
            do=f"have its owner sign it: lwplugin sign {about}",
        )
    text, problems = file.read_bytes(), []
    file.unlink()
    try:
        with tempfile.TemporaryDirectory(prefix="lwplugin-verify-") as scratch:
            aside = Path(scratch, SIGNATURE)
            aside.write_bytes(text)
            for number, key in enumerate(trusted_keys()):
                public = Path(scratch, f"{number}.pem")
                public.write_text(key, encoding="ascii")
                problem = _problem(directory, aside, public)
                if problem is None:
                    return _signed_by(json.loads(text))
                problems.append(problem)
    finally:
        file.write_bytes(text)
    raise RegistryError(
        f"{about} does not carry a good signature",
        got=next((problem for problem in problems if problem is not _OTHER_KEY), _OTHER_KEY),
        do="find out who changed it; sign it again only if you know that the content is right",
    )


def trusted_keys() -> list[str]:
    """The public keys of LWPLUGIN_TRUSTED_KEYS, a PEM file or a directory of them.

    Raises RegistryError where the place holds none.
    """
    place = settings().trusted_keys
    if place is None:
        return []
    try:
        files = sorted(place.glob("*.pem")) if place.is_dir() else [place]
        found = [key for file in files for key in _PUBLIC_KEY.findall(file.read_text(encoding="utf-8"))]
    except (OSError, UnicodeDecodeError) as error:
        found, why = [], type(error).__name__
    else:
        why = "no public key"
    if not found:
        raise RegistryError(
            "LWPLUGIN_TRUSTED_KEYS names no usable keys, so nothing can be trusted",
            got=f"{place}: {why}",
            do="name a PEM file of public keys, or a directory of such files",
        )
    return found


def trust_digest() -> str | None:
    """What a stored pull depends on: another set of trusted keys asks again. None where none is asked for."""
    keys = trusted_keys()
    return digest_json(sorted(keys)) if keys else None


_OTHER_KEY = "a signature by a key that is not trusted"


def _problem(directory: Path, signature: Path, public_key: Path) -> str | None:
    try:
        verifier = _package("verifying").Config().use_elliptic_key_verifier(public_key=public_key)
        verifier.verify(directory, signature)
        covered = _covered(json.loads(signature.read_text(encoding="utf-8")))
    except MissingExtraError:
        raise
    except Exception as error:  # the package raises what its parts raise
        if "Key mismatch" in str(error):
            return _OTHER_KEY
        return f"{type(error).__name__}: {error}"[:300]
    # A signature may leave paths out; what it does not cover is not signed.
    uncovered = sorted(list_files(directory).keys() - covered)
    return f"files that are not signed: {', '.join(uncovered[:5])}" if uncovered else None


def _covered(document: dict[str, Any]) -> set[str]:
    statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in statement["predicate"]["resources"]}


def _signed_by(document: dict[str, Any]) -> str:
    return str(document["verificationMaterial"]["publicKey"]["hint"])


@contextmanager
def _signing_key() -> Iterator[Path | None]:
    """As a file that only this user can read, wherever it came from."""
    text = secret(SIGNING_KEY)
    if text is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="lwplugin-key-") as scratch:
        file = Path(scratch, "key.pem")
        file.write_text(text + "\n", encoding="utf-8")
        yield file


def _password() -> bytes | None:
    password = secret(SIGNING_KEY_PASSWORD)
    return None if password is None else password.encode()


def _every_file() -> Any:
    return _package("hashing").Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _package(part: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(f"model_signing.{part}")
    except ImportError:
        raise MissingExtraError("model-signing", extra="signing", why="A signature") from None
