"""Does the exported file, served as its users will call it, answer in the parent's schema?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwplugin.errors import RegistryError
from lwplugin.registry import serving

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

    model = serving.ExportedModel(exported, {})
    several = len(model.inputs) > 1
    specs: list[ColSpec | TensorSpec] = [
        TensorSpec(entry.dtype, (-1, *entry.shape[1:]), name=entry.name if several else None)
        for entry in model.inputs
    ]
    zeros = _zeros(model)
    output = model.predict(zeros)
    inferred = infer_signature(model_input=next(iter(zeros.values())), model_output=output)
    return ModelSignature(inputs=Schema(specs), outputs=inferred.outputs)


def stand_in(exported: Path, signature: ModelSignature) -> Any:
    """One row of zeros in the signature's form, to prove that the file answers where there is no example."""
    import pandas

    if signature.inputs is not None and not signature.inputs.is_tensor_spec():
        types = zip(signature.inputs.input_names(), signature.inputs.numpy_types())
        return pandas.DataFrame({name: np.zeros(1, kind) for name, kind in types})
    zeros = _zeros(serving.ExportedModel(exported, {}))
    return zeros if len(zeros) > 1 else next(iter(zeros.values()))


def _zeros(model: serving.ExportedModel) -> dict[str, np.ndarray]:
    return {e.name: np.zeros([1 if size < 0 else size for size in e.shape], e.dtype) for e in model.inputs}


def check_served(directory: Path, example: Any) -> None:
    """Loads the saved MLflow model as a user does, through pyfunc, and predicts.

    Raises RegistryError where prediction fails or the output's schema is not the signature's.
    """
    import mlflow
    from mlflow.models import infer_signature

    path_before = list(sys.path)  # pyfunc adds the model's code directory, which goes away
    try:
        model = mlflow.pyfunc.load_model(str(directory))
        output = model.predict(example)
    except Exception as error:
        raise RegistryError(
            "The light version cannot answer what its parent answers",
            got=f"{type(error).__name__}: {error}",
            do="compare the recipe's data with the parent's signature: shapes, dtypes, input names",
        ) from error
    finally:
        sys.path[:] = path_before
    expected = model.metadata.signature.outputs if model.metadata.signature else None
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
