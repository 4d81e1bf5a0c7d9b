"""A run as a log for ShiViz: what boards and clients did, with vector clocks of what certainly came before what.

Two lines an event: `host {clock}` and its text; the expression for ShiViz is PARSER. A message is only in the clocks
where the record proves one: an update and its merging, a proposal and the votes for it, a command and its submission,
its application and the answer. So what is shown as concurrent may have been ordered. Must not judge a run.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.causality import cause_of, name_of
from ..history import BoardEvent, History, Operation, Outcome
from ..store import load

SUFFIX = ".shiviz.log"
PARSER = r"(?<host>\S*) (?<clock>{.*})\n(?<event>.*)"
KINDS = ("boot", "written", "merged", "proposed", "prevoted", "precommitted", "decided", "submitted", "applied")


@dataclass
class Step:
    """One event of one host. causes: names of steps elsewhere that came before; name: what others call it."""

    host: str
    text: str
    at_ns: int
    causes: list[Hashable] = field(default_factory=list)
    name: Hashable = None


def export(run: Path, out: Path) -> Path:
    lines = []
    for step, clock in clocked(steps(load(run, KINDS))):
        lines.append(f"{step.host} {json.dumps(clock)}\n{step.text}\n")
    out.write_text("".join(lines), encoding="utf-8")
    return out


def steps(history: History) -> dict[str, list[Step]]:
    """Host -> its events, in its own order."""
    names = {number: name for number, name, _ in history.manifest.get("roster", ())}
    hosts: dict[str, list[Step]] = defaultdict(list)
    for event in history.events:
        if event.kind in KINDS:
            hosts[event.board].append(_of_board(event, names))
    for operation in history.operations:
        hosts[f"client-{operation.process}"] += _of_client(operation)
    for host, of_host in hosts.items():
        if host.startswith("client-"):
            of_host.sort(key=lambda step: step.at_ns)
    return hosts


def _of_board(event: BoardEvent, names: dict[int, str]) -> Step:
    fields: dict[str, Any] = dict(event.fields)
    told = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    step = Step(event.board, f"{event.kind} {told}".replace("\n", " "), event.received_ns)
    step.name = name_of(event.board, event.kind, fields)
    cause = cause_of(event.kind, fields, names)
    if cause is not None:
        step.causes.append(cause)
    return step


def _of_client(item: Operation) -> list[Step]:
    host = f"client-{item.process}"
    request = (item.client, item.request)
    began = Step(host, f"{item.operation} {item.key} {item.value or ''}".rstrip().replace("\n", " "), item.invoked_ns)
    began.name = ("invoked", *request)
    if item.finished_ns is None:
        return [began]
    result = "" if item.result is None else f" {item.result}"
    ended = Step(host, f"{item.outcome} {item.operation} {item.key}{result}".replace("\n", " "), item.finished_ns)
    if item.outcome is Outcome.OK:
        ended.causes.append(("applied", item.board, *request))
    return [began, ended]


def clocked(hosts: dict[str, list[Step]]) -> list[tuple[Step, dict[str, int]]]:
    """Every step with its vector clock, in an order in which causes come first.

    A cause that comes after its effect (of boards that lie) is left out: the earliest step that waits goes on.
    """
    known = {step.name for of_host in hosts.values() for step in of_host if step.name is not None}
    done: dict[Hashable, dict[str, int]] = {}
    waiting = {host: deque(of_host) for host, of_host in hosts.items() if of_host}
    clocks: dict[str, dict[str, int]] = {host: {} for host in hosts}
    order: list[tuple[Step, dict[str, int]]] = []
    while waiting:
        ready = [
            host
            for host, queue in waiting.items()
            if all(cause in done or cause not in known for cause in queue[0].causes)
        ]
        host = min(ready or waiting, key=lambda name: waiting[name][0].at_ns)
        step = waiting[host].popleft()
        if not waiting[host]:
            del waiting[host]
        clock = clocks[host]
        for cause in step.causes:
            for other, count in done.get(cause, {}).items():
                clock[other] = max(clock.get(other, 0), count)
        clock[host] = clock.get(host, 0) + 1
        if step.name is not None:
            done.setdefault(step.name, dict(clock))
        order.append((step, dict(clock)))
    return order
