"""Writes a report's files into a directory."""

from __future__ import annotations

from pathlib import Path

from lwplugin.gate.junit import junit_xml
from lwplugin.gate.verdict import Verdict
from lwplugin.report.inputs import Content, ReportInputs, canonical
from lwplugin.report.page import card, html
from lwplugin.report.summary import summary

PAGE, CARD, DATA, JUNIT = "report.html", "model_card.md", "report.json", "junit.xml"


def write_report(inputs: ReportInputs, directory: Path | str) -> Path:
    """Write report.html, model_card.md, report.json and, where there is a verdict, junit.xml; the page's path.

    The same inputs give the same bytes. Raises DataError where parts of the inputs contradict each other, and
    pydantic's ValidationError where ``verdict`` is not one.
    """
    content = Content.of(inputs)
    texts = {PAGE: html(content), CARD: card(content), DATA: canonical(summary(content))}
    if content.verdict:
        texts[JUNIT] = junit_xml(Verdict.model_validate(content.verdict), name=f"lwplugin.gate.{inputs.name}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory / PAGE
