"""A run's curves, second by second: decisions, how long they took, operations, and how many states differ.

Pure. Values may come late, since operations and events are read from two files; a second that changes is told again.
"""

from __future__ import annotations

from statistics import median
from typing import Any

MOST_SECONDS = 1800  # kept; older ones are dropped
OPEN_SECONDS = 15  # seconds back in which single values are kept, for the median
MOST_VALUES = 2000  # in one second
LATENCY_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class Histogram:
    """Counts of values by upper bound, and their sum, as Prometheus wants them."""

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
        self.sum_ms = 0.0

    def add(self, value_ms: float) -> None:
        place = next((n for n, bound in enumerate(LATENCY_BOUNDS_MS) if value_ms <= bound), len(LATENCY_BOUNDS_MS))
        self.counts[place] += 1
        self.sum_ms += value_ms


class Curves:
    """points: second -> what happened in it."""

    def __init__(self) -> None:
        self.points: dict[int, dict[str, Any]] = {}
        self.last = -1
        self._values: dict[tuple[int, str], list[float]] = {}
        self._changed: set[int] = set()
        self._different = 0

    def advance(self, at_ns: int) -> None:
        """The run is as far as that: the seconds up to it exist, be it with nothing in them."""
        second = at_ns // 10**9
        if second <= self.last:
            return
        for number in range(max(self.last + 1, second - MOST_SECONDS), second + 1):
            self.points[number] = {
                "second": number,
                "decisions": 0,
                "decision_ms": None,
                "operation_ms": None,
                "digests": self._different,
            }
            self._changed.add(number)
        self.last = second
        for number in [n for n in self.points if n <= second - MOST_SECONDS]:
            del self.points[number]
        for key in [key for key in self._values if key[0] < second - OPEN_SECONDS]:
            del self._values[key]

    def count(self, at_ns: int) -> None:
        """A height was decided."""
        point = self._point(at_ns)
        if point is not None:
            point["decisions"] += 1

    def take(self, at_ns: int, name: str, value_ms: float) -> None:
        """name: decision_ms | operation_ms."""
        point = self._point(at_ns)
        if point is None or at_ns // 10**9 < self.last - OPEN_SECONDS:
            return
        values = self._values.setdefault((at_ns // 10**9, name), [])
        if len(values) < MOST_VALUES:
            values.append(value_ms)
            point[name] = round(median(values), 3)

    def differ(self, at_ns: int, digests: int) -> None:
        """So many states differ from now on; a second keeps the most."""
        self._different = digests
        point = self._point(at_ns)
        if point is not None:
            point["digests"] = max(point["digests"], digests)
        for second in range(at_ns // 10**9 + 1, self.last + 1):  # those were made before this was read
            if second in self.points:
                self.points[second]["digests"] = digests
                self._changed.add(second)

    def _point(self, at_ns: int) -> dict[str, Any] | None:
        self.advance(at_ns)
        point = self.points.get(at_ns // 10**9)
        if point is not None:
            self._changed.add(point["second"])
        return point

    def changes(self) -> list[dict[str, Any]]:
        """The seconds that changed since the last call."""
        found = [dict(self.points[second]) for second in sorted(self._changed) if second in self.points]
        self._changed.clear()
        return found
