"""Which indices of which tensor dimensions live and die together.

An *atom* is one index of one dimension of a parameter (one output channel of a convolution, say). Operations
that force two indices to be removed together join their atoms; a dimension of any tensor in the network is
then an integer array of atoms, and cutting an atom removes that index wherever it appears.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Atoms:
    """A union-find over atoms, vectorised over whole dimensions, with a reason for each that may not be cut."""

    def __init__(self) -> None:
        self._parent: IntArray = np.zeros(0, dtype=np.int64)
        self._frozen: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, size: int) -> IntArray:
        """A fresh dimension of ``size`` independent atoms."""
        first = len(self._parent)
        fresh = np.arange(first, first + size, dtype=np.int64)
        self._parent = np.concatenate([self._parent, fresh])
        return fresh

    def roots(self, atoms: IntArray) -> IntArray:
        """The representative of each atom."""
        current = self._parent[atoms]
        while True:
            above = self._parent[current]
            if np.array_equal(above, current):
                break
            current = above
        self._parent[atoms] = current
        return current

    def join(self, left: IntArray, right: IntArray) -> None:
        """Couple two dimensions of equal size, index by index."""
        while True:
            a, b = self.roots(left), self.roots(right)
            differ = a != b
            if not differ.any():
                return
            self._parent[np.maximum(a, b)[differ]] = np.minimum(a, b)[differ]

    def freeze(self, atoms: IntArray, reason: str) -> None:
        """Keep these atoms for ever; the first reason given is the one reported."""
        for atom in np.unique(atoms).tolist():
            self._frozen.setdefault(atom, reason)

    def frozen_roots(self) -> dict[int, str]:
        """Representatives that may not be cut, each with a reason."""
        reasons: dict[int, str] = {}
        for atom, reason in self._frozen.items():
            reasons.setdefault(int(self.roots(np.array([atom]))[0]), reason)
        return reasons
