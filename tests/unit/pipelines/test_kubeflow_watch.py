from __future__ import annotations

import io
import sys

import pytest
from lwplugin.pipelines.kubeflow.watch import Task, Watch

HEAD = "14:20:47.279 - INFO - "
SAID = "    [KFP Executor 2026-11-27 14:20:54,115 INFO]: "


def run(*lines: str) -> tuple[list[Task], list[tuple[str, int, int | None]], str]:
    """(tasks that ended, progress, what the file holds) of what KFP prints, in pieces as they come."""
    file, ended, progress = io.StringIO(), list[Task](), list[tuple[str, int, int | None]]()

    def over(task: Task) -> None:
        ended.append(task)
        print(task.name, file=sys.stderr)

    watch = Watch(file, over, lambda label, done, total=None: progress.append((label, done, total)))
    text = "\n".join(lines) + "\n"
    with watch.listening():
        for start in range(0, len(text), 7):
            print(text[start : start + 7], end="")
    return ended, progress, file.getvalue()


def test_tasks_and_progress_are_read_from_what_kfp_prints(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        f"{HEAD}Executing task \x1b[96m'pull'\x1b[0m",
        f"{SAID}download 989147/989147",
        f"{SAID}pull: found, key {64 * 'a'}, digest {64 * 'b'}",
        f"{HEAD}Task \x1b[96m'pull'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m",
        f"{HEAD}Executing task \x1b[96m'prune-2'\x1b[0m",
        "    error: prune: No layer is called 'x'. Do: correct it.",
        f"{HEAD}Task \x1b[96m'prune-2'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m",
    ]
    ended, progress, kept = run(*lines)
    assert [(task.name, task.succeeded, task.hit) for task in ended] == [
        ("pull", True, True),
        ("prune-2", False, False),
    ]
    assert ended[1].error == ended[1].message == "No layer is called 'x'. Do: correct it."
    assert progress == [("download", 989147, 989147)]
    assert kept == "\n".join(lines) + "\n"
    assert capsys.readouterr() == ("", "pull\nprune-2\n")


def test_a_task_that_breaks_shows_its_last_lines() -> None:
    began, over = f"{HEAD}Executing task 'gate'", f"{HEAD}Task 'gate' finished with status FAILURE"
    (task,), _, _ = run(began, *[f"    line {n}" for n in range(50)], "    KeyError: 'x'", "", over)
    assert (task.message, task.error) == (None, "its task broke: KeyError: 'x'")
    assert (len(task.last), task.last[0]) == (20, "line 31")
