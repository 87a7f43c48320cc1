"""Dependencies point one way: pipelines → components → lwplugin; heavy packages stay in their leaves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Packages an engine or a person's screen brings: no room of the library may know them.
ORCHESTRATORS = {"kfp", "prefect", "kubernetes"}
HEAVY = {
    "mlflow",
    "onnx",
    "onnxruntime",
    "openvino",
    "transformers",
    "matplotlib",
    "pandas",
    "sklearn",
    "pyarrow",
}


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def imports(file: Path, *, top_only: bool = False) -> Iterator[str]:
    """Dotted names that ``file`` imports; those under TYPE_CHECKING are types, not dependencies."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        waiting += ast.iter_child_nodes(node)


def offending(files: list[Path], forbidden: tuple[str, ...], *, top_only: bool = False) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports(file, top_only=top_only)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


def library() -> list[Path]:
    command_line = {ROOT / "lwplugin" / "cli", ROOT / "lwplugin" / "__main__.py"}
    return [file for file in sources("lwplugin") if not command_line & {file, *file.parents}]


def test_the_library_knows_neither_components_nor_pipelines() -> None:
    assert offending(library(), ("lwplugin.components", "lwplugin.pipelines", "lwplugin.cli")) == []


def test_components_know_no_pipeline() -> None:
    assert offending(sources("components"), ("lwplugin.pipelines", "lwplugin.cli")) == []


def test_pipelines_hold_no_machine_learning() -> None:
    assert offending(sources("pipelines"), ("torch", "numpy", "scipy", *HEAVY)) == []


def test_an_orchestrator_is_known_in_its_own_leaf_only() -> None:
    leaves = {
        "kfp": [
            ROOT / "components" / "kubeflow.py",
            ROOT / "components" / "kubeflow_beside.py",
            ROOT / "pipelines" / "kubeflow",
        ],
        "prefect": [ROOT / "pipelines" / "prefect"],
        "kubernetes": [ROOT / "components" / "train_job.py"],
    }
    assert set(leaves) == ORCHESTRATORS
    for package, places in leaves.items():
        files = [
            file
            for file in sources("lwplugin", "components", "pipelines")
            if not any(place in (file, *file.parents) for place in places)
        ]
        assert offending(files, (package,)) == []


def test_only_the_registry_imports_mlflow() -> None:
    """Unpickling a model that MLflow saved needs MLflow's own loader, in the leaf that does it."""
    allowed = {ROOT / "lwplugin" / "registry"}
    files = [
        file for file in sources("lwplugin", "components", "pipelines") if not allowed & set(file.parents)
    ]
    assert offending(files, ("mlflow",)) == []


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    everything = sources("lwplugin", "components", "pipelines")
    files = [f for f in everything if "runtimes" not in f.parts and not f.name.endswith("worker.py")]
    assert offending(files, tuple(HEAVY), top_only=True) == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lwplugin", {"torch", "numpy", "pydantic", *HEAVY}),
        ("import lwplugin.cli; lwplugin.cli.app.list_commands(None)", {"torch", "numpy", "pydantic", *HEAVY}),
        ("import lwplugin.recipe, lwplugin.pipelines.plan", {"torch", *HEAVY}),
        ("from lwplugin.components import *; import lwplugin.components as c", {"torch", *HEAVY}),
        (
            "import lwplugin.components as c; [c.step_named(n) for n in c.installed_steps()]",
            {"torch", *HEAVY},
        ),
    ],
)
def test_light_imports_stay_light(statement: str, absent: set[str]) -> None:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())


def test_one_import_is_enough_for_every_name_that_the_manual_uses() -> None:
    code = (
        "import lwplugin; [getattr(lwplugin, name) for name in lwplugin.__all__]; "
        "lwplugin.registry.resolve, lwplugin.report.write_report; "
        "lwplugin.students.build('squeezenet', classes=3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
