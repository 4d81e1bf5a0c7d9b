"""Nothing that was acknowledged is lost: log operations stay in every log that reached them, gossip writes stay or are
superseded by a greater stamp.

"Every live voter has it at the end" is judged for the voters that got so far; that all of them get there is
`liveness.py`. What only a board had whose journal a fault then took is not held against anybody.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from ..history import BoardEvent, Check, Operation
from .evidence import Findings, operation, step
from .items import Item, final_items, gossip_digests, items_after, items_at, same_at_the_end, updates
from .run import GOSSIP_WRITES, STATUS_NAMES, Run, height_told

FRESH_NS = 2_000_000_000  # events of the last moments may not have arrived


def check(run: Run) -> Check:
    findings = Findings("durability")
    log = run.acknowledged(("put", "cas"))
    gossip = run.acknowledged(GOSSIP_WRITES)
    _log(run, log, findings)
    _gossip(run, gossip, findings)
    findings.metrics["acknowledged_in_the_log"] = len(log)
    findings.metrics["acknowledged_by_gossip"] = len(gossip)
    return findings.check(f"{len(log)} acknowledged log writes and {len(gossip)} gossip writes are all still there")


def _log(run: Run, acknowledged: list[Operation], findings: Findings) -> None:
    applied: dict[tuple[int, int], list[BoardEvent]] = defaultdict(list)
    heights: dict[int, dict[str, list[BoardEvent]]] = defaultdict(lambda: defaultdict(list))
    for event in run.of("applied"):
        if STATUS_NAMES.get(event.fields["status"]) != "expired":
            applied[(event.fields["client"], event.fields["request"])].append(event)
            heights[event.fields["height"]][event.board].append(event)
    voters = [board for board in run.live_boards() if run.weights[board] > 0]
    reached = {board: run.next_height(board) for board in voters}
    vanished_above = max(reached.values(), default=0)
    for item in acknowledged:
        events = applied.get((item.client, item.request), [])
        height = events[0].fields["height"] if events else item.height
        if height is None:
            findings.open(f"no record says at which height request {item.request} was applied", operation(item))
            continue
        if voters and height >= vanished_above:
            if not _settled(run, item):
                continue
            findings.wrong(
                f"an acknowledged {item.operation} of key {item.key!r} at height {height} vanished: the voters that run"
                f" at the end reached {sorted(reached.items())}",
                operation(item),
                *[step(_reached_by(run, board)) for board in voters],
            )
        elif not events and heights.get(height):
            _absent(run, item, height, heights[height], findings)


def _settled(run: Run, item: Operation) -> bool:
    """Whether the record had time to follow an operation up before it ended."""
    return run.finished and item.finished_ns is not None and item.finished_ns + FRESH_NS <= run.ended_ns


def _reached_by(run: Run, board: str) -> BoardEvent:
    """The event that shows how far a board's last life got."""
    boot = run.last_boot(board)
    assert boot is not None
    return max(boot.events, key=height_told)


def _absent(run: Run, item: Operation, height: int, told: dict[str, list[BoardEvent]], findings: Findings) -> None:
    """Some boards told what they applied at that height; if one of them told all of it, the operation is not there."""
    for board, events in told.items():
        last = events[-1]
        life = next(boot for boot in run.boots[board] if boot.number == last.boot)
        if life.whole_after(last.sequence):
            findings.wrong(
                f"an acknowledged {item.operation} of key {item.key!r} is not among what {board} applied at height"
                f" {height}",
                operation(item),
                *[step(event) for event in events],
            )
            return


# Gossip.


def _gossip(run: Run, acknowledged: list[Operation], findings: Findings) -> None:
    """Match acknowledged writes with the boards' own record, then look for each on every live board at the end."""
    by_board: dict[str, list[Operation]] = defaultdict(list)
    for item in acknowledged:
        by_board[item.board].append(item)
    final = _known_at_the_end(run)
    deleted = _deletes(run)
    # Younger ones may not be everywhere yet; the gossip check looks at the end state as a whole.
    fresh_ns = FRESH_NS if same_at_the_end(run) else run.converge_ns
    for board, items in by_board.items():
        known = _known_updates(run, board)
        unmatched = [item for item in _match(items, known) if _settled(run, item)]
        _unheard(run, board, unmatched, known, findings)
        wanted = {(item.key, _written(item)) for item in items}
        for event in known.values():
            old_enough = run.finished and event.received_ns + fresh_ns <= run.ended_ns
            if old_enough and (event.fields["key"], event.fields["value"]) in wanted:
                _still_there(run, board, event, final, deleted, findings)


def _deletes(run: Run) -> dict[str, tuple[int, int]]:
    """key -> (stamp, writer) of the greatest delete that any board ever had; a later write may have followed it."""
    greatest: dict[str, tuple[int, int]] = {}
    for board in run.boots:
        for _, key, item in updates(run, board):
            if key is not None and item is not None and item[2].fields["value"] is None:
                greatest[key] = max(greatest.get(key, item[:2]), item[:2])
    return greatest


def _known_at_the_end(run: Run) -> dict[str, dict[str, Item]]:
    """What each live board is known to hold: what it told, and what others had told whose last digest was the same.

    What a board merged in its last moments before a cut is durable, and the event may be lost with the power.
    """
    told = {board: final_items(run, board) for board in run.live_boards()}
    digests = [event for board in told for event in gossip_digests(run, board)[-1:]]
    alike: dict[Any, dict[str, Item]] = defaultdict(dict)
    gone: dict[Any, dict[str, tuple[int, int]]] = defaultdict(dict)  # the deletes that a board of that digest forgot
    for event in digests:
        common, forgotten = alike[event.fields["digest"]], gone[event.fields["digest"]]
        for key, item in items_at(run, event).items():
            if key not in common or common[key][:2] < item[:2]:
                common[key] = item
        for forgot in run.of("forgotten"):
            if forgot.board == event.board and forgot.received_ns <= event.received_ns:
                version = (forgot.fields["stamp"], forgot.fields["writer"])
                forgotten[forgot.fields["key"]] = max(forgotten.get(forgot.fields["key"], version), version)
    for event in digests:
        forgotten = gone[event.fields["digest"]]
        held = {
            key: item
            for key, item in alike[event.fields["digest"]].items()
            if key not in forgotten or item[:2] > forgotten[key]
        }
        told[event.board] = items_after(run, event, held)
    return told


def _written(item: Operation) -> str | None:
    return None if item.operation == "delete" else item.value


def _known_updates(run: Run, writer: str) -> dict[tuple[int, int], BoardEvent]:
    """The updates of one writer by (number, stamp), from its own record or from those who merged them."""
    known: dict[tuple[int, int], BoardEvent] = {}
    for event in run.of("written"):
        if event.board == writer:
            known[(event.fields["number"], event.fields["stamp"])] = event
    number = run.ids.get(writer)
    for event in run.of("merged"):
        if event.fields["writer"] == number:
            known.setdefault((event.fields["number"], event.fields["stamp"]), event)
    return known


def _match(items: list[Operation], known: dict[tuple[int, int], BoardEvent]) -> list[Operation]:
    """Acknowledged writes for which there is no record; each record serves one write."""
    left = Counter((event.fields["key"], event.fields["value"]) for event in known.values())
    unmatched = []
    for item in items:
        name = (item.key, _written(item))
        if left[name]:
            left[name] -= 1
        else:
            unmatched.append(item)
    return unmatched


def _unheard(
    run: Run,
    board: str,
    unmatched: list[Operation],
    known: dict[tuple[int, int], BoardEvent],
    findings: Findings,
) -> None:
    """A board numbers its own updates; numbers that nobody heard of may be those writes, but no more than there are.

    In its last life the highest number may be one that it told in an event that is missing.
    """
    if not unmatched or _wiped_after(run, board, 0):
        return
    numbers = {number for number, _ in known}
    told = [event.fields["gossip_number"] for event in run.of("boot") if event.board == board]
    highest = max([*numbers, *told], default=0)
    last = run.last_boot(board)
    if last is None or run.is_dark_at_end(board):
        findings.open(f"{board} is not there to say what became of {len(unmatched)} acknowledged gossip writes")
        return
    holes = highest - len(numbers)
    missing = last.events[-1].sequence - len(last.events) if last.events else 0
    if holes < len(unmatched) <= holes + missing:
        findings.open(
            f"{missing} events of the last life of {board} are missing: {len(unmatched)} writes may be in them"
        )
    elif len(unmatched) > holes:
        item = unmatched[-1]
        evidence = [] if last.start is None else [step(last.start)]
        findings.wrong(
            f"{board} acknowledged a {item.operation} of {item.key!r}, and no board ever had it: {len(unmatched)} such"
            f" writes, {holes} numbers of its own that nobody told of",
            operation(item),
            *evidence,
        )


def _still_there(
    run: Run,
    writer: str,
    event: BoardEvent,
    final: dict[str, dict[str, Item]],
    deleted: dict[str, tuple[int, int]],
    findings: Findings,
) -> None:
    key, stamp = event.fields["key"], event.fields["stamp"]
    number = run.ids[writer]
    if _wiped_after(run, writer, event.received_ns) and not _had_elsewhere(run, writer, stamp):
        return
    for board, items in final.items():
        item = items.get(key)
        if item is None and deleted.get(key, (0, 0)) >= (stamp, number):
            continue  # superseded by a delete, which is forgotten once every board has had it
        if item is None or (item[0], item[1]) < (stamp, number):
            evidence = [step(event)] if item is None else [step(event), step(item[2])]
            findings.wrong(f"an acknowledged write of {key!r} at {writer} is not on {board} at the end", *evidence)
            return


def _wiped_after(run: Run, board: str, at_ns: int) -> bool:
    """Whether the board lost its journal after that moment."""
    return any(boot.lost_journal and boot.events[0].received_ns > at_ns for boot in run.boots.get(board, ()))


def _had_elsewhere(run: Run, writer: str, stamp: int) -> bool:
    """Whether another board, that kept its journal, had this update."""
    number = run.ids[writer]
    return any(
        event.fields["stamp"] == stamp and event.fields["writer"] == number
        for event in run.of("merged")
        if not _wiped_after(run, event.board, event.received_ns)
    )
