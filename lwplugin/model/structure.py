"""A model's structure as data: layers as specs, skeletons, and the changes between two of them.

Methods change modules in place as they like. The difference is found by comparing two skeletons, the
unmodified model's and the changed one's, and is plain data that rebuilds the second from the first.
"""

from __future__ import annotations

from lwplugin.model.difference import Changes, diff
from lwplugin.model.layers import LAYERS, LayerSpec, build, register_layer, spec_of
from lwplugin.model.replay import apply
from lwplugin.model.skeleton import Entry, Skeleton

__all__ = [
    "LAYERS",
    "Changes",
    "Entry",
    "LayerSpec",
    "Skeleton",
    "apply",
    "build",
    "diff",
    "register_layer",
    "spec_of",
]
