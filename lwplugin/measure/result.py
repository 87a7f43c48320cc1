"""What a measurement says: pydantic models whose JSON is the report's and the gate's input.

Units are in the names. An interval end that cannot be bounded is None, never a guess.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Result):
    """A number with its confidence interval."""

    estimate: float
    low: float | None = Field(description="None where the data do not bound it")
    high: float | None = Field(description="None where the data do not bound it")
    confidence: float = Field(description="two-sided")


class Latency(Result):
    """Wall time of one inference of ``batch`` examples, as the caller sees it on an undisturbed CPU."""

    p50_ms: float
    p50_low_ms: float | None
    p50_high_ms: float | None = Field(description="None where there were too few runs to bound it")
    p95_ms: float
    p95_low_ms: float | None
    p95_high_ms: float | None = Field(description="None where there were too few runs to bound it")
    p90_ms: float | None = Field(default=None, description="what MLPerf's single stream reports")
    p90_low_ms: float | None = None
    p90_high_ms: float | None = None
    p99_ms: float | None = None
    p99_low_ms: float | None = None
    p99_high_ms: float | None = Field(default=None, description="None under 368 independent runs")
    confidence: float = Field(description="two-sided, of all intervals")
    n: int = Field(description="timed runs that other work did not interrupt")
    samples_ms: list[float] = Field(
        repr=False, description="the runs, in order, evenly thinned to at most 2,000"
    )


class Throughput(Result):
    """Offline: back to back batches, all examples at hand (MLPerf's offline scenario on these inputs)."""

    batch: int
    examples_per_s: float
    examples_per_s_low: float | None
    examples_per_s_high: float | None
    confidence: float = Field(description="two-sided")
    n: int = Field(description="timed batches")


class ColdStart(Result):
    """In a fresh process with the file dropped from the page cache; medians over the starts."""

    import_ms: float = Field(description="importing the runtime, whose own files may be cached")
    load_ms: float
    first_ms: float = Field(description="the first inference")
    total_ms: float
    n: int = Field(description="starts")


class Kernel(Result):
    """One kernel of the runtime in one inference."""

    name: str = Field(description="the runtime's own")
    layer: str | None = Field(description="module of the model that it computes, where the file tells")
    kind: str = Field(description="operator")
    kernel: str = Field(description="implementation, where the runtime names it")
    provider: str
    ms: float
    share: float


class Profile(Result):
    """Where the time goes, from the runtime's own profiler, in a session of its own."""

    kernels: list[Kernel] = Field(description="in the order of execution")
    total_ms: float = Field(description="of all kernels; the profiler's clock adds to it")
    runs: int
    fallback: float = Field(description="share of the time that did not run on the device that was asked for")
    fallback_kinds: list[str] = Field(description="operators that did not")


class Energy(Result):
    """Energy per inference of ``batch`` examples, whole package or board, idle power included."""

    state: Literal["measured", "unavailable"]
    joules_per_inference: float | None = None
    source: str | None = Field(default=None, description="the counter: rapl or nvml")
    seconds: float | None = Field(default=None, description="length of the measured window")
    reason: str | None = Field(default=None, description="why it is unavailable")


class Parity(Result):
    """Outputs of the runtime beside reference outputs on the same inputs."""

    reference: str = Field(description="what the outputs were compared with")
    max_abs_error: float
    sqnr_db: float | None = Field(
        description="10 log10(signal power / error power); None where the outputs are identical"
    )
    n: int = Field(description="examples")


class Machine(Result):
    """Where the numbers were taken."""

    cpu: str
    arch: str
    cores: int = Field(description="CPUs this process may use")
    cpu_quota: float | None = Field(description="CPUs the control group allows, where it limits them")
    flags: list[str] = Field(description="instruction sets that matter to inference")
    isa: str
    os: str
    memory_bytes: int
    load: float = Field(description="load average over one minute when the measurement began")
    runtimes: dict[str, str] = Field(default_factory=dict, description="runtime → version")


class Noise(Result):
    """How much the machine disturbed the timing; all values are shares (0.1 is 10 %)."""

    same_file: float | None = Field(description="largest difference between two processes of the same file")
    halves: float = Field(description="difference between the first and the second half of the run")
    drift: float = Field(
        description="change of the baseline (or the only model) between first and last third"
    )
    disturbed: float = Field(description="share of runs that other work interrupted; they are left out")
    off_cpu: float = Field(description="share of the timed wall time that the process was not running")
    throttled: list[str] = Field(
        default_factory=list, description="what slowed the CPU down meanwhile: heat, quota, clock"
    )
    load_after: float = Field(description="load average over one minute when the timing ended")
    rounds: int
    reasons: list[str] = Field(description="why the timing is not usable; empty when it is")


class Corrupted(Result):
    """Both files on one corrupted copy of a sample of the test."""

    kind: str = Field(description="the corruption, or clean: the same sample as it is")
    severity: int = Field(description="1 to 5; 0 is clean")
    n: int = Field(description="examples")
    baseline: float | None = Field(description="the parent's mean score; None without labels")
    candidate: float | None = Field(description="the candidate's mean score; None without labels")
    difference: Interval | None = Field(
        default=None, description="candidate minus parent on the same examples; None without labels"
    )
    lost: int | None = Field(description="examples on which the candidate scores below the parent")
    gained: int | None = Field(description="examples on which it scores above")
    agreement: float = Field(description="how far the candidate's answers are the parent's on the same copy")


class Corruptions(Result):
    """How both hold off the test set; the gate judges it where its policy has a limit for it."""

    metric: str = Field(description="what the mean scores are")
    rows: list[Corrupted]


class Measurement(Result):
    """One file in its runtime on one machine."""

    format: str
    runtime: str
    runtime_version: str
    device: str
    threads: int
    batch: int
    file_digest: str
    size_bytes: int = Field(description="all files that deployment needs")
    compressed_bytes: int = Field(description="the same through gzip level 6")
    load_ms: float = Field(description="session creation in a fresh process, file in the page cache")
    first_ms: float = Field(description="the first inference after loading")
    latency: Latency
    peak_memory_bytes: int = Field(description="peak resident memory of the runtime process at this batch")
    before_load_bytes: int = Field(description="resident memory of that process before it loaded the file")
    energy: Energy
    parity: Parity | None
    throughput: Throughput | None = Field(default=None, description="None: not asked for")
    cold_start: ColdStart | None = Field(default=None, description="None: not asked for")
    profile: Profile | None = Field(
        default=None, repr=False, description="None: not asked for, or no profiler"
    )
    simulation: dict[str, float] | None = Field(
        description="metrics of an int8 file with its graph run as written, in float; None for other files"
    )
    kernel_gap: dict[str, float] | None = Field(
        description="simulation minus real kernels, same examples; positive where the kernels are worse"
    )
    kernel_sqnr_db: float | None = Field(description="real kernels beside the simulation")
    metrics: dict[str, float] = Field(description="task metrics in the real runtime; empty without labels")
    n: int = Field(description="scored examples")
    noise: Noise
    warnings: list[str]
    machine: Machine

    def __str__(self) -> str:
        """Size, latency and scores in a line; the fields are in ``repr``."""
        scores = "".join(f", {metric} {value:.4g}" for metric, value in self.metrics.items())
        return f"{self.size_bytes:,} bytes, p50 {self.latency.p50_ms:.4g} ms{scores}"

    @property
    def model_memory_bytes(self) -> int:
        """What loading and running the model added to the process."""
        return max(0, self.peak_memory_bytes - self.before_load_bytes)
