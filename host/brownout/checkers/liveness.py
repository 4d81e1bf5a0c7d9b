"""Once the faults are over, things move again: operations succeed within the bound, and every voter has caught up.

Must not ask for progress while faults last: a majority may be away.
"""

from __future__ import annotations

from ..history import Check, Operation, Outcome
from .evidence import Findings, operation, step
from .run import GOSSIP_WRITES, Run, height_told

BY_ONE_BOARD = (*GOSSIP_WRITES, "read")  # a board answers these by itself, whatever happens to the others


def check(run: Run) -> Check:
    findings = Findings("liveness")
    _progress(run, findings)
    _caught_up(run, findings)
    took = findings.metrics.get("first_ok_after_heal_s")
    return findings.check(
        f"the first operation after the last heal was done {took:.2f} s after it, and every voter has caught up"
        if took is not None
        else "every voter has caught up"
    )


def _progress(run: Run, findings: Findings) -> None:
    asked = [item for item in run.history.operations if item.operation not in BY_ONE_BOARD]
    after = [item for item in asked if item.invoked_ns >= run.healed_ns]
    findings.metrics["operations_after_heal"] = len(after)
    if not asked:
        return
    if not after:
        findings.open("no operation was tried after the last heal")
        return
    done = [item for item in after if _answered(item)]
    findings.metrics["operations_after_heal_done"] = len(done)
    first_tried_ns = min(item.invoked_ns for item in after)
    waited_ns = run.ended_ns - first_tried_ns
    if not done:
        detail = f"none of {len(after)} operations after the last heal was done, in {waited_ns / 1e9:.1f} s"
        evidence = [operation(item) for item in after[:8]]
        if not run.finished or waited_ns < run.progress_ns:
            findings.open(detail + "; the run ended before the bound", *evidence)
        else:
            findings.wrong(detail, *evidence)
        return
    first = min(done, key=lambda item: item.finished_ns or 0)
    took_ns = (first.finished_ns or 0) - first_tried_ns
    findings.metrics["first_ok_after_heal_s"] = round(((first.finished_ns or 0) - run.healed_ns) / 1e9, 3)
    if took_ns > run.progress_ns:
        findings.wrong(
            f"the first operation after the last heal was done only after {took_ns / 1e9:.1f} s; allowed are"
            f" {run.progress_ns / 1e9:.1f} s",
            operation(first),
        )


def _answered(item: Operation) -> bool:
    """Done, or refused by the log itself (a cas that found another value): both needed a decision."""
    return item.finished_ns is not None and (item.outcome is Outcome.OK or item.status == "mismatch")


def _caught_up(run: Run, findings: Findings) -> None:
    """What was decided a bound ago, or by the last heal, every voter that should run must have by the end."""
    voters = [board for board in run.voters if not run.is_dark_at_end(board)]
    mark_ns = max(run.healed_ns, run.ended_ns - run.progress_ns)
    target = run.highest(mark_ns)
    findings.metrics["heights"] = run.highest()
    if target == 0:
        return
    waited_ns = run.ended_ns - mark_ns
    for board in voters:
        boot = run.last_boot(board)
        reached = run.next_height(board)
        if reached >= target:
            continue
        last = None if boot is None else max(boot.events, key=height_told)
        detail = (
            f"{board} is at height {reached} at the end, and {target} had been reached {waited_ns / 1e9:.1f} s before"
            if boot is not None
            else f"{board} was never heard"
        )
        evidence = [] if last is None else [step(last), step(boot.events[-1], "its last event")] if boot else []
        if not run.finished or waited_ns < run.progress_ns:
            findings.open(detail + "; the run ended before the bound", *evidence)
        else:
            findings.wrong(detail, *evidence)
