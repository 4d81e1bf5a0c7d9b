"""Sampling: no two boards accept different values of one key, and a value that is accepted was asked for.

Agreement is probable only. The check says how probable an error was: no board polls more often than it told, and one
poll finds `alpha` of `k` boards of one mind with a hypergeometric chance, so the union over all polls of `beta` such
outcomes in a row bounds the chance that any board accepts what at most `minority` of the others prefer.
"""

from __future__ import annotations

import math
from collections import defaultdict

from ..history import BoardEvent, Check
from ..protocols import PROTOCOLS
from .evidence import Findings, operation, step
from .run import Run

ASKING = ("choose",)


def check(run: Run) -> Check:
    findings = Findings("sampling")
    accepted = _accepted(run, findings)
    _validity(run, accepted, findings)
    _answers(run, accepted, findings)
    _everywhere(run, accepted, findings)
    bound = _bound(run, findings)
    findings.metrics["keys_accepted"] = len(accepted)
    return findings.check(
        f"one value was accepted of each of {len(accepted)} keys; a board that accepts what fewer than half of the"
        f" others prefer: at most {bound:.2g} a run"
    )


def tail(population: int, holders: int, k: int, alpha: int) -> float:
    """The chance that at least alpha of k, drawn without replacement, are among the holders."""
    ways = sum(math.comb(holders, hits) * math.comb(population - holders, k - hits) for hits in range(alpha, k + 1))
    return ways / math.comb(population, k)


def options(run: Run) -> dict[str, int]:
    """The campaign's, and the protocol's own where it sets none."""
    rows = [row.split(":") for row in PROTOCOLS["sampling"].options.split()]
    return {row[0]: int(row[1]) for row in rows} | dict(run.history.plan.get("options", {}).get("sampling", {}))


def _bound(run: Run, findings: Findings) -> float:
    chosen = options(run)
    peers = len(run.boards) - 1
    if peers < 1:
        return 0.0
    k = min(chosen["k"], peers)
    alpha = -(-chosen["alpha"] * k // chosen["k"])
    minority = (peers - 1) // 2
    polls = sum(event.fields["polls"] for event in run.of("accepted"))
    bound = min(1.0, polls * tail(peers, minority, k, alpha) ** chosen["beta"])
    findings.metrics |= {"polls": polls, "minority": minority, "error_bound": bound}
    return bound


def _accepted(run: Run, findings: Findings) -> dict[str, list[BoardEvent]]:
    """By key; a board that lost its journal accepts again, and has to accept the same."""
    accepted: dict[str, list[BoardEvent]] = defaultdict(list)
    for event in run.of("accepted"):
        accepted[event.fields["key"]].append(event)
    for key, events in sorted(accepted.items()):
        values = {event.fields["value"] for event in events}
        if len(values) > 1:
            first = next(event for event in events if event.fields["value"] != events[0].fields["value"])
            findings.wrong(
                f"{events[0].board} accepted {events[0].fields['value']!r} of key {key!r}, {first.board} accepted"
                f" {first.fields['value']!r}",
                step(events[0]),
                step(first),
            )
    return accepted


def _validity(run: Run, accepted: dict[str, list[BoardEvent]], findings: Findings) -> None:
    asked: dict[str, set[str | None]] = defaultdict(set)
    for item in run.history.operations:
        if item.operation in ASKING:
            asked[item.key].add(item.value)
    for key, events in accepted.items():
        for event in events:
            if event.fields["value"] not in asked[key]:
                findings.wrong(
                    f"{event.board} accepted {event.fields['value']!r} of key {key!r}, which nobody asked for",
                    step(event),
                )


def _answers(run: Run, accepted: dict[str, list[BoardEvent]], findings: Findings) -> None:
    """What clients were told is what boards accepted."""
    for item in run.history.operations:
        told = item.result if item.operation in ("choose", "chosen") and item.status in ("ok", "mismatch") else None
        values = {event.fields["value"] for event in accepted.get(item.key, ())}
        if told is not None and values and told not in values:
            findings.wrong(f"a client was told {told!r} of key {item.key!r}, which no board accepted", operation(item))
        if item.status == "ok" and item.operation == "choose" and told != item.value:
            findings.wrong(f"a client asked for {item.value!r} and was told ok with {told!r}", operation(item))


def _everywhere(run: Run, accepted: dict[str, list[BoardEvent]], findings: Findings) -> None:
    """What somebody accepted a bound before the end, or by the last heal, every board that runs has accepted."""
    mark_ns = max(run.healed_ns, run.ended_ns - run.converge_ns)
    waited_ns = run.ended_ns - mark_ns
    due = {key for key, events in accepted.items() if min(event.received_ns for event in events) <= mark_ns}
    for board in run.live_boards():
        boots = run.boots[board]
        since = max((boot.order for boot in boots if boot.lost_journal), default=0)
        lives = {boot.number for boot in boots if boot.order >= since}
        missing = sorted(
            key for key in due if not any(event.board == board and event.boot in lives for event in accepted[key])
        )
        if missing and not _digest_says_so(run, board, accepted):
            detail = (
                f"{board} has not accepted {len(missing)} keys, {missing[0]!r} first, {waited_ns / 1e9:.1f} s after"
            )
            late = run.finished and waited_ns >= run.converge_ns
            (findings.wrong if late else findings.open)(detail, step(accepted[missing[0]][0]))


def _digest_says_so(run: Run, board: str, accepted: dict[str, list[BoardEvent]]) -> bool:
    """Whether the board's last digest counts all keys: power may have taken the event along, not the value."""
    boot = run.last_boot(board)
    events = [] if boot is None else boot.events
    counts = [
        event.fields["count"] for event in events if event.kind == "digest" and event.fields["protocol"] == "sampling"
    ]
    return bool(counts) and counts[-1] >= len(accepted)
