"""Corrupted copies of a split: noise, blur, light, shifts and typos in five severities, decided by a seed.

A light model that holds on the test set and breaks beside it is not good. The kinds and the order of their
severities follow Hendrycks and Dietterich, 1903.12261. Nothing here imports torch, so a recipe is read fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.data.corruptions.copies import corrupted as corrupted
    from lwplugin.data.corruptions.copies import need_possible as need_possible

KINDS: dict[str, str] = {
    "noise": "Gaussian noise on every number; on images in parts of their range, clipped to it",
    "blur": "images out of focus: a Gaussian whose width follows the image's",
    "brightness": "images lighter or darker, clipped to their range",
    "contrast": "images paler, towards each one's own mean",
    "shift": "images moved in one of eight directions, the edge repeated",
    "typos": "letters of texts swapped, dropped, doubled or replaced by a neighbour on the keyboard",
}
SEVERITIES = (1, 2, 3, 4, 5)

__getattr__, __all__ = lazily(__name__, {"copies": "corrupted need_possible"})
