"""The client operations of a run as Jepsen's events: what happened to the registers of the log, in order.

Only operations that the log orders: those of gossip have another promise than a register's. Must not judge them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..checkers.run import LOG_OPERATIONS
from ..history import History, Operation, Outcome

FUNCTIONS = {"put": "write", "get": "read", "cas": "cas"}


@dataclass(frozen=True)
class Event:
    """One line. error: why it is fail or info. found: whether `value` is followed by what a cas saw instead."""

    index: int
    time_ns: int | None
    process: int
    type: str
    function: str
    key: str
    value: Any
    error: str | None = None
    found: str | None = None


def register_events(history: History) -> list[Event]:
    """Invocations and completions by time; of those of one instant, what makes them concurrent comes first.

    What nobody knows the end of is an info at the end, as it may happen until then.
    """
    wanted = _one_at_a_time([item for item in history.operations if item.operation in LOG_OPERATIONS])
    begins = {(item.process, item.invoked_ns) for item in wanted}
    ends = {(item.process, item.finished_ns) for item in wanted if _known(item)}
    placed = []
    for number, item in enumerate(wanted):
        stage = 2 if (item.process, item.invoked_ns) in ends else 0
        placed.append((item.invoked_ns, stage, number, "invoke", item))
        if _known(item):
            assert item.finished_ns is not None
            stage = 1 if (item.process, item.finished_ns) in begins else 3
            placed.append((item.finished_ns, stage, number, str(item.outcome), item))
    placed.sort(key=lambda place: place[:3])
    last_ns = placed[-1][0] if placed else 0
    placed += [(last_ns, 4, number, "info", item) for number, item in enumerate(wanted) if not _known(item)]
    return [_event(index, time_ns, kind, item) for index, (time_ns, _, _, kind, item) in enumerate(placed)]


def _one_at_a_time(items: list[Operation]) -> list[Operation]:
    """By invocation. A process that begins another while one has not ended goes on under a number of its own."""
    free = max((item.process for item in items), default=0) + 1
    busy_until: dict[int, float] = {}
    placed = []
    for item in sorted(items, key=lambda item: item.invoked_ns):
        process = item.process
        if busy_until.get(process, -1) > item.invoked_ns:
            process, free = free, free + 1
        busy_until[process] = item.finished_ns if _known(item) and item.finished_ns is not None else math.inf
        placed.append(replace(item, process=process))
    return placed


def _known(item: Operation) -> bool:
    return item.outcome is not Outcome.INFO and item.finished_ns is not None


def _event(index: int, time_ns: int, kind: str, item: Operation) -> Event:
    value: Any = None
    if item.operation == "cas":
        value = (item.expected, item.value)
    elif item.operation == "put":
        value = item.value
    elif kind == "ok":
        value = item.result
    error = (item.status or "unknown") if kind in ("fail", "info") else None
    found = item.result if kind == "fail" and item.status == "mismatch" else None
    return Event(index, time_ns, item.process, kind, FUNCTIONS[item.operation], item.key, value, error, found)
