"""Converters that cannot live beside this package run in Python environments of their own, made and pinned here."""

from __future__ import annotations

from lwplugin.toolchain.catalog import TOOLCHAINS, Toolchain, toolchain
from lwplugin.toolchain.environment import Installed, State, find, install, need, plan, state
from lwplugin.toolchain.job import borrowed, run

__all__ = [
    "TOOLCHAINS",
    "Installed",
    "State",
    "Toolchain",
    "borrowed",
    "find",
    "install",
    "need",
    "plan",
    "run",
    "state",
    "toolchain",
]
