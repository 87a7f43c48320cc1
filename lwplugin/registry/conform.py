"""Does the exported file, served as its users will call it, answer in the parent's schema?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwplugin.errors import RegistryError
from lwplugin.registry import serving

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def signature_from_file(exported: Path) -> ModelSignature:
    """A signature for a parent without one: the file's inputs, and what it answers to one row of zeros."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, Schema, TensorSpec

    model = serving.ExportedModel(exported, {})
    several = len(model.inputs) > 1
    zeros = {e.name: np.zeros([1 if size < 0 else size for size in e.shape], e.dtype) for e in model.inputs}
    specs: list[ColSpec | TensorSpec] = [
        TensorSpec(e.dtype, [-1, *e.shape[1:]], name=e.name if several else None) for e in model.inputs
    ]
    output = model.predict(zeros)
    inferred = infer_signature(model_input=next(iter(zeros.values())), model_output=output)
    return ModelSignature(inputs=Schema(specs), outputs=inferred.outputs)


def check_served(directory: Path, example: Any | None) -> None:
    """Loads the saved MLflow model through pyfunc and predicts; an example of None checks the loading only.

    Raises RegistryError where prediction fails or the output's schema is not the signature's.
    """
    import mlflow
    from mlflow.models import infer_signature

    try:
        model = mlflow.pyfunc.load_model(str(directory))
        if example is None:
            return
        output = model.predict(example)
    except Exception as error:
        raise RegistryError(
            "The light version cannot answer the parent's input example",
            got=f"{type(error).__name__}: {error}",
            do="compare the recipe's data with the parent's signature: shapes, dtypes, input names",
        ) from error
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
