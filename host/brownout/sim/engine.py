"""Virtual time: a heap of due calls, in order of time and then of scheduling. Nothing else decides what comes next.

Must not know what it calls. Times are integer nanoseconds, so that no rounding depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Engine:
    """`now_ns` is the virtual time."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._order = 0
        self._stopped = False
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []

    def at(self, time_ns: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Call function(*arguments) at a time, now at the earliest; calls of one time come in the order of `at`."""
        now_ns = self.now_ns
        self._order = order = self._order + 1
        heappush(self._heap, (time_ns if time_ns > now_ns else now_ns, order, function, arguments))

    @property
    def calls(self) -> int:
        """How many calls were made so far: whatever is not due any more."""
        return self._order - len(self._heap)

    @property
    def idle(self) -> bool:
        return not self._heap

    def run(self, until_ns: int) -> None:
        """Let time pass to `until_ns`, everything due by then included."""
        heap = self._heap
        while heap and heap[0][0] <= until_ns:
            self.now_ns, _, function, arguments = heappop(heap)
            function(*arguments)
        self.now_ns = max(self.now_ns, until_ns)

    def run_until_stopped(self) -> None:
        """Go on, call by call, until something has called `stop` or nothing is due any more."""
        heap = self._heap
        self._stopped = False
        while heap and not self._stopped:
            self.now_ns, _, function, arguments = heappop(heap)
            function(*arguments)

    def stop(self) -> None:
        self._stopped = True
