"""Changes of route: what each cost the board, and what the death of a broker or of a bridge cost everybody.

A board tells `rerouted` with the first message that came by another route, and how long it had been without, on its own
clock, from the loss as it noticed it. Beside it stands the host's view: from the moment when the fault was applied
until that event arrived. The longest time between two decisions, and between two answers to clients, around each such
fault says what it meant for the log. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..history import BoardEvent, FaultRecord, FaultStage, History, Outcome
from ..operations import LOG_OPERATIONS
from ..sites import Sites
from .distribution import distribution
from .failover import longest_gap_ms

KINDS = ("broker", "bridge", "uplink")
CAUSED_WITHIN_NS = 30_000_000_000  # a board that leaves a route later after the fault has a cause of its own


@dataclass(frozen=True)
class Reroute:
    """One change of route. gap_ms: by the board; heard_ms: from the fault, by the host; None where none caused it."""

    board: str
    at_s: float
    source: str
    target: str
    is_home: bool  # back to the board's own broker
    gap_ms: int
    fault: str | None
    heard_ms: float | None

    def document(self) -> dict[str, Any]:
        return {
            "board": self.board,
            "at_s": round(self.at_s, 3),
            "from": self.source,
            "to": self.target,
            "home": self.is_home,
            "gap_ms": self.gap_ms,
            "fault": self.fault,
            "heard_ms": None if self.heard_ms is None else round(self.heard_ms, 1),
        }


def reroutes(history: History) -> list[Reroute]:
    """All changes of route that boards told, in order of time."""
    sites = Sites.from_document(history.plan["sites"])
    deaths = sorted(
        (
            record
            for record in history.faults
            if record.kind in ("broker", "uplink") and record.stage is FaultStage.APPLIED and "site" in record.evidence
        ),
        key=lambda record: record.at_ns,
    )
    told = sorted((event for event in history.events if event.kind == "rerouted"), key=lambda event: event.received_ns)
    return [_reroute(event, sites, deaths) for event in told]


def _reroute(event: BoardEvent, sites: Sites, deaths: Iterable[FaultRecord]) -> Reroute:
    source, target = str(event.fields["from"]), str(event.fields["to"])
    is_home = target == sites.home(event.board)
    cause = None
    for record in deaths:
        near = record.at_ns <= event.received_ns < record.at_ns + CAUSED_WITHIN_NS
        met = record.kind == "broker" or event.board in record.boards
        if near and met and record.evidence["site"] == source and not is_home:
            cause = record
    return Reroute(
        event.board,
        event.received_ns / 1e9,
        source,
        target,
        is_home,
        int(event.fields["gap_ms"]),
        None if cause is None else cause.id,
        None if cause is None else (event.received_ns - cause.at_ns) / 1e6,
    )


def reroute_figures(history: History) -> dict[str, Any]:
    """The metric `reroutes` of a verdict, where the run has sites."""
    found = reroutes(history)
    away = [item for item in found if not item.is_home]
    return {
        "gap_ms": distribution(item.gap_ms for item in away),
        "heard_ms": distribution(item.heard_ms for item in away if item.heard_ms is not None),
        "home_gap_ms": distribution(item.gap_ms for item in found if item.is_home),
        "changes": [item.document() for item in found],
        "outages": _outages(history, found),
    }


def _outages(history: History, found: list[Reroute]) -> list[dict[str, Any]]:
    firsts: dict[int, int] = {}
    for event in sorted(history.events, key=lambda event: event.received_ns):
        if event.kind == "decided" and not event.fields["caught_up"]:
            firsts.setdefault(int(event.fields["height"]), event.received_ns)
    decided = sorted(firsts.values())
    answered = sorted(
        operation.finished_ns
        for operation in history.operations
        if operation.operation in LOG_OPERATIONS
        and operation.outcome is Outcome.OK
        and operation.finished_ns is not None
    )
    healed = {record.id: record.at_ns for record in history.faults if record.stage is FaultStage.HEALED}
    rows = []
    for record in sorted(history.faults, key=lambda record: record.at_ns):
        if record.kind not in KINDS or record.stage is not FaultStage.APPLIED:
            continue
        until_ns = healed.get(record.id)
        moved = [item for item in found if item.fault == record.id]
        rows.append(
            {
                "fault": record.id,
                "kind": record.kind,
                "where": str(record.evidence.get("site") or " - ".join(record.evidence.get("between", ()))),
                "at_s": round(record.at_ns / 1e9, 3),
                "lasted_ms": None if until_ns is None else round((until_ns - record.at_ns) / 1e6, 1),
                "rerouted": len(moved),
                "longest_gap_ms": max((item.gap_ms for item in moved), default=None),
                "decision_gap_ms": _rounded(longest_gap_ms(decided, record.at_ns, until_ns)),
                "answer_gap_ms": _rounded(longest_gap_ms(answered, record.at_ns, until_ns)),
            }
        )
    return rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
