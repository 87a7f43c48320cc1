"""How parent and light hold on corrupted copies, on the page and in the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwplugin.report import ReportInputs, write_report

Make = Callable[..., ReportInputs]


def rows(scored: bool) -> list[dict[str, Any]]:
    def row(kind: str, severity: int, before: float, after: float) -> dict[str, Any]:
        interval = {"low": after - before - 0.01, "high": after - before + 0.01, "confidence": 0.95}
        scores = {"baseline": before, "candidate": after, "lost": 12, "gained": 5, "difference": interval}
        return {"kind": kind, "severity": severity, "n": 1000, "agreement": 0.953} | (
            scores if scored else dict.fromkeys(scores)
        )

    return [
        row("clean", 0, 0.92, 0.913),
        *(row("noise", k, 0.92 - 0.05 * k, 0.91 - 0.08 * k) for k in (1, 3, 5)),
        *(row("blur", k, 0.92 - 0.02 * k, 0.91 - 0.03 * k) for k in (1, 3, 5)),
    ]


def written(make: Make, place: Path, scored: bool = True) -> str:
    comparison = dict(make().comparison) | {"corruptions": {"metric": "accuracy", "rows": rows(scored)}}
    write_report(make(comparison=comparison), place)
    return (place / "report.html").read_text(encoding="utf-8")


def test_each_corruption_has_a_chart_and_its_numbers(make: Make, tmp_path: Path) -> None:
    page = written(make, tmp_path)
    section = page[page.index('id="robustness"') : page.index('id="lineage"')]
    assert section.count("<svg") == 2
    assert section.count("<polyline") == 4
    assert "of 1,000 test examples" in section
    assert "51.00 %" in section  # light under the worst noise: 0.91 - 5 × 0.08
    assert "−16.00 pp (−17.00 pp to −15.00 pp)" in section  # 0.51 - 0.67
    assert "95.0 % confidence" in section
    assert "95.30 %" in section
    content = json.loads((tmp_path / "report.json").read_text())
    assert len(content["comparison"]["corruptions"]["rows"]) == 7


def test_without_labels_the_chart_is_of_agreement(make: Make, tmp_path: Path) -> None:
    page = written(make, tmp_path, scored=False)
    section = page[page.index('id="robustness"') : page.index('id="lineage"')]
    assert "There are no labels" in section
    assert section.count("<polyline") == 2
    assert "None" not in section


def test_nothing_is_shown_where_nothing_was_asked_for(make: Make, tmp_path: Path) -> None:
    write_report(make(), tmp_path)
    assert 'id="robustness"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
