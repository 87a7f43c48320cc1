"""What jobs wrote, kept for a while: two files an attempt, bounded by age and by number."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path

KEEP_DAYS = 30.0
MOST_ATTEMPTS = 2000
_NAME = re.compile(r"job-(\d+)-\d+\.(?:json|log)")


def files_of(folder: Path, job: int, attempt: int) -> tuple[Path, Path]:
    """(what it answered, what it said)."""
    stem = folder / f"job-{job}-{attempt}"
    return stem.with_suffix(".json"), stem.with_suffix(".log")


def forget(
    folder: Path,
    *,
    keep_s: float,
    most: int,
    running: Callable[[], Collection[int]],
) -> int:
    """Removes the files of attempts older than ``keep_s`` and beyond the newest ``most``; answers with how many files.

    Files of ``running`` jobs stay; they are asked for after the files were listed, since a job is first running and
    then has files.
    """
    changed_s, files = defaultdict[str, float](float), defaultdict[str, list[Path]](list)
    for file in folder.glob("job-*"):
        if _NAME.fullmatch(file.name):
            changed_s[file.stem] = max(changed_s[file.stem], _changed_s(file))
            files[file.stem].append(file)
    spared = {str(job) for job in running()} if files else set()
    newest_first = sorted(changed_s, key=changed_s.__getitem__, reverse=True)
    oldest_s = time.time() - keep_s
    gone = [
        file
        for place, attempt in enumerate(newest_first)
        if (place >= most or changed_s[attempt] < oldest_s) and attempt.split("-")[1] not in spared
        for file in files[attempt]
    ]
    for file in gone:
        file.unlink(missing_ok=True)
    return len(gone)


def _changed_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another replica was faster
        return 0.0
