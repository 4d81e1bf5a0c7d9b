"""What looks wrong in a run, whether or not a promise was broken: divergent states, registers out of range,
contradicting votes, clocks that run away.

    anomalies(history)  ->  [Anomaly], in order of time

An anomaly is a place to look at, not a verdict: a fault of the campaign may well have made it. One is told only where
the record leaves no other explanation, so lost or late messages make none. Must not judge, and must not look at faults.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..history import BoardEvent, History

DIGEST = "divergent digest"
RANGE = "register out of range"
VOTES = "contradicting votes"
CLOCK = "clock runs away"
MOST = 100  # anomalies of one run; `count` has them all

DRIFT_PPM = 100  # crystals of boards are within 50
SLACK_NS = 50_000_000  # what a clock may be off beyond that before it is said to run away
OPEN = 1  # of the event `breaker`, as its causes: core/breaker.py
FLAGGED = {2: (DIGEST, "a voter has another state"), 5: (RANGE, "a register has left its range")}
DONE = 0  # status of a command that was carried out
# What a board says of its own votes: the event and the fields which, together, allow one value.
OWN_VOTES: Mapping[str, tuple[str, ...]] = {
    "prevoted": ("height", "round"),
    "precommitted": ("height", "round"),
    "byzantine_proposed": ("height", "view"),
    "byzantine_voted": ("height", "view", "phase"),
}
HEARD_VOTES = ("byzantine_heard", "contradiction")  # what boards say of the votes of others
APPLIED = ("applied", "byzantine_applied")


@dataclass(frozen=True)
class Anomaly:
    """board: the one that is odd, or the last to tell where several differ. evidence: events by boot and sequence."""

    kind: str
    board: str
    at_ns: int
    detail: str
    evidence: tuple[BoardEvent, ...]

    def document(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "board": self.board,
            "at_s": round(self.at_ns / 1e9, 3),
            "detail": self.detail,
            "evidence": [_named(event) for event in self.evidence],
        }


def anomalies(history: History) -> list[Anomaly]:
    """Every anomaly of a run, the earliest first."""
    found = [
        *_digests(history),
        *_breakers(history.events),
        *_ranges(history),
        *_votes(history),
        *_clocks(history),
    ]
    return sorted(found, key=lambda anomaly: (anomaly.at_ns, anomaly.kind, anomaly.board))


def anomaly_figures(history: History) -> dict[str, Any]:
    """The part of the metrics of verdict.json: how many of each kind, and the first of them."""
    found = anomalies(history)
    counts: dict[str, int] = defaultdict(int)
    for anomaly in found:
        counts[anomaly.kind] += 1
    return {"count": len(found), "kinds": dict(sorted(counts.items())), "found": [a.document() for a in found[:MOST]]}


def _named(event: BoardEvent) -> dict[str, Any]:
    return {"board": event.board, "boot": event.boot, "sequence": event.sequence, "step": event.kind}


# States.


def _digests(history: History) -> Iterator[Anomaly]:
    """A protocol that has a digest at a height has the same one on every board there."""
    first: dict[tuple[str, int], BoardEvent] = {}
    told = [event for event in history.events if event.kind == "digest" and event.fields["height"]]
    for event in sorted(told, key=lambda event: event.received_ns):
        protocol, height = event.fields["protocol"], event.fields["height"]
        before = first.setdefault((protocol, height), event)
        if event.fields["digest"] != before.fields["digest"]:
            detail = f"{protocol} at height {height}: {event.fields['digest']}, on {before.board} "
            detail += str(before.fields["digest"])
            yield Anomaly(DIGEST, event.board, event.received_ns, detail, (before, event))


def _breakers(events: Iterable[BoardEvent]) -> Iterator[Anomaly]:
    """What boards found by themselves and stopped serving for."""
    for event in events:
        if event.kind == "breaker" and event.fields["state"] == OPEN and event.fields["cause"] in FLAGGED:
            kind, why = FLAGGED[event.fields["cause"]]
            detail = f"the board's breaker is open at height {event.fields['height']}: {why}"
            yield Anomaly(kind, event.board, event.received_ns, detail, (event,))


# Registers.


def _ranges(history: History) -> Iterator[Anomaly]:
    """Told once for each value written, not by every board that applied it."""
    ranges: Mapping[str, Any] = history.manifest.get("checks", {}).get("ranges", {})
    if not ranges:
        return
    seen: set[tuple[Any, ...]] = set()
    for event in sorted(history.events, key=lambda event: event.received_ns):
        if event.kind not in APPLIED or event.fields["status"] != DONE or event.fields["value"] is None:
            continue
        key, value = event.fields["key"], event.fields["value"]
        write = (event.kind, event.fields["height"], event.fields["client"], event.fields["request"])
        if key not in ranges or write in seen:
            continue
        seen.add(write)
        least, most = ranges[key]
        number = _number(value)
        if number is None or not least <= number <= most:
            detail = f"{key} = {value} at height {event.fields['height']}; allowed: {least:g} to {most:g}"
            yield Anomaly(RANGE, event.board, event.received_ns, detail, (event,))


def _number(value: str) -> int | None:
    digits = value.removeprefix("-")
    return int(value) if digits.isascii() and digits.isdigit() else None


# Votes.


def _votes(history: History) -> Iterator[Anomaly]:
    """A board that voted for two values where one is allowed, by its own word over all its lives, or by others'."""
    names = {number: name for number, name, _ in history.manifest.get("roster", ())}
    said: dict[tuple[Any, ...], dict[Any, BoardEvent]] = defaultdict(dict)
    for event in sorted(history.events, key=lambda event: event.received_ns):
        if event.kind not in OWN_VOTES and event.kind not in HEARD_VOTES:
            continue
        place, values = _statement(event, names)
        known = said[place]
        known_before = len(known)
        for value in values:
            known.setdefault(value, event)
        if len(known) > 1 and known_before < 2:  # the first contradiction of each place tells it all
            told = tuple(dict.fromkeys(_identity(one) for one in known.values()))
            evidence = tuple(next(one for one in known.values() if _identity(one) == key) for key in told)
            where = ", ".join(str(part) for part in place[1:])
            detail = f"{where}: {' and '.join(str(value) for value in sorted(known, key=str))}"
            yield Anomaly(VOTES, place[0], event.received_ns, detail, evidence)


def _identity(event: BoardEvent) -> tuple[str, int, int]:
    return event.board, event.boot, event.sequence


def _statement(event: BoardEvent, names: Mapping[int, str]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(who, at which place) and the values that were voted for there."""
    fields = event.fields
    values: tuple[Any, ...]
    if event.kind in OWN_VOTES:
        who, values = event.board, (fields["value_id"],)
        kind = event.kind if event.kind in ("prevoted", "precommitted") else "byzantine"
        phase = (fields.get("phase", 0),) if kind == "byzantine" else ()
    else:
        who, kind, phase = names.get(fields["board"], f"board {fields['board']}"), "byzantine", (fields["phase"],)
        values = (fields["value_id"],) if "value_id" in fields else (fields["first"], fields["second"])
    turn = f"round {fields['round']}" if "round" in fields else f"view {fields['view']}"
    place = [f"height {fields['height']}", turn, *(f"phase {number}" for number in phase)]
    return (who, kind, *place), values


# Clocks.


@dataclass(frozen=True)
class _Bound:
    """When a board's count began, at the earliest or latest, going by one event."""

    at_ns: int
    now_ms: int
    event: BoardEvent


def _clocks(history: History) -> Iterator[Anomaly]:
    """One for each life of a board whose count of milliseconds cannot have run with the host's.

    An event has happened when the host has it, and one that names a client's request happened after the client sent
    that: so each bounds when the count began, the first from above, the second from below. While the clock is right,
    no bound from below is above one from above.
    """
    sent: dict[tuple[Any, Any], int] = {}
    for operation in history.operations:
        place = (operation.client, operation.request)
        sent[place] = min(sent.get(place, operation.invoked_ns), operation.invoked_ns)
    lives: dict[tuple[str, int], list[BoardEvent]] = defaultdict(list)
    for event in history.events:
        lives[event.board, event.boot].append(event)
    for events in lives.values():
        found = _contradiction(events, sent)
        if found is not None:
            yield found


def _contradiction(events: list[BoardEvent], sent: Mapping[tuple[Any, Any], int]) -> Anomaly | None:
    below: _Bound | None = None  # the tightest so far
    above: _Bound | None = None
    for event in sorted(events, key=lambda event: event.sequence):
        counted_ns = event.now_ms * 1_000_000
        latest = _Bound(event.received_ns - counted_ns, event.now_ms, event)
        place = (event.fields.get("client"), event.fields.get("request"))
        earliest = _Bound(sent[place] - counted_ns - 1_000_000, event.now_ms, event) if place in sent else None
        if below is not None and _beyond(below, latest):
            return _runaway(below, latest, "ahead")
        if above is not None and earliest is not None and _beyond(earliest, above):
            return _runaway(earliest, above, "behind")
        above = latest if above is None or latest.at_ns < above.at_ns else above
        if earliest is not None and (below is None or earliest.at_ns > below.at_ns):
            below = earliest
    return None


def _beyond(below: _Bound, above: _Bound) -> bool:
    drift_ns = abs(below.now_ms - above.now_ms) * DRIFT_PPM
    return below.at_ns - above.at_ns > SLACK_NS + drift_ns


def _runaway(below: _Bound, above: _Bound, way: str) -> Anomaly:
    first, last = sorted((below, above), key=lambda bound: bound.event.sequence)
    by_ms = (below.at_ns - above.at_ns) // 1_000_000
    detail = f"at least {by_ms} ms {way} after {abs(last.now_ms - first.now_ms)} ms of its own count"
    return Anomaly(CLOCK, last.event.board, last.event.received_ns, detail, (first.event, last.event))
