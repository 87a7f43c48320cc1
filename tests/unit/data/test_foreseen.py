"""What is wrong with a data block shows before anything is read, in the words that reading would use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwplugin.cli import invoke
from lwplugin.data import DataSpec, TaskSpec, load
from lwplugin.errors import DataError

X, Y = np.zeros((20, 3), np.float32), np.arange(20) % 2

FUNCTION = """
import missing_package
def load(n, *, folder="x"): ...
def any_of(**options): ...
if True:
    later = made = any_of
raise RuntimeError("this file is not run")
"""


def npz(folder: Path, **changes: Any) -> dict[str, Any]:
    np.savez(folder / "a.npz", x=X, y=Y)
    return {"source": "npz", "path": folder / "a.npz", **changes}


def parquet(folder: Path, **changes: Any) -> dict[str, Any]:
    pyarrow = pytest.importorskip("pyarrow")
    (folder / "tables").mkdir()
    table = pyarrow.table({"a": X[:, 0], "kind": Y})
    pytest.importorskip("pyarrow.parquet").write_table(table, folder / "tables" / "1.parquet")
    return {"source": "parquet", "path": folder / "tables", "features": "a", "label": "kind", **changes}


def text(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "a.jsonl").write_text('{"text": "hi", "labl": 1}\n{"text": "ho", "labl": 0}\n')
    return {"source": "text", "path": folder / "a.jsonl", "label": "labl", "tokenizer": folder, **changes}


def images(folder: Path, **changes: Any) -> dict[str, Any]:
    for place in ("train/cat", "train/dog", "test/cat", "test/cow"):
        (folder / place).mkdir(parents=True)
    return {"source": "image_folder", "path": folder, **changes}


@pytest.mark.parametrize(
    ("made", "changes"),
    [
        (npz, {"path": Path("/nowhere.npz")}),
        (npz, {"path": Path(__file__)}),
        (npz, {"x": "xx"}),
        (npz, {"y": "z"}),
        (npz, {"slices": ["site"]}),
        (parquet, {"path": Path("/nowhere")}),
        (parquet, {"features": ["a", "b"]}),
        (parquet, {"slices": ["shop"]}),
        (text, {"path": Path("/nowhere.jsonl")}),
        (text, {"path": Path(__file__)}),
        (text, {"label": "label"}),
        (text, {"tokenizer": Path("/nowhere")}),
        (images, {}),
        (images, {"path": Path("/nowhere")}),
    ],
)
def test_a_check_says_what_reading_would(
    made: Callable[..., dict[str, Any]], changes: dict[str, Any], tmp_path: Path
) -> None:
    block = made(tmp_path, **changes)
    with pytest.raises(DataError) as seen:
        DataSpec.of(block).check(TaskSpec.of("classification"))
    with pytest.raises(DataError) as read:
        load(block)
    assert str(seen.value) == str(read.value)


@pytest.mark.parametrize("made", [npz, parquet, text])
def test_what_is_there_passes(made: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    DataSpec.of(made(tmp_path)).check(TaskSpec.of("classification"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lod", {}, r"no 'lod'.*did you mean 'load'"),
        ("load", {"n": 1, "foldr": "x"}, r"takes no argument 'foldr'.*did you mean 'folder'"),
        ("load", {"folder": "x"}, "needs the argument 'n': got folder"),
        ("load", {"n": 1}, None),
        ("any_of", {"what": 1}, None),
        ("made", {"what": 1}, None),
        ("missing_package", {}, None),
    ],
)
def test_a_function_is_looked_for_and_not_run(
    name: str, arguments: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    spec = DataSpec.of({"source": f"{tmp_path / 'mine.py'}:{name}", "args": arguments})
    if message is None:
        spec.check(TaskSpec.of("classification"))
    else:
        with pytest.raises(DataError, match=message):
            spec.check(TaskSpec.of("classification"))


def test_a_task_is_looked_for_too() -> None:
    with pytest.raises(DataError, match=r"'/nowhere\.py' of the task does not exist"):
        DataSpec.of("digits").check(TaskSpec.of("/nowhere.py:Mine"))
    DataSpec.of("digits").check(TaskSpec.of("lwplugin.data.tasks.classification:Classification"))


def test_a_check_is_cheap(tmp_path: Path) -> None:
    block = {key: str(value) for key, value in npz(tmp_path).items()}
    code = (
        "import sys; from lwplugin.data.spec import DataSpec, TaskSpec\n"
        f"for block in ({block!r}, 'digits'): DataSpec.of(block).check(TaskSpec.of('classification'))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "sklearn", "pyarrow"} & set(done.stdout.split())


@pytest.mark.parametrize("command", [["plan"], ["run"], ["run", "--dry-run"]])
def test_the_command_line_checks_before_it_asks_the_registry(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: models:/net@champion\ndata: {source: npz, path: absent.npz}\ncompress: [{quantize: {}}]\n"
        "targets: [{name: cpu}]\ngate: {max_drop: {accuracy: 0.01}}\n"
    )
    assert invoke([*command, str(recipe)]) == 2
    assert capsys.readouterr().err == (
        f"error: The data file 'absent.npz' does not exist: got a path relative to {Path.cwd()}. "
        "Do: check the path in the data block.\n"
    )
