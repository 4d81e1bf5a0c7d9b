"""The gossip store of one board as its own events tell it. Shared by the checkers of durability and gossip.

Updates of a key are ordered by (stamp, writer). What a board told as written or merged is durable, so it carries over
reboots; a board that lost its journal starts from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..history import BoardEvent
from .run import Run

Item = tuple[int, int, BoardEvent]  # stamp, writer, the event by which the board came to have it


def updates(run: Run, board: str) -> Iterator[tuple[BoardEvent, str | None, Item | None]]:
    """(event, key, item) in the board's own order; (boot event, None, None) where it starts from nothing."""
    number = run.ids.get(board, 0)
    for boot in run.boots.get(board, ()):
        if boot.lost_journal:
            yield boot.events[0], None, None
        for event in boot.events:
            if event.kind == "written":
                yield event, event.fields["key"], (event.fields["stamp"], number, event)
            elif event.kind == "merged":
                yield event, event.fields["key"], (event.fields["stamp"], event.fields["writer"], event)


def final_items(run: Run, board: str) -> dict[str, Item]:
    """The greatest update of each key that the board is known to hold, tombstones included until it forgets them."""
    items: dict[str, Item] = {}
    for boot in run.boots.get(board, ()):
        if boot.lost_journal:
            items.clear()
        for event in boot.events:
            _follow(items, event, run.ids.get(board, 0))
    return items


def items_at(run: Run, digest: BoardEvent) -> dict[str, Item]:
    """The same at the moment of a digest that the board told in its last life."""
    items: dict[str, Item] = {}
    for boot in run.boots[digest.board]:
        if boot.lost_journal:
            items.clear()
        for event in boot.events:
            if boot.number != digest.boot or event.sequence < digest.sequence:
                _follow(items, event, run.ids.get(digest.board, 0))
    return items


def items_after(run: Run, digest: BoardEvent, held: dict[str, Item]) -> dict[str, Item]:
    """What a board holds at the end that held these at a digest of its last life."""
    items = dict(held)
    for event in run.boots[digest.board][-1].events:
        if event.sequence > digest.sequence:
            _follow(items, event, run.ids.get(digest.board, 0))
    return items


def _follow(items: dict[str, Item], event: BoardEvent, number: int) -> None:
    """Whoever forgets a tombstone had it, though the event of its merge may be lost: nothing older is left either."""
    if event.kind not in ("written", "merged", "forgotten"):
        return
    key = event.fields["key"]
    item = (event.fields["stamp"], event.fields.get("writer", number), event)
    if event.kind == "forgotten":
        if key in items and items[key][:2] <= item[:2]:
            del items[key]
    elif key not in items or items[key][:2] < item[:2]:
        items[key] = item


def gossip_digests(run: Run, board: str) -> list[BoardEvent]:
    """The digests of the gossip store that the board told in its last life."""
    boot = run.last_boot(board)
    if boot is None:
        return []
    return [event for event in boot.events if event.kind == "digest" and event.fields["protocol"] == "gossip"]


def same_at_the_end(run: Run) -> bool:
    """Whether all boards that run at the end told the same digest last."""
    last = [gossip_digests(run, board)[-1:] for board in run.live_boards()]
    return all(last) and len({events[0].fields["digest"] for events in last}) == 1


def newest_items(run: Run) -> dict[str, Item]:
    """The greatest update of each key that any board ever had."""
    newest: dict[str, Item] = {}
    for board in run.boots:
        for _, key, item in updates(run, board):
            if key is not None and item is not None and (key not in newest or newest[key][:2] < item[:2]):
                newest[key] = item
    return newest
