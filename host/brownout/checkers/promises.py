"""A board is held to what it told: after a reboot its durable state is never behind what had left it before.

Heights decided, votes sent, the lock, its incarnation, the number of its own gossip updates, its clock; and an answer
to a client is a promise too. A journal may be gone only where a fault took it, and then nothing is held against the
new life here: that it must not vote is judged in `voting.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brownout_node.core import schema

from ..history import BoardEvent, Check, FaultStage, Operation
from .evidence import Findings, operation, step
from .run import JOURNAL_KINDS, LOG_OPERATIONS, Boot, Run, height_told

OFF_KINDS = frozenset({"cut", "cycle", "blackout", "cut_mid_write", "trap"})  # proven while the board is off
ASKED_ONCE_NS = 1_000_000_000  # clients turn to another board only after a longer wait (workload.py)


@dataclass
class Told:
    """What one board has told so far, each with the event that told it."""

    height: int = 0
    height_by: BoardEvent | None = None
    prevote: tuple[int, int, Any, BoardEvent] | None = None  # height, round, value, by
    precommit: tuple[int, int, Any, BoardEvent] | None = None
    lock: tuple[int, int, Any, BoardEvent] | None = None
    incarnation: int = 0
    incarnation_by: BoardEvent | None = None
    number: int = 0
    number_by: BoardEvent | None = None
    stamp: int = 0
    stamp_by: BoardEvent | None = None


def check(run: Run) -> Check:
    findings = Findings("promises")
    reboots = 0
    for board, boots in run.boots.items():
        told = Told()
        for boot in boots:
            if boot.lost_journal:
                _lost_journal(run, boot, findings)
                told = Told()
            elif boot.start is not None and boot.order > 0:
                reboots += 1
                _compare(boot.start, told, findings)
            for event in boot.events:
                _take(run.ids.get(board), event, told, findings)
    answers = _answers(run, findings)
    findings.metrics["reboots_held_to_their_promises"] = reboots
    findings.metrics["answers_held"] = answers
    return findings.check(f"{reboots} reboots, none behind what the board had told before")


def _lost_journal(run: Run, boot: Boot, findings: Findings) -> None:
    """Without a fault that takes journals away, a board that finds none has broken every promise at once."""
    first = boot.events[0]
    for outage in run.outages:
        if outage.kind in JOURNAL_KINDS and boot.board in outage.boards and outage.from_ns <= first.received_ns:
            return
    conditions = {schema.JOURNAL_MISSING: "no journal", schema.JOURNAL_INVALID: "an invalid journal"}
    condition = conditions.get(first.fields.get("journal", 0), "a journal that counts its boots anew")
    findings.wrong(f"{boot.board} found {condition} at boot {boot.number}, and no fault took it", step(first))


def _take(board: int | None, event: BoardEvent, told: Told, findings: Findings) -> None:
    """Fold one event in; what a board tells may not fall back within one life either."""
    fields = event.fields
    if event.stamp < told.stamp and told.stamp_by is not None:
        findings.wrong(
            f"the clock of {event.board} ran backwards at boot {event.boot}, event {event.sequence}",
            step(told.stamp_by, f"stamp {told.stamp}"),
            step(event, f"stamp {event.stamp}"),
        )
    if event.stamp >= told.stamp:
        told.stamp, told.stamp_by = event.stamp, event
    if event.kind in ("prevoted", "precommitted", "decided"):
        undecided = told.height if event.kind != "decided" or not fields.get("caught_up") else 0
        if fields["height"] < undecided and told.height_by is not None:
            findings.wrong(
                f"{event.board} {event.kind} at height {fields['height']}, which it had decided before",
                step(told.height_by),
                step(event),
            )
    if height_told(event) > told.height:
        told.height, told.height_by = height_told(event), event
    if event.kind == "prevoted":
        told.prevote = _later(told.prevote, (fields["height"], fields["round"], fields["value_id"], event))
    elif event.kind == "precommitted":
        vote = (fields["height"], fields["round"], fields["value_id"], event)
        told.precommit = _later(told.precommit, vote)
        if fields["value_id"] is not None:
            told.lock = _later(told.lock, vote)
    elif event.kind == "member" and fields["board"] == board and fields["incarnation"] > told.incarnation:
        told.incarnation, told.incarnation_by = fields["incarnation"], event
    elif event.kind == "written":
        if fields["number"] <= told.number and told.number_by is not None:
            findings.wrong(
                f"{event.board} gave the number {fields['number']} to two updates of its own",
                step(told.number_by),
                step(event),
            )
        told.number, told.number_by = max(told.number, fields["number"]), event
    elif event.kind == "boot":
        _take_boot(event, told)


def _take_boot(event: BoardEvent, told: Told) -> None:
    fields = event.fields
    height = fields["next_height"]
    if fields["prevote_round"] >= 0:
        told.prevote = _later(told.prevote, (height, fields["prevote_round"], fields["prevoted"], event))
    if fields["precommit_round"] >= 0:
        told.precommit = _later(told.precommit, (height, fields["precommit_round"], fields["precommitted"], event))
    if fields["locked_round"] >= 0:
        told.lock = _later(told.lock, (height, fields["locked_round"], fields["locked"], event))
    if fields["incarnation"] > told.incarnation:
        told.incarnation, told.incarnation_by = fields["incarnation"], event
    if fields["gossip_number"] > told.number:
        told.number, told.number_by = fields["gossip_number"], event


def _later(
    old: tuple[int, int, Any, BoardEvent] | None, new: tuple[int, int, Any, BoardEvent]
) -> tuple[int, int, Any, BoardEvent]:
    return new if old is None or new[:2] >= old[:2] else old


def _compare(boot: BoardEvent, told: Told, findings: Findings) -> None:
    """The durable state that a boot starts from, against what had been told before it."""
    fields, board = boot.fields, boot.board
    where = f"boot {boot.boot}"
    if fields["next_height"] < told.height and told.height_by is not None:
        findings.wrong(
            f"{board} forgot height {told.height - 1}: {where} starts from height {fields['next_height']}",
            step(told.height_by),
            step(boot),
        )
        return
    votes = (
        ("prevote", told.prevote, "prevote_round", "prevoted"),
        ("precommit", told.precommit, "precommit_round", "precommitted"),
        ("lock", told.lock, "locked_round", "locked"),
    )
    for name, promise, round_name, value_name in votes:
        if promise is None or promise[0] != fields["next_height"]:
            continue
        height, promised_round, value_id, by = promise
        kept = fields[round_name] > promised_round or (
            fields[round_name] == promised_round and fields[value_name] == value_id
        )
        if not kept:
            findings.wrong(
                f"{board} forgot its {name} of height {height}, round {promised_round} over a reboot: {where} starts"
                f" from round {fields[round_name]}, value {fields[value_name]}",
                step(by),
                step(boot),
            )
    if fields["incarnation"] < told.incarnation and told.incarnation_by is not None:
        findings.wrong(
            f"{board} went back to incarnation {fields['incarnation']} at {where}",
            step(told.incarnation_by),
            step(boot),
        )
    if fields["gossip_number"] < told.number and told.number_by is not None:
        findings.wrong(
            f"{board} forgot its own gossip update {told.number}: {where} starts from {fields['gossip_number']}",
            step(told.number_by),
            step(boot),
        )


# Answers to clients.


def _answers(run: Run, findings: Findings) -> int:
    """A board that answered for a height, and then lost power, must start from beyond that height.

    Only where it is certain that this board answered (no other was asked too), in a life that ended before the boot in
    question.
    """
    submitted: dict[tuple[int, int], set[str]] = {}
    for event in run.of("submitted"):
        submitted.setdefault((event.fields["client"], event.fields["request"]), set()).add(event.board)
    answers: dict[str, list[Operation]] = {}
    for item in run.acknowledged(LOG_OPERATIONS):
        boards = submitted.get((item.client, item.request), set()) | {item.board}
        if item.height is None or item.finished_ns is None or len(boards) > 1:
            continue
        if item.finished_ns - item.invoked_ns < ASKED_ONCE_NS:
            answers.setdefault(item.board, []).append(item)
    held = 0
    for record in run.history.faults:
        if record.stage is not FaultStage.PROVEN or record.kind not in OFF_KINDS:
            continue
        for board in record.boards:
            boot = _next_boot(run, board, record.at_ns)
            if boot is None or boot.lost_journal:
                continue
            assert boot.start is not None
            lost = [life.events[0].received_ns for life in run.boots[board][: boot.order] if life.lost_journal]
            since_ns = max(lost, default=0)
            for item in answers.get(board, ()):
                if item.finished_ns is None or item.height is None or not since_ns <= item.finished_ns <= record.at_ns:
                    continue
                held += 1
                starts_from = boot.start.fields["next_height"]
                if starts_from <= item.height:
                    findings.wrong(
                        f"{board} had answered a {item.operation} at height {item.height}, and boot {boot.number}"
                        f" starts from height {starts_from}",
                        operation(item),
                        step(boot.start),
                    )
    return held


def _next_boot(run: Run, board: str, at_ns: int) -> Boot | None:
    """The first life whose boot event was heard after the board was proven to be without power: it began after that."""
    for boot in run.boots.get(board, ()):
        if boot.start is not None and boot.start.received_ns > at_ns:
            return boot
    return None
