"""Deployment formats: one file a format, each proved in its runtime before anything trusts it."""

from __future__ import annotations

from lwplugin.export.base import FORMATS, Exported, export, load_exported

__all__ = ["FORMATS", "Exported", "export", "load_exported"]
