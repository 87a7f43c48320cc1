"""How to measure: the options and defaults of API, recipe, component and command line."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lwplugin.data.corruptions import KINDS, SEVERITIES
from lwplugin.errors import RecipeError, did_you_mean


class MeasureOptions(BaseModel):
    """What a recipe's `measure` block may say, for all of its targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_seconds: float = Field(
        default=1.0, gt=0, description="least time spent on timing, both models together"
    )
    max_seconds: float = Field(
        default=4.0,
        gt=0,
        description="timing ends here even if the answer is still wide; slow models get "
        "up to four times this for the fewest runs that an interval needs",
    )
    min_runs: int = Field(
        default=80, ge=1, description="fewest runs of each file; not beyond four times max_seconds"
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="two-sided, of every interval")
    precision: float = Field(
        default=0.01, gt=0, description="stop when rounds add less than this share to the interval"
    )
    processes: int | None = Field(
        default=None, ge=1, le=8, description="processes per file; None: two, or one where memory is short"
    )
    offline_batch: int | None = Field(
        default=None, ge=1, description="also measure offline throughput, in batches of so many"
    )
    cold_starts: int = Field(
        default=0, ge=0, description="also start so many fresh processes with the file not in the page cache"
    )
    profile_seconds: float = Field(
        default=0.3, ge=0, description="runs under the runtime's own profiler, layer by layer; 0: none"
    )
    max_examples: int | None = Field(
        default=None, ge=1, description="score only the first examples of the test"
    )
    parity_examples: int = Field(default=256, ge=1, description="examples compared with torch outputs")
    simulation_examples: int = Field(
        default=512, ge=1, description="examples on which an int8 file is compared with its float simulation"
    )
    energy_seconds: float = Field(default=1.0, gt=0, description="stretch over which energy is measured")
    timeout_s: float = Field(default=300.0, gt=0, description="longest wait for one answer of a runtime")
    corruptions: tuple[str, ...] = Field(
        default=(),
        description="also score both files on corrupted copies of the test: noise, blur, brightness, contrast, "
        "shift, typos; by default none",
    )
    severities: tuple[int, ...] = Field(
        default=(1, 3, 5), min_length=1, description="of each corruption, 1 to 5"
    )
    corruption_examples: int = Field(
        default=1000, ge=1, description="test examples, drawn by the seed, that are corrupted"
    )
    corruption_seed: int = Field(default=0, ge=0, description="decides every corruption")

    @field_validator("corruptions", mode="before")
    @classmethod
    def _known_corruptions(cls, names: Any) -> Any:
        names = (names,) if isinstance(names, str) else names
        for name in names if isinstance(names, list | tuple) else ():
            if name not in KINDS:
                raise ValueError(f"'{name}' is no corruption; {did_you_mean(str(name), KINDS)}")
        return names

    @field_validator("severities")
    @classmethod
    def _known_severities(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        if not set(severities) <= set(SEVERITIES):
            raise ValueError("severities go from 1 to 5")
        return tuple(sorted(set(severities)))


class MeasureConfig(MeasureOptions):
    """The options and the conditions of one target."""

    device: str = Field(default="cpu", description="cpu, cuda, or the name of a device in the inventory")
    threads: int = Field(default=1, ge=1, description="threads of one inference")
    batch: int = Field(default=1, ge=1, description="examples of one timed inference")


def checked(config: MeasureConfig | None, options: dict[str, Any]) -> MeasureConfig:
    """The config with options over it. Raises RecipeError naming the option and the nearest known one."""
    known = MeasureConfig.model_fields
    for name in options:
        if name not in known:
            raise RecipeError("Unknown option of measure", got=repr(name), do=did_you_mean(name, known))
    given = {} if config is None else config.model_dump(exclude_unset=True)
    try:
        return MeasureConfig(**{**given, **options})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise RecipeError(f"Option '{name}' of measure: {problem['msg']}", got=problem["input"]) from error
