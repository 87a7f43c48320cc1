from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pydantic import ValidationError

from lwplugin.errors import DataError
from lwplugin.gate import Policy, Verdict
from lwplugin.report import ReportInputs, units, write_report
from lwplugin.report.images import data_uri

Make = Callable[..., ReportInputs]
VOID = {"meta", "link", "img", "br", "hr", "input", "line", "circle", "path", "polyline"}
HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>|`*_[x](javascript:alert(3))&amp;\x00"


class Page(HTMLParser):
    """Fails on tags that do not nest; keeps every tag, attribute and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not (self.open and self.open[-1] == "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(inputs: ReportInputs, directory: Path) -> Page:
    write_report(inputs, directory)
    return Page((directory / "report.html").read_text(encoding="utf-8"))


def test_the_page_says_what_a_reader_asks(make: Make, tmp_path: Path) -> None:
    page = page_of(make(), tmp_path)
    for expected in (
        "✓ Pass",
        "All 15 checks hold",
        "1.09 MB",
        "171 kB",
        "6.37× smaller",
        "2.28× (2.21 to 2.36)",
        "unavailable: this machine shows no energy counter",
        "the drop of accuracy is at most",
        "tied to the residual stream",
        "9 were lost",
        "6 gained",
        "label = 3",
        "models:/synthetic-cnn/3",
        "Synthetic CPU",
        "compress:",
        "truth class",
    ):
        assert expected.lower() in page.text.lower(), expected


def test_it_says_where_the_time_goes_before_and_after(make: Make, tmp_path: Path) -> None:
    page = page_of(make(), tmp_path)
    section = page.text.partition("Where the time goes")[2].partition("Layer by layer")[0]
    assert "stage1.block0.conv1 Conv2d 0.59 ms 0.236 ms" in section
    assert "(ReduceMean) ReduceMean 0.1 ms – –" in section
    rows = json.loads((tmp_path / "report.json").read_text())["layer_times"]
    assert [row["name"] for row in rows][-2:] == ["(ReduceMean)", "(GlobalAveragePool)"]
    assert rows[-1]["before_ms"] is None
    assert rows[1]["after_ms"] == pytest.approx(0.4 * rows[1]["before_ms"])


def test_asked_for_extras_stand_beside_the_latency(make: Make, tmp_path: Path) -> None:
    comparison = dict(make().comparison)
    for side, rate, ms in (("baseline", 900.0, 70.0), ("candidate", 2100.0, 60.0)):
        offline = {
            "batch": 64,
            "examples_per_s": rate,
            "examples_per_s_low": rate,
            "examples_per_s_high": rate,
        }
        comparison[side] = {**comparison[side], "throughput": offline, "cold_start": {"total_ms": ms}}
    comparison["throughput_speedup"] = {"estimate": 2.31, "low": 2.2, "high": 2.4}
    page = page_of(make(comparison=comparison), tmp_path)
    assert "Offline throughput 900 /s batches of 64 2,100 /s batches of 64 2.31×" in page.text
    assert "Cold start 70 ms 60 ms" in page.text


@pytest.mark.parametrize(("lost", "word"), [(160, "✕ Fail"), (40, "? Inconclusive")])
def test_the_banner_gives_the_reason(make: Make, tmp_path: Path, lost: int, word: str) -> None:
    inputs = make(lost=lost, policy=Policy(max_drop={"accuracy": 0.01}))
    page = page_of(inputs, tmp_path)
    assert word in page.text
    assert Verdict.model_validate(inputs.verdict).reason in page.text


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(make: Make, tmp_path: Path) -> None:
    page = page_of(make(), tmp_path)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in {"src", "href", "xlink:href", "action", "srcset", "poster"}:
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"url\(|@import|https?://", html)


def test_links_within_the_page_lead_somewhere(make: Make, tmp_path: Path) -> None:
    page = page_of(make(), tmp_path)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for tag, a in page.tags if tag == "a"} <= set(ids)


def test_hostile_names_stay_text(make: Make, tmp_path: Path) -> None:
    base = make()
    verdict = Verdict.model_validate(base.verdict)
    checks = [verdict.checks[0].model_copy(update={"name": HOSTILE, "message": HOSTILE}), *verdict.checks[1:]]
    hostile = Verdict.of(
        checks,
        flips=verdict.flips,
        candidate_digest=HOSTILE,
        baseline_digest="a",
        policy=verdict.policy,
        budget=verdict.budget,
    )
    layer = {"name": HOSTILE, "type": HOSTILE, "shape_before": [HOSTILE], "shape_after": [1], "note": HOSTILE}
    page = page_of(
        make(
            name=HOSTILE,
            parent={"uri": HOSTILE},
            recipe=HOSTILE,
            environment={HOSTILE: HOSTILE},
            notes=[HOSTILE],
            verdict=hostile,
            labels=[HOSTILE] * 10,
            history=[
                {
                    "step": HOSTILE,
                    "method": HOSTILE,
                    "config": {HOSTILE: HOSTILE},
                    "metrics": {HOSTILE: 1.0},
                    "details": {"layers": [layer], "left_alone": {HOSTILE: HOSTILE}, "removed": [HOSTILE]},
                }
            ],
        ),
        tmp_path,
    )
    assert not any(tag == "script" for tag, _ in page.tags)
    assert all(str(a.get("src", "data:")).startswith("data:") for _, a in page.tags)
    assert not any(key.startswith("on") for _, a in page.tags for key in a)
    assert "<script>alert(1)</script>" in page.text
    card = (tmp_path / "model_card.md").read_text()
    assert "<" not in card
    assert not re.search(r"(?<!\\)\]\(", card)
    rows = [line for line in card.splitlines() if line.startswith("| ") and "alert" in line]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in rows)
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"


PARTS = [
    "parent",
    "candidate",
    "history",
    "cost_before",
    "cost_after",
    "comparison",
    "scores",
    "verdict",
    "recipe",
    "target",
    "environment",
    "flips_images",
    "labels",
    "notes",
]


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_missing(make: Make, tmp_path: Path, part: str) -> None:
    gone: dict[str, Any] = {part: () if part in {"history", "notes"} else None}
    if part == "flips_images":
        gone["flips_image_ids"] = None
    page = page_of(make(**gone), tmp_path)
    assert "None" not in page.text
    assert "undefined" not in page.text.lower()
    assert (tmp_path / "junit.xml").exists() == (part != "verdict")


def test_an_empty_report_claims_nothing(tmp_path: Path) -> None:
    page = page_of(ReportInputs(name="nothing"), tmp_path)
    assert "Not judged" in page.text
    assert "nothing on this page says that the candidate is good enough" in page.text
    assert "Pass" not in page.text
    assert "Nothing was measured" in (tmp_path / "model_card.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["status"] is None


def test_the_json_holds_the_verdict_and_the_numbers(make: Make, tmp_path: Path) -> None:
    inputs = make()
    write_report(inputs, tmp_path)
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    verdict = Verdict.model_validate(content["verdict"])
    verdict.verify()
    assert verdict == inputs.verdict
    assert content["comparison"]["candidate"]["size_bytes"] == 171_000
    assert content["cost"]["after"]["params"] < content["cost"]["before"]["params"]
    assert len(content["slices"]) == 10
    assert content["layers"][1]["shape_after"] == "24×32×3×3"


def test_what_is_not_finite_is_written_and_shown(make: Make, tmp_path: Path) -> None:
    inputs = make()
    comparison = json.loads(json.dumps(inputs.comparison))
    comparison["candidate"]["latency"]["p95_high_ms"] = float("inf")
    comparison["candidate"]["metrics"]["accuracy"] = float("nan")
    page = page_of(make(comparison=comparison), tmp_path)
    assert "to not bounded" in page.text
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert content["comparison"]["candidate"]["latency"]["p95_high_ms"] == "Infinity"


def test_the_same_inputs_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(make(), tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["junit.xml", "model_card.md", "report.html", "report.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_noisy_machine_is_said_where_the_times_stand(make: Make, tmp_path: Path) -> None:
    comparison = dict(make().comparison) | {"noisy": True, "noise_reason": "two processes of one file differ"}
    assert (
        "too noisy for its times to count: two processes"
        in page_of(make(comparison=comparison), tmp_path).text
    )


def test_images_are_real_pngs(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.arange(48.0).reshape(3, 4, 4)
    uri = data_uri(pixels)
    image = image_module.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (image.size, image.mode) == ((4, 4), "RGB")
    assert image.getpixel((0, 0))[0] == 0
    assert image.getpixel((3, 3))[2] == 255
    assert data_uri(np.full((1, 2, 2), np.nan)).startswith("data:image/png")


def test_parts_that_contradict_each_other_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="12 images, 1 ids"):
        write_report(make(flips_image_ids=[1]), tmp_path)
    with pytest.raises(DataError, match="channels, height, width"):
        write_report(make(flips_images=np.zeros((3, 4))), tmp_path)
    with pytest.raises(ValidationError):
        write_report(make(verdict={"status": "pass"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.000123, "0.000123"), (1.0, "1"), (999.5, "1,000"), (-2.5, "−2.5"), (1e-7, "1.00e−07")],
)
def test_numbers_are_written_one_way(value: float, text: str) -> None:
    assert units.significant(value) == text
