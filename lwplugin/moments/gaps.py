"""What layers should answer where whole residual blocks are gone.

What those blocks added to the residual stream is left to the layers around the gap. The last before it aims half way at
the sum after it, so that it and the next that goes into a sum each make up for half: squared, two halves of an error
are less than a whole. Whether that pays is for the caller to see: it did on trained nets, on a random one it did not.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import Tensor

from lwplugin.moments.responses import Response


def half_way_sums(responses: Mapping[str, Response], present: Container[str]) -> dict[str, Tensor]:
    """Of each layer before a gap its sum, half way to the one after the layers that are not ``present``.

    Only where a layer further on goes into a sum: what is behind the last one has no second half to make up for.
    """
    order, found = list(responses), {}
    for name, response in responses.items():
        gone, then = None, response.then
        while then is not None and then in responses and then not in present:
            gone, then = then, responses[then].then
        if name not in present or gone is None or response.total is None:
            continue
        beyond, later = responses[gone].total, order[order.index(gone) :]
        if beyond is not None and any(n in present and responses[n].total is not None for n in later):
            found[name] = (response.total + beyond) / 2
    return found
