"""What a check of the policy found, one line per rule, version and limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

Status = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One limit of one rule, held against one version.

    ``value`` is what was measured, ``bound`` the confidence bound it was judged on (None: exact),
    ``excess`` how far the value lies over the limit, in the metric's own unit.
    """

    model: str
    version: int
    target: str | None
    rule: str
    check: str
    status: Status
    message: str
    severity: Literal["block", "warn"]
    owner: str
    value: float | None = None
    bound: float | None = None
    limit: float | None = None
    excess: float | None = None
    waived: str | None = None
    instead: str | None = None

    @property
    def uri(self) -> str:
        return f"models:/{self.model}/{self.version}"

    @property
    def counts(self) -> bool:
        """Is it held against the whole?"""
        return self.status != "pass" and self.severity == "block" and self.waived is None

    @property
    def sentence(self) -> str:
        """The message with the version that would do, and the waiver."""
        parts = [self.message]
        if self.instead is not None:
            parts.append(f"{self.instead} meets this rule.")
        if self.waived is not None:
            parts.append(f"Waived {self.waived}.")
        return " ".join(parts)


@dataclass(frozen=True)
class Findings:
    """All findings of one evaluation."""

    findings: tuple[Finding, ...]
    versions: int
    policy_digest: str

    @property
    def status(self) -> Status:
        """fail > inconclusive > pass over what blocks; inconclusive where no rule spoke of any version."""
        found = {finding.status for finding in self.findings if finding.counts}
        if "fail" in found:
            return "fail"
        return "pass" if self.findings and not found else "inconclusive"

    @property
    def exit_code(self) -> int:
        return {"pass": 0, "fail": 1, "inconclusive": 3}[self.status]

    @property
    def reason(self) -> str:
        """The status in one sentence."""
        if not self.findings:
            if not self.versions:
                return "The registry holds no such version."
            return f"No rule of the policy speaks of the {self._looked_at} looked at."
        counts = [finding for finding in self.findings if finding.counts]
        if not counts:
            noted = sum(finding.status != "pass" for finding in self.findings)
            more = f" ({noted} warned of or waived)" if noted else ""
            return f"All {len(self.findings)} checks on {self._looked_at} hold{more}."
        status = self.status  # once: it looks at every finding
        worst = [finding for finding in counts if finding.status == status]
        more = f" ({len(worst) - 1} more)" if len(worst) > 1 else ""
        return f"{worst[0].uri}: {worst[0].sentence}{more}"

    @property
    def _looked_at(self) -> str:
        return f"{self.versions} version{'' if self.versions == 1 else 's'}"

    def not_passed(self) -> Sequence[Finding]:
        """Violations first, then what is not known, then warnings and waived ones."""
        order = {"fail": 0, "inconclusive": 1}
        found = [finding for finding in self.findings if finding.status != "pass"]
        return sorted(found, key=lambda f: (not f.counts, order[f.status], f.model, f.version))

    def document(self, *, everything: bool = True) -> dict[str, Any]:
        """JSON-able."""
        shown = self.findings if everything else self.not_passed()
        names = [entry.name for entry in fields(Finding)]  # `asdict` copies deeply, at many times the cost
        return {
            "status": self.status,
            "reason": self.reason,
            "versions": self.versions,
            "policy_digest": self.policy_digest,
            "findings": [
                {"uri": finding.uri, **{name: getattr(finding, name) for name in names}} for finding in shown
            ],
        }
