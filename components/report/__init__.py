"""report: everything a run made for a target → one HTML page, a model card and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.components.family import DataConfig, examples
from lwplugin.components.step import Step
from pydantic import Field

from lwplugin.progress import Progress
from lwplugin.registry import Resolved

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.gate import Verdict

_EXAMPLES = 24
_NUMBERS = 32  # features of a vector that a person would read


class Config(DataConfig):
    """What the page is about."""

    parent: Resolved = Field(description="the version it was made from")
    target: dict[str, Any] = Field(description="the recipe's target")
    recipe: dict[str, Any] = Field(description="the whole recipe, as it was carried out")


def run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    import yaml

    from lwplugin.data import load as load_data
    from lwplugin.gate import load_verdict
    from lwplugin.measure import load_comparison
    from lwplugin.report import ReportInputs, write_report

    progress("report", 0, None)
    light = _read(inputs["light"] / "bundle" / "model.json")
    comparison, verdict = load_comparison(inputs["comparison"]), load_verdict(inputs["verdict"])
    report = ReportInputs(
        name=config.parent.name,
        parent={"name": config.parent.name, "version": config.parent.version, **(light["source"] or {})},
        candidate=_read(inputs["export"] / "export" / "export.json"),
        history=light["history"],
        cost_before=_read(inputs["parent_export"] / "cost.json"),
        cost_after=_read(inputs["export"] / "cost.json"),
        comparison=comparison,
        scores=comparison.scores,
        verdict=verdict,
        recipe=yaml.safe_dump(_brief(config.recipe), sort_keys=False, allow_unicode=True),
        target=config.target,
        **_flipped(load_data(config.data, config.task), verdict),
    )
    write_report(report, output)


def _flipped(data: Data, verdict: Verdict) -> dict[str, Any]:
    """Pictures or texts of examples that changed sides, those that were lost first, and their ids.

    Images are shown as pictures, texts as text, and plain vectors by their numbers; other examples not at all.
    """
    import numpy as np
    import torch

    flips, split = verdict.flips, data.test
    if flips is None or split is None:
        return {}
    wanted = list(dict.fromkeys([*flips.lost_ids, *flips.gained_ids, *flips.changed_ids]))[:_EXAMPLES]
    if not wanted:
        return {}
    texts = split.texts(np.array(wanted))
    if texts is not None:
        return {"flips_texts": texts, "flips_text_ids": wanted}
    rows = next(split.subset(np.array(wanted)).batches(len(wanted))).inputs
    if not isinstance(rows, torch.Tensor):
        return {}
    if rows.ndim == 4 and rows.shape[1] in (1, 3):
        return {"flips_images": rows.numpy(), "flips_image_ids": wanted}
    if rows.ndim == 2 and rows.shape[1] <= _NUMBERS:
        told = [", ".join(f"{value:.4g}" for value in row) for row in rows.tolist()]
        return {"flips_texts": told, "flips_text_ids": wanted}
    return {}


def _brief(document: Any) -> Any:
    """Without what was left out of the recipe and has no default: readable."""
    if isinstance(document, dict):
        return {key: _brief(value) for key, value in document.items() if value not in (None, {}, [])}
    return [_brief(item) for item in document] if isinstance(document, list) else document


def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


STEP = Step(
    name="report",
    config=Config,
    inputs=("light", "export", "parent_export", "comparison", "verdict"),
    run=run,
    summary="Draw what a run made for a target: HTML page, model card, JSON.",
    writes={
        "report.html": "one page, no external requests",
        "model_card.md": "for the registry",
        "report.json": "the same as data",
        "junit.xml": "the checks, for CI",
    },
    packages=("matplotlib",),
    context=examples,
)
