"""What an engine gives a step: hardware, where it runs, what is mounted, how often it is tried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from lwplugin.secret import holds_password

ALL = "all"
"""The key of `resources` whose values hold for every step that does not set its own."""

_DNS = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
KubernetesName = Annotated[str, StringConstraints(pattern=rf"^{_DNS}$")]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_KEY = re.compile(rf"{_DNS}/[A-Za-z0-9._-]+")
_RESERVED = ("KFP_", "PREFECT__")


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Block):
    """A Kubernetes toleration."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Volume(_Block):
    """A persistent volume claim that exists, mounted into the step's pod."""

    claim: KubernetesName = Field(description="name of the PersistentVolumeClaim")
    path: str = Field(pattern=r"^/", description="where it appears in the pod")
    sub_path: str = Field("", pattern=r"^([^/.][^/]*(/[^/.][^/]*)*)?$", description="folder of the volume")


class Resources(_Block):
    """What an engine gives a step. The local runner has this machine and heeds ``processes`` only.

    Prefect heeds ``processes``, ``retries`` and ``timeout_s``; the rest is for pods.
    """

    image: str | None = Field(None, min_length=1, description="container image; default: the pipeline's")
    accelerator: str | None = Field(None, description="e.g. nvidia.com/gpu")
    count: int = Field(1, ge=1, description="accelerators")
    nodes: int = Field(
        1, ge=1, le=1024, description="machines that train together, as a Kubeflow Trainer job; Kubeflow only"
    )
    processes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="that train together on each machine, on a GPU each where there are some",
    )
    cpu: str | None = Field(None, pattern=r"^\d+(\.\d+)?m?$", description="cores, e.g. 2 or 500m")
    memory: str | None = Field(None, pattern=r"^\d+(\.\d+)?([KMGT]i?)?$", description="bytes, e.g. 16Gi")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels the node must have")
    tolerations: tuple[Toleration, ...] = ()
    volumes: tuple[Volume, ...] = ()
    env: dict[str, str] = Field(default_factory=dict, description="variables; never a secret's value")
    secrets: dict[str, str] = Field(
        default_factory=dict, description="variable → `secret/key`: the value stays in Kubernetes"
    )
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    retries: int = Field(0, ge=0, le=20, description="further attempts after a failure")
    retry_delay_s: int = Field(10, ge=0, description="pause before the first of them; it doubles")
    timeout_s: int | None = Field(None, ge=1, description="the step is stopped after this")

    @field_validator("cpu", mode="before")
    @classmethod
    def _plain_number(cls, cpu: object) -> object:
        return str(cpu) if isinstance(cpu, int | float) and not isinstance(cpu, bool) else cpu

    @field_validator("env", "secrets")
    @classmethod
    def _variables(cls, variables: dict[str, str]) -> dict[str, str]:
        for name in variables:
            if not _VARIABLE.fullmatch(name) or name.startswith(_RESERVED):
                raise ValueError(f"'{name}' is no name for a variable: letters, digits and _, as in MY_TOKEN")
        return variables

    @field_validator("env")
    @classmethod
    def _no_password(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if holds_password(value):
                raise ValueError(
                    f"{name} holds a password: put it into a Kubernetes secret and use `secrets`"
                )
        return env

    @field_validator("secrets")
    @classmethod
    def _references(cls, secrets: dict[str, str]) -> dict[str, str]:
        for name, reference in secrets.items():
            if not _SECRET_KEY.fullmatch(reference):  # what was written may be the secret itself: not shown
                raise ValueError(f"{name} must name a Kubernetes secret and its key, as in `mlflow/password`")
        return secrets

    def over(self, base: Resources) -> Resources:
        """This, with what it leaves out taken from ``base``; mappings are joined."""
        joined = {
            name: {**getattr(base, name), **getattr(self, name)}
            for name in ("node_selector", "env", "secrets")
        }
        set_here = {name: getattr(self, name) for name in self.model_fields_set}
        return base.model_copy(update={**set_here, **joined})


def resources_of(resources: Mapping[str, Resources], step: str) -> Resources:
    """What ``step`` gets: its own entry over the one for all."""
    return resources.get(step, Resources()).over(resources.get(ALL, Resources()))
