"""What a durable write of a voting board costs its flash, over the records that five real replicas really write.

Must not count what opening or formatting costs.
"""

from __future__ import annotations

from .figures import Figure
from .workbench import Workbench

MOST_PROGRAMS = 1.0
MOST_ERASES = 0.02


def measure(bench: Workbench) -> list[Figure]:
    _replies, _delays, boards, (writes, programs, erases) = bench.replicas()
    appends = sum(row[0] for row in boards)
    costs = [cost for row in boards for cost, count in enumerate(row[4]) for _ in range(count)]
    bytes_per_write = sum(row[3] for row in boards) / appends
    compared_to = "LittleFS, append and flush"
    note = f"mean, with {bytes_per_write:.0f} bytes of records a write; five voters, three protocols, on MicroPython"
    return [
        Figure(
            "programs per durable write",
            sum(row[1] for row in boards) / appends,
            "",
            MOST_PROGRAMS,
            appends,
            p99=float(sorted(costs)[len(costs) * 99 // 100]),
            compared_to=compared_to,
            compared_value=programs / writes,
            measure="value",
            note=note,
        ),
        Figure(
            "erases per durable write",
            sum(row[2] for row in boards) / appends,
            "",
            MOST_ERASES,
            appends,
            compared_to=compared_to,
            compared_value=erases / writes,
            measure="value",
            note="mean; erases ahead of need, made while idle, are in it",
        ),
    ]
