"""When things happened, on one clock: what each board's clock was ahead or behind, with a bound of the error.

A board counts milliseconds from its boot. A client's command reaches it after it was sent and before the board tells of
it, and what it tells arrives after it happened: so each command gives a bound from below and each event one from above
of the instant on the host's clock at which the board's count began. Their middle is the estimate, half their distance
the bound. A clock that runs too fast or slow is followed in windows, up to DRIFT_PPM; where the bounds contradict each
other even so (a clock that jumped), the windows become shorter, and at last the bound says what it cannot know.
Must not assume that a message takes as long one way as the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb

WINDOW_MS = 5_000
SHORTEST_MS = 500
DRIFT_PPM = 100  # crystals of boards are within 50
COUNT_NS = 1_000_000  # a count of whole milliseconds stands for any instant within one

# From below: any event that names a client's request happened after the client sent it.
BOUNDS = """
SELECT board, boot, now_ms // {window} AS number,
    min(received_ns - now_ms * 1000000 + abs(now_ms - (now_ms // {window} + 0.5) * {window}) * {drift}) AS above,
    max(sent_ns - (now_ms + 1) * 1000000 - abs(now_ms - (now_ms // {window} + 0.5) * {window}) * {drift}) AS below
FROM asked GROUP BY ALL ORDER BY ALL
"""
ASKED = """
CREATE TEMP TABLE asked AS SELECT e.board, e.boot, e.now_ms, e.received_ns, o.invoked_ns AS sent_ns
FROM (SELECT board, boot, now_ms, received_ns,
        CASE WHEN kind IN ({kinds}) THEN CAST(fields->>'client' AS BIGINT) END AS client,
        CASE WHEN kind IN ({kinds}) THEN CAST(fields->>'request' AS BIGINT) END AS request FROM events) AS e
    LEFT JOIN (SELECT client, request, min(invoked_ns) AS invoked_ns FROM operations GROUP BY ALL) AS o
    ON e.client = o.client AND e.request = o.request
"""
NAMING: tuple[str, ...] = (
    "submitted",
    "applied",
    "byzantine_submitted",
    "byzantine_applied",
    "incremented",
    "added",
    "removed",
)
NAMING += ("assigned", "included")
# Exact where the bounds meet: an event never comes after the host has it.
TIMED = """
CREATE TEMP VIEW timed AS SELECT e.*, CAST(least(coalesce(c.base_ns + e.now_ms * 1000000, e.received_ns),
    e.received_ns) AS BIGINT) AS at_ns, c.bound_ns AS bound_ns
FROM events AS e ASOF LEFT JOIN clocks AS c ON e.board = c.board AND e.boot = c.boot AND e.now_ms >= c.from_ms
"""


@dataclass(frozen=True)
class Window:
    """base_ns + now_ms is when it was on the host's clock, to within bound_ns; None where nothing bounds it."""

    board: str
    boot: int
    from_ms: int
    until_ms: int
    base_ns: int
    bound_ns: int | None


def estimate(tables: duckdb.DuckDBPyConnection) -> list[Window]:
    """Make the table `clocks` and the view `timed`; the windows of every boot."""
    kinds = ", ".join(f"'{kind}'" for kind in NAMING)
    tables.execute(ASKED.format(kinds=kinds))
    windows: list[Window] = []
    wide = _bounds(tables, WINDOW_MS)
    broken = sorted(life for life, rows in wide.items() if _contradict(rows, WINDOW_MS))
    narrow = _bounds(tables, SHORTEST_MS) if broken else {}
    for life, rows in wide.items():
        if life in broken:
            windows += _windows(life, narrow[life], SHORTEST_MS)
        else:
            windows += _windows(life, rows, WINDOW_MS)
    tables.execute("DROP TABLE asked")
    _store(tables, windows)
    return windows


Rows = list[tuple[int, float, float]]  # number of the window, bound from below and from above


def _bounds(tables: duckdb.DuckDBPyConnection, window_ms: int) -> dict[tuple[str, int], Rows]:
    """Life -> its windows that have events. drift is nanoseconds for each millisecond."""
    found: dict[tuple[str, int], Rows] = {}
    query = BOUNDS.format(window=window_ms, drift=DRIFT_PPM)
    for board, boot, number, above, below in tables.execute(query).fetchall():
        rows = found.setdefault((board, boot), [])
        rows.append((int(number), -math.inf if below is None else float(below), float(above)))
    return found


def _spread(rows: Rows, window_ms: int) -> list[tuple[float, float]]:
    """Each window's bounds, tightened by its neighbours': a bound holds elsewhere too, less what may have drifted."""
    slack = DRIFT_PPM * window_ms
    bounds = [[below, above] for _, below, above in rows]
    order = range(1, len(rows))
    for here, before in [(i, i - 1) for i in order] + [(i - 1, i) for i in reversed(order)]:
        away = slack * abs(rows[here][0] - rows[before][0])
        bounds[here][0] = max(bounds[here][0], bounds[before][0] - away)
        bounds[here][1] = min(bounds[here][1], bounds[before][1] + away)
    return [(below, above) for below, above in bounds]


def _contradict(rows: Rows, window_ms: int) -> bool:
    return any(below > above for below, above in _spread(rows, window_ms))


def _windows(life: tuple[str, int], rows: Rows, window_ms: int) -> Iterable[Window]:
    board, boot = life
    spread = _spread(rows, window_ms)
    if any(below > above for below, above in spread):
        spread = [(below, above) for _, below, above in rows]  # a clock that jumps: each window for itself
    for (number, _, _), (below, above) in zip(rows, spread, strict=True):
        base, bound = _middle(below, above)
        # Bounds are of the middle of a window; to its ends the clock may drift further.
        bound = None if bound is None else bound + DRIFT_PPM * window_ms // 2
        yield Window(board, boot, number * window_ms, (number + 1) * window_ms, base, bound)


def _middle(below: float, above: float) -> tuple[int, int | None]:
    """The estimate and its bound. Whole milliseconds: what happened did so half of one later, on average."""
    if below == -math.inf:
        return round(above), None
    middle = (below + above) / 2
    return round(middle + COUNT_NS / 2), round(abs(above - below) / 2 + COUNT_NS / 2)


def _store(tables: duckdb.DuckDBPyConnection, windows: Sequence[Window]) -> None:
    tables.execute(
        "CREATE TEMP TABLE clocks (board VARCHAR, boot BIGINT, from_ms BIGINT, base_ns BIGINT, bound_ns BIGINT)"
    )
    for first in range(0, len(windows), 500):
        part = windows[first : first + 500]
        marks = ", ".join("(?, ?, ?, ?, ?)" for _ in part)
        values = [value for w in part for value in (w.board, w.boot, w.from_ms, w.base_ns, w.bound_ns)]
        tables.execute(f"INSERT INTO clocks VALUES {marks}", values)
    tables.execute(TIMED)


def summary(windows: Sequence[Window]) -> list[dict[str, object]]:
    """One row a board's life: when its count began, to within what, and how far the clock drifted meanwhile."""
    lives: dict[tuple[str, int], list[Window]] = {}
    for window in windows:
        lives.setdefault((window.board, window.boot), []).append(window)
    rows = []
    for (board, boot), parts in lives.items():
        bounded = [part for part in parts if part.bound_ns is not None]
        best = min(bounded, key=lambda part: part.bound_ns or 0) if bounded else parts[0]
        drift = (parts[-1].base_ns - parts[0].base_ns) / max(1, parts[-1].from_ms - parts[0].from_ms)
        rows.append(
            {
                "board": board,
                "boot": boot,
                "began_ms": round(best.base_ns / 1e6, 3),
                "bound_ms": None if best.bound_ns is None else round(best.bound_ns / 1e6, 3),
                "drift_ppm": round(drift, 1) if len(bounded) > 1 else None,
                "windows": len(parts),
                "windows_bounded": len(bounded),
            }
        )
    return rows
