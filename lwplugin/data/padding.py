"""Which tokens are text and which only fill up the batch: nothing is fitted to the latter."""

from __future__ import annotations

from torch import Tensor

from lwplugin.data.batch import Inputs


def attention_mask(inputs: Inputs) -> Tensor | None:
    """Which tokens are real, bool [examples, tokens], where the inputs say so."""
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    return mask.bool() if mask is not None and mask.ndim == 2 else None


def mask_over(x: Tensor, valid: Tensor | None) -> Tensor | None:
    """``valid`` where ``x`` lies, if ``x`` is [examples, tokens, features] of the tokens it is about; else None."""
    if valid is None or x.ndim != 3 or x.shape[:2] != valid.shape:
        return None
    return valid.to(x.device)


def real_tokens(x: Tensor, valid: Tensor | None) -> Tensor:
    """The rows [tokens, features] of ``x`` [examples, tokens, features] that are no padding.

    ``x`` itself where ``valid`` is not about it.
    """
    mask = mask_over(x, valid)
    return x if mask is None else x[mask]
