"""What byzantine.py promises among honest boards: one log, of what clients asked; and who contradicted whom.

A board counts as malicious for the whole run once it says that it turned, or a fault turned it; what it tells of itself
then counts for nothing but evidence against it. Every accusation of an honest board is a failed check: it was framed,
or it is not honest. Must not ask whether the malicious boards were few enough: with too many of them a violation is
what this check is there to find.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..fault_kinds import MALICE
from ..history import BoardEvent, Check, FaultStage, Outcome
from ..protocols import OPERATIONS
from .evidence import Findings, operation, step
from .run import STATUS_NAMES, Boot, Run

EVIDENCE_AT_MOST = 8  # of contradictions by malicious boards
NAMES = ("bput", "bget")
Place = tuple[str, int, int, int]  # board, height, view, phase


def check(run: Run) -> Check:
    findings = Findings("byzantine")
    malicious = turned(run)
    honest = [board for board in run.boards if board not in malicious]
    heights = _decisions(run, honest, findings)
    _states(run, honest, findings)
    _logs(run, honest, findings)
    _asked_for(run, honest, findings)
    if not malicious:  # a client that asks again takes whichever board's answer comes first, and no record says whose
        _answers(run, honest, findings)
    _promises(run, honest, findings)
    proofs = _contradictions(run, malicious, findings)
    _caught_up(run, honest, findings)
    weight = sum(run.weights[board] for board in malicious)
    findings.metrics |= {
        "byzantine_heights": len(heights),
        "malicious_boards": sorted(malicious),
        "malicious_weight": weight,
        "contradictions": len(proofs),
    }
    told = f"{len(heights)} heights, every honest board decided the same at each"
    if malicious:
        told += f"; malicious: {', '.join(sorted(malicious))}, {weight} of {run.total_weight} by weight"
        told += f", {len(proofs)} contradictions of theirs seen"
    result = findings.check(told)
    return result if result.evidence else replace(result, evidence=proofs[:EVIDENCE_AT_MOST])


def turned(run: Run) -> frozenset[str]:
    """The boards that were malicious at any time, by their own word or because a fault made them so."""
    said = {event.board for event in run.of("adversary") if event.fields["behaviour"]}
    made = {
        board
        for record in run.history.faults
        if record.kind in MALICE and record.stage is not FaultStage.PLANNED
        for board in record.boards
    }
    return frozenset(said | made)


def _told(run: Run, kind: str, boards: Iterable[str]) -> list[BoardEvent]:
    wanted = set(boards)
    return [event for event in run.of(kind) if event.board in wanted]


def _decisions(run: Run, honest: list[str], findings: Findings) -> dict[int, dict[Any, BoardEvent]]:
    heights: dict[int, dict[Any, BoardEvent]] = defaultdict(dict)
    for event in _told(run, "byzantine_decided", honest):
        heights[event.fields["height"]].setdefault(event.fields["value_id"], event)
    for height in sorted(heights):
        if len(heights[height]) > 1:
            told = [heights[height][value_id] for value_id in sorted(heights[height])]
            named = ", ".join(f"{event.board} {event.fields['value_id']}" for event in told)
            votes = [event for event in run.of("byzantine_voted") if event.fields["height"] == height]
            trail = [step(event) for event in told] + [step(event) for event in votes[:24]]
            findings.wrong(f"height {height} was decided differently by honest boards: {named}", *trail)
    return heights


def _states(run: Run, honest: list[str], findings: Findings) -> None:
    states: dict[int, dict[Any, BoardEvent]] = defaultdict(dict)
    for event in _told(run, "digest", honest):
        if event.fields["protocol"] == "byzantine":
            states[event.fields["height"]].setdefault(event.fields["digest"], event)
    for height in sorted(states):
        if len(states[height]) > 1:
            told = [states[height][digest] for digest in sorted(states[height])]
            named = ", ".join(f"{event.board} {event.fields['digest']}" for event in told)
            findings.wrong(f"honest boards' state at height {height} differs: {named}", *[step(row) for row in told])


def _content(event: BoardEvent) -> tuple[Any, ...]:
    names = ("origin", "client", "request", "operation", "key", "value", "status", "result")
    return tuple(event.fields[name] for name in names)


def _logs(run: Run, honest: list[str], findings: Findings) -> None:
    """Compare, height by height, the commands that each life of each honest board applied."""
    applied: dict[int, list[tuple[Boot, list[BoardEvent]]]] = defaultdict(list)
    for board in honest:
        for boot in run.boots.get(board, ()):
            heights: dict[int, list[BoardEvent]] = defaultdict(list)
            for event in boot.events:
                if event.kind == "byzantine_applied":
                    heights[event.fields["height"]].append(event)
            for height, events in heights.items():
                applied[height].append((boot, events))
    for height in sorted(applied):
        lives = applied[height]
        reference = max((events for _, events in lives), key=len)
        expected = [_content(event) for event in reference]
        for boot, events in lives:
            contents = [_content(event) for event in events]
            part = not boot.whole_after(events[-1].sequence) and all(row in expected for row in contents)
            if contents != expected and not part:
                findings.wrong(
                    f"height {height}: {boot.board} and {reference[0].board} applied different commands",
                    step(events[0]),
                    step(reference[0]),
                )
                break


def _asked_for(run: Run, honest: list[str], findings: Findings) -> None:
    """What is applied in the name of an honest board's client, that client asked for; and it is applied once."""
    asked = {(item.client, item.request): item for item in run.history.operations}
    first: dict[tuple[str, int, int], BoardEvent] = {}
    invented = 0
    for event in _told(run, "byzantine_applied", honest):
        fields = event.fields
        name = (fields["client"], fields["request"])
        item = asked.get(name)
        same = item is not None and (
            (OPERATIONS.get(fields["operation"]), fields["key"], fields["value"])
            == (item.operation, item.key, item.value)
        )
        if not same and run.names.get(fields["origin"]) in honest:
            shown = [] if item is None else [operation(item)]
            findings.wrong(
                f"{event.board} applied at height {fields['height']} what no client asked of"
                f" {run.names[fields['origin']]}: client {name[0]}'s request {name[1]}",
                *shown,
                step(event),
            )
        invented += not same
        earlier = first.setdefault((event.board, *name), event)
        if earlier is not event and (earlier.fields["height"] != fields["height"] or earlier.boot == event.boot):
            findings.wrong(
                f"{event.board} applied client {name[0]}'s request {name[1]} twice", step(earlier), step(event)
            )
    findings.metrics["commands_invented"] = invented


def _answers(run: Run, honest: list[str], findings: Findings) -> None:
    """Honest boards answer what was applied, and later operations are applied no earlier than finished ones."""
    applied = {
        (event.fields["client"], event.fields["request"]): event for event in _told(run, "byzantine_applied", honest)
    }
    items = [item for item in run.history.operations if item.operation in NAMES and item.board in honest]
    done = []
    for item in items:
        event = applied.get((item.client, item.request))
        if event is None or item.outcome is not Outcome.OK or item.finished_ns is None:
            continue
        told = (item.status, item.result if item.operation == "bget" else None, item.height)
        result = event.fields["result"] if item.operation == "bget" else None
        if told != (STATUS_NAMES.get(event.fields["status"]), result, event.fields["height"]):
            findings.wrong(
                f"{item.board} answered client {item.client}'s request {item.request} with {told}, and {event.board}"
                " applied it otherwise",
                operation(item),
                step(event),
            )
        done.append((item, int(event.fields["height"])))
    by_end = sorted(done, key=lambda row: row[0].finished_ns or 0)
    at, highest = 0, None
    for item, height in sorted(done, key=lambda row: row[0].invoked_ns):
        while at < len(by_end) and (by_end[at][0].finished_ns or 0) < item.invoked_ns:
            if highest is None or by_end[at][1] > highest[1]:
                highest = by_end[at]
            at += 1
        if highest is not None and height < highest[1]:
            findings.wrong(
                f"an operation was applied at height {height}, though one that ended before it was asked stands at"
                f" height {highest[1]}",
                operation(highest[0]),
                operation(item),
            )
            return
    findings.metrics["answers_compared"] = len(done)


def _promises(run: Run, honest: list[str], findings: Findings) -> None:
    """An honest board votes once in each phase of a view, over all its lives, and never in a view that it has left."""
    votes: dict[Place, BoardEvent] = {}
    for board in honest:
        left: dict[int, int] = defaultdict(int)
        for boot in run.boots.get(board, ()):
            if boot.lost_journal:
                left.clear()
            for event in boot.events:
                fields = event.fields
                if event.kind == "byzantine_view":
                    left[fields["height"]] = max(left[fields["height"]], fields["view"])
                elif event.kind == "byzantine_voted":
                    place = (board, fields["height"], fields["view"], fields["phase"])
                    earlier = votes.setdefault(place, event)
                    if earlier.fields["value_id"] != fields["value_id"]:
                        findings.wrong(f"{board} voted for two values in {_named(place)}", step(earlier), step(event))
                    if fields["view"] < left[fields["height"]]:
                        findings.wrong(f"{board} voted in {_named(place)}, which it had left", step(event))
    findings.metrics["votes_compared"] = len(votes)


def _named(place: Place) -> str:
    what = f"phase {place[3]}" if place[3] else "the proposal"
    return f"{what} of view {place[2]} of height {place[1]}"


def _contradictions(run: Run, malicious: frozenset[str], findings: Findings) -> list[Mapping[str, Any]]:
    """Who said two things that exclude each other: to one board, to two, or to a board and in its own record."""
    said: dict[Place, dict[Any, dict[str, Any]]] = defaultdict(dict)
    for kind, own_phase in (("byzantine_voted", None), ("byzantine_proposed", 0)):
        for event in run.of(kind):
            fields = event.fields
            phase = fields["phase"] if own_phase is None else own_phase
            said[event.board, fields["height"], fields["view"], phase][fields["value_id"]] = step(event)
    for event in run.of("byzantine_heard", "contradiction"):
        fields = event.fields
        sender = run.names.get(fields["board"], f"board {fields['board']}")
        if event.board in malicious:
            continue
        place = (sender, fields["height"], fields["view"], fields["phase"])
        for name in ("value_id", "first", "second"):
            if name in fields:
                said[place].setdefault(fields[name], step(event))
    proofs: list[Mapping[str, Any]] = []
    for place in sorted(said):
        if len(said[place]) < 2:
            continue
        told = [said[place][value_id] for value_id in sorted(said[place], key=str)]
        proofs += [{"contradiction": f"{place[0]} said two things for {_named(place)}", "told": told}]
        if place[0] not in malicious:
            findings.wrong(f"{place[0]} is honest, and said two things for {_named(place)}", *told)
    return proofs


def _height(event: BoardEvent) -> int:
    if event.kind == "byzantine_decided":
        return int(event.fields["height"]) + 1
    if event.kind == "byzantine_standing":
        return int(event.fields["next_height"])
    return int(event.fields["next"]) if event.kind == "byzantine_caught_up" else 0


def _caught_up(run: Run, honest: list[str], findings: Findings) -> None:
    """What an honest board decided a bound ago, or by the last heal, every honest voter that runs has by the end."""
    mark_ns = max(run.healed_ns, run.ended_ns - run.progress_ns)
    kinds = ("byzantine_decided", "byzantine_standing", "byzantine_caught_up")
    told = [event for kind in kinds for event in _told(run, kind, honest)]
    target = max((_height(event) for event in told if event.received_ns <= mark_ns), default=0)
    for board in honest:
        boot = run.last_boot(board)
        if not run.weights[board] or run.is_dark_at_end(board) or boot is None:
            continue
        reached = max((_height(event) for event in boot.events), default=0)
        if reached < target:
            detail = f"{board} is at height {reached} at the end, and {target} had been reached"
            if not run.finished or run.ended_ns - mark_ns < run.progress_ns:
                findings.open(detail + "; the run ended before the bound", step(boot.events[-1]))
            else:
                findings.wrong(detail, step(boot.events[-1], "its last event"))
