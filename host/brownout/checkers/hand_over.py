"""What hand_over.py promises: who has passed on its turns does not propose, and says so only when others have them.

A board's own events have an order, and so does what it was told: those who promised had said so before it could know.
Must not ask for a hand-over: without a quorum, or a successor that is up to date, there is none.
"""

from __future__ import annotations

from ..history import BoardEvent, Check
from .evidence import Findings, step
from .run import Boot, Run

TOLD_WITHIN_NS = 2_000_000_000  # what a board tells later than this it did not do before


def check(run: Run) -> Check:
    findings = Findings("hand_over")
    promises: dict[tuple[int, int, int], dict[str, BoardEvent]] = {}
    for event in run.of("promised"):
        fields = event.fields
        passed = fields["board"], fields["boot"], fields["number"]
        promises.setdefault(passed, {}).setdefault(event.board, event)
    begun = done = 0
    for board in run.boards:
        for boot in run.boots.get(board, []):
            found = _order(boot, findings)
            begun += found[0]
            for passing, event in found[1]:
                done += 1
                made = promises.get((run.ids[board], boot.number, event.fields["number"]), {})
                _promised(run, passing or event, event, made, findings)
    findings.metrics |= {"hand_overs": begun, "handed_over": done}
    return findings.check(f"{done} of {begun} hand-overs done; nobody proposed what it had passed on")


def _order(boot: Boot, findings: Findings) -> tuple[int, list[tuple[BoardEvent | None, BoardEvent]]]:
    """How many this boot began, and those that it said were done, with how they began."""
    passing: BoardEvent | None = None
    begun = 0
    done: list[tuple[BoardEvent | None, BoardEvent]] = []
    for event in boot.events:
        if event.kind == "passing":
            passing = event
            begun += 1
        elif event.kind == "resumed":
            passing = None
        elif event.kind == "handed_over":
            done.append((passing, event))
        elif event.kind == "proposed" and passing and event.fields["height"] >= passing.fields["from_height"]:
            findings.wrong(f"{boot.board} proposed what it had passed on", step(passing), step(event))
    return begun, done


def _promised(
    run: Run, passing: BoardEvent, event: BoardEvent, made: dict[str, BoardEvent], findings: Findings
) -> None:
    """A quorum's promises stand behind it, the successor's with everything before that height decided."""
    fields = event.fields
    if fields["height"] < fields["from_height"]:
        findings.wrong(
            f"{event.board} handed over from height {fields['from_height']} on to a board that had decided only what is"
            f" below {fields['height']}",
            step(event),
        )
    weights = run.weights_at(fields["from_height"])
    if weights is None:
        return
    # Whoever was not heard in full meanwhile may have promised.
    unheard = {
        board for board in run.voters if not any(_heard(boot, passing, event) for boot in run.boots.get(board, ()))
    }
    behind = {event.board, *made} | unheard
    if 2 * sum(weights.get(board, 0) for board in behind) <= sum(weights.values()):
        findings.wrong(
            f"{event.board} handed over though no quorum had promised",
            step(event),
            *[step(promise) for promise in made.values()],
        )


def _heard(boot: Boot, first: BoardEvent, last: BoardEvent) -> bool:
    """Whether all is known of what this life did from before the first to the last."""
    end = boot.events[-1]
    whole = boot.whole_until == end.sequence
    return whole and boot.began_ns <= first.received_ns and end.received_ns >= last.received_ns + TOLD_WITHIN_NS
