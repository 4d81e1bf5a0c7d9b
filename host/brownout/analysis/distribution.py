"""Order statistics of a sample, the same everywhere a figure is printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of a sorted, non-empty sample: always a value that was measured."""
    rank = max(1, math.ceil(len(ordered) * percent / 100))
    return ordered[rank - 1]


def distribution(values: Iterable[float]) -> dict[str, Any]:
    """count, and where there is anything: min, p50, p90, p99, max."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    return {
        "count": len(ordered),
        "min": round(ordered[0], 3),
        "p50": round(percentile(ordered, 50), 3),
        "p90": round(percentile(ordered, 90), 3),
        "p99": round(percentile(ordered, 99), 3),
        "max": round(ordered[-1], 3),
    }
