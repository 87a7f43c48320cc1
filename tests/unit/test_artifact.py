from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lwplugin.artifact import Store, digest_directory, digest_file, digest_json
from lwplugin.errors import StoreError

KEY = "ab" * 32


def _write(place: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_digest_is_of_names_and_contents_only(tmp_path: Path) -> None:
    files = {"a.txt": "1", "sub/b.txt": "2"}
    first = digest_directory(_write(tmp_path / "one", files))
    (tmp_path / "two" / "empty").mkdir(parents=True)
    assert digest_directory(_write(tmp_path / "two", dict(reversed(files.items())))) == first
    for other in ({"a.txt": "1"}, {"a.txt": "1", "sub/b.txt": "3"}, {"a.txt": "1", "sub/c.txt": "2"}):
        assert digest_directory(_write(tmp_path / str(other)[:40], other)) != first


def test_digest_cannot_be_shifted_between_names(tmp_path: Path) -> None:
    one = _write(tmp_path / "one", {"a\n": "", "b": ""})
    two = _write(tmp_path / "two", {"a": "", "\nb": ""})
    assert digest_directory(one) != digest_directory(two)


def test_large_files_are_hashed_like_small_ones(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "big").write_bytes(b"x" * (3 * 2**20))
    assert digest_file(tmp_path / "big") == hashlib.sha256(b"x" * (3 * 2**20)).hexdigest()


@pytest.mark.parametrize("target", ["a.txt", "/etc/passwd", "."])
def test_links_are_refused(tmp_path: Path, target: str) -> None:
    _write(tmp_path, {"a.txt": "1"})
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(StoreError, match="link"):
        digest_directory(tmp_path)


def test_special_files_and_missing_directories_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="special file"):
        digest_directory(tmp_path)
    with pytest.raises(StoreError, match="Not a directory"):
        digest_directory(tmp_path / "nothing")


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, object(), {"a": {1, 2}}])
def test_json_that_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(StoreError):
        digest_json(value)


def test_put_then_get(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get(KEY) is None
    with store.put(KEY, {"step": "prune"}) as place:
        _write(place, {"bundle/model.json": "{}"})
        assert store.get(KEY) is None
    found = store.get(KEY)
    assert found is not None
    assert (found / "bundle" / "model.json").read_text() == "{}"
    assert store.manifest(KEY)["step"] == "prune"
    assert store.manifest(KEY)["digest"] == digest_directory(found)
    assert store.keys() == [KEY]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_failure_leaves_nothing_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.work(KEY) / "checkpoint").write_text("step 7")

    def fail() -> None:
        with store.put(KEY) as place:
            (place / "half").write_text("made")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.get(KEY) is None
    assert list((tmp_path / "tmp").iterdir()) == []
    assert (store.work(KEY) / "checkpoint").read_text() == "step 7"
    with store.put(KEY) as place:
        (place / "whole").write_text("made")
    assert not (tmp_path / "work" / KEY).exists()


def holding_one(root: Path) -> tuple[Store, Path]:
    """A store and what it holds under KEY."""
    store = Store(root)
    with store.put(KEY) as place:
        (place / "file").write_text("good")
    found = store.get(KEY)
    assert found is not None
    return store, found


@pytest.mark.parametrize("damage", ["change", "extra", "manifest", "truncate"])
def test_damaged_result_counts_as_absent_and_is_kept_aside(
    tmp_path: Path, damage: str, heard: pytest.LogCaptureFixture
) -> None:
    store, found = holding_one(tmp_path)
    if damage == "change":
        (found / "file").write_text("evil")
    elif damage == "extra":
        (found / "more").write_text("evil")
    elif damage == "manifest":
        (found.parent / "manifest.json").write_text("[]")
    else:
        (found.parent / "manifest.json").write_text("")
    assert store.get(KEY) is None
    assert "damaged" in heard.text
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    with store.put(KEY) as place:
        (place / "file").write_text("good")
    assert store.get(KEY) is not None


def test_a_damaged_result_that_cannot_be_moved_is_absent_too(
    tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    store, found = holding_one(tmp_path)
    (found / "file").write_text("evil")
    (tmp_path / "damaged").write_text("no folder")
    assert store.get(KEY) is None
    assert "cannot be moved" in heard.text


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=r"disk is full: got No space left on device"), store.put(KEY):
        Path("/dev/full").write_text("all of it")
    assert store.get(KEY) is None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_run_does_not_begin_on_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written: got Not a directory\. Do: .*LWPLUGIN_STORE"):
        Store(tmp_path / "file").sweep()


def test_kill_in_the_middle_leaves_nothing_to_find(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from lwplugin.artifact import Store\n"
        "with Store(sys.argv[1]).put(sys.argv[2]) as place:\n"
        "    (place / 'half').write_text('made'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path), KEY], check=False)
    store = Store(tmp_path)
    assert store.get(KEY) is None
    assert store.sweep(older_than_s=3600) == 0
    assert store.sweep(older_than_s=0) == 1
    (store.work("cd" * 16) / "training").write_text("a checkpoint")
    assert store.sweep() == 0
    assert store.sweep(work_older_than_s=0) == 1
    assert not list((store.root / "work").iterdir())


def test_a_result_that_takes_days_is_not_swept_while_it_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.put(KEY) as place:
        assert store.sweep(older_than_s=0) == 0
        (place / "file").write_text("made")
    assert store.get(KEY) is not None


def test_an_archive_that_was_not_sent_and_a_damaged_result_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for folder in ("tmp", "damaged"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tmp" / "packed.tar").write_text("half")
    (tmp_path / "damaged" / KEY).mkdir()
    assert store.sweep(older_than_s=0) == 1
    assert store.sweep(work_older_than_s=0) == 1
    assert not [*(tmp_path / "tmp").iterdir(), *(tmp_path / "damaged").iterdir()]


def test_two_writers_of_one_key_leave_one_good_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ready = threading.Barrier(4)

    def write(text: str) -> None:
        with store.put(KEY) as place:
            (place / "file").write_text(text)
            ready.wait()

    threads = [threading.Thread(target=write, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.get(KEY)
    assert found is not None
    assert (found / "file").read_text() in "0123"


@pytest.mark.parametrize("key", ["", "..", "../../etc", "AB" * 32, "short", "ab" * 40])
def test_keys_are_digests(tmp_path: Path, key: str) -> None:
    with pytest.raises(StoreError, match="Not a key"):
        Store(tmp_path).get(key)
