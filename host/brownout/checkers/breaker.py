"""What breaker.py promises: while it is open nothing enters the log through that board, and it opens when it should.

Must not ask for an opening of a board that may not have noticed, such as one without power.
"""

from __future__ import annotations

from itertools import pairwise

from ..history import BoardEvent, Check
from .evidence import Findings, fault, step
from .membership import bound_ns
from .run import Boot, Outage, Run

CLOSED, OPEN, HALF_OPEN = range(3)
CAUSES = {0: "none", 1: "loss of quorum", 2: "divergence", 3: "errors", 4: "an operator", 5: "a register out of range"}
LASTING = (2, 4, 5)  # causes that only a reset ends
FIRST_EVENTS = 2  # of a boot: boot, and the breaker that is open from the start
REPORTED_WITHIN_NS = 2_000_000_000  # an event may come later than the answer to what followed it
DEFAULT_QUORUM_MS = 600
SEPARATING = frozenset({"isolate", "split"})


def check(run: Run) -> Check:
    findings = Findings("breaker")
    openings: dict[str, int] = {}
    for board in run.boards:
        boots = run.boots.get(board, [])
        for boot in boots:
            _order(boot, findings, openings)
        for before, after in pairwise(boots):
            _kept(run, before, after, findings)
    asked = _noticed(run, findings)
    stale = sum(operation.status == "stale" for operation in run.history.operations)
    findings.metrics |= {"breaker_openings": openings, "stale_reads": stale, "outages_to_notice": asked}
    told = ", ".join(f"{count} by {cause}" for cause, count in sorted(openings.items())) or "none"
    return findings.check(f"openings: {told}; nothing entered the log while open; {stale} reads were marked stale")


def _order(boot: Boot, findings: Findings, openings: dict[str, int]) -> None:
    """The order of a board's own events, which a gap may hide but not change."""
    state: BoardEvent | None = None
    probe: BoardEvent | None = None
    for event in boot.events:
        if event.kind == "breaker":
            if event.fields["state"] == OPEN:
                cause = CAUSES.get(event.fields["cause"], "none")
                openings[cause] = openings.get(cause, 0) + 1
                if cause == "none":
                    findings.wrong(f"{boot.board} opened its breaker and names no cause", step(event))
            state, probe = event, None
        elif event.kind == "submitted" and state is not None and state.fields["state"] == HALF_OPEN:
            if probe is not None:
                findings.wrong(
                    f"{boot.board} probed with two operations at once", step(state), step(probe), step(event)
                )
            probe = event
        elif event.kind == "submitted" and state is not None and state.fields["state"] == OPEN:
            findings.wrong(f"{boot.board} took an operation while its breaker was open", step(state), step(event))


def _kept(run: Run, before: Boot, after: Boot, findings: Findings) -> None:
    """What holds until it is reset holds over a reboot too."""
    told = [event for event in before.events if event.kind == "breaker"]
    if not told or told[-1].fields["state"] != OPEN or told[-1].fields["cause"] not in LASTING or after.lost_journal:
        return
    last = told[-1]
    if after.number != before.number + 1 or after.whole_until < FIRST_EVENTS:
        return
    maybe_reset = any(
        operation.operation == "reset"
        and operation.board == before.board
        and (operation.finished_ns is None or operation.finished_ns >= last.received_ns - REPORTED_WITHIN_NS)
        and operation.invoked_ns <= after.began_ns
        for operation in run.history.operations
    )
    opened = any(event.kind == "breaker" and event.fields["state"] == OPEN for event in after.events[:FIRST_EVENTS])
    if not maybe_reset and not opened:
        findings.wrong(
            f"{before.board} forgot over a reboot why its breaker was open", step(last), step(after.events[0])
        )


def _noticed(run: Run, findings: Findings) -> int:
    """Boards that were cut off from every majority for long enough have to have opened; how many were asked."""
    within_ns = bound_ns(run) + _patience_ns(run)
    asked = 0
    for outage in run.outages:
        if outage.kind not in SEPARATING or outage.until_ns is None:
            continue
        if outage.until_ns - outage.from_ns < within_ns:
            continue
        for board in sorted(outage.boards):
            if not _cut_off(run, outage, board) or not _lived_through(run, board, outage):
                continue
            asked += 1
            if not _was_open(run, board, outage):
                findings.wrong(
                    f"{board} was without a majority for {(outage.until_ns - outage.from_ns) / 1e9:.1f} s and never"
                    " opened its breaker",
                    fault(outage.applied),
                )
    return asked


def _patience_ns(run: Run) -> int:
    """How long the breakers wait once membership has found out."""
    chosen = run.history.plan.get("options", {}).get("breaker", {})
    return int(chosen.get("quorum_ms", DEFAULT_QUORUM_MS)) * 1_000_000


def _cut_off(run: Run, outage: Outage, board: str) -> bool:
    """Whether the counters show that too little weight was left within its reach."""
    reached = [
        other
        for other in run.voters
        if other != board and (board, other) not in outage.cut_pairs and (other, board) not in outage.cut_pairs
    ]
    weight = run.weights[board] + sum(run.weights[other] for other in reached)
    return 2 * weight <= run.total_weight


def _lived_through(run: Run, board: str, outage: Outage) -> bool:
    """One life from before the outage to after it, without a hole in what is known of it."""
    assert outage.until_ns is not None
    for boot in run.boots.get(board, ()):
        last = boot.events[-1]
        if boot.began_ns < outage.from_ns and last.received_ns > outage.until_ns:
            return boot.whole_until == last.sequence
    return False


def _was_open(run: Run, board: str, outage: Outage) -> bool:
    assert outage.until_ns is not None
    told = [event for event in run.of("breaker") if event.board == board and event.received_ns <= outage.until_ns]
    return any(
        event.fields["state"] == OPEN and (event.received_ns >= outage.from_ns or event is told[-1]) for event in told
    )
