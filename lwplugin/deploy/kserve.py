"""A KServe InferenceService (serving.kserve.io/v1beta1) for a Triton repository or for MLflow's own server."""

from __future__ import annotations

from typing import Any, Literal

from lwplugin.deploy.source import resource_name
from lwplugin.errors import ExportError

Server = Literal["triton", "mlflow"]
# The storage initializer copies from these into the pod.
SCHEMES = ("s3://", "gs://", "pvc://", "hf://", "https://", "http://", "hdfs://", "webhdfs://", "abfs://")
# `modelFormat` by which KServe's own cluster runtimes choose themselves.
_FORMATS = {"triton": ("triton", "2"), "mlflow": ("mlflow", "2")}


def inference_service(
    name: str,
    storage_uri: str,
    *,
    server: Server = "triton",
    threads: int = 1,
    memory: str = "2Gi",
    gpu: bool = False,
    namespace: str | None = None,
    image: str | None = None,
    digest: str | None = None,
) -> dict[str, Any]:
    """The manifest as a document. ``storage_uri`` is where the repository (triton) or the model directory of
    the version (mlflow) can be fetched from; ``image`` replaces the runtime's own, which for mlflow must
    hold the version's requirements.

    Raises ExportError for a location that KServe cannot fetch from.
    """
    if not storage_uri.startswith(SCHEMES):
        raise ExportError(
            "KServe cannot fetch a model from there",
            got=storage_uri,
            do=f"upload it and give an address with one of {', '.join(SCHEMES)}",
        )
    kind, version = _FORMATS[server]
    limits = {"cpu": str(threads), "memory": memory, **({"nvidia.com/gpu": "1"} if gpu else {})}
    model: dict[str, Any] = {
        "modelFormat": {"name": kind, "version": version},
        "protocolVersion": "v2",
        "storageUri": storage_uri,
        "resources": {"requests": dict(limits), "limits": limits},
    }
    if image is not None:
        model["image"] = image
    if server == "mlflow":
        model["env"] = [{"name": "LWPLUGIN_SERVE_THREADS", "value": str(threads)}]
    metadata: dict[str, Any] = {"name": resource_name(name)}
    if namespace is not None:
        metadata["namespace"] = namespace
    if digest is not None:
        metadata["annotations"] = {"lwplugin/digest": digest}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": {"model": model}},
    }
