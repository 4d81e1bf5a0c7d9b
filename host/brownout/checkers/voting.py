"""The rules of the vote: one vote a round, locks, who may vote, and majorities that really are majorities.

Holds over all lives of a board: a board that lost its journal and votes again in a round it had voted in is the classic
amnesia bug. Where votes could have been lost with the power of a board, they count as possibly cast.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from brownout_node.core import schema

from ..history import BoardEvent, Check, FaultStage
from .evidence import Findings, step
from .run import Boot, Run, height_told

VOTES = ("prevoted", "precommitted")
# Proven while the board is off.
PROVEN_DARK = frozenset({"cut", "cycle", "blackout", "cut_mid_write", "wipe", "restore", "upgrade"})


def check(run: Run) -> Check:
    findings = Findings("voting")
    _double_votes(run, findings)
    _locks(run, findings)
    _standing(run, findings)
    recounted = _majorities(run, findings)
    findings.metrics["votes"] = sum(len(run.by_kind.get(kind, ())) for kind in VOTES)
    findings.metrics["decisions_recounted"] = recounted
    return findings.check(f"{findings.metrics['votes']} votes by the rules, {recounted} majorities counted again")


def _double_votes(run: Run, findings: Findings) -> None:
    for kind in VOTES:
        cast: dict[tuple[str, int, int], BoardEvent] = {}
        for event in run.of(kind):
            place = (event.board, event.fields["height"], event.fields["round"])
            first = cast.setdefault(place, event)
            if first.fields["value_id"] != event.fields["value_id"]:
                findings.wrong(
                    f"{event.board} {kind} twice at height {place[1]}, round {place[2]}: {first.fields['value_id']} at"
                    f" boot {first.boot}, {event.fields['value_id']} at boot {event.boot}",
                    step(first),
                    step(event),
                )


def _locks(run: Run, findings: Findings) -> None:
    """Who precommitted a value prevotes another one later only for a proposal that shows a later majority."""
    locks: dict[tuple[str, int], list[BoardEvent]] = defaultdict(list)
    for event in run.of("precommitted"):
        if event.fields["value_id"] is not None:
            locks[(event.board, event.fields["height"])].append(event)
    for event in run.of("prevoted"):
        fields = event.fields
        if fields["value_id"] is None:
            continue
        earlier = [
            lock
            for lock in locks.get((event.board, fields["height"]), ())
            if lock.fields["round"] < fields["round"] and _before(run, lock, event)
        ]
        if not earlier:
            continue
        lock = max(earlier, key=lambda candidate: candidate.fields["round"])
        if lock.fields["value_id"] != fields["value_id"] and fields["valid_round"] < lock.fields["round"]:
            findings.wrong(
                f"{event.board} was locked on {lock.fields['value_id']} at height {fields['height']} since round"
                f" {lock.fields['round']}, and prevoted {fields['value_id']} in round {fields['round']} without a"
                f" later majority for it (valid round {fields['valid_round']})",
                step(lock),
                step(event),
            )


def _before(run: Run, first: BoardEvent, second: BoardEvent) -> bool:
    """Whether one event of a board comes before another of the same board."""
    if first.boot == second.boot:
        return first.sequence < second.sequence
    order = {boot.number: boot.order for boot in run.boots[first.board]}
    return order[first.boot] < order[second.boot]


# Standing: who may vote at all.


def _standing(run: Run, findings: Findings) -> None:
    for board, boots in run.boots.items():
        lost: Boot | None = None  # the life in which the board lost its standing, until it is admitted again
        for boot in boots:
            start = boot.start
            if boot.lost_journal:
                lost = boot
            if start is not None and start.fields["may_vote"]:
                if start.fields["journal"] != schema.JOURNAL_VALID:
                    findings.wrong(
                        f"{board} has no valid journal at boot {boot.number} and says that it may vote", step(start)
                    )
                elif (
                    lost is not None
                    and lost is not boot
                    and not _may_be_admitted(boots[lost.order : boot.order], start)
                ):
                    findings.wrong(
                        f"{board} lost its journal at boot {lost.number}, was never admitted again, and says at boot"
                        f" {boot.number} that it may vote",
                        step(lost.events[0]),
                        step(start),
                    )
                lost = None
            if any(_own_admission(run, event) for event in boot.events):
                lost = None
            _votes_of_life(run, boot, findings)
        _admissions(run, board, boots, findings)


def _admissions(run: Run, board: str, boots: list[Boot], findings: Findings) -> None:
    """An admission that was decided before this life began is an earlier life's, whose promises are lost.

    Only where it is certain: a fault's proof shows the board dark after somebody had told that decision.
    """
    for record in run.history.faults:
        if record.stage is not FaultStage.PROVEN or record.kind not in PROVEN_DARK or board not in record.boards:
            continue
        boot = next((boot for boot in boots if boot.start is not None and boot.start.received_ns > record.at_ns), None)
        if boot is None:
            continue
        for event in boot.events:
            if not _own_admission(run, event):
                continue
            told = next(
                (
                    decided
                    for decided in run.of("decided")
                    if decided.fields["height"] == event.fields["height"] - 1 and decided.received_ns < record.at_ns
                ),
                None,
            )
            if told is not None:
                findings.wrong(
                    f"{board} took an admission for its own at boot {boot.number} that had been decided before that"
                    f" boot began, at height {told.fields['height']}",
                    step(told),
                    step(event),
                )


def _own_admission(run: Run, event: BoardEvent) -> bool:
    return event.kind == "admitted" and bool(event.fields["board"] == run.ids.get(event.board))


def _may_be_admitted(lives: list[Boot], start: BoardEvent) -> bool:
    """Whether these lives may have been admitted without that having been told, their last events being lost.

    An admission is told in the step of its decision: whoever told all of its decisions, and something after the last
    one, would have told it.
    """
    if start.fields["next_height"] > max(height_told(event) for life in lives for event in life.events):
        return True
    for life in lives:
        decisions = [event.sequence for event in life.events if event.kind == "decided"]
        if decisions and not any(
            decisions[-1] < event.sequence <= life.whole_until and event.kind != "applied" for event in life.events
        ):
            return True
    return False


def _votes_of_life(run: Run, boot: Boot, findings: Findings) -> None:
    """A life that began without standing votes only from the height that its admission names."""
    if boot.start is not None and boot.start.fields["may_vote"]:
        return
    if boot.start is None and run.weights.get(boot.board, 0) > 0:
        return  # not known; the telemetry check says so
    from_height: int | None = None
    for event in boot.events:
        if _own_admission(run, event):
            from_height = event.fields["height"]
        elif event.kind in VOTES and (from_height is None or event.fields["height"] < from_height):
            reason = "it has not been admitted" if from_height is None else f"it is admitted from {from_height} on"
            evidence = [step(event)] if boot.start is None else [step(boot.start), step(event)]
            findings.wrong(
                f"{boot.board} {event.kind} at height {event.fields['height']}, round {event.fields['round']}, and"
                f" must not vote there: {reason}",
                *evidence,
            )
            return


# Majorities.


def _majorities(run: Run, findings: Findings) -> int:
    """Each decision names the weight it saw; count the precommits again where no vote can be missing."""
    cast: dict[tuple[int, int, Any], set[str]] = defaultdict(set)
    for event in run.of("precommitted"):
        cast[(event.fields["height"], event.fields["round"], event.fields["value_id"])].add(event.board)
    for event in run.of("boot"):
        if event.fields["precommit_round"] >= 0:
            place = (event.fields["next_height"], event.fields["precommit_round"], event.fields["precommitted"])
            cast[place].add(event.board)
    spans = {board: _spans(run.boots.get(board, [])) for board in run.voters}
    recounted: set[tuple[int, int, Any]] = set()
    reported: set[int] = set()
    for event in run.of("decided"):
        fields = event.fields
        if fields["caught_up"]:
            continue
        height = fields["height"]
        weights = run.weights_at(height)
        if weights is None:
            continue
        total = sum(weights.values())
        if 2 * fields["weight"] <= total and height not in reported:
            reported.add(height)
            findings.wrong(
                f"{event.board} decided height {height}, round {fields['round']} with weight {fields['weight']} of"
                f" {total}, which is no majority",
                step(event),
                *_precommits(run, height),
            )
        place = (height, fields["round"], fields["value_id"])
        if place in recounted or height in reported:
            continue
        weight = sum(
            weights[board] for board in run.voters if board in cast[place] or not _whole_height(spans[board], height)
        )
        if all(_whole_height(spans[board], height) for board in run.voters if board not in cast[place]):
            recounted.add(place)
        if 2 * weight <= total:
            reported.add(height)
            findings.wrong(
                f"{event.board} decided height {height}, round {fields['round']}, and only {sorted(cast[place])} can"
                f" have precommitted it: weight {weight} of {total}",
                step(event),
                *_precommits(run, height),
            )
    return len(recounted)


def _precommits(run: Run, height: int) -> list[dict[str, Any]]:
    return [step(event) for event in run.of("precommitted") if event.fields["height"] == height][:12]


def _spans(boots: list[Boot]) -> list[tuple[int, int]]:
    """Heights (first, last), life by life, of which every vote that the board can have cast was told.

    Once a journal was lost nothing is certain any more: an earlier life may have voted further than it could tell.
    """
    spans = []
    for boot in boots:
        if boot.lost_journal:
            break
        spans.append(_span(boot))
    return spans


def _span(boot: Boot) -> tuple[int, int]:
    """The first height is where the life began with no vote cast before it; the last was decided, or left behind,
    with no event missing up to there. Empty (last below first) where the boot event is missing.
    """
    if boot.start is None:
        return 1, 0
    fields = boot.start.fields
    voted_before = max(fields["prevote_round"], fields["precommit_round"], fields["locked_round"]) >= 0
    first = fields["next_height"] + (1 if voted_before else 0)
    last = -1
    for expected, event in enumerate(boot.events, start=boot.start.sequence):
        if event.sequence != expected:
            break
        if event.kind == "decided":
            last = max(last, event.fields["height"])
        elif event.kind in VOTES:
            last = max(last, event.fields["height"] - 1)
    return first, last


def _whole_height(spans: list[tuple[int, int]], height: int) -> bool:
    """Whether one life covers the height from before the board's first vote there to after its last."""
    return any(first <= height <= last for first, last in spans)
