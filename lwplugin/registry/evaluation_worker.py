"""`python -m lwplugin.registry.evaluation_worker MODEL DATA ANSWERS ROWS THREADS`: one model, alone in a process.

Reads questions from stdin and answers on stdout, one JSON object a line: {"time": 10} → {"ms": […]},
{"peak": true} → {"peak_memory_bytes": …}, {"predict": true} → answers to all examples in the file ANSWERS.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_WARM_UP = 3


def main() -> None:
    """Until stdin ends."""
    model_path, data_path, answers_path, rows_text, threads = sys.argv[1:]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = threads
    answer_to, sys.stdout = sys.stdout, sys.stderr  # what a model prints is no answer

    import mlflow
    import numpy as np

    from lwplugin.measure.memory import peak_bytes, reset_peak

    data, rows = _read(Path(data_path)), int(rows_text)
    parts = [data[start : start + rows] for start in range(0, max(1, len(data) - rows + 1), rows)]
    reset_peak()
    began = time.perf_counter()
    model = mlflow.pyfunc.load_model(model_path)
    load_ms = (time.perf_counter() - began) * 1000
    for part in (parts * _WARM_UP)[:_WARM_UP]:
        model.predict(part)

    def say(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=answer_to, flush=True)

    say({"load_ms": load_ms})
    turn = 0
    for line in sys.stdin:
        question = json.loads(line)
        if "time" in question:
            taken = []
            for _ in range(int(question["time"])):
                part = parts[turn % len(parts)]
                turn += 1
                began = time.perf_counter()
                model.predict(part)
                taken.append((time.perf_counter() - began) * 1000)
            say({"ms": taken})
        elif "peak" in question:
            say({"peak_memory_bytes": peak_bytes()})
        else:
            answers = model.predict(data)
            array = answers.to_numpy() if hasattr(answers, "to_numpy") else np.asarray(answers)
            np.save(answers_path, array.astype(str) if array.dtype.kind == "O" else array, allow_pickle=False)
            say({})


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        import numpy as np

        return np.load(path, allow_pickle=False)
    import pandas

    return pandas.read_feather(path)


if __name__ == "__main__":
    main()
