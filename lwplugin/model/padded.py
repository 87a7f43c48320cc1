"""``nn.TransformerEncoder`` on padded tensors, as it trains and exports, never on nested ones."""

from __future__ import annotations

from torch import nn


def keep_padded(module: nn.Module) -> nn.Module:
    """Turns off, in place, the nested tensors that a ``nn.TransformerEncoder`` makes of padded texts without gradients.

    Layers of ours and what looks at layers read tensors with sizes, and exporters never see nested ones. Where texts
    are, no answer changes; at padding, where nested tensors leave zeros, answers are those of training.
    """
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
    return module
