"""A majority that is healed gets on, however long a minority stays away: operations are decided within the bound.

Asks only where one fault alone keeps a minority away, for longer than the bound, and everything else is healed; a voter
that lost its journal is not there either until it votes again. Must not ask for progress while anything else lasts;
what comes after the last heal is liveness.py's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..history import Check
from .evidence import Findings, fault, operation
from .run import DARK_KINDS, LOG_OPERATIONS, Outage, Run, height_told

AWAY_KINDS = DARK_KINDS | {"isolate"}


def check(run: Run) -> Check:
    findings = Findings("majority")
    checked = 0
    for outage in run.outages:
        window = _window(run, outage)
        if window is None or window[1] - window[0] < run.progress_ns:
            continue
        from_ns, until_ns = window
        tried = [
            item
            for item in run.history.operations
            if item.operation in LOG_OPERATIONS
            and item.board not in outage.applied.boards
            and from_ns <= item.invoked_ns <= until_ns - run.progress_ns // 2
        ]
        if not tried:
            continue
        checked += 1
        if not any(from_ns <= event.received_ns <= until_ns for event in run.of("decided")):
            away = ", ".join(sorted(outage.applied.boards))
            findings.wrong(
                f"nothing was decided for {(until_ns - from_ns) / 1e9:.1f} s while {away} alone, a minority, was away,"
                f" and {len(tried)} operations were tried",
                fault(outage.applied),
                *[operation(item) for item in tried[:4]],
            )
    findings.metrics["outages_of_a_minority_checked"] = checked
    return findings.check(f"decisions went on in {checked} outages of a minority that were long enough to ask")


def _window(run: Run, outage: Outage) -> tuple[int, int] | None:
    """When this fault alone kept a minority of the weight away, and until when.

    Who is away is told when the fault is applied: its proof names the others too, whom isolated boards did not reach.
    Weights are those at its end: if nothing was decided in between, none has moved since its begin.
    """
    if outage.kind not in AWAY_KINDS or outage.until_ns is None:
        return None
    weights = run.weights_at(max(1, run.highest(outage.until_ns)))
    if weights is None:
        return None
    weight = sum(weights.get(board, 0) for board in outage.applied.boards)
    if not 0 < 2 * weight < sum(weights.values()):
        return None
    from_ns = outage.from_ns
    for other in run.outages:
        if other.fault != outage.fault and other.overlaps(from_ns, outage.until_ns):
            if other.until_ns is None:
                return None
            from_ns = max(from_ns, other.until_ns)
    from_ns = _majority_may_vote(run, outage, weights, from_ns)
    return (from_ns, outage.until_ns) if from_ns < outage.until_ns else None


def _majority_may_vote(run: Run, outage: Outage, weights: Mapping[str, int], from_ns: int) -> int:
    """From when on, in this outage, those who are not away outweigh the others without the voters that lost a journal.

    A voter without its journal may not vote until the others have decided that it may, which takes a majority itself.
    """
    until_ns = outage.until_ns or run.ended_ns
    away = outage.applied.boards
    weight = sum(weights[board] for board in run.voters if board not in away)
    back = []
    for board in run.voters:
        lapses = [] if board in away else _lapses(run, board)
        ends = [end_ns for start_ns, end_ns in lapses if start_ns < until_ns and end_ns > from_ns]
        if ends:
            weight -= weights[board]
            back.append((max(ends), weights[board]))
    for end_ns, own in sorted(back):
        if 2 * weight > sum(weights.values()):
            break
        from_ns = max(from_ns, end_ns)
        weight += own
    return from_ns


def _lapses(run: Run, board: str) -> list[tuple[int, int]]:
    """When this voter could not vote: from the last that was heard before its journal was lost, until it had reached
    the height that its admission names, or said at boot that it may vote.
    """
    lapses = []
    since_ns: int | None = None
    heard_ns = 0
    for boot in run.boots.get(board, ()):
        told = boot.start is not None and bool(boot.start.fields["may_vote"])
        if not told and (boot.start is not None or boot.lost_journal):
            since_ns = heard_ns if since_ns is None else since_ns
        elif told and since_ns is not None:
            lapses.append((since_ns, boot.events[0].received_ns))
            since_ns = None
        from_height: int | None = None
        for event in boot.events:
            heard_ns = max(heard_ns, event.received_ns)
            if event.kind == "admitted" and event.fields["board"] == run.ids.get(board):
                from_height = event.fields["height"]
            if since_ns is not None and from_height is not None and height_told(event) >= from_height:
                lapses.append((since_ns, event.received_ns))
                since_ns = None
    return lapses if since_ns is None else [*lapses, (since_ns, run.ended_ns)]
