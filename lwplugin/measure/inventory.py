"""The device inventory: which boards and nodes there are, how they are reached and what they can do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lwplugin.errors import MeasureError, RecipeError, did_you_mean
from lwplugin.measure.runtimes.base import FORMATS, RUNTIMES
from lwplugin.settings import settings
from lwplugin.yaml_document import load_document

DEFAULT_FILE = Path("devices.yaml")
LOCAL = ("cpu", "cuda")  # this machine


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Block):
    """How the agent's certificate is checked."""

    ca: Path | None = Field(None, description="certificates to trust; default: the system's")
    server_name: str | None = Field(
        None, description="name in the certificate; default: the host of the address"
    )


class Device(_Block):
    """One agent. Capabilities that are left out are not checked before the agent is asked."""

    address: str = Field(pattern=r"^[^\s:/@]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$", description="host:port")
    token_env: str | None = Field(None, description="environment variable that holds the token")
    token_file: Path | None = Field(None, description="file that holds the token, beside the inventory")
    tls: Tls | None = Field(None, description="speak TLS; left out: authenticated but readable on the way")
    accelerator: Literal["cpu", "cuda"] = Field("cpu", description="what its runtimes run on")
    runtimes: tuple[str, ...] | None = Field(None, description="runtimes it offers")
    arch: str | None = Field(None, description="such as aarch64; another one there is an error")
    threads: int | None = Field(None, ge=1, description="most threads of one inference")
    silence_s: float = Field(20.0, gt=0, description="after this long without a word the device is lost")
    wait_s: float = Field(600.0, ge=0, description="longest wait while other jobs are in line before ours")

    @field_validator("runtimes")
    @classmethod
    def _known_runtimes(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in RUNTIMES:
                raise ValueError(f"'{name}' is no runtime; {did_you_mean(name, RUNTIMES)}")
        return names

    @model_validator(mode="after")
    def _one_token(self) -> Device:
        if (self.token_env is None) == (self.token_file is None):
            raise ValueError("one of token_env and token_file is needed; the token itself never stands here")
        return self

    @property
    def host_and_port(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    def token(self) -> str:
        """Raises MeasureError, without the token, where it is not there."""
        if self.token_env is not None:
            text = os.environ.get(self.token_env, "").strip()
            where = f"the environment variable {self.token_env}"
        else:
            where = str(self.token_file)
            try:
                text = Path(where).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                text, where = "", f"{where} ({type(error).__name__})"
        if not text:
            raise MeasureError(
                f"There is no token for the agent at {self.address}", do=f"put it into {where}"
            )
        return text

    def capabilities(self) -> dict[str, object]:
        """What decides a measurement besides the file: a part of its key."""
        return self.model_dump(mode="json", exclude={"token_env", "token_file", "tls", "silence_s", "wait_s"})


class Inventory(_Block):
    """``devices.yaml``."""

    devices: dict[str, Device] = Field(description="name → device")

    @field_validator("devices")
    @classmethod
    def _names(cls, devices: dict[str, Device]) -> dict[str, Device]:
        for name in devices:
            if name in LOCAL or not name.replace("-", "").isalnum() or name != name.lower():
                raise ValueError(
                    f"'{name}' cannot name a device: lower-case letters, digits and dashes, not cpu or cuda"
                )
        return devices


def inventory_file() -> Path | None:
    """LWPLUGIN_DEVICES, else ``devices.yaml`` in the working directory where there is one."""
    named = settings().devices
    if named is not None:
        return named
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def inventory(file: Path | None = None) -> Inventory:
    """The devices of ``file`` (default: ``inventory_file``); none where there is no inventory.

    Raises RecipeError with line, place and the nearest known key of everything that is wrong.
    """
    file = file or inventory_file()
    if file is None:
        return Inventory(devices={})
    found = load_document(
        file, Inventory, holds="device inventory", do="`lwplugin docs agent` has an example"
    )
    beside = {}
    for name, device in found.devices.items():
        changes: dict[str, object] = {}
        if device.token_file is not None:
            changes["token_file"] = file.parent / device.token_file
        if device.tls is not None and device.tls.ca is not None:
            changes["tls"] = device.tls.model_copy(update={"ca": file.parent / device.tls.ca})
        beside[name] = device.model_copy(update=changes)
    return Inventory(devices=beside)


def check_target(device: str, file_format: str, threads: int) -> None:
    """Raises RecipeError where ``device`` is neither this machine nor in the inventory, or its entry says
    that it cannot run such a target. No device is asked."""
    if device in LOCAL:
        return
    entry = device_named(device)
    runtime = FORMATS.get(file_format, file_format)
    if entry.runtimes is not None and runtime not in entry.runtimes:
        raise RecipeError(
            f"Device '{device}' has no runtime for {file_format}",
            got=f"{', '.join(entry.runtimes)}, not {runtime}",
            do="choose a format that one of these runs, or correct the inventory",
        )
    if entry.threads is not None and threads > entry.threads:
        raise RecipeError(f"Device '{device}' has {entry.threads} threads", got=f"threads={threads}")


def device_named(name: str) -> Device:
    """Raises RecipeError naming the nearest known device."""
    devices = inventory().devices
    if name not in devices:
        file = inventory_file()
        raise RecipeError(
            f"'{name}' is no device",
            got="there is no inventory of devices" if file is None else f"the inventory {file} without it",
            do=f"{did_you_mean(name, [*LOCAL, *devices])}; LWPLUGIN_DEVICES names the inventory",
        )
    return devices[name]
