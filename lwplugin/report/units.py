"""Numbers as people read them: one way of writing sizes, times, shares and changes."""

from __future__ import annotations

import math

MISSING = "–"
MINUS = "−"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, without an exponent between a ten-thousandth and a million.

    >>> [significant(v) for v in (1234.5, 0.012345, 5.0, -0.5)]
    ['1,230', '0.0123', '5', '−0.5']
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude >= 9:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    rounded = round(value, digits - 1 - magnitude)
    text = f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", MINUS)


def prefixed(value: float, unit: str) -> str:
    """Three digits with a decimal prefix.

    >>> prefixed(1_234_567, "B"), prefixed(999, "B"), prefixed(40_500_000, "")
    ('1.23 MB', '999 B', '40.5 M')
    """
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{significant(value / factor)} {prefix}{unit}"
    return f"{significant(value)} {unit}".rstrip()


def of_metric(metric: str, value: float | None) -> str:
    """``value`` with the unit that the metric's name carries."""
    if value is None:
        return MISSING
    if metric.endswith("_bytes"):
        return prefixed(value, "B")
    if metric.endswith("_ms"):
        return f"{significant(value)} ms"
    if metric.endswith("_j"):
        return f"{significant(value)} J" if abs(value) >= 0.1 else f"{significant(value * 1000)} mJ"
    if metric in {"macs", "params"}:
        return prefixed(value, "")
    if metric == "speedup":
        return f"{significant(value)}×"
    if metric.endswith("_db"):
        return f"{significant(value)} dB"
    return significant(value, 4)


def is_share(metric: str) -> bool:
    """Whether people read the metric in percent."""
    return metric.endswith(("accuracy", "agreement", "exact_match"))


def of_score(metric: str, value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value * 100:.2f} %" if is_share(metric) else significant(value, 4)


def of_difference(metric: str, value: float | None) -> str:
    """A signed difference; shares in percentage points."""
    if value is None:
        return MISSING
    sign = "+" if value > 0 else MINUS if value < 0 else "±"
    # A hair more, so that a half that binary cannot hold rounds the same way wherever it was computed.
    return (
        f"{sign}{abs(value) * 100 + 1e-9:.2f} pp"
        if is_share(metric)
        else f"{sign}{significant(abs(value), 3)}"
    )


def change(before: float | None, after: float | None, *, smaller: str, larger: str) -> str:
    """``3.2× smaller``; ``same`` within half a percent.

    >>> change(10, 5, smaller="faster", larger="slower"), change(5, 10, smaller="faster", larger="slower")
    ('2× faster', '2× slower')
    """
    if before is None or after is None or before <= 0 or after <= 0:
        return MISSING
    ratio = before / after
    if abs(ratio - 1) < 0.005:
        return "same"
    return f"{significant(ratio)}× {smaller}" if ratio > 1 else f"{significant(1 / ratio)}× {larger}"


def short_digest(digest: object) -> str:
    text = str(digest or "")
    return text[:12] + ("…" if len(text) > 12 else "") if text else MISSING
