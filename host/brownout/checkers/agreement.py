"""No two boards decide differently: values, the commands applied from them, and the state that results.

A board is held to what it decided in its earlier lives too. Must not ask whether the decision was rightly made: quorums
and votes are `voting.py`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..history import BoardEvent, Check
from ..protocols import OPERATIONS
from .evidence import Findings, step
from .run import Boot, Run


def check(run: Run) -> Check:
    findings = Findings("agreement")
    heights = _decisions(run, findings)
    _states(run, findings)
    _commands(run, findings)
    findings.metrics["heights_decided"] = len(heights)
    findings.metrics["boards_deciding"] = len({event.board for event in run.of("decided")})
    return findings.check(f"{len(heights)} heights, every board decided the same at each")


def _decisions(run: Run, findings: Findings) -> dict[int, dict[Any, BoardEvent]]:
    heights: dict[int, dict[Any, BoardEvent]] = defaultdict(dict)
    for event in run.of("decided"):
        heights[event.fields["height"]].setdefault(event.fields["value_id"], event)
    for height in sorted(heights):
        if len(heights[height]) > 1:
            told = [heights[height][value_id] for value_id in sorted(heights[height], key=str)]
            named = ", ".join(f"{event.board} {event.fields['value_id']}" for event in told)
            findings.wrong(f"height {height} was decided differently: {named}", *_trail(run, height, told))
    return heights


def _trail(run: Run, height: int, told: list[BoardEvent]) -> list[dict[str, Any]]:
    """The decisions that differ, and the votes of that height that led to them."""
    votes = [event for event in run.of("prevoted", "precommitted") if event.fields["height"] == height]
    votes.sort(key=lambda event: event.received_ns)
    return [step(event) for event in told] + [step(event) for event in votes[:24]]


def _states(run: Run, findings: Findings) -> None:
    states: dict[int, dict[Any, BoardEvent]] = defaultdict(dict)
    for event in run.of("digest"):
        if event.fields["protocol"] == "vote":
            states[event.fields["height"]].setdefault(event.fields["digest"], event)
    findings.metrics["state_digests_compared"] = len(states)
    for height in sorted(states):
        if len(states[height]) > 1:
            told = [states[height][digest] for digest in sorted(states[height], key=str)]
            named = ", ".join(f"{event.board} {event.fields['digest']}" for event in told)
            findings.wrong(f"the state at height {height} differs: {named}", *[step(event) for event in told])


def _content(event: BoardEvent) -> tuple[Any, ...]:
    fields = event.fields
    names = ("client", "request", "key", "value", "expected", "status", "result")
    return (OPERATIONS.get(fields["operation"], fields["operation"]), *(fields[name] for name in names))


def _commands(run: Run, findings: Findings) -> None:
    """Compare, height by height, the commands that each life of each board applied."""
    applied: dict[int, list[tuple[Boot, list[BoardEvent]]]] = defaultdict(list)
    for boots in run.boots.values():
        for boot in boots:
            heights: dict[int, list[BoardEvent]] = defaultdict(list)
            for event in boot.events:
                if event.kind == "applied":
                    heights[event.fields["height"]].append(event)
            for height, events in heights.items():
                applied[height].append((boot, events))
    for height in sorted(applied):
        _compare(height, applied[height], findings)


def _compare(height: int, lives: list[tuple[Boot, list[BoardEvent]]], findings: Findings) -> None:
    _, reference = max(lives, key=lambda life: (len(life[1]), life[0].whole_after(life[1][-1].sequence)))
    expected = [_content(event) for event in reference]
    for boot, events in lives:
        contents = [_content(event) for event in events]
        if contents == expected:
            continue
        # A life that was cut short may have told only some of what it applied.
        if not boot.whole_after(events[-1].sequence) and _within(contents, expected):
            continue
        odd = next(
            (pair for pair in zip(events, reference, strict=False) if _content(pair[0]) != _content(pair[1])), None
        )
        shown = odd or (events[-1], reference[-1])
        findings.wrong(
            f"height {height}: {boot.board} and {reference[0].board} applied different commands",
            *[step(event) for event in shown],
        )
        return


def _within(part: list[Any], whole: list[Any]) -> bool:
    """Whether `part` is `whole` with some left out."""
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)
