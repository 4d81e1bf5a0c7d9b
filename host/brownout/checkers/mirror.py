"""The mirror: all boards come to hold the same, it is what all updates make together, and no increment is lost.

Judged from what boards told of their own updates and of those they merged, from the answers that clients got, and from
the last reads. An update that was in flight when power went may count or not; one that only a board had whose journal
a fault took is not held against anybody.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from brownout_node.core import codec
from brownout_node.core.mirror import COUNTER, ELEMENT, REGISTER

from ..history import BoardEvent, Check, Operation, Outcome
from .evidence import Findings, operation, step
from .run import Run

FRESH_NS = 2_000_000_000  # a read right after an update may come before it
Dot = tuple[int, int]
OWN = {"incremented": COUNTER, "added": ELEMENT, "assigned": REGISTER}
WRITES = ("increment", "add", "remove", "assign")


@dataclass
class Updates:
    """What the record says was written. rows: by dot; told: operations, by client and request, that left a trace."""

    rows: dict[Dot, tuple[Any, ...]] = field(default_factory=dict)
    own: dict[Dot, BoardEvent] = field(default_factory=dict)
    elsewhere: set[Dot] = field(default_factory=set)
    dropped: dict[Dot, BoardEvent] = field(default_factory=dict)
    told: dict[tuple[int, int], BoardEvent] = field(default_factory=dict)


def check(run: Run) -> Check:
    findings = Findings("mirror")
    updates = _updates(run, findings)
    digest = _converged(run, findings)
    if digest is not None:
        _adds_up(run, updates, digest, findings)
    counts = _counts(run, updates, findings)
    _members(run, updates, findings)
    findings.metrics["updates"] = len(updates.own)
    findings.metrics["increments_acknowledged"] = len(run.acknowledged(("increment",)))
    took = findings.metrics.get("converged_after_s")
    if took is None:
        return findings.check("nothing was written")
    return findings.check(
        f"all boards hold the same {took:.2f} s after the last change or heal; {counts} counters hold every increment"
    )


def _updates(run: Run, findings: Findings) -> Updates:
    updates = Updates()
    for event in run.of("incremented", "added", "assigned", "mirrored", "removed"):
        fields = event.fields
        dot = (fields["line"], fields["number"])
        if event.kind == "removed":
            updates.dropped[dot] = event
        elif event.kind == "mirrored":
            updates.elsewhere.add(dot)
            updates.rows[dot] = (
                *dot,
                fields["type"],
                fields["key"],
                fields["value"],
                fields["a"],
                fields["b"],
            )
        else:
            updates.rows[dot] = _row(event, dot)
            updates.own[dot] = event
        if event.kind != "mirrored":
            _once(updates, event, findings)
    return updates


def _once(updates: Updates, event: BoardEvent, findings: Findings) -> None:
    """A request leaves its trace once; an add or a remove may drop several rows."""
    request = (event.fields["client"], event.fields["request"])
    earlier = updates.told.setdefault(request, event)
    if event.kind == "incremented" and earlier is not event:
        findings.wrong(
            f"{event.board} carried out request {request[1]} of client {request[0]} twice", step(earlier), step(event)
        )


def _row(event: BoardEvent, dot: Dot) -> tuple[Any, ...]:
    """The row as the board holds it."""
    fields = event.fields
    if event.kind == "incremented":
        return (*dot, COUNTER, fields["key"], None, fields["added"], fields["taken"])
    if event.kind == "added":
        return (*dot, ELEMENT, fields["key"], fields["value"], 0, 0)
    return (*dot, REGISTER, fields["key"], fields["value"], fields["stamp"], 0)


def _lost(run: Run, updates: Updates, dot: Dot) -> bool:
    """Whether only a board had it whose journal was gone afterwards: later dots of its line count as well."""
    event = updates.own.get(dot)
    if event is None or any(line == dot[0] and number >= dot[1] for line, number in updates.elsewhere):
        return False
    return _wiped_after(run, event)


def _wiped_after(run: Run, event: BoardEvent) -> bool:
    """Whether the board that told it lost its journal later."""
    boots = run.boots[event.board]
    order = next(boot.order for boot in boots if boot.number == event.boot)
    return any(boot.order > order and boot.lost_journal for boot in boots)


def _may_be_back(run: Run, updates: Updates, dot: Dot) -> bool:
    """Whether a row was dropped by a board that lost its journal later: who else knew of that is not recorded."""
    event = updates.dropped.get(dot)
    return event is not None and _wiped_after(run, event)


def _untold(run: Run, updates: Updates) -> list[Operation]:
    """Writes that may have left something behind, of which no board's record tells."""
    return [
        item
        for item in run.history.operations
        if item.operation in WRITES
        and item.outcome is not Outcome.FAIL
        and (item.client, item.request) not in updates.told
    ]


# All the same.


def _digests(run: Run, board: str) -> list[BoardEvent]:
    boot = run.last_boot(board)
    events = [] if boot is None else boot.events
    return [event for event in events if event.kind == "digest" and event.fields["protocol"] == "mirror"]


def _converged(run: Run, findings: Findings) -> str | None:
    """The digest that all boards told last, if it is one."""
    digests = {board: _digests(run, board) for board in run.live_boards()}
    if not any(run.by_kind.get(kind) for kind in (*OWN, "mirrored")):
        return None
    silent = [board for board, events in digests.items() if not events]
    if silent:
        findings.open(f"{', '.join(silent)} never told a digest of the mirror in the last life")
        return None
    last = {board: events[-1] for board, events in digests.items()}
    changed_ns = max((event.received_ns for event in run.of(*OWN, "removed")), default=0)
    quiet_ns = max(run.healed_ns, changed_ns)
    common, holders = Counter(event.fields["digest"] for event in last.values()).most_common(1)[0]
    findings.metrics["boards_holding_the_same"] = holders
    if holders < len(last):
        odd = sorted(board for board, event in last.items() if event.fields["digest"] != common)
        waited_s = (run.ended_ns - quiet_ns) / 1e9
        detail = f"{', '.join(odd)} hold something else than the others {waited_s:.2f} s after the last change or heal"
        late = run.finished and run.ended_ns - quiet_ns >= run.converge_ns
        (findings.wrong if late else findings.open)(detail, *[step(event) for event in last.values()])
        return None
    reached_ns = max(_since(events, common) for events in digests.values())
    took_ns = max(0, reached_ns - quiet_ns)
    findings.metrics["converged_after_s"] = round(took_ns / 1e9, 3)
    if took_ns > run.converge_ns:
        findings.wrong(
            f"boards came to hold the same {took_ns / 1e9:.2f} s after the last change or heal; allowed are"
            f" {run.converge_ns / 1e9:.1f} s",
            *[step(event) for event in last.values()],
        )
    return str(common)


def _since(events: list[BoardEvent], digest: object) -> int:
    since = events[-1].received_ns
    for event in reversed(events):
        if event.fields["digest"] != digest:
            break
        since = event.received_ns
    return since


# What all updates make together.


def _adds_up(run: Run, updates: Updates, digest: str, findings: Findings) -> None:
    """Compute the state that all updates make, and compare; only where every update is known."""
    untold = _untold(run, updates)
    lost = [dot for dot in updates.rows if _lost(run, updates, dot) or _may_be_back(run, updates, dot)]
    findings.metrics["updates_untold"] = len(untold)
    findings.metrics["updates_lost_with_a_journal"] = len(lost)
    if untold or lost or run.history.gaps:
        return
    rows = _merged(updates)
    mix = 0
    for row in rows:
        mix ^= int.from_bytes(hashlib.sha256(codec.pack("uuukvuu", row)).digest()[:8], "big")
    findings.metrics["rows"] = len(rows)
    if mix.to_bytes(8, "big").hex() != digest:
        last = [_digests(run, board)[-1] for board in run.live_boards()]
        findings.wrong(
            f"all boards hold the same, but not the {len(rows)} rows that all updates make together",
            *[step(event) for event in last],
        )


def _merged(updates: Updates) -> list[tuple[Any, ...]]:
    """The rows that remain of all updates: the rules of the types, and nothing of how boards exchange them."""
    counters: dict[tuple[int, str], tuple[Any, ...]] = {}
    registers: dict[str, tuple[Any, ...]] = {}
    elements = []
    for dot, row in sorted(updates.rows.items()):
        line, _, kind, key = row[:4]
        if kind == COUNTER:
            counters[line, key] = row  # sorted: the highest number comes last
        elif kind == ELEMENT:
            if dot not in updates.dropped:
                elements.append(row)
        elif key not in registers or (registers[key][5], registers[key][0]) < (row[5], line):
            registers[key] = row
    return [*counters.values(), *registers.values(), *elements]


# Last reads.


def _last_reads(run: Run, name: str) -> dict[str, Operation]:
    """The last answered read of each key that began after the last heal."""
    reads: dict[str, Operation] = {}
    for item in run.history.operations:
        if item.operation == name and item.outcome is Outcome.OK and item.invoked_ns >= run.healed_ns:
            reads[item.key] = item
    return reads


def _settled(item: Operation, read: Operation) -> bool:
    return item.finished_ns is not None and item.finished_ns + FRESH_NS <= read.invoked_ns


def _counts(run: Run, updates: Updates, findings: Findings) -> int:
    """Acknowledged increments count; those in doubt may. Returns how many counters were read at the end."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for item in run.history.operations:
        if item.operation == "increment" and item.outcome is not Outcome.FAIL:
            by_key[item.key].append(item)
    lost = {dot for dot in updates.own if _lost(run, updates, dot)}
    reads = _last_reads(run, "count")
    for key, read in reads.items():
        least = most = 0
        for item in by_key[key]:
            event = updates.told.get((item.client, item.request))
            amount = int(item.value or 0)
            gone = event is not None and (event.fields["line"], event.fields["number"]) in lost
            wiped = event is None and any(boot.lost_journal for boot in run.boots.get(item.board, ()))
            sure = item.outcome is Outcome.OK and _settled(item, read) and not gone and not wiped
            least += amount if sure or amount < 0 else 0
            most += amount if sure or amount > 0 else 0
        if not least <= int(read.result or 0) <= most:
            findings.wrong(
                f"counter {key!r} is {read.result} at the end; the increments that were acknowledged, and those in"
                f" doubt, make {least} to {most}",
                operation(read),
                *[operation(item) for item in by_key[key][-8:]],
            )
    return len(reads)


def _members(run: Run, updates: Updates, findings: Findings) -> None:
    """An element whose add nobody removed is in; one whose every add was removed is not."""
    doubtful = {(item.key, item.value) for item in _untold(run, updates)}
    adds: dict[tuple[str, str], list[Dot]] = defaultdict(list)
    for dot, row in updates.rows.items():
        if row[2] == ELEMENT:
            adds[row[3], row[4]].append(dot)
    for key, read in _last_reads(run, "members").items():
        members = (read.result or "").split()
        if read.height != len(members):
            continue  # the answer had no room for all
        for (of, element), dots in sorted(adds.items()):
            steps = [updates.own[dot] for dot in dots if dot in updates.own]
            steps += [updates.dropped[dot] for dot in dots if dot in updates.dropped]
            young = any(event.received_ns + FRESH_NS > read.invoked_ns for event in steps)
            if of != key or (key, element) in doubtful or young or any(_lost(run, updates, dot) for dot in dots):
                continue
            if any(_may_be_back(run, updates, dot) for dot in dots):
                continue
            alive = [dot for dot in dots if dot not in updates.dropped]
            if bool(alive) != (element in members):
                findings.wrong(
                    f"{element!r} is {'not ' if alive else ''}in the set {key!r} at the end, though"
                    f" {'nobody removed it' if alive else 'every add of it was removed'}",
                    operation(read),
                    *[step(event) for event in sorted(steps, key=lambda event: event.received_ns)[-6:]],
                )
