from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def test_a_port_in_use_is_an_error_and_not_inconclusive(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("rules: []\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code = "import sys, lwplugin.cli as c; sys.exit(c.invoke(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", port, "--workers", "0"],
            cwd=tmp_path,
            env={
                **os.environ,
                "LWPLUGIN_STORE": str(tmp_path / "store"),
                "LWPLUGIN_WEBHOOK_SECRET": "s" * 32,
                "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2, done.stderr
    assert f"error: The service could not start on 127.0.0.1:{port}" in done.stderr
