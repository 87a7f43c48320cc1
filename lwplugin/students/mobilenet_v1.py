"""MobileNetV1: depthwise and pointwise convolutions in turn (Howard 2017, 1704.04861)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

from lwplugin.students.convolution import channels, classifier, convolution, initialised
from lwplugin.students.options import Family, ImageOptions

# Channels and stride of each block.
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class MobileNetV1Options(ImageOptions):
    """Options of `mobilenet_v1`."""

    family: Literal["mobilenet_v1"] = "mobilenet_v1"


def make(options: MobileNetV1Options) -> nn.Module:
    """4,231,976 parameters at width 1. The small stem leaves the first two halvings out: 8 times smaller maps."""
    width = options.width or 1.0
    seen = channels(32 * width)
    stem = convolution(options.channels or 3, seen, stride=1 if options.small else 2)
    blocks: list[nn.Module] = []
    for position, (wanted, stride) in enumerate(_BLOCKS):
        wide = channels(wanted * width)
        keep = options.small and position == 1
        depthwise = convolution(seen, seen, 3, 1 if keep else stride, groups=seen)
        blocks.append(nn.Sequential(depthwise, convolution(seen, wide, 1)))
        seen = wide
    parts = OrderedDict(
        stem=stem,
        blocks=nn.Sequential(*blocks),
        classifier=classifier(seen, options.classes or 1000, options.dropout),
    )
    return initialised(nn.Sequential(parts))


FAMILY = Family(
    "mobilenet_v1", MobileNetV1Options, make, "depthwise and pointwise convolutions in turn (images)"
)
