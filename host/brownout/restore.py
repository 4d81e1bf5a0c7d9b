"""Saves the states of a kept lab's boards, and brings boards or the whole cluster back from them.

A board alone comes back without a vote, until the log admits it. A whole cluster comes back together, from one state,
as a new cluster: every journal is made anew, so that nobody remembers a promise that somebody else forgot. Says what is
lost by that and refuses where more would be lost than it was told to. Must not touch boards that it was not named.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import backup, incarnation
from .attached import Attached, kept_rig
from .backup import Backup
from .bed import Bed, Hand, by_hand, quiet
from .contracts import Progress, RigError, UsageError
from .history import BoardEvent
from .incarnation import Incarnation
from .saved_state import SavedState, StateClient

ANSWERS_WITHIN_S = 4.0
GIVEN_WITHIN_S = 20.0
BOOTS_WITHIN_S = 15.0
DECIDES_WITHIN_S = 15.0
ADMITTED_WITHIN_S = 15.0
OTHER_CLUSTER = "was it flashed for another cluster, by a campaign? --cluster names it"


@dataclass
class Report:
    """What a restore did. height: the log below it is what every restored board has; later writes are lost."""

    source: str
    cluster: int
    height: int
    registers: int
    boards: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: str = ""
    decided_at: int | None = None


def save(rig_name: str, chosen: Sequence[str], folder: Path, scratch: Path, cluster: int | None) -> Backup:
    """Save the chosen boards (all, if none is named) into `folder`. RigError where none of them answers."""
    rig, lab = kept_rig(rig_name)
    current = incarnation.read(lab)
    number = current.cluster if cluster is None else cluster
    for name in chosen:
        rig.board(name)
    with Attached(rig, scratch, number) as bed, bed.states() as client:
        whole = by_hand(rig)
        names = list(chosen) or [board.name for board in whole]
        found = {name: client.fetch(name, ANSWERS_WITHIN_S) for name in names if name in bed.names}
        states = {name: state for name, state in found.items() if state is not None}
        if not states:
            raise RigError(f"no board of cluster {number} gave its state: is it on, and flashed? {OTHER_CLUSTER}")
        firmware = bed.firmware_of(sorted(states))
    facts = {
        "made_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rig": rig.name,
        "bed": rig.bed,
        "cluster": number,
        "roster": [[board.board, board.name, board.weight] for board in whole],
        "protocols": list(current.protocols),
        "missing": {name: "gave no state" for name in names if name not in states},
    }
    saved = backup.make(facts, states, firmware)
    backup.write(folder, saved)
    return saved


# The whole cluster.


def restore_all(
    folder: Path, rig_name: str, scratch: Path, *, source: str | None, discard_later: bool, progress: Progress = quiet
) -> Report:
    """Begin a new cluster on all boards with one state of the backup."""
    saved = backup.read(folder)
    name, state = _state_of(saved, source)
    rig, lab = kept_rig(rig_name)
    current = incarnation.read(lab)
    later = _heights(rig_name, scratch, current.cluster)
    above = {board: height for board, height in later.items() if height > state.height}
    if above and not discard_later and current.cluster == saved.cluster:
        told = ", ".join(f"{board} below {height}" for board, height in sorted(above.items()))
        raise UsageError(
            f"the backup has the log below height {state.height}, and boards have more: {told}; save them first "
            "(brownout backup), or lose what came later with --discard-later"
        )
    protocols = [row for row in saved.manifest["protocols"] if row != "recovery"] + ["recovery"]
    begun = Incarnation(
        max(current.cluster, saved.cluster) + 1, tuple(protocols), {**current.options, "recovery": state.options}
    )
    report = Report(name, begun.cluster, state.height, len(state.content[1]))
    with Hand(rig) as hand:
        hand.heal()  # a board without power cannot be flashed
    incarnation.write(lab, begun)
    anew = Bed(
        rig, by_hand(rig), directory=scratch, cluster=begun.cluster, seed=0, settings=begun.settings, progress=progress
    )
    with anew as bed, bed.states() as client:
        _give_all(bed.names, client, state, report)
        report.decided_at = client.decides(bed.names[0], DECIDES_WITHIN_S)
    report.lost = f"whatever was acknowledged at height {state.height} or later is lost"
    return report


def _state_of(saved: Backup, source: str | None) -> tuple[str, SavedState]:
    if source is None:
        return saved.newest
    if source not in saved.states:
        raise UsageError(f"--from: the backup has no state of {source!r}; it has {', '.join(sorted(saved.states))}")
    return source, saved.states[source]


def _heights(rig_name: str, scratch: Path, cluster: int) -> dict[str, int]:
    """How far the boards are that still run and answer."""
    rig, _lab = kept_rig(rig_name)
    with Attached(rig, scratch / "before", cluster) as bed, bed.states() as client:
        found = {name: client.fetch(name, ANSWERS_WITHIN_S / 2) for name in bed.names}
    return {name: state.height for name, state in found.items() if state is not None}


def _give_all(names: Sequence[str], client: StateClient, state: SavedState, report: Report) -> None:
    """Every board gets the state, and tells what it has then."""
    for name in names:
        given = client.give(name, state, GIVEN_WITHIN_S)
        row: dict[str, Any] = {"restored": given.complete, "next_height": given.next_height, "reason": given.reason}
        found = client.fetch(name, ANSWERS_WITHIN_S) if given.complete else None
        if found is not None:
            row["verified"] = found.height > state.height or found.digest == state.digest
            row["digest"] = found.digest.hex()
        report.boards[name] = row


# Some boards of a cluster that lives.


def restore_some(
    folder: Path, rig_name: str, chosen: Sequence[str], scratch: Path, *, source: str | None, progress: Progress = quiet
) -> Report:
    """Erase the journals of these boards and give them a state of their own cluster; the log has to admit them."""
    saved = backup.read(folder)
    rig, lab = kept_rig(rig_name)
    current = incarnation.read(lab)
    if saved.cluster != current.cluster:
        raise UsageError(
            f"the backup is of cluster {saved.cluster}, the boards are of cluster {current.cluster}: only a restore of "
            "all boards can begin with it"
        )
    _check_majority(by_hand(rig), chosen)
    name, state = _state_of(saved, source)
    report = Report(name, saved.cluster, state.height, len(state.content[1]))
    with Hand(rig) as hand:
        hand.power.on(chosen)
        hand.flash(progress, chosen, also=("recovery",))
    admitted: dict[str, int] = {}
    with Attached(rig, scratch, saved.cluster) as bed:
        numbers = {board.name: board.board for board in bed.boards}

        def note(events: Sequence[BoardEvent]) -> None:
            for event in events:
                if event.kind == "admitted" and event.fields["board"] == numbers.get(event.board):
                    admitted[event.board] = event.fields["height"]

        bed.power.off(chosen)
        bed.storage.wipe(chosen)
        bed.telemetry.subscribe(note)
        boots = bed.watch.boots(chosen)
        bed.power.on(chosen)
        for board in chosen:
            if bed.watch.wait_for_boot(board, boots.get(board), BOOTS_WITHIN_S) is None:
                raise RigError(f"board {board} has power, but no boot event came within {BOOTS_WITHIN_S:.0f} s")
        with bed.states() as client:
            _give_all(chosen, client, state, report)
        bed.watch.wait(lambda: set(chosen) <= set(admitted), ADMITTED_WITHIN_S)
    for board in chosen:
        report.boards[board]["votes_from_height"] = admitted.get(board)
    report.lost = "nothing: what came later is in the log of the other boards"
    return report


def _check_majority(boards: Sequence[Any], chosen: Sequence[str]) -> None:
    """Those that stay have to be able to admit the others."""
    weights: Mapping[str, int] = {board.name: board.weight for board in boards}
    for name in chosen:
        if name not in weights:
            raise UsageError(f"--boards: unknown board {name!r}; allowed: {', '.join(weights)}")
    left = sum(weight for name, weight in weights.items() if name not in chosen)
    if 2 * left <= sum(weights.values()):
        raise UsageError(
            f"--boards: without {', '.join(chosen)} the others are no majority, and could not admit them again; "
            "restore the whole cluster (no --boards)"
        )
