"""After a disaster: who came back how, and what is lost. A run that lost what it had acknowledged is never valid.

A state that was saved lacks what its board promised since, so a board that took one back must not vote before the log
admits it, and what it took must be what the log had at that height. Where voters with half of all weight or more have
lost their journals, nothing can be decided any more, by any protocol that keeps its promises: then this check says up
to which height the boards still know the log, and names the acknowledged operations above it, which are lost.
"""

from __future__ import annotations

from ..history import BoardEvent, Check, Operation
from .evidence import Findings, operation, step
from .run import LOG_OPERATIONS, Boot, Run

VOTES = ("prevoted", "precommitted")
NAMED_AT_MOST = 30  # lost operations in the evidence; the metrics count them all


def check(run: Run) -> Check:
    findings = Findings("recovery")
    restored = list(run.of("restored"))
    _states(run, restored, findings)
    for event in restored:
        _no_vote_of_its_own(run, event, findings)
    _majority(run, findings)
    wiped = sum(boot.lost_journal for boots in run.boots.values() for boot in boots)
    findings.metrics["journals_lost"] = wiped
    findings.metrics["states_restored"] = len(restored)
    return findings.check(f"{wiped} journals were lost and {len(restored)} states given back; nothing acknowledged is")


def _states(run: Run, restored: list[BoardEvent], findings: Findings) -> None:
    """A restored state is that of the log: one digest for each height, whoever tells it."""
    told: dict[int, BoardEvent] = {}
    for event in run.of("digest"):
        if event.fields["protocol"] == "vote":
            told.setdefault(event.fields["height"], event)
    for event in restored:
        other = told.setdefault(event.fields["height"], event)
        if other.fields["digest"] != event.fields["digest"]:
            findings.wrong(
                f"{event.board} was given back another state than {other.board} has at height {event.fields['height']}",
                step(event),
                step(other),
            )


def _no_vote_of_its_own(run: Run, restored: BoardEvent, findings: Findings) -> None:
    """From the restore on the board votes only once it is admitted; it cannot know what it had promised."""
    if restored.fields["votes"]:
        findings.wrong(
            f"{restored.board} says that it may vote with a state that was saved before it lost its journal",
            step(restored),
        )
        return
    for boot in run.boots[restored.board]:
        if boot.number == restored.boot:
            rest = [event for event in boot.events if event.sequence > restored.sequence]
        elif boot.order > _order(run, restored):
            if boot.lost_journal:
                return  # what it was given back is lost too
            rest = boot.events
        else:
            continue
        for event in rest:
            if event.kind == "admitted" and event.fields["board"] == run.ids.get(event.board):
                return
            if event.kind in VOTES:
                findings.wrong(
                    f"{event.board} was given back a saved state and votes at height {event.fields['height']} before"
                    " the log has admitted it",
                    step(restored),
                    step(event),
                )
                return
        if boot.whole_until < boot.events[-1].sequence:
            return  # its admission may be among what did not arrive


def _order(run: Run, event: BoardEvent) -> int:
    return next(boot.order for boot in run.boots[event.board] if boot.number == event.boot)


def has_standing(run: Run, boot: Boot) -> bool | None:
    """Whether the voter may vote at the end of this life; None where the record does not say."""
    if boot.start is None:
        return None
    if boot.start.fields["may_vote"]:
        return True
    own = run.ids.get(boot.board)
    if any(event.kind == "admitted" and event.fields["board"] == own for event in boot.events):
        return True
    return None if boot.whole_until < boot.events[-1].sequence else False


def _majority(run: Run, findings: Findings) -> None:
    """Whether those who may still vote are a majority, and what is lost where they are not."""
    lives = [boot for board in run.voters if (boot := run.last_boot(board)) is not None]
    without = [boot.board for boot in lives if has_standing(run, boot) is False]
    weights = run.weights_at(max(1, run.highest()))
    if weights is None or not without or 2 * sum(weights[board] for board in without) < sum(weights.values()):
        return
    height = max(run.next_height(board) for board in run.boots)
    lost = lost_above(run.acknowledged(LOG_OPERATIONS), height)
    findings.metrics["recoverable_below_height"] = height
    findings.metrics["operations_lost"] = len(lost)
    holders = sorted(board for board in run.boots if run.next_height(board) == height)
    told = (
        f"{', '.join(sorted(without))} lost their journals, and the others are no majority: nothing can be decided any"
        f" more; {', '.join(holders)} still know the log below height {height}"
    )
    if lost:
        told += f"; {len(lost)} acknowledged operations are lost, {_named(lost[0])} first"
    else:
        told += ", which is everything that was acknowledged"
    findings.wrong(
        f"{told}; a new cluster can begin with a saved state (brownout restore)",
        *[operation(item, "lost") for item in lost[:NAMED_AT_MOST]],
    )


def lost_above(acknowledged: list[Operation], height: int) -> list[Operation]:
    """Acknowledged changes that no board knows any more: those answered from a height that none has reached."""
    lost = [
        item
        for item in acknowledged
        if item.operation in ("put", "cas") and item.height is not None and item.height >= height
    ]
    return sorted(lost, key=lambda item: (item.height or 0, item.client, item.request))


def _named(item: Operation) -> str:
    return f"{item.operation} {item.key} = {item.value!r} at height {item.height}"
