"""Fail-over: how long after the proposer lost power decisions came, and how long clients went without an answer.

Only faults that were aimed at the proposer count. A cut is placed where the switch had said that it was off, and what
boards did when the host heard of it, so a figure is as exact as the way of telemetry is short. Judges nothing.

The next decision may well be that of another proposer, whose turn it was anyway: a log whose heights go round waits for
the board that is off only when its turn comes. So both are told: the next decision, and the wait of the first height
that needed a later round while the board was off.

What clients wait has two parts. One who asked the board that lost power hears nothing, and asks another only when it
gives that one up; where all clients do, nothing is put to the log, so no height begins and nobody takes over. So both
are told: how long until a running board took a command, and how long from there to its answer.

Where the board was asked to hand its turns over first, the outage is a planned one and begins when it was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from brownout_node.core.config import Config

from ..history import BoardEvent, FaultRecord, FaultStage, History, Operation, Outcome
from ..operations import LOG_OPERATIONS
from .distribution import distribution

POWER_KINDS = ("cut", "cycle")


@dataclass(frozen=True)
class FailOver:
    """One proposer that lost power. Milliseconds of host time; None where it never came to that."""

    fault: str
    board: str
    cut_ns: int  # or when it was asked to hand over
    planned: bool
    in_flight: bool  # its last proposal was not known to be decided when the power was off
    commit_ms: float | None  # until a height was decided that nobody was known to have decided
    takeover_ms: float | None  # what the first height waited that a later round decided during the outage
    takeover_round: int | None  # that round
    client_gap_ms: float | None  # the longest time between two answers from the log that the outage has a part in
    asking_ms: float | None  # the longest that a client asked a board that was off, before a running one took it
    log_wait_ms: float | None  # the longest from there to the answer, of what was taken while it was off


def failovers(history: History) -> list[FailOver]:
    """One for every power cut that was aimed at the proposer and was applied, in order of time."""
    aimed = {fault["id"] for fault in history.plan.get("faults", ()) if fault.get("select") == "proposer"}
    heard = sorted(
        (event for event in history.events if event.kind in ("proposed", "decided")),
        key=lambda event: event.received_ns,
    )
    answers = sorted(
        operation.finished_ns
        for operation in history.operations
        if operation.operation in LOG_OPERATIONS
        and operation.outcome is Outcome.OK
        and operation.finished_ns is not None
    )
    taken = sorted(
        (event for event in history.events if event.kind == "submitted"), key=lambda event: event.received_ns
    )
    healed = {record.id: record.at_ns for record in history.faults if record.stage is FaultStage.HEALED}
    cuts = [
        record
        for record in history.faults
        if record.stage is FaultStage.APPLIED and record.id in aimed and record.kind in POWER_KINDS
    ]
    return [
        _failover(
            record,
            board,
            heard,
            answers,
            healed.get(record.id),
            waits_ms(history.operations, taken, board, _began_ns(record), healed.get(record.id)),
        )
        for record in sorted(cuts, key=lambda record: record.at_ns)
        for board in record.boards
    ]


def _began_ns(record: FaultRecord) -> int:
    return int(record.evidence.get("asked_ns", record.at_ns))


def _failover(
    record: FaultRecord,
    board: str,
    heard: list[BoardEvent],
    answers: list[int],
    healed_ns: int | None,
    waits: tuple[float | None, float | None],
) -> FailOver:
    cut_ns = _began_ns(record)
    before = [event for event in heard if event.received_ns < cut_ns]
    decided = max((int(event.fields["height"]) for event in before if event.kind == "decided"), default=0)
    proposed = max(
        (int(event.fields["height"]) for event in before if event.kind == "proposed" and event.board == board),
        default=0,
    )
    firsts = _first_decisions(heard)
    after = [event for event in firsts if event.received_ns >= cut_ns and int(event.fields["height"]) > decided]
    takeover = _takeover(firsts, cut_ns, healed_ns)
    return FailOver(
        record.id,
        board,
        cut_ns,
        "handed_over" in record.evidence,
        proposed > decided,
        (after[0].received_ns - cut_ns) / 1e6 if after else None,
        takeover[0] if takeover else None,
        takeover[1] if takeover else None,
        longest_gap_ms(answers, cut_ns, healed_ns),
        *waits,
    )


def _first_decisions(heard: Iterable[BoardEvent]) -> list[BoardEvent]:
    """Of each height the first board's decision that was heard, in order of time."""
    firsts: dict[int, BoardEvent] = {}
    for event in heard:
        if event.kind == "decided" and not event.fields["caught_up"]:
            firsts.setdefault(int(event.fields["height"]), event)
    return list(firsts.values())


def _takeover(firsts: list[BoardEvent], cut_ns: int, healed_ns: int | None) -> tuple[float, int] | None:
    """(milliseconds, round) of the first height in the outage that took a later round.

    It could not begin before the height before it was decided, nor did the outage begin before the cut.
    """
    began_ns = cut_ns
    for event in firsts:
        if event.received_ns < cut_ns:
            continue
        if healed_ns is not None and began_ns >= healed_ns:
            return None
        if event.fields["round"]:
            return (event.received_ns - began_ns) / 1e6, int(event.fields["round"])
        began_ns = event.received_ns
    return None


def longest_gap_ms(answers: Iterable[int], from_ns: int, until_ns: int | None) -> float | None:
    """The longest time between two successive answers that overlaps from..until; None where no two enclose any of it.

    What follows the last answer is no gap: the workload may have ended.
    """
    gaps = [
        later - earlier
        for earlier, later in pairwise(answers)
        if later > from_ns and (until_ns is None or earlier < until_ns)
    ]
    return max(gaps) / 1e6 if gaps else None


def waits_ms(
    operations: Iterable[Operation], taken: Iterable[BoardEvent], board: str, cut_ns: int, healed_ns: int | None
) -> tuple[float | None, float | None]:
    """(asking, log): the longest waits of the log's operations that were under way while `board` was off.

    Asking lasts until another board took the command, or this one after it was back; an operation that was answered
    without (it had been decided before) asked until its answer. The log's wait is that of commands taken meanwhile.
    """
    first: dict[tuple[int, int], int] = {}
    for event in taken:
        if event.board != board or (healed_ns is not None and event.received_ns >= healed_ns):
            first.setdefault((int(event.fields["client"]), int(event.fields["request"])), event.received_ns)
    asking, log = [], []
    for item in operations:
        if item.operation not in LOG_OPERATIONS or item.finished_ns is None or item.finished_ns < cut_ns:
            continue
        if healed_ns is not None and item.invoked_ns >= healed_ns:
            continue
        taken_ns = min(first.get((item.client, item.request), item.finished_ns), item.finished_ns)
        from_ns = max(item.invoked_ns, cut_ns)
        asking.append(max(0, taken_ns - from_ns))
        if healed_ns is None or taken_ns < healed_ns:  # else what it waits for may be the next outage
            log.append(item.finished_ns - max(taken_ns, from_ns))
    return max(asking) / 1e6 if asking else None, max(log) / 1e6 if log else None


def propose_timeout_ms(manifest: Mapping[str, Any]) -> int:
    """What round 0 waits for its proposal, in this run: the campaign's, or the firmware's default."""
    set_ms = manifest.get("timing", {}).get("propose_timeout_ms")
    if set_ms is not None:
        return int(set_ms)
    return int(Config({"cluster": 0, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]]}).propose_timeout_ms)


def failover_figures(history: History) -> dict[str, Any]:
    """The metric `failover` of a verdict; also in units of the proposal time-out, which a take-over waits for.

    planned: the same of planned hand-overs, where there were any.
    """
    found = failovers(history)
    timeout_ms = propose_timeout_ms(history.manifest)
    planned = [item for item in found if item.planned]
    figures = _figures([item for item in found if not item.planned], timeout_ms)
    return figures | ({"planned": _figures(planned, timeout_ms)} if planned else {})


def _figures(found: list[FailOver], timeout_ms: int) -> dict[str, Any]:
    commits = [item.commit_ms for item in found if item.commit_ms is not None]
    takeovers = [item.takeover_ms for item in found if item.takeover_ms is not None]
    return {
        "cuts": len(found),
        "in_flight": sum(item.in_flight for item in found),
        "without_commit": len(found) - len(commits),
        "without_takeover": len(found) - len(takeovers),
        "propose_timeout_ms": timeout_ms,
        "commit_ms": distribution(commits),
        "commit_in_timeouts": distribution(value / timeout_ms for value in commits),
        "takeover_ms": distribution(takeovers),
        "takeover_in_timeouts": distribution(value / timeout_ms for value in takeovers),
        "client_gap_ms": distribution(item.client_gap_ms for item in found if item.client_gap_ms is not None),
        "asking_ms": distribution(item.asking_ms for item in found if item.asking_ms is not None),
        "log_wait_ms": distribution(item.log_wait_ms for item in found if item.log_wait_ms is not None),
    }
