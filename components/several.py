"""A step in several processes: torch's launcher starts them, each runs the step, the first one's result counts.

    python -m torch.distributed.run --nproc-per-node 2 -m lwplugin.components.several JOB

JOB is a file that `run_in_processes` writes. The first process prints its progress as JSON lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwplugin.components.step import Step, StepConfig

from lwplugin import errors
from lwplugin.errors import LwpluginError, StoreError
from lwplugin.progress import Progress

REFUSED = 3
"""Exit code of a process whose step raised an error of ours; it lies in the job's folder."""


@dataclass(frozen=True)
class Job:
    """One step, as a file."""

    step: str
    config: dict[str, Any]
    inputs: dict[str, str]
    output: str
    scratch: str


def run_in_processes(
    step: Step,
    config: StepConfig,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    scratch: Path,
    progress: Progress,
    processes: int,
) -> None:
    """Carry ``step`` out in ``processes`` processes. Raises what the step raises in the first of them."""
    with tempfile.TemporaryDirectory(prefix="lwplugin-job-") as folder:
        job = Path(folder) / "job.json"
        places = {name: str(path) for name, path in inputs.items()}
        document = Job(step.name, config.model_dump(mode="json"), places, str(output), str(scratch))
        job.write_text(json.dumps(vars(document)), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launcher, "-m", "lwplugin.components.several", str(job)]
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **os.environ}
        with (
            (Path(folder) / "log").open("w+", encoding="utf-8") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            ) as running,
        ):
            assert running.stdout is not None
            try:
                for line in running.stdout:
                    _pass_on(line, progress)
            except BaseException:
                running.terminate()
                raise
            running.wait()
            if running.returncode:
                log.seek(0)
                raise what_went_wrong(Path(folder), step, log.read())


def _pass_on(line: str, progress: Progress) -> None:
    try:
        label, done, total = json.loads(line)
    except ValueError:
        return  # a library that prints
    progress(label, done, total)


def what_went_wrong(folder: Path, step: Step, log: str) -> LwpluginError:
    """The error that the first process wrote into ``folder``, or what can be read from the end of ``log``."""
    file = folder / "error.json"
    if file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        kind = getattr(errors, told["type"], LwpluginError)
        error: LwpluginError = kind.__new__(kind)
        Exception.__init__(error, told["message"])
        return error
    lines = [line for line in log.splitlines() if line.strip()]
    return StoreError(
        f"The processes of step {step.name} ended without a result",
        got=" | ".join(lines[-3:])[:500],
        do="run it with one process to see the error, or give it more memory",
    )


def main(file: str) -> None:
    """One of the processes."""
    import torch
    import torch.distributed as dist
    from lwplugin.components import step_named

    job = Job(**json.loads(Path(file).read_text(encoding="utf-8")))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    first, step = dist.get_rank() == 0, step_named(job.step)

    def tell(label: str, done: int, total: int | None = None) -> None:
        if first:
            print(json.dumps([label, done, total]), flush=True)

    with tempfile.TemporaryDirectory(prefix="lwplugin-copy-") as spare:
        try:
            step.run(
                step.config.model_validate(job.config),
                {name: Path(place) for name, place in job.inputs.items()},
                Path(job.output if first else spare),
                scratch=Path(job.scratch),
                progress=tell,
            )
            dist.barrier()  # the first one is done last: who leaves early would end the others' launchers
        except LwpluginError as error:
            if first:
                told = {"type": type(error).__name__, "message": str(error)}
                Path(file).with_name("error.json").write_text(json.dumps(told), encoding="utf-8")
            sys.exit(REFUSED)
        finally:
            dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
