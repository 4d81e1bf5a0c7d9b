"""Whether the record is whole enough to judge by: finished, long enough, no gap inside a boot, every boot heard.

Never `invalid`: a hole in the record is nobody's fault, it only means that a breach may hide in it. The tail that was
in a board's memory when its power went is no hole; cable and broker each have a tail of their own. What a broker had
taken and lost when a fault killed it (never safety events) is counted, and membership judges without it.
"""

from __future__ import annotations

from ..history import Check, Gap, Outcome
from .evidence import Findings, step
from .run import BROKER_KINDS, DARK_KINDS, Boot, Run

OPERATIONS_AT_LEAST = 10
LESSER = "none of them a safety event"  # how a gap says that it can only hide membership and metrics
BOOT_SLACK_NS = 15_000_000_000  # a life that could not speak may end so long after the fault that ended it


def check(run: Run) -> Check:
    findings = Findings("telemetry")
    if not run.finished:
        reason = run.history.manifest.get("reason")
        findings.open("the run was interrupted before its end" + (f": {reason}" if reason else ""))
    for line in run.history.manifest.get("damage", ()):
        findings.open(f"the run's folder is damaged: {line}")
    _gaps(run, findings)
    _boots(run, findings)
    _length(run, findings)
    findings.metrics["events"] = len(run.history.events)
    findings.metrics["boots"] = sum(len(boots) for boots in run.boots.values())
    return findings.check(
        f"{findings.metrics['events']} events of {findings.metrics['boots']} boots, without a gap;"
        f" {findings.metrics['operations_done']} operations done"
    )


def _gaps(run: Run, findings: Findings) -> None:
    unheard = lesser = 0
    for gap in run.history.gaps:
        if gap.first == 0:
            if _cut_short(run, gap.board, gap.boot):
                unheard += 1
            else:
                findings.open(f"boot {gap.boot} of {gap.board} was never heard ({gap.reason})", _gap(gap))
        elif LESSER in gap.reason and any(outage.kind in BROKER_KINDS for outage in run.outages):
            lesser += gap.last - gap.first + 1
        else:
            findings.open(
                f"events {gap.first} to {gap.last} of {gap.board}, boot {gap.boot}, never arrived ({gap.reason})",
                _gap(gap),
            )
    told = {(gap.board, gap.boot, gap.first) for gap in run.history.gaps}
    for event in run.of("lost_events"):
        if (event.board, event.boot, event.fields["first"]) not in told:
            findings.open(
                f"{event.board} lost its events {event.fields['first']} to {event.fields['last']}, boot {event.boot}",
                step(event),
            )
    findings.metrics["boots_cut_before_they_spoke"] = unheard
    findings.metrics["events_lost_with_the_broker"] = lesser


def _gap(gap: Gap) -> dict[str, object]:
    return {"board": gap.board, "boot": gap.boot, "first": gap.first, "last": gap.last, "reason": gap.reason}


def _boots(run: Run, findings: Findings) -> None:
    for board in run.boards:
        boots = run.boots.get(board, [])
        if not boots:
            findings.open(f"{board} was never heard at all", {"board": board})
        for boot in boots:
            if boot.start is None and not (_cable_unheard(boot) and _cut_short(run, board, boot.number)):
                findings.open(
                    f"boot {boot.number} of {board} has no boot event", step(boot.events[0], "the first that arrived")
                )
            _inner_gaps(run, boot, findings)
        for earlier, later in zip(boots, boots[1:], strict=False):
            missing = range(earlier.number + 1, later.number) if not later.lost_journal else range(0)
            for number in missing[:4]:
                if not _cut_short(run, board, number) and not _named(run, board, number):
                    findings.open(f"boot {number} of {board} was never heard", {"board": board, "boot": number})


def _named(run: Run, board: str, boot: int) -> bool:
    return any(gap.board == board and gap.boot == boot for gap in run.history.gaps)


def _inner_gaps(run: Run, boot: Boot, findings: Findings) -> None:
    """Sequence numbers missing between events that did arrive, unless the gaps name them already."""
    if any(gap.board == boot.board and gap.boot == boot.number for gap in run.history.gaps):
        return
    channels = {event.channel for life in run.boots[boot.board] for event in life.events}
    for index, (before, after) in enumerate(zip(boot.events, boot.events[1:], strict=False), start=1):
        if after.sequence == before.sequence + 1:
            continue
        # Each channel keeps its own order: only an event that no channel has overtaken may be a tail.
        if {event.channel for event in boot.events[index:]} >= channels:
            findings.open(
                f"events {before.sequence + 1} to {after.sequence - 1} of {boot.board}, boot {boot.number}, are gone",
                step(before),
                step(after),
            )
            return


def _cable_unheard(boot: Boot) -> bool:
    """Whether nothing of a life came by its cable: power went before the first frame, and only MQTT was quicker."""
    return all(event.channel == "mqtt" for event in boot.events)


def _cut_short(run: Run, board: str, number: int) -> bool:
    """Whether a fault that takes power explains that this life was never heard: it ended before it could speak.

    All that such a life promised is in the boot event of the next one.
    """
    boots = run.boots.get(board, [])
    before = [boot for boot in boots if boot.number < number]
    after = [boot for boot in boots if boot.number > number]
    from_ns = before[-1].events[-1].received_ns if before else 0
    until_ns = after[0].events[0].received_ns if after else run.ended_ns
    return any(
        outage.kind in DARK_KINDS and board in outage.boards and outage.overlaps(from_ns - BOOT_SLACK_NS, until_ns)
        for outage in run.outages
    )


def _length(run: Run, findings: Findings) -> None:
    operations = run.history.operations
    done = sum(item.outcome is Outcome.OK for item in operations)
    findings.metrics["operations_done"] = done
    wanted = int(run.history.manifest.get("checks", {}).get("operations_at_least", OPERATIONS_AT_LEAST))
    if done < wanted:
        findings.open(f"only {done} operations were done, fewer than {wanted}: too short a run to say anything")
