"""How often the gate passes a candidate exactly at the margin where scores change in few examples (F1, right tokens).

    python benchmarks/false_pass.py

Rows: how large a change is. Columns: the highest rate over 100, 300 and 1,000 examples, margins of 0.0025 to 0.1, no or
half as many gains as losses; of the t interval alone, and of t and the gate's interval for rare changes together.
The bootstrap that the gate asks as well can only lower them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from lwplugin.gate.rare import Rare
from lwplugin.gate.statistics import student

REPEATS, LEVEL = 1000, 0.95
RANDOM = np.random.default_rng(3)
SIZES: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "0.3 to 0.7": lambda shape: RANDOM.uniform(0.3, 0.7, shape),
    "1": lambda shape: np.ones(shape),
    "0.1": lambda shape: np.full(shape, 0.1),
    "beta(0.5, 1)": lambda shape: RANDOM.beta(0.5, 1, shape),
    "exponential, mean 0.2": lambda shape: np.minimum(RANDOM.exponential(0.2, shape), 1),
    "0.1, one in ten 1": lambda shape: np.where(RANDOM.random(shape) < 0.1, 1.0, 0.1),
}


def rates(
    size: Callable[[tuple[int, ...]], np.ndarray], n: int, margin: float, gains: float
) -> tuple[float, float]:
    """Share of candidates that lost exactly the margin and pass: by t alone, by both."""
    lost = margin / float(size((200_000,)).mean()) / (1 - gains)
    if lost * (1 + gains) > 0.9:
        return 0.0, 0.0
    drawn, sizes = RANDOM.random((REPEATS, n)), size((REPEATS, n))
    differences = np.where(drawn < lost, -sizes, np.where(drawn < lost * (1 + gains), sizes, 0.0))
    by_t = [student(row, level=LEVEL).low >= -margin for row in differences]
    both = [
        passed and Rare.of(row, reach=1.0).low(LEVEL) >= -margin for row, passed in zip(differences, by_t)
    ]
    return float(np.mean(by_t)), float(np.mean(both))


def main() -> None:
    """Prints the table."""
    print("| a change is | t alone | with rare changes |\n|---|---:|---:|")
    for name, size in SIZES.items():
        found = [
            rates(size, *case)
            for case in itertools.product((100, 300, 1000), (0.0025, 0.01, 0.03, 0.1), (0.0, 0.5))
        ]
        by_t, both = (max(column) for column in zip(*found))
        print(f"| {name} | {by_t:.1%} | {both:.1%} |", flush=True)


if __name__ == "__main__":
    main()
