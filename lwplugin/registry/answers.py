"""`answers.py EXPORT FEEDS ANSWERS`: what a file answers when it is served, for the Python that has its runtime.

Runs where mlflow is not: it knows the serving module and numpy alone. FEEDS is an npz, ANSWERS becomes an npy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lwplugin.registry.serving import ExportedModel


def main() -> None:
    """One question, one answer."""
    exported, asked, answered = map(Path, sys.argv[1:])
    with np.load(asked, allow_pickle=False) as feeds:
        np.save(answered, ExportedModel(exported, {}).run(dict(feeds)))


if __name__ == "__main__":
    main()
