"""What the gate answers: one status, every check with its numbers, and a digest that seals them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwplugin.artifact import digest_json
from lwplugin.errors import GateError
from lwplugin.gate.policy import Budget, Policy

Status = Literal["pass", "fail", "inconclusive", "error"]
EXIT_CODES: dict[Status, int] = {"pass": 0, "fail": 1, "error": 2, "inconclusive": 3}
# The first of these found among the required checks is the verdict.
SEVERITY: tuple[Status, ...] = ("error", "fail", "inconclusive")
FILE_NAME = "verdict.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Check(_Frozen):
    """One question the gate asked. Bounds are one-sided at the policy's confidence; None: not known."""

    name: str = Field(description="Stable name: `accuracy`, `slice:label=3:accuracy`, `budget:p95_ms`.")
    status: Status
    metric: str = Field(description="What was looked at, with its unit in the name.")
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    n: int | None = Field(default=None, description="Examples or samples the estimate rests on.")
    message: str = Field(description="The answer in one sentence, with the way out where there is one.")
    required: bool = Field(default=True, description="False: reported, not held against the candidate.")


class Flips(_Frozen):
    """Which examples changed sides. Ids are those of the test split, worst first, capped."""

    n: int
    same_answer: float | None = Field(description="Mean agreement with the parent, 0 to 1.")
    gained: int = Field(description="Candidate right (or better) where the parent was not.")
    lost: int = Field(description="Parent right (or better) where the candidate is not.")
    changed: int | None = Field(description="Examples with another answer than the parent's, right or wrong.")
    gained_ids: tuple[int, ...] = ()
    lost_ids: tuple[int, ...] = ()
    changed_ids: tuple[int, ...] = ()
    mcnemar_p: float | None = Field(
        default=None,
        description="Two-sided exact p-value of `as many gained as lost`; right/wrong scores only.",
    )


class Verdict(_Frozen):
    """The gate's answer about one candidate; a pure function of what it was given (it holds no time)."""

    schema_version: Literal[1] = 1
    status: Status
    reason: str = Field(description="The status explained in one sentence.")
    checks: tuple[Check, ...]
    flips: Flips | None = None
    candidate_digest: str | None
    baseline_digest: str | None
    policy: Policy
    budget: Budget
    digest: str = Field(description="sha256 over all else in here that is not as by default.")

    def __str__(self) -> str:
        """The status, the reason and a line for every check; the fields are in ``repr``."""
        lines = [
            f"{check.name}: {check.status}{'' if check.required else ', not required'}. {check.message}"
            for check in self.checks
        ]
        return "\n".join([f"{self.status.upper()}. {self.reason}", *lines])

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 2 error, 3 inconclusive: what the command line exits with."""
        return EXIT_CODES[self.status]

    @classmethod
    def of(
        cls,
        checks: list[Check],
        *,
        flips: Flips | None,
        candidate_digest: str | None,
        baseline_digest: str | None,
        policy: Policy,
        budget: Budget,
    ) -> Verdict:
        """Draw the status and the reason from ``checks`` and seal the whole with its digest."""
        status = status_of(checks)
        fields = {
            "status": status,
            "reason": _reason(status, checks),
            "checks": tuple(checks),
            "flips": flips,
            "candidate_digest": candidate_digest,
            "baseline_digest": baseline_digest,
            "policy": policy,
            "budget": budget,
        }
        unsealed = cls.model_validate({**fields, "digest": ""})
        return unsealed.model_copy(update={"digest": unsealed._seal()})

    def verify(self) -> None:
        """Raise GateError where the verdict was changed after it was sealed, or contradicts its checks."""
        if self._seal() != self.digest:
            raise GateError(
                "The verdict does not match its own digest",
                got=f"{self._seal()[:16]}…, recorded {self.digest[:16]}…",
                do="run the gate again; a verdict is never edited",
            )
        if status_of(list(self.checks)) != self.status:
            raise GateError(
                "The verdict's status does not follow from its checks",
                got=f"{self.status}, the checks say {status_of(list(self.checks))}",
                do="run the gate again",
            )

    def save(self, path: Path | str) -> Path:
        """Write the verdict as JSON: into the directory ``path``, or as the file where it ends in .json."""
        path = Path(path)
        file = path if path.suffix == ".json" else path / FILE_NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return file

    def _seal(self) -> str:
        # A field that a later release adds leaves the seal of what does not use it.
        return digest_json(self.model_dump(mode="json", exclude={"digest"}, exclude_defaults=True))


def load_verdict(path: Path | str) -> Verdict:
    """Read and verify a verdict. Raises GateError where it is missing, malformed or was changed."""
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    try:
        verdict = Verdict.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GateError("There is no verdict", got=str(file), do="run the gate first") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise GateError(f"{file.name} is not a verdict", got=error, do="run the gate again") from error
    verdict.verify()
    return verdict


def status_of(checks: list[Check]) -> Status:
    """error > fail > inconclusive > pass among the required checks; without any, error."""
    found = {check.status for check in checks if check.required}
    if not found:
        return "error"
    return next((status for status in SEVERITY if status in found), "pass")


def _reason(status: Status, checks: list[Check]) -> str:
    required = [check for check in checks if check.required]
    if not required:
        return "Nothing was checked, and what is not checked does not pass."
    if status == "pass":
        held = f"All {len(required)} checks hold." if len(required) > 1 else "The one check holds."
        missed = [check.name for check in checks if not check.required and check.status == "fail"]
        return f"{held} Failed and not required: {', '.join(missed)}." if missed else held
    those = [check for check in required if check.status == status]
    word = {"error": "in error", "fail": "failed", "inconclusive": "inconclusive"}[status]
    more = f" ({len(those) - 1} more {word})" if len(those) > 1 else ""
    return f"{those[0].message}{more}"
