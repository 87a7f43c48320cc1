from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lwplugin import toolchain
from lwplugin.cli import invoke
from lwplugin.errors import ExportError, ToolchainError
from lwplugin.toolchain import catalog, environment
from lwplugin.toolchain.catalog import TOOLCHAINS, Toolchain


@pytest.fixture(autouse=True)
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LWPLUGIN_TOOLCHAINS", str(tmp_path / "toolchains"))
    return tmp_path / "toolchains"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain without packages, whose worker the test writes."""
    made = Toolchain("tiny", "nothing", ("json",), folder=tmp_path)
    for place in (made.lock, made.worker):
        place.parent.mkdir(exist_ok=True)
        place.write_text("# nothing\n")
    monkeypatch.setitem(catalog.TOOLCHAINS, "tiny", made)
    return made


@pytest.fixture
def usable(tiny: Toolchain, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """The same, with this interpreter for its own."""
    place = environment.place(tiny)
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / environment.MANIFEST).write_text('{"python_version": "3", "size_bytes": 1}')
    return tiny


@pytest.mark.parametrize("name", sorted(TOOLCHAINS))
def test_every_package_is_pinned_and_the_worker_is_there(name: str) -> None:
    entry = TOOLCHAINS[name]
    lines = [line for line in entry.lock.read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line and " " not in line for line in lines)
    assert len(entry.packages) == len(lines) > 20
    assert entry.worker.is_file()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ToolchainError, match="did you mean 'litert'"):
        toolchain.install("litret")


def test_what_is_missing_says_how_to_make_it() -> None:
    assert toolchain.state("litert").state == "absent"
    with pytest.raises(ToolchainError, match="Do: lwplugin toolchain install litert"):
        toolchain.need("litert", "Exporting to TFLite")


@pytest.mark.slow
def test_install_makes_it_once_and_borrowing_shows_it_our_package_alone(
    tiny: Toolchain, own_root: Path
) -> None:
    made = toolchain.install("tiny")
    assert toolchain.find("tiny") == made
    assert json.loads((made.path / "toolchain.json").read_text())["lock"] == tiny.lock_digest
    before = made.python.lstat().st_mtime_ns
    assert toolchain.install("tiny") == made
    assert made.python.lstat().st_mtime_ns == before
    assert {path.name for path in own_root.iterdir()} == {made.path.name, ".tiny.lock"}

    command = toolchain.borrowed("tiny", "lwplugin.cli", why="A test")
    borrow, package = command[2], command[3]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(borrow).parent)!r}); import borrow, pathlib\n"
        f"borrow.make_known(pathlib.Path({package!r})); import lwplugin.errors, importlib.util as u\n"
        "print(lwplugin.errors.__file__, u.find_spec('torch'), u.find_spec('click'))"
    )
    said = subprocess.check_output([command[0], "-c", code], text=True).split()
    assert said == [str(Path(package) / "errors.py"), "None", "None"]

    tiny.lock.write_text("# another lock\n")
    assert toolchain.state("tiny").state == "outdated"
    assert toolchain.state("tiny").others == (made.path,)


@pytest.mark.slow
def test_an_installation_that_fails_says_why_and_leaves_nothing(
    tiny: Toolchain, own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    tiny.lock.write_text("no-such-package-of-ours==1.0\n")
    with pytest.raises(ToolchainError, match="no-such-package-of-ours"):
        toolchain.install("tiny")
    assert [path.name for path in own_root.iterdir()] == [".tiny.lock"]
    assert toolchain.find("tiny") is None


def test_a_manifest_without_an_interpreter_is_not_an_environment(usable: Toolchain) -> None:
    assert toolchain.find("tiny") is not None
    (environment.place(usable) / "bin" / "python").unlink()
    assert toolchain.find("tiny") is None


def test_a_job_is_handed_over_and_answered(usable: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    usable.worker.write_text(
        "import json, os, sys\n"
        "job = json.load(open(sys.argv[1]))\n"
        "json.dump({'twice': 2 * job['number'], 'path': os.environ.get('PYTHONPATH')}, open(sys.argv[2], 'w'))\n"
    )
    assert toolchain.run("tiny", {"number": 21}, why="A test") == {"twice": 42, "path": None}


@pytest.mark.parametrize(
    ("worker", "error", "message"),
    [
        (
            "import json, sys; json.dump({'refused': 'aten.foo'}, open(sys.argv[2], 'w'))",
            ExportError,
            "aten.foo",
        ),
        ("import sys; sys.exit('out of luck')", ToolchainError, "exit code 1.*out of luck"),
        ("import os; os.kill(os.getpid(), 9)", ToolchainError, "signal 9"),
        ("import time; time.sleep(60)", ToolchainError, "did not finish"),
    ],
    ids=["refuses", "fails", "is killed", "hangs"],
)
def test_a_worker_that_does_not_answer_is_explained(
    usable: Toolchain, worker: str, error: type[Exception], message: str
) -> None:
    usable.worker.write_text(worker)
    with pytest.raises(error, match=message):
        toolchain.run("tiny", {}, why="A test", timeout_s=1.0 if "sleep" in worker else 30.0)


def test_the_command_line_lists_and_plans(own_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["toolchain", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["state"] for entry in listed} == dict.fromkeys(TOOLCHAINS, "absent")
    assert invoke(["toolchain", "install", "litert", "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [command[1:3] for command in planned["commands"][:2]] == [["-m", "venv"], ["-m", "pip"]]
    assert not own_root.exists()
    assert invoke(["toolchain", "install", "nothing"]) == 2
    assert "Unknown toolchain" in capsys.readouterr().err
