"""What a model costs, as metrics of `mlflow.models.evaluate`: size, latency, memory, agreement with a baseline.

MLflow finds :class:`LightEvaluator` by its entry point; it needs no base class of MLflow's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwplugin.artifact import list_files
from lwplugin.errors import MeasureError, RegistryError, did_you_mean
from lwplugin.registry.connect import connected

_ROUNDS = 10


class EvaluatorOptions(BaseModel):
    """The evaluator's part of `evaluator_config`; at least one has to be given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: str | None = Field(
        None, description="model URI to compare with: agreement, speedup, baseline_…"
    )
    calls: int = Field(100, ge=_ROUNDS, description="timed predictions of each model")
    rows: int = Field(1, ge=1, description="rows of one timed prediction")
    threads: int = Field(1, ge=1, description="threads that each model's libraries may use")


class LightEvaluator:
    """See docs/mlflow.md."""

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Mapping[str, Any], **_: Any) -> bool:
        """Only where it is asked for: MLflow offers every evaluation to every installed evaluator."""
        return any(name in EvaluatorOptions.model_fields for name in evaluator_config or {})

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any],
        model: Any = None,
        model_id: str | None = None,
        **_: Any,
    ) -> Any:
        """An `mlflow.models.EvaluationResult`; its metrics are logged to the run.

        Raises RegistryError for options that are unknown and for a model that is no logged one, MeasureError where
        a model cannot be loaded or does not answer.
        """
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.models import EvaluationResult

        options = _options(evaluator_config)
        identity = model_id or getattr(getattr(model, "metadata", None), "model_id", None)
        if identity is None:
            raise RegistryError(
                "Only a logged model has a size and can be timed by itself",
                got="a function, or a model from a directory",
                do="evaluate models:/<name>/<version> or models:/<model id>",
            )
        metrics = measured(
            f"models:/{identity}", dataset.features_data, options, classes=model_type == "classifier"
        )
        now = int(time.time() * 1000)
        MlflowClient().log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0, model_id=model_id) for name, value in metrics.items()],
        )
        return EvaluationResult(metrics=metrics, artifacts={}, run_id=run_id)


def measured(uri: str, features: Any, options: EvaluatorOptions, *, classes: bool) -> dict[str, float]:
    """Metric → value. Each model is loaded by plain pyfunc in a process of its own; the two take turns."""
    from lwplugin.measure.intervals import quantile

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lwplugin-evaluate-")))
        data = _written(features, scratch)
        sides = {"": uri} | ({"baseline_": options.baseline} if options.baseline else {})
        subjects = {
            prefix: stack.enter_context(_Subject(place, data, scratch / f"side{number}", options))
            for number, (prefix, place) in enumerate(sides.items())
        }
        times: dict[str, list[float]] = {prefix: [] for prefix in subjects}
        for round_ in range(_ROUNDS):
            calls = options.calls // _ROUNDS + (round_ < options.calls % _ROUNDS)
            for prefix in list(subjects)[:: 1 if round_ % 2 else -1]:
                times[prefix] += subjects[prefix].ask({"time": calls})["ms"]
        found: dict[str, float] = {}
        outputs = {}
        for prefix, subject in subjects.items():
            taken = np.array(times[prefix])
            for name, q in (("p50", 0.5), ("p95", 0.95)):
                interval = quantile(taken, q)
                found[f"{prefix}{name}_ms"] = interval.estimate
                if interval.high is not None:
                    found[f"{prefix}{name}_high_ms"] = interval.high
            found |= {f"{prefix}size_bytes": float(subject.size_bytes), f"{prefix}load_ms": subject.load_ms}
            found[f"{prefix}peak_memory_bytes"] = float(subject.ask({"peak": True})["peak_memory_bytes"])
            outputs[prefix] = subject.predicted()
        if options.baseline:
            found["speedup"] = found["baseline_p50_ms"] / found["p50_ms"]
            found |= agreement(outputs[""], outputs["baseline_"], classes=classes)
    return found


def agreement(ours: Any, theirs: Any, *, classes: bool) -> dict[str, float]:
    """Share of rows with the same answer, for classes; the mean and largest difference, for numbers.

    >>> agreement(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.2, 0.8], [0.3, 0.7]]), classes=True)["agreement"]
    0.5
    """
    if len(ours) != len(theirs):
        raise MeasureError(
            "The two models answer another number of rows", got=f"{len(ours)} and {len(theirs)}"
        )
    found = {}
    if classes:
        found["agreement"] = float(np.mean(_classes(ours) == _classes(theirs)))
    if ours.dtype.kind in "fiub" and ours.shape == theirs.shape:
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        found |= {"mean_difference": float(difference.mean()), "max_difference": float(difference.max())}
    return found


def _classes(answers: Any) -> Any:
    """Scores [n, k] → the best class; anything else are classes already."""
    return answers.argmax(1) if answers.ndim == 2 and answers.shape[1] > 1 else answers.reshape(len(answers))


def _options(given: Mapping[str, Any]) -> EvaluatorOptions:
    unknown = [name for name in given if name not in EvaluatorOptions.model_fields]
    if unknown:
        raise RegistryError(
            f"The evaluator has no option '{unknown[0]}'",
            do=did_you_mean(unknown[0], EvaluatorOptions.model_fields),
        )
    try:
        return EvaluatorOptions.model_validate(dict(given))
    except ValidationError as error:
        raise RegistryError("The evaluator's options cannot be used", got=error.errors()[0]["msg"]) from None


def _written(features: Any, folder: Path) -> Path:
    """The examples without a pickle: feather for a DataFrame, npy for an array."""
    if hasattr(features, "to_feather"):
        features.reset_index(drop=True).to_feather(folder / "data.feather")
        return folder / "data.feather"
    np.save(folder / "data.npy", np.asarray(features), allow_pickle=False)
    return folder / "data.npy"


class _Subject:
    """One model in its process, asked by lines of JSON."""

    def __init__(self, uri: str, data: Path, folder: Path, options: EvaluatorOptions) -> None:
        import mlflow

        folder.mkdir()
        with connected():
            directory = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        self.size_bytes = sum(file.stat().st_size for file in list_files(directory).values())
        self._uri, self._answers, self._errors = uri, folder / "answers.npy", folder / "errors.txt"
        arguments = [directory, data, self._answers, options.rows, options.threads]
        command = [sys.executable, "-m", "lwplugin.registry.evaluation_worker", *map(str, arguments)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        try:
            self.load_ms = float(self._answer()["load_ms"])
        except BaseException:  # nobody else would end it
            self.__exit__()
            raise

    def __enter__(self) -> _Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are in the answer's error
        return self._answer()

    def predicted(self) -> Any:
        """The answers to all examples, [n, …]."""
        self.ask({"predict": True})
        return np.load(self._answers, allow_pickle=False)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            end = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise MeasureError(
                f"{self._uri} cannot be evaluated",
                got=end[-1] if end else "a process that died without a word",
                do="check that mlflow.pyfunc.load_model loads it here and that it takes this data",
            )
        found: dict[str, Any] = json.loads(line)
        return found
