"""Proof of work: each board's chain is one chain by the rules, boards agree on what is final, and posts stay in it.

Final is what is as deep as the confirmations that the campaign sets. That it stays is probable, not certain: a run in
which it does not is a violation all the same, and the campaign's splits were too long for its confirmations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..history import BoardEvent, Check, Operation, Outcome
from ..protocols import PROTOCOLS
from .evidence import Findings, operation, step
from .run import Run

ONE = 1 << 30  # of which a target is a part; a block's work is the one divided by the other
FRESH_NS = 2_000_000_000


@dataclass
class Chain:
    """One board's chain, over the lives of one journal. final: height -> the block that was once deep enough."""

    blocks: dict[int, BoardEvent] = field(default_factory=dict)
    final: dict[int, BoardEvent] = field(default_factory=dict)
    deepest: int = 0  # reorganisation


def check(run: Run) -> Check:
    findings = Findings("work")
    deep = confirmations(run)
    chains = {board: _chains(run, board, deep, findings) for board in run.boots}
    every = [chain for lives in chains.values() for chain in lives]
    _mined(run, findings)
    _common_prefix(chains, findings)
    _posts(run, chains, findings)
    _progress(run, chains, findings)
    heights = [max(chain.final, default=0) for chain in every]
    mined = len(run.by_kind.get("mined", ()))
    top = max((max(chain.blocks, default=0) for chain in every), default=0)
    findings.metrics["final_height"] = max(heights, default=0)
    findings.metrics["blocks_mined"] = mined
    findings.metrics["blocks_orphaned"] = max(0, mined - top)
    findings.metrics["deepest_reorganisation"] = max((chain.deepest for chain in every), default=0)
    return findings.check(
        f"boards agree on {max(heights, default=0)} final blocks; {max(0, mined - top)} of {mined} are in no chain"
    )


def confirmations(run: Run) -> int:
    """How deep a block has to be to count as final."""
    row = next(row for row in PROTOCOLS["work"].options.split() if row.startswith("confirmations:"))
    chosen = run.history.plan.get("options", {}).get("work", {})
    return int(chosen.get("confirmations", row.split(":")[1]))


def work_of(target: int) -> int:
    return ONE // target


def _chains(run: Run, board: str, deep: int, findings: Findings) -> list[Chain]:
    """Follow what a board tells; what its power took along leaves holes, and then nothing is held against it.

    A board that lost its journal begins anew, and may come by other blocks to the same ones.
    """
    chain = Chain()
    chains = [chain]
    for boot in run.boots[board]:
        if boot.lost_journal:
            chain = Chain()
            chains.append(chain)
        for event in boot.events:
            if event.kind == "reorganised":
                height, depth = event.fields["height"], event.fields["depth"]
                chain.deepest = max(chain.deepest, depth)
                _undo(board, chain, height, event, findings)
            elif event.kind == "adopted":
                _adopt(board, chain, event, deep, findings)
    return chains


def _undo(board: str, chain: Chain, height: int, event: BoardEvent, findings: Findings) -> None:
    for above in [other for other in chain.blocks if other > height]:
        del chain.blocks[above]
    undone = [other for other in chain.final if other > height]
    if undone:
        findings.wrong(
            f"{board} undid {len(undone)} blocks that were final, from height {min(undone)} on",
            step(chain.final[min(undone)]),
            step(event),
        )
    for above in undone:
        del chain.final[above]


def _adopt(board: str, chain: Chain, event: BoardEvent, deep: int, findings: Findings) -> None:
    fields = event.fields
    height = fields["height"]
    parent = chain.blocks.get(height - 1)
    if parent is not None:
        if parent.fields["id"] != fields["parent"]:
            findings.wrong(
                f"{board} adopted a block at height {height} whose parent is not its block below",
                step(parent),
                step(event),
            )
        elif fields["total"] != parent.fields["total"] + work_of(fields["target"]):
            findings.wrong(f"{board} adopted a block at height {height} with a wrong total", step(parent), step(event))
    there = chain.blocks.get(height)
    if there is not None and there.boot == event.boot and there.fields["id"] != fields["id"]:
        findings.wrong(
            f"{board} put a block in the place of another at height {height}, and told of no reorganisation",
            step(there),
            step(event),
        )
    chain.blocks[height] = event
    final = height + 1 - deep
    if final in chain.blocks:
        earlier = chain.final.get(final)
        if earlier is not None and earlier.fields["id"] != chain.blocks[final].fields["id"]:
            findings.wrong(f"{board} has another final block at height {final}", step(earlier), step(event))
        chain.final[final] = chain.blocks[final]


def _mined(run: Run, findings: Findings) -> None:
    """Who adopts a block knows who mined it: that board told so, in a life whose record is whole."""
    mined = {event.fields["id"]: event for event in run.of("mined")}
    for event in run.of("adopted"):
        source = mined.get(event.fields["id"])
        if source is None:
            continue
        for name in ("height", "parent", "target"):
            if source.fields[name] != event.fields[name]:
                findings.wrong(
                    f"{event.board} adopted another {name} of a block than was mined", step(source), step(event)
                )


def _common_prefix(chains: dict[str, list[Chain]], findings: Findings) -> None:
    """At each height, the final block of all boards is the same."""
    first: dict[int, tuple[str, BoardEvent]] = {}
    for board, chain in [(board, chain) for board, lives in chains.items() for chain in lives]:
        for height, event in sorted(chain.final.items()):
            other, known = first.setdefault(height, (board, event))
            if known.fields["id"] != event.fields["id"]:
                findings.wrong(
                    f"{other} and {board} have different final blocks at height {height}", step(known), step(event)
                )
                break


def _posts(run: Run, chains: dict[str, list[Chain]], findings: Findings) -> None:
    """What was answered is in the chain, once, and nothing is in it that no client asked for."""
    included: dict[tuple[int, int], list[BoardEvent]] = {}
    for event in run.of("included"):
        included.setdefault((event.fields["client"], event.fields["request"]), []).append(event)
    asked = {(item.client, item.request): item for item in run.history.operations if item.operation == "post"}
    final = {
        event.fields["id"]: height
        for lives in chains.values()
        for chain in lives
        for height, event in chain.final.items()
    }
    for request, events in included.items():
        item = asked.get(request)
        if item is None or item.value != events[0].fields["value"]:
            findings.wrong(f"a post is in the chain that client {request[0]} never asked for", step(events[0]))
        heights = sorted({final[event.fields["id"]] for event in events if event.fields["id"] in final})
        if len(heights) > 1:
            findings.wrong(
                f"request {request[1]} of client {request[0]} is in the chain at heights {heights}",
                *[step(event) for event in events[:4]],
            )
    answered = [item for item in asked.values() if item.outcome is Outcome.OK]
    findings.metrics["posts_answered"] = len(answered)
    for item in answered:
        _still_there(run, chains, item, included.get((item.client, item.request), []), findings)


def _still_there(
    run: Run, chains: dict[str, list[Chain]], item: Operation, events: list[BoardEvent], findings: Findings
) -> None:
    """The final block at the answer's height has the post, wherever its record is known."""
    holding = {event.fields["id"] for event in events}
    for board, lives in chains.items():
        block = lives[-1].final.get(item.height or 0)
        if block is None or block.fields["id"] in holding:
            continue
        life = next(boot for boot in run.boots[board] if boot.number == block.boot)
        if life.whole_after(block.sequence + 4):
            findings.wrong(
                f"an answered post is not in the block that {board} holds at height {item.height}",
                operation(item),
                step(block),
            )
            return


def _progress(run: Run, chains: dict[str, list[Chain]], findings: Findings) -> None:
    """By the end every board that runs has come close to what another had adopted a bound before."""
    mark_ns = max(run.healed_ns, run.ended_ns - run.converge_ns)
    reached = [event.fields["height"] for event in run.of("adopted") if event.received_ns <= mark_ns]
    target = max(reached, default=0)
    if run.ended_ns - mark_ns < FRESH_NS:
        return
    for board in run.live_boards():
        height = max(chains[board][-1].blocks, default=0)
        if height < target:
            said = [event for event in run.of("fork_refused") if event.board == board]
            findings.wrong(
                f"{board} is at height {height} at the end; {target} had been reached"
                f" {(run.ended_ns - mark_ns) / 1e9:.1f} s before" + ("; it refused a deep fork" if said else ""),
                *[step(event) for event in said[-4:]],
                *[step(lives[-1].blocks[target]) for lives in chains.values() if target in lives[-1].blocks][:1],
            )
