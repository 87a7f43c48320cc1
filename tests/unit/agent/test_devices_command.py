from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_process import TOKEN

from lwplugin.cli import invoke


def test_devices_are_listed_with_their_state(
    agents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BOARD_TOKEN", TOKEN)
    entries = {
        "board": {"address": f"127.0.0.1:{agents().port}", "token_env": "BOARD_TOKEN"},
        "gone": {"address": "127.0.0.1:1", "token_env": "BOARD_TOKEN"},
    }
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"devices": entries}))
    monkeypatch.chdir(tmp_path)
    assert invoke(["devices", "--json"]) == 2
    board, gone = json.loads(capsys.readouterr().out)["devices"]
    assert (board["state"], board["waiting"]) == ("idle", 0)
    assert board["runtimes"]["onnxruntime"]
    assert board["machine"]["cores"] >= 1
    assert gone["state"] == "unavailable"
    assert invoke(["devices", "board"]) == 0
    assert "board" in (shown := capsys.readouterr().out)
    assert "gone" not in shown
    assert invoke(["devices", "bord"]) == 2
    assert "did you mean 'board'" in capsys.readouterr().err
