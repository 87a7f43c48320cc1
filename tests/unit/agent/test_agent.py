"""Measuring on an agent on this machine, and everything it must refuse."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_process import QUICK, TOKEN
from lwplugin.components import step_named
from lwplugin.pipelines.plan import make_plan

from lwplugin.agent.area import Area
from lwplugin.agent.pack import pack
from lwplugin.errors import MeasureError, RecipeError
from lwplugin.measure import Comparison, measure
from lwplugin.measure.channel import Channel
from lwplugin.measure.fleet import states
from lwplugin.measure.inventory import inventory as read_inventory
from lwplugin.measure.remote import RemoteDevice
from lwplugin.measure.subject import Subject
from lwplugin.recipe_file import parse_recipe
from lwplugin.registry import Resolved


def areas() -> list[str]:
    return glob.glob(f"{tempfile.gettempdir()}/lwplugin-agent-*")


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_a_device_answers_as_this_machine_does(
    agents: Any, inventory: Any, exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    inventory(agents().port, arch=os.uname().machine, runtimes=["onnxruntime"], threads=2)
    before = areas()
    remote = measure(exports["fast"], data, baseline=exports["slow"], device="board", **short)
    local = measure(exports["fast"], data, baseline=exports["slow"], **short)
    assert isinstance(remote, Comparison)
    assert isinstance(local, Comparison)
    assert remote.candidate.device == "board"
    assert remote.candidate.metrics == local.candidate.metrics
    for name, scores in local.scores.items():
        np.testing.assert_array_equal(remote.scores[name], scores)
    assert remote.speedup.estimate > 1.5
    assert remote.candidate.machine.cpu == local.candidate.machine.cpu
    assert remote.candidate.peak_memory_bytes > 10e6
    assert remote.candidate.energy.state in ("measured", "unavailable")
    assert until(lambda: areas() == before)


def test_a_wrong_token_is_refused_on_both_sides(agents: Any, inventory: Any, monkeypatch: Any) -> None:
    agent = agents()
    inventory(agent.port)
    monkeypatch.setenv("BOARD_TOKEN", TOKEN[:-1] + "2")
    with pytest.raises(
        MeasureError, match=r"refused the connection: got the agent does not accept the token"
    ):
        RemoteDevice("board", read_inventory().devices["board"]).status()
    assert agent.said("refused (a wrong token)")
    assert states(read_inventory())[0]["state"] == "unavailable"
    monkeypatch.delenv("BOARD_TOKEN")
    with pytest.raises(MeasureError, match=r"There is no token"):
        RemoteDevice("board", read_inventory().devices["board"]).status()


def test_an_agent_that_does_not_hold_the_token_gets_no_file() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"LWAGENT1 " + b"0" * 64 + b"\n")
    threading.Thread(target=lambda: (theirs.recv(500), theirs.sendall(b"ok " + b"0" * 64 + b"\n"))).start()
    with pytest.raises(Exception, match=r"the agent does not hold the token"):
        Channel(ours, silence_s=3).prove(TOKEN)


def test_a_message_that_was_changed_on_its_way_is_refused() -> None:
    """Through a middleman that flips one bit after the proof."""
    (ours, near), (far, theirs) = socket.socketpair(), socket.socketpair()
    agent = Channel(theirs, silence_s=3)
    proof = threading.Thread(target=agent.answer, args=(TOKEN,))
    proof.start()

    def between() -> None:
        near.sendall(far.recv(500))
        far.sendall(near.recv(500))
        near.sendall(far.recv(500))
        message = bytearray()
        while len(message) < 60:
            message += near.recv(5000)
        message[50] ^= 1
        far.sendall(message)
        while rest := near.recv(5000):
            far.sendall(rest)

    threading.Thread(target=between).start()
    controller = Channel(ours, silence_s=3)
    controller.prove(TOKEN)
    proof.join()
    controller.send({"op": "job", "protocol": 1})
    with pytest.raises(Exception, match=r"changed on its way"):
        agent.receive()
    controller.close()


def test_strangers_are_closed(agents: Any, inventory: Any) -> None:
    agent = agents([*QUICK, "--connections", "2"])
    inventory(agent.port)
    address = ("127.0.0.1", agent.port)
    with socket.create_connection(address) as stranger:
        stranger.recv(200)
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: device\r\n\r\n" + b"x" * 1000)
        assert b"ok" not in stranger.recv(200)
    with socket.create_connection(address) as trickle:
        trickle.recv(200)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                trickle.sendall(b"0")
                time.sleep(0.2)
        assert time.monotonic() - began < 15
    with socket.create_connection(address), socket.create_connection(address):
        assert until(lambda: states(read_inventory())[0]["state"] == "unavailable")
        assert agent.said("too many connections")
    assert until(lambda: states(read_inventory())[0]["state"] == "idle", 15)


def test_two_jobs_at_once_wait_or_are_told_that_the_device_is_busy(agents: Any, inventory: Any) -> None:
    inventory(agents([*QUICK, "--waiting", "1"]).port, wait_s=30)
    entry = read_inventory().devices["board"]
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with RemoteDevice("board", entry, progress=lambda text, *_: said.append(text)):
            order.append("second")

    with RemoteDevice("board", entry) as first:
        waiting = threading.Thread(target=second)
        waiting.start()
        assert until(lambda: bool(said))
        assert said[0] == "waiting for board, 1 before"
        assert RemoteDevice("board", entry).status()["state"] == "busy"
        with pytest.raises(MeasureError, match=r"the device is busy: got 1 jobs wait already"):
            RemoteDevice("board", entry).__enter__()
        assert first.ask("load_average") >= 0
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    impatient = entry.model_copy(update={"wait_s": 0.0})
    with (
        RemoteDevice("board", entry),
        pytest.raises(MeasureError, match=r"'board' is busy: got 1 jobs before ours after 0 s"),
    ):
        RemoteDevice("board", impatient).__enter__()


def test_files_are_held_to_their_size_and_digest(
    agents: Any, inventory: Any, exports: dict[str, Path], tmp_path: Path
) -> None:
    inventory(agents([*QUICK, "--max-upload-bytes", "200000"]).port)
    entry = read_inventory().devices["board"]
    size = (exports["fast"] / "model.onnx").stat().st_size
    with RemoteDevice("board", entry) as device:
        subject = Subject.of(exports["fast"])
        assert device.place(subject) == device.place(subject)
    with RemoteDevice("board", entry) as device:
        device.send("", {"op": "put", "file": "a/model.onnx", "size": 4, "sha256": "0" * 64})
        device.receive("", 5)
        device.send("", {"op": "chunk"}, {"bytes": np.zeros(4, np.uint8)})
        device.send("", {"op": "kept"})
        with pytest.raises(MeasureError, match=r"did not arrive as it was sent"):
            device.receive("", 5)
        for name in ("../x", "/etc/x", "a//b", ".hidden", "a/../../b"):
            device.send("", {"op": "put", "file": name, "size": 1, "sha256": "0" * 64})
            with pytest.raises(MeasureError, match=r"file name is not allowed"):
                device.receive("", 5)
        device.send("", {"op": "put", "file": "big", "size": 200_001 - size, "sha256": "0" * 64})
        device.receive("", 5)
        device.send("", {"op": "put", "file": "more", "size": size, "sha256": "0" * 64})
        with pytest.raises(MeasureError, match=r"files of a job may take 200000 bytes"):
            device.receive("", 5)


def test_a_device_that_hangs_is_given_up(
    agents: Any, inventory: Any, exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    agent = agents()
    inventory(agent.port, silence_s=1.5)

    def freeze(label: str, done: int, total: int | None) -> None:
        if label == "time":
            agent.process.send_signal(signal.SIGSTOP)

    began = time.monotonic()
    try:
        with pytest.raises(MeasureError, match=r"'board' fell silent: got nothing was heard for 1.5 s"):
            measure(exports["fast"], data, device="board", progress=freeze, **short)
    finally:
        agent.process.send_signal(signal.SIGCONT)
    assert time.monotonic() - began < 30
    assert until(lambda: states(read_inventory())[0]["state"] == "idle", 20)


def test_a_runtime_that_hangs_on_the_device_ends_at_the_timeout(agents: Any, inventory: Any) -> None:
    inventory(agents().port)
    with (
        RemoteDevice("board", read_inventory().devices["board"]) as device,
        device.workers({"candidate 1": "onnxruntime"}, threads=1, timeout_s=6) as running,
    ):
        pid = running["candidate 1"].receive()[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(MeasureError, match=r"did not finish 'memory' within 6 s"):
            running["candidate 1"].ask("memory")
        assert time.monotonic() - began < 25
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert device.ask("load_average") >= 0


def test_a_job_ends_when_its_time_is_up(agents: Any, inventory: Any) -> None:
    inventory(agents([*QUICK, "--job-seconds", "2"]).port)
    entry = read_inventory().devices["board"]

    def hang() -> None:
        with (
            RemoteDevice("board", entry) as device,
            device.workers({"candidate 1": "onnxruntime"}, threads=1, timeout_s=60) as running,
        ):
            os.kill(running["candidate 1"].receive()[0]["pid"], signal.SIGSTOP)
            running["candidate 1"].ask("memory")

    with pytest.raises(MeasureError, match=r"the job was ended: got a job may take 2 s"):
        hang()
    assert until(lambda: states(read_inventory())[0]["state"] == "idle")


def test_a_controller_that_dies_leaves_nothing_behind(
    agents: Any, inventory: Any, exports: dict[str, Path]
) -> None:
    agent = agents()
    inventory(agent.port)
    before = areas()
    code = (
        "import sys, time\n"
        "from lwplugin.measure.inventory import inventory\n"
        "from lwplugin.measure.remote import RemoteDevice\n"
        "from lwplugin.measure.subject import Subject\n"
        "with RemoteDevice('board', inventory().devices['board']) as device:\n"
        "    device.place(Subject.of(sys.argv[1]))\n"
        "    with device.workers({'x': 'onnxruntime'}, threads=1, timeout_s=60) as running:\n"
        "        print(running['x'].receive()[0]['pid'], flush=True)\n"
        "        time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(exports["fast"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as controller:
        pid = int(controller.stdout.readline())  # type: ignore[union-attr]
        assert len(areas()) == len(before) + 1
        controller.kill()
    assert agent.said("job ended")
    assert areas() == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_killed_agent_left_goes_when_the_next_one_starts(
    agents: Any, inventory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    agent = agents(environment=environment)
    inventory(agent.port)
    with RemoteDevice("board", read_inventory().devices["board"]) as device:
        device.ask("load_average")
        agent.process.kill()
        with pytest.raises(MeasureError):
            device.receive("nobody", 5)
    (left,) = areas()
    living, ages = Area(1), time.time() - 3600
    (held,) = set(areas()) - {left}
    young = tempfile.mkdtemp(prefix="lwplugin-agent-")
    for directory in (left, held):
        os.utime(directory, (ages, ages))
    assert agents(environment=environment).said("removed the files of 1 jobs")
    assert set(areas()) == {held, young}
    living.remove()
    assert areas() == [young]


def test_sigterm_ends_it_and_the_job_is_told(agents: Any, inventory: Any) -> None:
    agent = agents()
    inventory(agent.port)
    before = areas()
    with RemoteDevice("board", read_inventory().devices["board"]) as device:
        device.ask("load_average")
        assert len(areas()) == len(before) + 1
        agent.process.terminate()
        with pytest.raises(MeasureError, match=r"the job was ended: got the agent is shutting down"):
            device.receive("nobody", 5)
    assert agent.process.wait(10) == 0
    assert areas() == before


def test_an_error_on_the_device_is_told_in_its_words(
    agents: Any, inventory: Any, exports: dict[str, Path], tmp_path: Path
) -> None:
    inventory(agents().port)
    with RemoteDevice("board", read_inventory().devices["board"]) as device:
        with pytest.raises(MeasureError, match=r"does not offer torch: got .*onnxruntime"):
            device.workers({"x": "torch"}, threads=1, timeout_s=20).__enter__()
        with device.workers({"x": "onnxruntime"}, threads=1, timeout_s=20) as running:
            running["x"].receive()
            request = {"device": "cpu", "threads": 1, "optimize": True, "output": "output"}
            with pytest.raises(MeasureError, match=r"Device 'board': A file is not on the device"):
                running["x"].ask("load", file="nowhere/model.onnx", **request)
            (tmp_path / "model.onnx").write_bytes(b"no model")
            device._put(tmp_path / "model.onnx", "broken/model.onnx", 0, 8)
            with pytest.raises(MeasureError, match=r"Device 'board': x: the runtime cannot load the file"):
                running["x"].ask("load", file="broken/model.onnx", **request)


def test_what_the_inventory_says_must_be_true(agents: Any, inventory: Any) -> None:
    inventory(agents().port, arch="sparc64", threads=1)
    entry = read_inventory().devices["board"]
    with pytest.raises(MeasureError, match=r"is not what the inventory says: got .*, not sparc64"):
        RemoteDevice("board", entry).__enter__()
    with (
        RemoteDevice("board", entry.model_copy(update={"arch": None})) as device,
        pytest.raises(MeasureError, match=r"'board' has 1 threads: got threads=2"),
    ):
        device.workers({"x": "onnxruntime"}, threads=2, timeout_s=5).__enter__()


def test_an_unknown_device_is_named_with_the_nearest(
    inventory: Any, exports: dict[str, Path], data: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("BOARD_TOKEN", TOKEN)
    file = inventory()
    with pytest.raises(RecipeError, match=r"'bord' is no device: got the inventory .*did you mean 'board'"):
        measure(exports["fast"], data, device="bord")
    with pytest.raises(MeasureError, match=r"cannot be reached at 127.0.0.1:1"):
        measure(exports["fast"], data, device="board")
    file.write_text("devices: {board: {address: 'host:1', token: secret}}")
    with pytest.raises(RecipeError, match=r"devices.board.token: unknown key; did you mean 'token_env'"):
        read_inventory()
    file.write_text("devices: {board: {address: 'host:1'}}")
    with pytest.raises(RecipeError, match=r"one of token_env and token_file is needed"):
        read_inventory()


def test_a_recipe_is_held_against_the_inventory(inventory: Any, tmp_path: Path) -> None:
    text = """
model: models:/net@champion
data: {source: digits}
compress: [{quantize: {method: int8}}]
targets:
  - {name: edge, device: DEVICE, threads: 2, format: FORMAT}
measure: {min_seconds: 2}
gate: {max_drop: {accuracy: 0.01}}
"""
    inventory(runtimes=["onnxruntime"], threads=2)

    def read(device: str, file_format: str = "onnx") -> Any:
        return parse_recipe(text.replace("DEVICE", device).replace("FORMAT", file_format))

    recipe = read("board")
    plan = make_plan(recipe, Resolved.unknown(recipe.model))
    (step,) = [step for step in plan.steps if step.step == "measure"]
    config = step_named("measure").config.model_validate(step.config)
    assert (config.device, config.options.min_seconds, config.options.max_seconds) == ("board", 2, 4)
    assert step_named("measure").context(config)["device"]["runtimes"] == ["onnxruntime"]
    with pytest.raises(RecipeError, match=r"recipe:6: targets\[0\].*did you mean 'board'"):
        read("boardd")
    with pytest.raises(RecipeError, match=r"no runtime for openvino: got onnxruntime, not openvino"):
        read("board", "openvino")
    inventory(threads=1)
    with pytest.raises(RecipeError, match=r"'board' has 1 threads: got threads=2"):
        read("board")


def test_tls_is_spoken_where_the_inventory_says_so(agents: Any, inventory: Any, tmp_path: Path) -> None:
    pem = tmp_path / "agent.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=board", "-addext", "subjectAltName=DNS:board"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(pem)),
        ],
        check=True,
        capture_output=True,
    )
    agent = agents([*QUICK, "--cert", str(pem), "--key", str(tmp_path / "key.pem")])
    inventory(agent.port, tls={"ca": "agent.pem", "server_name": "board"})
    with RemoteDevice("board", read_inventory().devices["board"]) as device:
        device.send("", {"op": "put", "file": "big", "size": 3 << 20, "sha256": "0" * 64})
        device.receive("", 5)
        device.send("", {"op": "chunk"}, {"bytes": np.zeros(3 << 20, np.uint8)})
        device.send("", {"op": "kept"})
        with pytest.raises(MeasureError, match=r"another digest"):
            device.receive("", 20)
    inventory(agent.port, tls={"ca": "agent.pem", "server_name": "other"})
    assert "has no TLS connection to offer" in states(read_inventory())[0]["problem"]
    inventory(agent.port)
    assert states(read_inventory())[0]["state"] == "unavailable"


def test_the_packed_agent_needs_numpy_and_a_runtime_alone(
    agents: Any, inventory: Any, tmp_path: Path
) -> None:
    """In an environment that holds nothing but numpy and onnxruntime."""
    pack(tmp_path / "agent.pyz")
    assert (tmp_path / "agent.pyz").stat().st_size < 200_000
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    (site,) = bare.glob("lib/python*/site-packages")
    for name in ("numpy", "onnxruntime", "flatbuffers", "packaging", "google"):
        link_package(name, site)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    agent = agents(command=[str(bare / "bin" / "python"), str(tmp_path / "agent.pyz")], environment=clean)
    inventory(agent.port)
    with (
        RemoteDevice("board", read_inventory().devices["board"]) as device,
        device.workers({"x": "onnxruntime"}, threads=1, timeout_s=30) as running,
    ):
        assert running["x"].receive()[0]["version"]
        maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
        assert "onnxruntime" not in maps
        assert "torch" not in maps


def link_package(name: str, site: Path) -> None:
    """Link an installed package, and the libraries that lie beside it, into another environment."""
    for folder in sys.path:
        found = Path(folder) / name
        if found.is_dir():
            (site / name).symlink_to(found)
            libraries = Path(folder) / f"{name}.libs"
            if libraries.is_dir():
                (site / f"{name}.libs").symlink_to(libraries)
            return


def test_it_will_not_start_with_a_token_that_can_be_guessed() -> None:
    command = [sys.executable, "-m", "lwplugin.agent", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "LWPLUGIN_AGENT_TOKEN": "secret"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "shorter than 24 characters" in done.stderr
