"""The gossip store: what was deleted stays deleted, nothing falls back, and after the last heal all boards come to hold
the same within the bound.

Judged from each board's own events. That acknowledged writes are among what all boards hold is `durability.py`.
"""

from __future__ import annotations

from collections import Counter

from ..history import BoardEvent, Check
from .evidence import Findings, step
from .items import Item, final_items, gossip_digests, updates
from .run import Run


def check(run: Run) -> Check:
    findings = Findings("gossip")
    tombstones = sum(_no_way_back(run, board, findings) for board in run.boots)
    _converged(run, findings)
    findings.metrics["updates_written"] = len(run.by_kind.get("written", ()))
    findings.metrics["updates_merged"] = len(run.by_kind.get("merged", ()))
    findings.metrics["tombstones"] = tombstones
    took = findings.metrics.get("converged_after_s")
    return findings.check(
        "nothing was gossiped"
        if took is None
        else f"all boards hold the same {took:.2f} s after the last change or heal"
    )


def _no_way_back(run: Run, board: str, findings: Findings) -> int:
    """An update that became the state of a board is newer than everything the board had for that key."""
    items: dict[str, Item] = {}
    tombstones = 0
    for event, key, item in updates(run, board):
        if key is None or item is None:
            items.clear()
            continue
        deleted = event.fields["value"] is None
        tombstones += deleted
        known = items.get(key)
        if known is None or known[:2] < item[:2]:
            items[key] = item
            continue
        if known[:2] == item[:2]:
            continue  # the very same
        if known[2].fields["value"] is None and not deleted:
            findings.wrong(
                f"{board} brought back the deleted key {key!r}: stamp {item[0]} of board {item[1]} became"
                f" its state after the tombstone with stamp {known[0]} of board {known[1]}",
                step(known[2], "the tombstone"),
                step(event, "the older update"),
            )
        else:
            findings.wrong(
                f"{board} fell back at key {key!r} from stamp {known[0]} to {item[0]}", step(known[2]), step(event)
            )
    return tombstones


def _converged(run: Run, findings: Findings) -> None:
    live = run.live_boards()
    digests = {board: gossip_digests(run, board) for board in live}
    if not any(run.by_kind.get(kind) for kind in ("written", "merged")) and not any(digests.values()):
        return
    last_write_ns = max((event.received_ns for event in run.of("written")), default=0)
    quiet_ns = max(run.healed_ns, last_write_ns)
    silent = [board for board in live if not digests[board]]
    if silent:
        findings.open(f"{', '.join(silent)} never told a digest of the gossip store in the last life")
    last = {board: events[-1] for board, events in digests.items() if events}
    if not last:
        return
    states = Counter(event.fields["digest"] for event in last.values())
    common, holders = states.most_common(1)[0]
    findings.metrics["boards_holding_the_same"] = holders
    findings.metrics["boards_compared"] = len(last)
    if holders < len(last):
        _differ(run, last, common, quiet_ns, findings)
        return
    reached_ns = {board: _since(events, common) for board, events in digests.items() if events}
    slowest = max(reached_ns, key=lambda board: reached_ns[board])
    took_ns = max(0, reached_ns[slowest] - quiet_ns)
    findings.metrics["converged_after_s"] = round(took_ns / 1e9, 3)
    if took_ns > run.converge_ns:
        findings.wrong(
            f"{slowest} came to hold what all hold {took_ns / 1e9:.2f} s after the last change or heal; allowed are"
            f" {run.converge_ns / 1e9:.1f} s",
            *[step(event) for event in digests[slowest][-2:]],
        )


def _since(events: list[BoardEvent], digest: object) -> int:
    """When the board last came to that digest; earlier visits to it do not count."""
    since = events[-1].received_ns
    for event in reversed(events):
        if event.fields["digest"] != digest:
            break
        since = event.received_ns
    return since


def _differ(run: Run, last: dict[str, BoardEvent], common: object, quiet_ns: int, findings: Findings) -> None:
    odd = [board for board, event in last.items() if event.fields["digest"] != common]
    like = next(board for board, event in last.items() if event.fields["digest"] == common)
    evidence = [step(last[like]), *[step(last[board]) for board in odd[:8]], *_difference(run, like, odd[0])]
    waited_s = (run.ended_ns - quiet_ns) / 1e9
    detail = f"{', '.join(odd)} hold another gossip store than {like} {waited_s:.2f} s after the last change or heal"
    if not run.finished or run.ended_ns - quiet_ns < run.converge_ns:
        findings.open(detail + "; the run ended before the bound", *evidence)
    else:
        findings.wrong(detail, *evidence)


def _difference(run: Run, like: str, odd: str) -> list[dict[str, object]]:
    """The updates in which two boards differ, as far as their events tell."""
    ours, theirs = final_items(run, like), final_items(run, odd)
    steps: list[dict[str, object]] = []
    for key in sorted(set(ours) | set(theirs)):
        pair = [side[key] for side in (ours, theirs) if key in side]
        if len(pair) == 1 or pair[0][:2] != pair[1][:2]:
            steps.extend(step(item[2], f"{key!r} as {item[2].board} has it") for item in pair)
    return steps[:8]
