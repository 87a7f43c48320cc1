"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler 2018, 1801.04381)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from lwplugin.students.convolution import channels, classifier, convolution, initialised
from lwplugin.students.options import Family, ImageOptions

# Expansion, channels, repeats and first stride of each stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2Options(ImageOptions):
    """Options of `mobilenet_v2`."""

    family: Literal["mobilenet_v2"] = "mobilenet_v2"


class InvertedResidual(nn.Module):
    """Expand, filter by channel, project; added to its input where the shapes are the same."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [convolution(inputs, hidden, 1, relu=nn.ReLU6)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            convolution(hidden, hidden, 3, stride, groups=hidden, relu=nn.ReLU6),
            convolution(hidden, outputs, 1, relu=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] → [n, outputs, h/stride, w/stride]."""
        return x + self.body(x) if self.residual else self.body(x)


def make(options: MobileNetV2Options) -> nn.Module:
    """3,504,872 parameters at width 1.

    The small stem leaves the first two halvings out, and the last layer follows widths below 1 as well, which
    the published net keeps at 1280 channels.
    """
    width = options.width or 1.0
    seen = channels(32 * width)
    stem = convolution(options.channels or 3, seen, stride=1 if options.small else 2, relu=nn.ReLU6)
    blocks: list[nn.Module] = []
    for position, (expansion, wanted, repeats, first) in enumerate(_STAGES):
        wide = channels(wanted * width)
        for repeat in range(repeats):
            halves = repeat == 0 and not (options.small and position == 1)
            blocks.append(InvertedResidual(seen, wide, first if halves else 1, expansion))
            seen = wide
    last = channels(1280 * (width if options.small else max(1.0, width)))
    parts = OrderedDict(
        stem=stem,
        blocks=nn.Sequential(*blocks),
        head=convolution(seen, last, 1, relu=nn.ReLU6),
        classifier=classifier(last, options.classes or 1000, options.dropout),
    )
    return initialised(nn.Sequential(parts))


FAMILY = Family("mobilenet_v2", MobileNetV2Options, make, "inverted residuals (images)")
