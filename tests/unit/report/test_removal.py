"""What went, channel by channel, what it cost, how sensitive the layers are, and which texts flipped."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwplugin.errors import DataError
from lwplugin.report import ReportInputs, write_report

Make = Callable[..., ReportInputs]


def pruned(**details: Any) -> list[dict[str, Any]]:
    group = {
        "name": "stage1.conv1",
        "unit_channels": 1,
        "units_before": 8,
        "units_after": 5,
        "removed": [1, 4, 6],
        "importance": [0.9, 0.01, 0.5, 0.4, 0.02, 0.7, 0.03, 0.3],
        "importance_lost": 0.021,
    }
    return [{"step": "prune", "method": "reconstruct", "details": {"removed": [group], **details}}]


def section(make: Make, place: Path, name: str, **parts: Any) -> str:
    write_report(make(**parts), place)
    page = (place / "report.html").read_text(encoding="utf-8")
    start = page.index(f'id="{name}"')
    return page[start : page.index("</section>", start)]


def test_every_channel_is_drawn_and_those_that_went_are_marked(make: Make, tmp_path: Path) -> None:
    drawn = section(make, tmp_path, "removed", history=pruned())
    kept, gone = (re.search(rf'<path class="{name}" d="([^"]*)"', drawn) for name in ("kept", "gone"))
    assert kept is not None
    assert gone is not None
    assert kept[1].count("M") == 5
    assert gone[1].count("M") == 3
    assert drawn.count('<rect class="gone"') == 3
    assert "8 → 5" in drawn
    assert "2.1 %" in drawn
    assert "sensitive" not in drawn


def test_a_wide_layer_is_put_together_in_neighbourhoods(make: Make, tmp_path: Path) -> None:
    history = pruned()
    group = history[0]["details"]["removed"][0]
    group |= {
        "importance": [1.0] * 3072,
        "removed": list(range(1536)),
        "units_before": 3072,
        "units_after": 1536,
    }
    drawn = section(make, tmp_path, "removed", history=history)
    assert drawn.count('<rect class="gone"') == 64
    assert len(drawn) < 20_000


def test_sensitivity_and_repair_are_shown_with_the_point_that_was_cut(make: Make, tmp_path: Path) -> None:
    lines = [
        {"name": "stage1.conv1", "fractions": [0, 0.25, 0.5, 1], "errors": [0, 0.01, 0.09, 1]},
        {"name": "stage1.<conv2>", "fractions": [0, 1], "errors": [0, 1]},
        {"name": "broken", "fractions": [0, 1], "errors": [0, "NaN"]},
    ]
    repair = [{"name": "stage1.conv2", "error_before": 0.175, "error_after": 0.0039}]
    drawn = section(make, tmp_path, "removed", history=pruned(sensitivity=lines, repair=repair))
    assert drawn.count("<title>") == 2
    assert "stage1.&lt;conv2&gt;" in drawn
    assert "0.05" in drawn  # 3 of 8 gone: half way between 0.01 and 0.09
    assert "0.175" in drawn
    assert "0.0039" in drawn


def test_texts_that_flipped_are_shown_and_bounded(make: Make, tmp_path: Path) -> None:
    base = make()
    ids = list(base.verdict.flips.lost_ids)
    many = [ids[k % len(ids)] for k in range(30)]
    texts = ["<b>too</b> good", *("x" * 5000 for _ in many[1:])]
    drawn = section(
        make,
        tmp_path,
        "flips",
        flips_texts=texts,
        flips_text_ids=many,
        flips_images=None,
        flips_image_ids=None,
    )
    assert "&lt;b&gt;too&lt;/b&gt; good" in drawn
    assert drawn.count('class="said"') == 24
    assert "x" * 399 + "…" in drawn
    assert "x" * 401 not in drawn
    assert "lost" in drawn
    with pytest.raises(DataError, match="30 texts, 1 ids"):
        write_report(make(flips_texts=texts, flips_text_ids=[1]), tmp_path)
