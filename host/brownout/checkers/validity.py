"""Only what a client asked for is applied, as it was asked, once; and clients are told what was really applied.

The same for gossip: what is merged is what its writer wrote. Admissions are made by boards, not by clients.
"""

from __future__ import annotations

from typing import Any

from brownout_node.core import schema

from ..history import BoardEvent, Check, Operation, Outcome
from ..protocols import OPERATIONS
from .evidence import Findings, operation, step
from .run import STATUS_NAMES, Run


def check(run: Run) -> Check:
    findings = Findings("validity")
    asked = {(item.client, item.request): item for item in run.history.operations}
    applied = _asked_for(run, asked, findings)
    _once(run, findings)
    _answers(run, asked, findings)
    merged = _as_written(run, findings)
    findings.metrics["commands_applied"] = applied
    findings.metrics["items_merged"] = merged
    return findings.check(f"{applied} commands applied as they were asked, {merged} items merged as they were written")


def _asked_for(run: Run, asked: dict[tuple[int, int], Operation], findings: Findings) -> int:
    checked: dict[tuple[Any, ...], None] = {}
    count = 0
    for event in run.of("applied"):
        fields = event.fields
        name = OPERATIONS.get(fields["operation"], str(fields["operation"]))
        if name == "admit" or schema.FIRST_OWN <= fields["client"] <= schema.LAST_OWN:
            continue  # of the boards' own; those of commit are judged by its check
        count += 1
        content = (fields["client"], fields["request"], name, fields["key"], fields["value"], fields["expected"])
        if content in checked:
            continue
        checked[content] = None
        item = asked.get((fields["client"], fields["request"]))
        if item is None:
            findings.wrong(
                f"{event.board} applied a {name} at height {fields['height']} that no client asked for", step(event)
            )
        elif content[2:] != (item.operation, item.key, item.value, item.expected):
            findings.wrong(
                f"{event.board} applied client {item.client}'s request {item.request} at height {fields['height']}"
                " with another content than was asked",
                operation(item),
                step(event),
            )
    return count


def _once(run: Run, findings: Findings) -> None:
    """A request may stand in the log twice (it is sent again), but is applied once; lives of a board share a log."""
    first: dict[tuple[str, int, int], BoardEvent] = {}
    for event in run.of("applied"):
        fields = event.fields
        if STATUS_NAMES.get(fields["status"]) == "expired":
            continue
        earlier = first.setdefault((event.board, fields["client"], fields["request"]), event)
        again = earlier is not event and (earlier.fields["height"] != fields["height"] or earlier.boot == event.boot)
        if again:
            findings.wrong(
                f"{event.board} applied client {fields['client']}'s request {fields['request']} at height"
                f" {earlier.fields['height']} and again at {fields['height']}",
                step(earlier),
                step(event),
            )


def _answers(run: Run, asked: dict[tuple[int, int], Operation], findings: Findings) -> None:
    reported: set[tuple[int, int]] = set()
    for event in run.of("applied"):
        fields = event.fields
        name = (fields["client"], fields["request"])
        item = asked.get(name)
        if item is None or name in reported or item.status is None or item.outcome is Outcome.INFO:
            continue
        status = STATUS_NAMES.get(fields["status"])
        definite = {"ok", "mismatch"}
        differs = item.status in definite and status in definite and item.status != status
        if item.operation == "get" and item.status == status == "ok":
            differs = item.result != fields["result"]
        if differs:
            reported.add(name)
            findings.wrong(
                f"client {item.client} was told {item.status} {item.result!r} for request {item.request}, and"
                f" {event.board} applied it with {status} {fields['result']!r}",
                operation(item),
                step(event),
            )


def _as_written(run: Run, findings: Findings) -> int:
    """A stamp of a writer stands for one key and value, on every board, for ever."""
    known: dict[tuple[str, int], BoardEvent] = {}
    for event in run.of("written"):
        known.setdefault((event.board, event.fields["stamp"]), event)
    count = 0
    for event in run.of("merged"):
        count += 1
        fields = event.fields
        writer = run.names.get(fields["writer"])
        if writer is None:
            findings.wrong(
                f"{event.board} merged an item of board {fields['writer']}, which is not in the rig", step(event)
            )
            continue
        first = known.setdefault((writer, fields["stamp"]), event)
        if (first.fields["key"], first.fields["value"]) != (fields["key"], fields["value"]):
            findings.wrong(
                f"{event.board} merged {fields['key']!r} of {writer} with another content than {first.board} has",
                step(first),
                step(event),
            )
    return count
