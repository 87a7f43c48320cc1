"""Findings as SARIF 2.1.0, each at the line of the rule it breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lwplugin import __version__
from lwplugin.policy.document import FleetPolicy
from lwplugin.policy.finding import Finding, Findings
from lwplugin.yaml_document import compose, line_of, read_text

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(found: Findings, policy: FleetPolicy, file: Path) -> str:
    """What does not hold; waived ones are suppressed results, as SARIF has them."""
    lines = _rule_lines(file)
    rules = [
        {
            "id": rule.name,
            "shortDescription": {"text": f"Budget rule {rule.name}"},
            "properties": {"owner": rule.owner, "severity": rule.severity},
        }
        for rule in policy.rules
    ]
    order = {rule.name: index for index, rule in enumerate(policy.rules)}
    driver = {"name": "lwplugin", "version": __version__, "rules": rules}
    results = [_result(finding, order, lines, file) for finding in found.not_passed()]
    run = {"tool": {"driver": driver}, "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _result(finding: Finding, order: dict[str, int], lines: list[int], file: Path) -> dict[str, Any]:
    index = order[finding.rule]
    blocks = finding.severity == "block"
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": "error" if blocks and finding.status == "fail" else "warning",
        "message": {"text": f"{finding.uri}: {finding.sentence}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": file.as_posix()},
                    "region": {"startLine": lines[index]},
                },
                "logicalLocations": [{"fullyQualifiedName": finding.uri, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"check/v1": f"{finding.uri} {finding.rule} {finding.check}"},
    }
    if finding.waived is not None:
        result["suppressions"] = [{"kind": "external", "justification": finding.waived}]
    return result


def _rule_lines(file: Path) -> list[int]:
    tree, document = compose(read_text(file, what="Policy", do=""), name=str(file), holds="policy", do="")
    return [line_of(tree, ("rules", index)) for index in range(len(document["rules"]))]
