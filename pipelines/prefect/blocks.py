"""Where the registry and the store are, as Prefect blocks: set once on the server, named by flows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from lwplugin.artifact import Store
from lwplugin.secret import holds_password
from lwplugin.shared_store import open_store

_VARIABLES = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "token": "MLFLOW_TRACKING_TOKEN",
}


class LwpluginRegistry(Block):
    """An MLflow registry; secrets are kept by Prefect and reach MLflow by its own variables."""

    _block_type_name = "lwplugin Registry"
    _block_type_slug = "lwplugin-registry"

    tracking_uri: str = Field(description="MLflow's address, without a password")
    username: str | None = Field(None, description="MLFLOW_TRACKING_USERNAME")
    password: SecretStr | None = Field(None, description="MLFLOW_TRACKING_PASSWORD")
    token: SecretStr | None = Field(None, description="MLFLOW_TRACKING_TOKEN")

    @field_validator("tracking_uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        if holds_password(uri):
            raise ValueError("an address holds no password: use the fields username and password")
        return uri

    @contextmanager
    def connected(self) -> Iterator[None]:
        """MLflow's variables are set inside; what they were before is put back."""
        before = {variable: os.environ.get(variable) for variable in _VARIABLES.values()}
        for field, variable in _VARIABLES.items():
            value = getattr(self, field)
            if value is not None:
                os.environ[variable] = value.get_secret_value() if isinstance(value, SecretStr) else value
        try:
            yield
        finally:
            for variable, value in before.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value


class LwpluginStore(Block):
    """The directory of step results; all workers must see the same one."""

    _block_type_name = "lwplugin Store"
    _block_type_slug = "lwplugin-store"

    path: str | None = Field(None, description="default: the worker's LWPLUGIN_STORE")

    def open(self) -> Store:
        """The store."""
        return open_store(self.path)
