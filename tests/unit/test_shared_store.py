"""Results that one machine makes and another finds, over a real S3 API on HTTP and over a plain directory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwplugin.artifact import Store
from lwplugin.errors import StoreError
from lwplugin.shared_store import SharedStore, open_store

KEY = "ab" * 32
BUCKET = "results"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server of its own process, with one bucket."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(endpoint, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield endpoint
    finally:
        server.kill()
        server.wait()


@pytest.fixture(params=["path", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "path":
        return str(tmp_path / "shared")
    endpoint = request.getfixturevalue("s3")
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"{BUCKET}-{os.urandom(4).hex()}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/team"


def fill(store: Store, text: str = "hello", key: str = KEY) -> Path:
    with store.put(key, {"step": "write"}) as output:
        (output / "deep").mkdir()
        (output / "deep" / "out.txt").write_text(text)
    found = store.get(key)
    assert found is not None
    return found


def test_what_one_machine_made_another_finds(address: str, tmp_path: Path) -> None:
    here, there = SharedStore(tmp_path / "here", address), SharedStore(tmp_path / "there", address)
    assert there.get(KEY) is None
    fill(here)
    found = there.get(KEY)
    assert found is not None
    assert (found / "deep" / "out.txt").read_text() == "hello"
    assert there.manifest(KEY) == here.manifest(KEY)
    assert Store(tmp_path / "there").get(KEY) == found  # from now on without the shared one
    assert not list((tmp_path / "there" / "tmp").iterdir())


def test_what_is_removed_is_gone_for_all_and_can_be_replaced(address: str, tmp_path: Path) -> None:
    here, there = SharedStore(tmp_path / "here", address), SharedStore(tmp_path / "there", address)
    fill(here)
    here.remove(KEY)
    assert there.get(KEY) is None
    fill(here, "anew")
    found = there.get(KEY)
    assert found is not None
    assert (found / "deep" / "out.txt").read_text() == "anew"


def test_a_damaged_archive_counts_as_absent(tmp_path: Path) -> None:
    here, there = (SharedStore(tmp_path / name, str(tmp_path / "shared")) for name in ("here", "there"))
    fill(here)
    (archive,) = (tmp_path / "shared").rglob("*.tar")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert there.get(KEY) is None
    archive.write_bytes(whole.replace(b"hello", b"jello"))
    assert there.get(KEY) is None
    assert list((tmp_path / "there" / "damaged").iterdir())
    archive.write_bytes(whole)
    assert there.get(KEY) is not None


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    archive = tmp_path / "shared" / "objects" / KEY[:2] / f"{KEY}.tar"
    archive.parent.mkdir(parents=True)
    (tmp_path / "evil").write_text("evil")
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "evil", arcname="../../../../evil2")
    assert SharedStore(tmp_path / "here", str(tmp_path / "shared")).get(KEY) is None
    assert not list(tmp_path.rglob("evil2"))


def test_while_it_does_not_answer_work_goes_on_and_is_sent_later(
    tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "shared"
    shared.write_text("a file where the directory should be")
    here = SharedStore(tmp_path / "here", str(shared))
    assert here.get(KEY) is None
    fill(here)
    assert "does not answer" in heard.text
    shared.unlink()
    assert here.get(KEY) is not None  # asked for again: sent now
    assert SharedStore(tmp_path / "there", str(shared)).get(KEY) is not None


def test_a_step_ends_well_and_is_sent_later_though_s3_cannot_be_reached(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def reached_at(endpoint: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()

    reached_at(s3)
    bucket = f"{BUCKET}-{os.urandom(4).hex()}"
    s3fs.S3FileSystem().mkdir(bucket)
    here, there = (SharedStore(tmp_path / name, f"s3://{bucket}/team") for name in ("here", "there"))
    fill(here, "of before")
    reached_at("http://127.0.0.1:1")
    with here.put(KEY) as output:  # as a step does that is run again
        (output / "deep").mkdir()
        (output / "deep" / "out.txt").write_text("anew")
        here.remove(KEY)
    assert "does not answer" in heard.text
    reached_at(s3)
    assert here.get(KEY) is not None
    found = there.get(KEY)
    assert found is not None
    assert (found / "deep" / "out.txt").read_text() == "anew"


def test_without_room_for_the_archive_the_result_is_kept_and_sent_later(
    tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    store = SharedStore(tmp_path / "here", str(tmp_path / "shared"))
    with Store(store.root).put(KEY) as place:
        (place / "file").write_text("made")
    (store.root / "unsent").mkdir()
    (store.root / "unsent" / KEY).touch()
    (store.root / "tmp").rmdir()
    (store.root / "tmp").write_text("no folder")
    assert store.get(KEY) is not None
    assert "not shared for now" in heard.text
    (store.root / "tmp").unlink()
    assert store.get(KEY) is not None
    assert SharedStore(tmp_path / "there", str(tmp_path / "shared")).get(KEY) is not None


def test_the_settings_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(open_store(tmp_path)) is Store
    monkeypatch.setenv("LWPLUGIN_SHARED_STORE", "nosuchscheme://x")
    with pytest.raises(StoreError, match="LWPLUGIN_SHARED_STORE"):
        open_store(tmp_path).get(KEY)
