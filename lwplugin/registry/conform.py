"""Does the exported file, served as its users will call it, answer in the parent's schema?"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwplugin.errors import LwpluginError, RegistryError
from lwplugin.measure.runtimes.base import TOOLCHAINS, runtime_of
from lwplugin.registry import serving
from lwplugin.toolchain.environment import clean_environment

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def takes_text(signature: ModelSignature) -> bool:
    """A pipeline's signature: it tokenizes, which an exported network does not."""
    from mlflow.types import DataType

    inputs = signature.inputs.inputs if signature.inputs is not None else []
    return any(entry.type == DataType.string for entry in inputs)


def signature_from_file(exported: Path) -> ModelSignature:
    """The file's own signature: its inputs, and what it answers to one row of zeros."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs = serving.inputs_of(exported)
    several = len(inputs) > 1
    specs: list[ColSpec | TensorSpec] = [
        TensorSpec(entry.dtype, (-1, *entry.shape[1:]), name=entry.name if several else None)
        for entry in inputs
    ]
    zeros = _zeros(inputs)
    inferred = infer_signature(model_input=next(iter(zeros.values())), model_output=answers(exported, zeros))
    return ModelSignature(inputs=Schema(specs), outputs=inferred.outputs)


def stand_in(exported: Path, signature: ModelSignature) -> Any:
    """One row of zeros in the signature's form, to prove that the file answers where there is no example."""
    import pandas

    if signature.inputs is not None and not signature.inputs.is_tensor_spec():
        types = zip(signature.inputs.input_names(), signature.inputs.numpy_types())
        return pandas.DataFrame({name: np.zeros(1, kind) for name, kind in types})
    zeros = _zeros(serving.inputs_of(exported))
    return zeros if len(zeros) > 1 else next(iter(zeros.values()))


def _zeros(inputs: list[serving.Input]) -> dict[str, np.ndarray]:
    return {e.name: np.zeros([1 if size < 0 else size for size in e.shape], e.dtype) for e in inputs}


def check_served(directory: Path, exported: Path, example: Any) -> None:
    """Asks the saved MLflow model as a user does, through pyfunc, or where its runtime is no package of this
    Python, the serving module in the toolchain's; ``exported`` is the export it was saved from.

    Raises RegistryError where prediction fails or the output's schema is not the signature's.
    """
    from mlflow.models import Model, infer_signature

    try:
        output = answers(exported, example) if _elsewhere(exported) else _through_pyfunc(directory, example)
    except LwpluginError:
        raise
    except Exception as error:
        raise RegistryError(
            "The light version cannot answer what its parent answers",
            got=f"{type(error).__name__}: {error}",
            do="compare the recipe's data with the parent's signature: shapes, dtypes, input names",
        ) from error
    signature = Model.load(str(directory)).signature
    expected = signature.outputs if signature else None
    if expected is None:
        return
    answered = infer_signature(model_input=example, model_output=output).outputs
    problem = difference(expected, answered)
    if problem:
        raise RegistryError(
            "The light version answers in another schema than its parent",
            got=problem,
            do="export what the parent returns, or register the parent again with the signature you want",
        )
    values = output.to_numpy() if hasattr(output, "to_numpy") else np.asarray(output)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RegistryError(
            "The light version answers the parent's input example with NaN or infinity",
            got=f"{int((~np.isfinite(values)).sum())} of {values.size} values",
            do="look at the report's per-layer table for the layer that overflows",
        )


def answers(exported: Path, data: Any) -> Any:
    """What the serving module answers, in the Python that has the runtime.

    Raises ToolchainError where that Python is not installed, RegistryError where it answers nothing.
    """
    name = _elsewhere(exported)
    if name is None:
        return serving.ExportedModel(exported, {}).predict(data)
    from lwplugin.toolchain import borrowed

    feeds = serving.feeds_of(serving.inputs_of(exported), data)
    with tempfile.TemporaryDirectory(prefix="lwplugin-answers-") as scratch:
        asked, answered = Path(scratch) / "feeds.npz", Path(scratch) / "answers.npy"
        np.savez(asked, allow_pickle=False, **feeds)
        files = map(str, (exported.absolute(), asked, answered))
        command = borrowed(name, "lwplugin.registry.answers", *files, why="Asking the file to be registered")
        ran = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
        if ran.returncode != 0:
            said = ran.stderr.strip().splitlines()
            raise RegistryError(
                f"The file does not answer in the toolchain '{name}'", got="; ".join(said[-2:])
            )
        return serving.answer_like(data, np.load(answered, allow_pickle=False))


def _elsewhere(exported: Path) -> str | None:
    """The toolchain whose Python has the file's runtime; None where this one has."""
    kind = json.loads((exported / "export.json").read_text(encoding="utf-8"))["format"]
    return TOOLCHAINS.get(runtime_of(kind))


def _through_pyfunc(directory: Path, example: Any) -> Any:
    import mlflow

    path_before = list(sys.path)  # pyfunc adds the model's code directory, which goes away
    try:
        return mlflow.pyfunc.load_model(str(directory)).predict(example)
    finally:
        sys.path[:] = path_before


def difference(expected: Any, answered: Any) -> str | None:
    """What differs between two MLflow schemas, in words; None where `answered` conforms to `expected`."""
    if expected.is_tensor_spec() != answered.is_tensor_spec() or len(expected.inputs) != len(answered.inputs):
        return f"{answered}, the parent's signature says {expected}"
    for want, got in zip(expected.inputs, answered.inputs):
        if want.type != got.type:
            return f"{got.type}, the parent's signature says {want.type}"
        if expected.is_tensor_spec():
            pairs = list(zip(want.shape, got.shape))
            if len(want.shape) != len(got.shape) or any(a not in (-1, b) and b != -1 for a, b in pairs):
                return f"shape {tuple(got.shape)}, the parent's signature says {tuple(want.shape)}"
        elif str(want.name) != str(got.name):
            return f"column '{got.name}', the parent's signature says '{want.name}'"
    return None
