"""Has a compressed model forgotten what its parent answers: the same check for every family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from lwplugin.errors import MethodError

if TYPE_CHECKING:
    from lwplugin.data import Data


def agreement_with(
    parent: nn.Module, module: nn.Module, data: Data, seen: Data | None = None
) -> float | None:
    """Share of calibration examples that both answer alike; None where there are none.

    ``seen`` holds the same examples as the parent takes them, where that is another way.

    Raises MethodError for outputs that are not finite.
    """
    if data.calibration is None:
        return None
    from lwplugin.data.evaluation import predict

    split = data.calibration.head(min(len(data.calibration), 512))
    new = predict(module, split, data.task)
    if not np.isfinite(new).all():
        raise MethodError(
            "The compressed model's outputs are not finite", do="keep more of it, or lower the learning rate"
        )
    theirs = (seen or data).need("calibration").head(len(split))
    old = predict(parent, theirs, data.task)
    return float(data.task.agreement(new, old).mean())


def check_agreement(
    parent: nn.Module,
    module: nn.Module,
    data: Data,
    least: float,
    what: str,
    do: str = "keep more (a larger macs or params fraction), fine-tune for longer, or lower collapse",
    seen: Data | None = None,
) -> dict[str, float]:
    """The agreement as a metric; none without calibration examples. ``what`` begins the error's sentence.

    Raises:
        MethodError: a model that no longer answers as its parent does, or not in finite numbers.
    """
    agreement = agreement_with(parent, module, data, seen)
    if agreement is None:
        return {}
    if agreement < least:
        raise MethodError(
            f"{what} collapsed the model",
            got=f"its answers agree with the parent's on {agreement:.1%} of the calibration examples",
            do=do,
        )
    return {"agreement": agreement}
