"""How fast each gossip update spread: until half, nine tenths and all of the boards had it, in host time.

An update that a newer one overtook never reaches all boards, and that is no fault of the gossip; such updates are
counted apart (`all_ms` is None).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ..history import History


@dataclass(frozen=True)
class Spread:
    """One update, by writer and stamp. arrivals: sorted milliseconds after it was written, the writer's own 0 first."""

    key: str
    writer: str
    stamp: int
    written_ns: int
    arrivals_ms: tuple[float, ...]
    half_ms: float | None
    most_ms: float | None
    all_ms: float | None


def item_spreads(history: History) -> list[Spread]:
    """Every update whose writing was told, in order of writing."""
    roster = history.manifest.get("roster", ())
    names = {number: name for number, name, _ in roster}
    written: dict[tuple[str, int], tuple[str, int]] = {}
    arrivals: dict[tuple[str, int], dict[str, int]] = {}
    for event in history.events:
        if event.kind == "written":
            written[(event.board, event.fields["stamp"])] = (event.fields["key"], event.received_ns)
        elif event.kind == "merged":
            name = (names.get(event.fields["writer"], ""), event.fields["stamp"])
            arrivals.setdefault(name, {}).setdefault(event.board, event.received_ns)
    spreads = []
    for (writer, stamp), (key, written_ns) in written.items():
        others = arrivals.get((writer, stamp), {})
        after = sorted(max(0.0, (at_ns - written_ns) / 1e6) for board, at_ns in others.items() if board != writer)
        times = (0.0, *after)
        spreads.append(
            Spread(
                key,
                writer,
                stamp,
                written_ns,
                times,
                _until(times, 0.5, len(roster)),
                _until(times, 0.9, len(roster)),
                _until(times, 1.0, len(roster)),
            )
        )
    return sorted(spreads, key=lambda spread: spread.written_ns)


def _until(times: Sequence[float], share: float, boards: int) -> float | None:
    needed = max(1, math.ceil(share * boards - 1e-9))
    return times[needed - 1] if len(times) >= needed else None


def mean_curve(updates: Sequence[Sequence[float]], boards: int, points: int = 120) -> list[tuple[float, float]]:
    """(milliseconds since the write, mean share of boards that have it), over the updates that reached all boards.

    updates: of each, sorted milliseconds until each board but the writer had it.
    """
    whole = [after for after in updates if len(after) + 1 >= boards]
    if not whole or boards < 1:
        return []
    times = sorted(time for after in whole for time in after)
    last_ms = (times[-1] if times else 0.0) or 1.0
    curve = []
    for point in range(points + 1):
        at_ms = last_ms * point / points
        share = (len(whole) + bisect_right(times, at_ms)) / (len(whole) * boards)
        curve.append((at_ms, min(1.0, share)))
    return curve
