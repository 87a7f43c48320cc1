"""Findings as a comment for a pull request."""

from __future__ import annotations

import re

from lwplugin.policy.finding import Finding, Findings

# A bot finds its earlier comment by this line and replaces it.
MARKER = "<!-- lwplugin check -->"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~])")
_SHOWN = 50


def markdown(found: Findings) -> str:
    """A headline and a table of what does not hold; at most 50 rows, the rest counted."""
    word = {"pass": "✅ Budgets hold", "fail": "❌ Budgets broken", "inconclusive": "❓ Not shown to hold"}
    lines = [MARKER, f"### {word[found.status]}", "", _text(found.reason), ""]
    rows = list(found.not_passed())
    if rows:
        lines += ["| | version | rule | finding | owner |", "|---|---|---|---|---|"]
        lines += [_row(finding) for finding in rows[:_SHOWN]]
        if len(rows) > _SHOWN:
            lines += ["", f"… and {len(rows) - _SHOWN} more."]
    return "\n".join(lines).rstrip() + "\n"


def _row(finding: Finding) -> str:
    sign = "waived" if finding.waived else "warning" if finding.severity == "warn" else finding.status
    cells = [sign, finding.uri, f"{finding.rule}, {finding.check}", finding.sentence, finding.owner or "–"]
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(text: str) -> str:
    """Literally this text, on one line: names come from a registry anyone may write to."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("@", "@\u200b")
