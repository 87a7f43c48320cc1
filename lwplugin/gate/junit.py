"""A verdict as JUnit XML, so that any CI shows its checks as tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from lwplugin.gate.verdict import Check, Verdict

# XML 1.0 has no way to write these, escaped or not.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(verdict: Verdict, *, name: str = "lwplugin.gate") -> str:
    """One test case a check: fail → failure, error and inconclusive → error, not required → skipped."""
    cases = [_case(check, name) for check in verdict.checks]
    suite = ElementTree.Element(
        "testsuite",
        {
            "name": clean(name),
            "tests": str(len(cases)),
            "failures": str(sum(case.find("failure") is not None for case in cases)),
            "errors": str(sum(case.find("error") is not None for case in cases)),
            "skipped": str(sum(case.find("skipped") is not None for case in cases)),
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in (
        ("status", verdict.status),
        ("reason", verdict.reason),
        ("digest", verdict.digest),
        ("candidate_digest", verdict.candidate_digest),
        ("baseline_digest", verdict.baseline_digest),
    ):
        ElementTree.SubElement(properties, "property", {"name": key, "value": clean(str(value or ""))})
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(check: Check, suite: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": clean(suite), "name": clean(check.name)})
    message = clean(check.message)
    if check.status == "pass":
        pass
    elif not check.required:
        ElementTree.SubElement(case, "skipped", {"message": f"not required: {message}"})
    elif check.status == "fail":
        ElementTree.SubElement(case, "failure", {"message": message, "type": "fail"})
    else:
        ElementTree.SubElement(case, "error", {"message": message, "type": check.status})
    numbers = ", ".join(
        f"{key}={value:g}"
        for key in ("estimate", "low", "high", "limit", "n")
        if (value := getattr(check, key)) is not None
    )
    ElementTree.SubElement(case, "system-out").text = f"{check.status}: {message} ({numbers or 'no numbers'})"
    return case


def clean(text: str) -> str:
    """Without the characters XML cannot hold."""
    return _UNWRITABLE.sub("�", text)
