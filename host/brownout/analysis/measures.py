"""What a run's record says of speed and spread, with how sure each figure is: medians with bootstrap intervals.

Times are on the host's clock by each board's own (`clocks.py`), or on one board's clock where both ends are there.
Figures of one run; `samples` are what two runs are compared by. Must not judge a run.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from brownout_node.core import schema

from ..checkers.run import Outage
from ..history import Outcome
from . import clocks
from .intervals import brief, median_interval
from .record import Record

NANOSECONDS = 1e6  # in a millisecond
# One row a voter and height: on its own clock, in one life. Heights that were caught up on were not voted for.
DELAYS = """
SELECT CAST(first.at_ns - proposed.at_ns AS DOUBLE) / 1e6, CAST(second.now_ms - first.now_ms AS DOUBLE),
    CAST(decided.now_ms - second.now_ms AS DOUBLE)
FROM votes AS decided
JOIN votes AS second ON second.kind = 'precommitted' AND second.board = decided.board AND second.boot = decided.boot
    AND second.height = decided.height AND second.round = decided.round AND second.value_id = decided.value_id
JOIN votes AS first ON first.kind = 'prevoted' AND first.board = second.board AND first.boot = second.boot
    AND first.height = second.height AND first.round = second.round AND first.value_id = second.value_id
JOIN (SELECT height, round, value_id, min(at_ns) AS at_ns FROM votes WHERE kind = 'proposed' GROUP BY ALL) AS proposed
    ON proposed.height = first.height AND proposed.round = first.round AND proposed.value_id = first.value_id
WHERE decided.kind = 'decided' AND NOT decided.caught_up
ORDER BY decided.height, decided.board
"""
OWN = """
SELECT CAST(min(decided.now_ms - proposed.now_ms) AS DOUBLE) FROM votes AS proposed JOIN votes AS decided
    ON decided.kind = 'decided' AND NOT decided.caught_up AND decided.board = proposed.board
    AND decided.boot = proposed.boot AND decided.height = proposed.height AND decided.round = proposed.round
    AND decided.value_id = proposed.value_id
WHERE proposed.kind = 'proposed' GROUP BY proposed.height ORDER BY proposed.height
"""
SPREAD = """
SELECT w.board, w.key, w.stamp, w.at_ns, list(m.board ORDER BY m.board), list(m.at_ns ORDER BY m.board)
FROM (SELECT * FROM items WHERE kind = 'written') AS w
LEFT JOIN (SELECT writer, key, stamp, board, min(at_ns) AS at_ns FROM items WHERE kind = 'merged' GROUP BY ALL) AS m
    ON m.writer = {numbers} AND m.key = w.key AND m.stamp = w.stamp AND m.board <> w.board
GROUP BY w.board, w.key, w.stamp, w.at_ns ORDER BY w.at_ns
"""


def measure(record: Record) -> dict[str, Any]:
    """The document of a run's analysis."""
    return {
        "events": record.count,
        "clocks": clocks.summary(record.clocks),
        "metrics": {name: _interval(values) for name, values in samples(record).items()},
        "rumours": rumours(record),
        "divergence": divergence(record),
        "faults": faults(record),
        "detection": detection(record),
    }


def _interval(values: Sequence[float]) -> dict[str, Any] | None:
    interval = median_interval(values)
    return None if interval is None else interval.document()


def samples(record: Record) -> dict[str, list[float]]:
    """Metric -> its values in milliseconds. The three delays add up to a voter's decision."""
    delays = record.rows(DELAYS)
    found = {
        "proposal_to_prevote_ms": [max(0.0, row[0]) for row in delays],
        "prevote_to_precommit_ms": [row[1] for row in delays],
        "precommit_to_decision_ms": [row[2] for row in delays],
    }
    for item in record.history.operations:
        if item.outcome is Outcome.OK and item.finished_ns is not None:
            name = f"operation_{item.operation}_ms"
            found.setdefault(name, []).append((item.finished_ns - item.invoked_ns) / NANOSECONDS)
    boards = len(_roster(record))
    arrivals = [after for _, _, after in updates(record)]
    found["rumour_to_all_ms"] = [max(after, default=0.0) for after in arrivals if len(after) + 1 >= boards]
    return found


def _roster(record: Record) -> dict[str, int]:
    return {name: number for number, name, _ in record.history.manifest.get("roster", ())}


def updates(record: Record) -> list[tuple[str, int, list[float]]]:
    """(key, time, milliseconds until each other board had it) of every update that was told, by time."""
    cases = " ".join(f"WHEN '{name}' THEN {number}" for name, number in _roster(record).items())
    rows = record.rows(SPREAD.format(numbers=f"CASE w.board {cases} END" if cases else "NULL"))
    return [
        (key, at_ns, sorted(max(0, time - at_ns) / NANOSECONDS for time in times if time is not None))
        for _, key, _, at_ns, _, times in rows
    ]


def own_decisions(record: Record) -> list[float]:
    """Milliseconds from proposal to decision on the proposer itself, by its own clock, by height."""
    return [float(row[0]) for row in record.rows(OWN)]


def rumours(record: Record) -> dict[str, Any]:
    """Share of boards that have an update, by rounds since it was written, beside what the theory expects.

    Only the last update of each key: what a newer one overtook need not reach everybody. Theory: pushing in synchronous
    rounds, each holder to so many others drawn uniformly; the expected share given that of the round before.
    residue: the share of boards that had not got an update by the end of the run.
    """
    boards = len(_roster(record))
    last: dict[str, list[float]] = {}
    for key, _, after in updates(record):
        last[key] = after
    if not last or boards < 2:
        return {"updates": 0, "residue": None, "round_ms": record.timing.gossip_period_ms, "curve": []}
    period_ms, fanout = record.timing.gossip_period_ms, record.timing.gossip_fanout
    curve, expected = [], 1 / boards
    for number in range(24):
        had = sum(1 + sum(time <= number * period_ms for time in after) for after in last.values())
        curve.append({"round": number, "share": brief(had / len(last) / boards), "expected": brief(expected)})
        expected = 1 - (1 - expected) * max(0.0, 1 - min(fanout, boards - 1) / (boards - 1)) ** (boards * expected)
        if had == len(last) * boards and expected > 0.999:
            break
    lacking = sum(boards - 1 - len(after) for after in last.values())
    return {
        "updates": len(last),
        "residue": brief(lacking / len(last) / boards),
        "round_ms": period_ms,
        "curve": curve,
    }


def divergence(record: Record) -> list[list[float]]:
    """[seconds, different digests of the gossiped state that boards told last], each time their number changes."""
    told: dict[str, str] = {}
    changes: list[list[float]] = []
    for board, at_ns, digest in record.rows(
        "SELECT board, at_ns, digest FROM digests WHERE protocol = 'gossip' ORDER BY at_ns, board"
    ):
        told[board] = digest
        different = len(set(told.values()))
        if not changes or changes[-1][1] != different:
            changes.append([round(at_ns / 1e9, 3), different])
    return changes


def faults(record: Record) -> list[dict[str, Any]]:
    """Of each fault: the longest time in which no operation was done meanwhile, and until digests agreed after it."""
    done = sorted(
        item.finished_ns
        for item in record.history.operations
        if item.outcome is Outcome.OK and item.finished_ns is not None
    )
    end_ns = int(record.history.manifest["ended_ns"])
    told = record.rows("SELECT board, at_ns, digest FROM digests WHERE protocol = 'gossip' ORDER BY at_ns, board")
    times = [row[1] for row in told]
    boards = set(_roster(record))
    found = []
    for outage in record.run.outages:
        until_ns = end_ns if outage.until_ns is None else outage.until_ns
        inside = done[bisect_right(done, outage.from_ns) : bisect_left(done, until_ns)]
        longest_ns = max(after - before for before, after in pairwise([outage.from_ns, *inside, until_ns]))
        after_heal = (told[place] for place in range(bisect_left(times, until_ns), len(told)))
        converged = None if outage.until_ns is None else _agreed_ns(after_heal, boards)
        found.append(
            {
                "fault": outage.fault,
                "kind": outage.kind,
                "lasted_ms": brief((until_ns - outage.from_ns) / NANOSECONDS),
                "unavailable_ms": brief(longest_ns / NANOSECONDS),
                "converged_ms": None if converged is None else brief((converged - until_ns) / NANOSECONDS),
            }
        )
    return found


def _agreed_ns(rows: Iterable[tuple[Any, ...]], boards: set[str]) -> int | None:
    """When every board had told one and the same digest in these rows."""
    told: dict[str, str] = {}
    alike: Counter[str] = Counter()  # boards of each digest, so that a row costs the same however many boards there are
    for board, at_ns, digest in rows:
        if board not in boards:
            continue
        if board in told:
            alike[told[board]] -= 1
        told[board] = digest
        alike[digest] += 1
        if alike[digest] == len(boards):
            return int(at_ns)
    return None


class _Outages:
    """Those of one board, so that the ones that overlap a time are found without a look at all of them."""

    def __init__(self, outages: Iterable[Outage]) -> None:
        self._sorted = sorted(outages, key=lambda outage: outage.from_ns)
        self._starts = [outage.from_ns for outage in self._sorted]
        # The latest end of all up to each place: where it is before a time, nothing from there back overlaps it.
        ends = (math.inf if outage.until_ns is None else outage.until_ns for outage in self._sorted)
        self._latest = list(accumulate(ends, max))

    def those(self, from_ns: int, until_ns: int) -> Iterator[Outage]:
        place = bisect_right(self._starts, until_ns) - 1
        while place >= 0 and self._latest[place] >= from_ns:
            if self._sorted[place].overlaps(from_ns, until_ns):
                yield self._sorted[place]
            place -= 1

    def any(self, from_ns: int, until_ns: int) -> bool:
        return next(self.those(from_ns, until_ns), None) is not None


def detection(record: Record) -> dict[str, Any]:
    """How long until the first board suspected one that lay in a fault, and suspicions of boards that did not.

    Expected: in SWIM (Das, Gupta, Motivala, DSN 2002) the mean time until somebody probes a dead board, in periods;
    a probe's own timeout comes on top.
    """
    names = {number: name for name, number in _roster(record).items()}
    told = record.rows("SELECT board, at_ns, subject FROM members WHERE state <> ? ORDER BY at_ns", schema.ALIVE)
    first: dict[tuple[str, str], float] = {}
    false = 0
    # A board's silence is seen with a delay: what was under a fault a moment ago may still be suspected.
    slack_ns = (record.timing.suspicion_ms + 2 * record.timing.probe_period_ms) * 1_000_000
    whom = {"", *names.values(), *(row[0] for row in told)}
    met = {name: _Outages([o for o in record.run.outages if name in o.boards]) for name in whom}
    for board, at_ns, subject in told:
        name = names.get(subject, "")
        if not met[name].any(at_ns - slack_ns, at_ns) and not met[board].any(at_ns - slack_ns, at_ns):
            false += 1
        for outage in met[name].those(at_ns, at_ns):
            if board not in outage.boards:
                first.setdefault((outage.fault, name), (at_ns - outage.from_ns) / NANOSECONDS)
    others = len(names) - 1
    period_ms = record.timing.probe_period_ms
    expected = None
    if others > 0:
        expected = brief(period_ms / (1 - (1 - 1 / others) ** others) + record.timing.probe_timeout_ms)
    return {"first_ms": _interval(list(first.values())), "expected_ms": expected, "false_suspicions": false}
