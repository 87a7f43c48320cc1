"""A layer that became a product of smaller ones is one row with its parts' costs together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwplugin.report import ReportInputs, write_report


def layer(name: str, kind: str, params: int) -> dict[str, Any]:
    return {"name": name, "kind": kind, "params": params, "macs": 7 * params, "size_bytes": 4 * params}


def cost(*layers: dict[str, Any]) -> dict[str, Any]:
    return {key: sum(each[key] for each in layers) for key in ("params", "macs", "size_bytes")} | {
        "layers": list(layers)
    }


def test_a_product_is_one_row_and_its_rank_and_error_are_shown(
    make: Callable[..., ReportInputs], tmp_path: Path
) -> None:
    row = {
        "name": "query",
        "type": "Linear",
        "form": "channel",
        "rank_before": 384,
        "rank_after": 104,
        "error": 0.0321,
        "shape_before": [384, 384],
        "shape_after": [384, 104, 384],
        "parts": ["query.0", "query.1"],
    }
    inputs = make(
        cost_before=cost(layer("query", "Linear", 147_456), layer("head", "Linear", 3_840)),
        cost_after=cost(
            layer("query.0", "QuantLinear", 39_936),
            layer("query.1", "QuantLinear", 40_320),
            layer("head", "Linear", 3_840),
        ),
        history=[{"step": "factorize", "method": "svd", "details": {"layers": [row], "left_alone": []}}],
    )
    write_report(inputs, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    layers = page[page.index('id="layers"') : page.index("</section>", page.index('id="layers"'))]
    assert "QuantLinear · QuantLinear" in layers
    assert "384×104×384" in layers
    assert "80.3 k" in layers
    assert "query.0" not in layers
    assert "0.0321" in page
