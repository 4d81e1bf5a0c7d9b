"""What happened in a run, as plain data: client operations, what boards reported, what faults did.

Checkers read only a History. Operations are Jepsen's: an `invoke`, then `ok`, `fail` (definitely did not happen) or
`info` (may or may not have happened). Times are nanoseconds of the host's monotonic clock since the run began.
This file must not judge anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass
class Operation:
    """One client operation. `finished_ns` and `result` are None while, and if, nobody knows how it ended."""

    process: int  # a logical process; it ends with its first `info`, as in Jepsen
    client: int
    request: int
    operation: str  # put get cas write delete read
    key: str
    value: str | None
    expected: str | None
    board: str  # the board that was asked (last)
    invoked_ns: int
    finished_ns: int | None = None
    outcome: Outcome = Outcome.INFO
    result: str | None = None
    status: str | None = None  # reply status of the schema, or why it is fail or info
    height: int | None = None


@dataclass(frozen=True)
class BoardEvent:
    """One telemetry event, decoded. fields are by the schema's names; digests are hex strings or None."""

    board: str
    boot: int
    sequence: int
    now_ms: int
    stamp: int
    kind: str
    fields: Mapping[str, Any]
    received_ns: int
    channel: str  # serial | mqtt


class FaultStage(StrEnum):
    PLANNED = "planned"
    APPLIED = "applied"
    PROVEN = "proven"
    UNPROVEN = "unproven"
    HEALED = "healed"


@dataclass(frozen=True)
class FaultRecord:
    """One line of faults.jsonl: one stage in the life of one fault."""

    id: str  # f01, f02, ...
    kind: str
    stage: FaultStage
    at_ns: int
    planned_ns: int
    boards: tuple[str, ...]  # what the selector came to; empty where it names none (the broker)
    support: str  # physical | injected
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gap:
    """Telemetry that never arrived: events first..last of one boot (exact), or a whole boot (first = 0)."""

    board: str
    boot: int
    first: int
    last: int
    reason: str


@dataclass
class History:
    """A whole run. `manifest` and `plan` are the documents of the run's folder."""

    operations: list[Operation]
    events: list[BoardEvent]  # per board ordered by (order of boots, sequence)
    faults: list[FaultRecord]
    gaps: list[Gap]
    manifest: Mapping[str, Any]
    plan: Mapping[str, Any]


class Verdict(StrEnum):
    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """What one checker found. evidence: the minimal counter-example (boards, steps, operations), JSON-able."""

    name: str
    verdict: Verdict
    detail: str
    evidence: list[Mapping[str, Any]] = field(default_factory=list)
    metrics: Mapping[str, Any] = field(default_factory=dict)
