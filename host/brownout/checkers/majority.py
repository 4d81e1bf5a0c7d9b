"""A majority that is healed gets on, however long a minority stays away: operations are decided within the bound.

Asks only where one fault alone keeps a minority away, for longer than the bound, and everything else is healed. Must
not ask for progress while anything else lasts; what comes after the last heal is liveness.py's.
"""

from __future__ import annotations

from ..history import Check
from .evidence import Findings, fault, operation
from .run import DARK_KINDS, LOG_OPERATIONS, Outage, Run

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
            if item.operation in LOG_OPERATIONS and from_ns <= item.invoked_ns <= until_ns - run.progress_ns // 2
        ]
        if not tried:
            continue
        checked += 1
        if not any(from_ns <= event.received_ns <= until_ns for event in run.of("decided")):
            away = ", ".join(sorted(outage.boards))
            findings.wrong(
                f"nothing was decided for {(until_ns - from_ns) / 1e9:.1f} s while {away} alone, a minority, was away,"
                f" and {len(tried)} operations were tried",
                fault(outage.applied),
                *[operation(item) for item in tried[:4]],
            )
    findings.metrics["outages_of_a_minority_checked"] = checked
    return findings.check(f"decisions went on in {checked} outages of a minority that were long enough to ask")


def _window(run: Run, outage: Outage) -> tuple[int, int] | None:
    """When this fault alone kept a minority of the weight away, and until when."""
    weight = sum(run.weights.get(board, 0) for board in outage.boards)
    if outage.kind not in AWAY_KINDS or outage.until_ns is None or not 0 < 2 * weight < run.total_weight:
        return None
    from_ns = outage.from_ns
    for other in run.outages:
        if other.fault != outage.fault and other.overlaps(from_ns, outage.until_ns):
            if other.until_ns is None:
                return None
            from_ns = max(from_ns, other.until_ns)
    return (from_ns, outage.until_ns) if from_ns < outage.until_ns else None
