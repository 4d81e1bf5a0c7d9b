"""How evidence names what it points at: a step of a board, an operation of a client, a stage of a fault.

Plain JSON-able data, the same words everywhere, so that a reader of verdict.json finds the line in the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..history import BoardEvent, Check, FaultRecord, Operation, Verdict

EVIDENCE_AT_MOST = 40  # entries of one check; the first counter-examples say it all


def step(event: BoardEvent, note: str | None = None) -> dict[str, Any]:
    """One event of one board: boot and sequence find it in events.parquet."""
    document: dict[str, Any] = {
        "board": event.board,
        "boot": event.boot,
        "sequence": event.sequence,
        "step": event.kind,
        "at_s": round(event.received_ns / 1e9, 6),
        **{name: value for name, value in event.fields.items() if name not in ("board",)},
    }
    if "board" in event.fields:
        document["of_board"] = event.fields["board"]
    if note:
        document["note"] = note
    return document


def operation(of: Operation, note: str | None = None) -> dict[str, Any]:
    """One operation of a client: client and request find it in history.jsonl."""
    document: dict[str, Any] = {
        "client": of.client,
        "request": of.request,
        "operation": of.operation,
        "key": of.key,
        "value": of.value,
        "board": of.board,
        "invoked_s": round(of.invoked_ns / 1e9, 6),
        "finished_s": None if of.finished_ns is None else round(of.finished_ns / 1e9, 6),
        "outcome": str(of.outcome),
        "status": of.status,
        "result": of.result,
        "height": of.height,
    }
    if of.expected is not None:
        document["expected"] = of.expected
    if note:
        document["note"] = note
    return document


def fault(record: FaultRecord, note: str | None = None) -> dict[str, Any]:
    """One stage in the life of a fault."""
    document: dict[str, Any] = {
        "fault": record.id,
        "kind": record.kind,
        "stage": str(record.stage),
        "boards": list(record.boards),
        "at_s": round(record.at_ns / 1e9, 6),
        "evidence": dict(record.evidence),
    }
    if note:
        document["note"] = note
    return document


class Findings:
    """Collects what one checker found, and becomes its Check: invalid outranks unknown outranks valid."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.invalid: list[str] = []
        self.unknown: list[str] = []
        self.metrics: dict[str, Any] = {}
        self._invalid_evidence: list[Mapping[str, Any]] = []
        self._unknown_evidence: list[Mapping[str, Any]] = []

    def wrong(self, detail: str, *evidence: Mapping[str, Any]) -> None:
        """Something that must never happen did."""
        self.invalid.append(detail)
        self._invalid_evidence.extend(evidence)

    def open(self, detail: str, *evidence: Mapping[str, Any]) -> None:
        """The record does not say."""
        self.unknown.append(detail)
        self._unknown_evidence.extend(evidence)

    def check(self, fine: str) -> Check:
        """The finished check; `fine` is its detail where nothing was found."""
        if self.invalid:
            return Check(
                self.name,
                Verdict.INVALID,
                _told(self.invalid),
                self._invalid_evidence[:EVIDENCE_AT_MOST],
                self.metrics,
            )
        if self.unknown:
            return Check(
                self.name,
                Verdict.UNKNOWN,
                _told(self.unknown),
                self._unknown_evidence[:EVIDENCE_AT_MOST],
                self.metrics,
            )
        return Check(self.name, Verdict.VALID, fine, [], self.metrics)


def _told(details: list[str]) -> str:
    """The first finding in full, and how many more there are."""
    more = len(details) - 1
    return details[0] + (f" (and {more} more)" if more else "")
