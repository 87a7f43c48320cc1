"""Findings as JUnit XML: a suite per model, a test case per rule, version and check."""

from __future__ import annotations

from itertools import groupby
from xml.etree import ElementTree

from lwplugin.gate.junit import clean
from lwplugin.policy.finding import Finding, Findings


def junit_xml(found: Findings) -> str:
    """fail → failure, inconclusive → error; warnings and waived ones → skipped."""
    root = ElementTree.Element("testsuites", {"name": "lwplugin.check"})
    for model, findings in groupby(found.findings, key=lambda finding: finding.model):
        root.append(_suite(model, list(findings)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(model: str, findings: list[Finding]) -> ElementTree.Element:
    cases = [_case(finding) for finding in findings]
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    counts = {name: str(sum(case.find(tag) is not None for case in cases)) for name, tag in kinds.items()}
    suite = ElementTree.Element("testsuite", {"name": clean(model), "tests": str(len(cases)), **counts})
    suite.extend(cases)
    return suite


def _case(finding: Finding) -> ElementTree.Element:
    names = {"classname": clean(finding.uri), "name": clean(f"{finding.rule}: {finding.check}")}
    case = ElementTree.Element("testcase", names)
    if finding.status != "pass":
        tag = {"fail": "failure", "inconclusive": "error"}[finding.status] if finding.counts else "skipped"
        ElementTree.SubElement(case, tag, {"message": clean(finding.sentence)})
    return case
