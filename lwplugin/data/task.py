"""What a model is for: its loss, a score per example, agreement with its parent, answers and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwplugin.data.spec import TASKS, TaskSpec
from lwplugin.data.user_code import load_object
from lwplugin.errors import DataError, ModelError, RecipeError, did_you_mean

NAME_THE_OUTPUT = "name the output to judge, as in task {name: classification, options: {output: logits}}"


class TaskOptions(BaseModel):
    """Options that every task takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str | int | None = Field(
        None,
        description="Which entry of the model's return value to judge: a key or attribute, or a position.",
    )


class Task(ABC):
    """Outputs are float tensors [n, …], targets what ``cast`` gives, scores float64 numpy [n].

    ``columns`` holds everything the metrics need as a few numbers per example, so a data set is judged
    in one streaming pass; ``metrics`` is a function of these columns only. A task of your own overrides
    ``loss``, ``columns``, ``agreement`` and ``predictions``, and ``summarise`` for metrics that are not
    means of columns; name it ``module:Class`` in the recipe.
    """

    name: str
    metric: str
    paired_test: Literal["proportion", "mean"]
    needs_targets: bool = True
    """False: ``scores`` compares with the parent's outputs, given in place of targets."""
    output_keys: tuple[str, ...] = ("logits", "output", "out", "prediction_logits")
    Options: ClassVar[type[TaskOptions]] = TaskOptions

    def __init__(self, **options: Any) -> None:
        self.options = _validated(type(self), options)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.spec.options.items())
        return f"{type(self).__name__}({said})"

    @classmethod
    def bounded_metrics(cls) -> tuple[str, ...]:
        """Metrics that are the mean of per-example scores, up to their sign: whose drop the gate can bound."""
        return (cls.metric,)

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch, to be minimised."""

    @abstractmethod
    def columns(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """float64 [n] columns; ``score`` must be among them, higher is better."""

    @abstractmethod
    def agreement(self, outputs: Any, reference: Any) -> np.ndarray:
        """float64 [n] in [0, 1]: how far each answer is the parent's; needs no labels."""

    @abstractmethod
    def predictions(self, outputs: Any) -> np.ndarray:
        """What a person calls the answer, one per example."""

    def cast(self, targets: torch.Tensor) -> torch.Tensor:
        """Raw targets as ``loss`` takes them. Raises DataError for targets of another task."""
        return targets

    def outputs(self, raw: Any) -> torch.Tensor:
        """Picks the tensor to judge out of a module's return value: tensor, tuple, dict, dataclass or ModelOutput."""
        picked = self._pick(raw)
        if not isinstance(picked, torch.Tensor):
            raise ModelError(
                f"The task '{self.name}' needs a tensor from the model",
                got=f"a {type(picked).__name__}",
                do=NAME_THE_OUTPUT,
            )
        return picked

    def smoothed_loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        """The loss with label smoothing; tasks that are not over classes refuse it."""
        raise RecipeError(
            f"The task '{self.name}' has no label smoothing", got=smoothing, do="set label_smoothing to 0"
        )

    def scores(self, outputs: Any, targets: Any) -> np.ndarray:
        """float64 [n], one per example, higher is better; the mean is the task's ``metric``."""
        return self.per_example(outputs, targets)["score"]

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        """Every metric of the task over these examples; the first is ``self.metric``."""
        return self.summarise(self.per_example(outputs, targets))

    def summarise(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Metrics of a whole data set from its columns."""
        means = {name: float(np.mean(values)) for name, values in columns.items() if name != "score"}
        return {self.metric: float(np.mean(columns["score"])), **means}

    @property
    def spec(self) -> TaskSpec:
        """The task as a recipe or bundle writes it."""
        return TaskSpec(name=self.name, options=self.options.model_dump(mode="json", exclude_defaults=True))

    def per_example(self, outputs: Any, targets: Any) -> dict[str, np.ndarray]:
        """``columns`` of outputs and raw targets in any container, checked and cast."""
        outputs, targets = as_floats(outputs), self.cast(torch.as_tensor(targets).cpu())
        if len(outputs) != len(targets):
            raise DataError(
                "Outputs and targets have different numbers of examples",
                got=f"{len(outputs)} outputs and {len(targets)} targets",
                do="give the targets of exactly the examples that were run",
            )
        return self.columns(outputs, targets)

    def _pick(self, raw: Any) -> Any:
        wanted = self.options.output
        if is_dataclass(raw) and not isinstance(raw, Mapping | type):
            raw = {entry.name: getattr(raw, entry.name) for entry in fields(raw)}
        if isinstance(raw, Mapping):
            entries = {str(key): value for key, value in raw.items() if value is not None}
            if isinstance(wanted, int):
                wanted = list(entries)[wanted] if wanted < len(entries) else str(wanted)
            if wanted is not None:
                if wanted not in entries:
                    raise self._no_output(wanted, entries)
                return entries[wanted]
            for key in self.output_keys:
                if key in entries:
                    return entries[key]
            if len(entries) == 1:
                return next(iter(entries.values()))
            raise ModelError(
                f"The task '{self.name}' cannot tell which output to judge",
                got=f"outputs {', '.join(entries) or 'none'}",
                do=NAME_THE_OUTPUT,
            )
        if isinstance(raw, tuple | list):
            position = 0 if wanted is None else wanted
            if isinstance(position, str):
                if hasattr(raw, position):
                    return getattr(raw, position)
                raise self._no_output(position, {str(i): None for i in range(len(raw))})
            if position >= len(raw):
                raise self._no_output(str(position), {str(i): None for i in range(len(raw))})
            return raw[position]
        return raw

    def _no_output(self, wanted: str, entries: Mapping[str, Any]) -> ModelError:
        return ModelError(f"The model returned no output '{wanted}'", do=did_you_mean(wanted, entries))


def make_task(task: TaskSpec | str | Mapping[str, Any] | Task) -> Task:
    """The task of a recipe's ``task`` block: a name, ``{name, options}``, or ``module:Class``.

    Raises RecipeError for an unknown name or option.
    """
    if isinstance(task, Task):
        return task
    spec = TaskSpec.of(task)
    if spec.name in TASKS:
        kind = load_object(TASKS[spec.name], what="task")
    elif ":" in spec.name:
        kind = load_object(spec.name, what="task")
        if not (isinstance(kind, type) and issubclass(kind, Task)):
            raise RecipeError(
                f"The task '{spec.name}' is not a subclass of lwplugin.data.Task",
                got=repr(kind),
                do="derive it from lwplugin.data.Task",
            )
    else:
        raise RecipeError(f"Unknown task '{spec.name}'", do=did_you_mean(spec.name, [*TASKS, "module:Class"]))
    made: Task = kind(**spec.options)
    if ":" in spec.name:
        made.name = spec.name
    return made


def as_floats(outputs: Any) -> torch.Tensor:
    """Outputs as a float32 CPU tensor [n, …]."""
    tensor = torch.as_tensor(outputs)
    return tensor.detach().to("cpu", torch.float32)


def mean_over_rest(values: torch.Tensor) -> np.ndarray:
    """[n, …] → float64 [n], the mean of each example's entries."""
    flat = values.double().reshape(len(values), -1)
    mean: np.ndarray = flat.mean(dim=1).numpy()
    return mean


def _validated(task: type[Task], options: Mapping[str, Any]) -> TaskOptions:
    known = task.Options.model_fields
    for key in options:
        if key not in known:
            name = getattr(task, "name", task.__name__)
            raise RecipeError(f"The task '{name}' has no option '{key}'", do=did_you_mean(key, known))
    try:
        return task.Options.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        name = getattr(task, "name", task.__name__)
        raise RecipeError(
            f"The option '{where}' of the task '{name}' is wrong: {first['msg']}",
            got=repr(first["input"]),
            do=f"see the option's description: {known[where].description if where in known else ''}",
        ) from error
