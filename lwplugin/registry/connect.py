"""One connection to MLflow: its client, quiet and offline, its address kept out of every message."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lwplugin.errors import RegistryError
from lwplugin.log_levels import no_less_than
from lwplugin.secret import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password of the tracking address
}
_LOGGERS = ("mlflow", "alembic")
_SAYS_TWICE = "mlflow.store.db.utils"
"""Logs the stack of what it raises."""
_log = logging.getLogger("lwplugin")

# mlflow keeps the tracking address in a process-wide variable that even its client reads in places.
_LOCK = threading.RLock()


def address(client: MlflowClient) -> str:
    """The registry a client asks, without credentials."""
    return redact(str(client._registry_uri))


@contextmanager
def connected(tracking_uri: str | None = None, registry_uri: str | None = None) -> Iterator[MlflowClient]:
    """An MLflow client for these addresses; None takes MLflow's own settings (MLFLOW_TRACKING_URI, …).

    What the process had set before is restored. Raises RegistryError, without credentials, where MLflow
    refuses.
    """
    with _LOCK, _environment(), _quiet():
        import mlflow
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        known = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
        tracking_before = mlflow.get_tracking_uri() if known else None
        registry_before = os.environ.get("MLFLOW_REGISTRY_URI", "")
        try:
            if tracking_uri is not None:
                mlflow.set_tracking_uri(tracking_uri)
            if registry_uri is not None:
                mlflow.set_registry_uri(registry_uri)
            yield mlflow.MlflowClient(registry_uri=registry_uri)
        except MlflowException as error:
            raise _refused(redact(str(error.message))) from None
        except RequestException as error:  # transfers of files, which a proxy may not take
            raise _refused(redact(str(error))) from None
        finally:
            if tracking_uri is not None:
                mlflow.set_tracking_uri(tracking_before)  # type: ignore[arg-type]
            if registry_uri is not None:
                mlflow.set_registry_uri(registry_before)
                if not registry_before:
                    os.environ.pop("MLFLOW_REGISTRY_URI", None)


def _refused(said: str) -> RegistryError:
    if "Max retries exceeded" in said:
        cause = re.search(r"(?:Failed to|timed out|SSLError)[^\"]*", said)
        return RegistryError(
            "MLflow does not answer",
            got=cause[0] if cause else said,
            do="start its server, or check the tracking address (MLFLOW_TRACKING_URI) and the way there",
        )
    return RegistryError(
        "MLflow refused",
        got=said.partition("\n[SQL: ")[0].strip(),
        do="check the tracking address (MLFLOW_TRACKING_URI), its credentials and the server's log",
    )


class _Waiting(logging.Handler):
    """Says once that a server is being waited for, which takes minutes; the HTTP client tells nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._said and record.getMessage().startswith("Retrying"):
            self._said = True
            _log.warning("MLflow does not answer; it is asked again for some minutes")


@contextmanager
def _environment() -> Iterator[None]:
    added = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    import mlflow  # noqa: F401  # first: its import sets the level of its loggers

    client, waiting = logging.getLogger("urllib3.connectionpool"), _Waiting()
    client.addHandler(waiting)
    try:
        with no_less_than(logging.ERROR, *_LOGGERS), no_less_than(logging.CRITICAL, _SAYS_TWICE):
            yield
    finally:
        client.removeHandler(waiting)
