"""How fast each gossip update spread: until half, nine tenths and all of the boards had it, in host time.

An update that a newer one overtook never reaches all boards, and that is no fault of the gossip; such updates are
counted apart (`all_ms` is None).
"""

from __future__ import annotations

import math
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


def mean_curve(spreads: Sequence[Spread], boards: int, points: int = 120) -> list[tuple[float, float]]:
    """(milliseconds since the write, mean share of boards that have it), over the updates that reached all boards."""
    whole = [spread for spread in spreads if spread.all_ms is not None]
    if not whole or boards < 1:
        return []
    last_ms = max(spread.all_ms or 0.0 for spread in whole) or 1.0
    curve = []
    for point in range(points + 1):
        at_ms = last_ms * point / points
        share = sum(sum(time <= at_ms for time in spread.arrivals_ms) for spread in whole) / (len(whole) * boards)
        curve.append((at_ms, min(1.0, share)))
    return curve
