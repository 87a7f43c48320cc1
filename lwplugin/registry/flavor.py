"""The MLflow flavor of light versions: save_model, log_model, load_model, and serving through pyfunc.

A saved model holds `bundle/` (the light torch model, which can be compressed again), `export/` (the file that
is served), `report/`, `verdict.json`, and `code/` with a copy of the serving module, so that whoever serves
it needs neither lwplugin nor torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lwplugin.errors import RegistryError
from lwplugin.registry import mlmodel, serving
from lwplugin.registry.mlmodel import FLAVOR

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo

    from lwplugin.model.bundle import LightModel

FLAVOR_NAME = FLAVOR
_BUNDLE, _EXPORT, _REPORT, _VERDICT, _CODE = "bundle", "export", "report", "verdict.json", "code"


def save_model(
    path: str | Path,
    *,
    exported: Path,
    bundle: Path | None = None,
    report: Path | None = None,
    verdict: Mapping[str, Any] | None = None,
    signature: ModelSignature | None = None,
    input_example: Any = None,
    threads: int = 1,
    pip_requirements: Sequence[str] | None = None,
    metadata: dict[str, Any] | None = None,
    mlflow_model: Model | None = None,
) -> None:
    """Writes an MLflow model directory; `threads` is what serving uses unless told otherwise.

    Raises RegistryError where the format has no serving runtime or `path` is in use.
    """
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.utils import _save_example
    from mlflow.utils.environment import _mlflow_conda_env, _process_pip_requirements, _PythonEnv

    root = Path(path)
    if root.exists() and any(root.iterdir()):
        raise RegistryError("The directory to save in is not empty", got=root, do="give a new path")
    manifest = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    runtime = runtime_of(manifest["format"])
    root.mkdir(parents=True, exist_ok=True)
    shutil.copytree(exported, root / _EXPORT)
    if bundle is not None:
        shutil.copytree(bundle, root / _BUNDLE)
    if report is not None:
        shutil.copytree(report, root / _REPORT)
    if verdict is not None:
        (root / _VERDICT).write_text(json.dumps(verdict, indent=2, sort_keys=True), encoding="utf-8")
    loader = _copy_serving_module(root / _CODE)

    model = Model() if mlflow_model is None else mlflow_model
    model.signature = signature
    if metadata is not None:
        model.metadata = metadata
    if input_example is not None:
        _save_example(model, input_example, str(root))
    pyfunc.add_to_model(
        model,
        loader_module=loader,
        data=_EXPORT,
        code=_CODE,
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"threads": threads, "batch": serving.DEFAULT_BATCH},
    )
    model.add_flavor(
        FLAVOR,
        lwplugin_version=installed_version("lwplugin"),
        format=manifest["format"],
        export=_EXPORT,
        bundle=_BUNDLE if bundle is not None else None,
        code=_CODE,
    )
    model.model_size_bytes = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    model.save(str(root / "MLmodel"))

    wanted = list(pip_requirements or requirements(runtime))
    _, resolved, _ = _process_pip_requirements([], wanted)  # type: ignore[no-untyped-call]
    conda = _mlflow_conda_env(additional_pip_deps=resolved, install_mlflow=False)  # type: ignore[no-untyped-call]
    (root / "conda.yaml").write_text(json.dumps(conda, indent=2), encoding="utf-8")
    (root / "requirements.txt").write_text("\n".join(resolved) + "\n", encoding="utf-8")
    _PythonEnv.current().to_yaml(str(root / "python_env.yaml"))  # type: ignore[no-untyped-call]


def log_model(
    exported: Path,
    *,
    name: str = "model",
    registered_model_name: str | None = None,
    run_id: str | None = None,
    tags: dict[str, Any] | None = None,
    **options: Any,
) -> ModelInfo:
    """Logs into the active run as other MLflow flavors do; `options` are those of `save_model`.

    For lineage, tags and the verdict's check use `lwplugin.registry.register`.
    """
    import sys

    from mlflow.models import Model

    this_module: ModuleType = sys.modules[__name__]
    info: ModelInfo = Model.log(
        artifact_path=None,
        name=name,
        flavor=this_module,
        registered_model_name=registered_model_name,
        run_id=run_id,
        tags=tags,
        exported=exported,
        **options,
    )
    return info


def load_model(model_uri: str, dst_path: str | None = None) -> LightModel:
    """The torch light model of a logged or registered light version.

    Raises RegistryError where the version is of another flavor or was saved without its bundle.
    """
    import mlflow

    from lwplugin.model.bundle import load
    from lwplugin.registry.connect import connected

    with connected():
        directory = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=dst_path))
    content = mlmodel.read(directory)
    conf = content["flavors"].get(FLAVOR)
    if conf is None or not conf.get("bundle"):
        raise RegistryError(
            f"'{model_uri}' holds no light torch model",
            got="another flavor" if conf is None else "an export without a bundle",
            do="predict with mlflow.pyfunc.load_model, or pull it with lwplugin.registry.pull",
        )
    return load(mlmodel.part(directory, content, "bundle"))


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> serving.ExportedModel:
    """For MLmodel files that name this module as their loader; ours name the copy they carry."""
    return serving._load_pyfunc(path, model_config)


def runtime_of(kind: str) -> type[serving.Runtime]:
    """Raises RegistryError for a format that pyfunc cannot serve."""
    if kind not in serving.RUNTIMES:
        raise RegistryError(
            f"Format '{kind}' cannot be served by MLflow",
            got=f"runtimes for {', '.join(sorted(serving.RUNTIMES))}",
            do="register a target of one of these formats, and ship this file from the run's report",
        )
    return serving.RUNTIMES[kind]


def requirements(runtime: type[serving.Runtime]) -> list[str]:
    """What serving needs, pinned to the versions the file was measured with."""
    packages = ("mlflow", "numpy", *runtime.requirements)
    return [f"{package}=={_measured_with(package)}" for package in packages]


def _measured_with(package: str) -> str:
    """The version here, without a build's local label, which no index has; else that of the toolchain that has it."""
    from lwplugin.toolchain import TOOLCHAINS

    try:
        return installed_version(package).partition("+")[0]
    except PackageNotFoundError:
        pins = [entry.packages[package] for entry in TOOLCHAINS.values() if package in entry.packages]
        if not pins:
            raise
        return pins[0]


def _copy_serving_module(directory: Path) -> str:
    # The name carries the content: a process that loads versions of two lwplugin releases keeps both modules.
    source = Path(serving.__file__).read_bytes()
    name = f"lwplugin_serving_{hashlib.sha256(source).hexdigest()[:12]}"
    directory.mkdir()
    (directory / f"{name}.py").write_bytes(source)
    return name
