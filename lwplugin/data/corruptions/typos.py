"""Typing mistakes in a text, a share of its letters, decided by a generator."""

from __future__ import annotations

import numpy as np

_SHARES = (0.02, 0.04, 0.07, 0.11, 0.16)
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {row[i]: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i in range(len(row))}


def with_typos(text: str, severity: int, generator: np.random.Generator) -> str:
    """The text with about 2, 4, 7, 11 or 16 % of its letters mistyped; what is no letter stays.

    >>> with_typos("", 5, np.random.default_rng(0))
    ''
    """
    chances = generator.random(len(text))
    mistakes = generator.integers(0, 4, len(text))
    out: list[str] = []
    place = 0
    while place < len(text):
        letter = text[place]
        following = text[place + 1 : place + 2]
        place += 1
        if not letter.isalpha() or chances[place - 1] >= _SHARES[severity - 1]:
            out.append(letter)
            continue
        kind = mistakes[place - 1]
        if kind == 0 and following.isalpha():
            out.append(following + letter)
            place += 1
        elif kind == 1:
            continue
        elif kind == 2 and (near := _BESIDE.get(letter.lower())):
            other = near[int(generator.integers(len(near)))]
            out.append(other.upper() if letter.isupper() else other)
        else:
            out.append(letter + letter)
    return "".join(out)
