"""Decides, with statistics, whether a candidate is good enough to take its parent's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.gate.policy import Budget as Budget
from lwplugin.gate.policy import Policy as Policy
from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.gate.judge import gate as gate
    from lwplugin.gate.junit import junit_xml as junit_xml
    from lwplugin.gate.verdict import Check as Check
    from lwplugin.gate.verdict import Flips as Flips
    from lwplugin.gate.verdict import Verdict as Verdict
    from lwplugin.gate.verdict import load_verdict as load_verdict

# The recipe needs only the policy's schema; scipy is loaded when something is judged.
__getattr__, __all__ = lazily(
    __name__,
    {
        "verdict": "Check Flips Verdict load_verdict",
        "judge": "gate",
        "junit": "junit_xml",
    },
)
__all__ += ["Budget", "Policy"]
