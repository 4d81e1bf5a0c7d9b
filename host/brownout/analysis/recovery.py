"""How long after each healed fault things moved again: next decision, next operation done, boards caught up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..history import FaultRecord, FaultStage, History, Outcome


@dataclass(frozen=True)
class Recovery:
    """Seconds after one fault was healed; None where it never came to that."""

    fault: str
    kind: str
    healed_s: float
    first_decision_s: float | None
    first_operation_s: float | None
    caught_up_s: Mapping[str, float | None]  # board of the fault -> until it had what had been decided by the heal

    def document(self) -> dict[str, Any]:
        return {
            "fault": self.fault,
            "kind": self.kind,
            "healed_s": round(self.healed_s, 3),
            "first_decision_s": _rounded(self.first_decision_s),
            "first_operation_s": _rounded(self.first_operation_s),
            "caught_up_s": {board: _rounded(value) for board, value in sorted(self.caught_up_s.items())},
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def recoveries(history: History) -> list[Recovery]:
    """One for every healed fault, in order of healing."""
    healed = [record for record in history.faults if record.stage is FaultStage.HEALED]
    # (received, board, next height) of everything that tells of a height
    heights = sorted(
        (event.received_ns, event.board, _next_height(event.kind, event.fields))
        for event in history.events
        if event.kind in ("decided", "caught_up", "boot")
    )
    decisions = sorted(
        event.received_ns for event in history.events if event.kind == "decided" and not event.fields["caught_up"]
    )
    done = sorted(
        (operation.finished_ns, operation.invoked_ns)
        for operation in history.operations
        if operation.outcome is Outcome.OK and operation.finished_ns is not None
    )
    found = []
    for record in sorted(healed, key=lambda item: item.at_ns):
        at_ns = record.at_ns
        decision = next((time for time in decisions if time >= at_ns), None)
        operation = next((finished for finished, invoked in done if invoked >= at_ns), None)
        found.append(
            Recovery(
                record.id,
                record.kind,
                at_ns / 1e9,
                None if decision is None else (decision - at_ns) / 1e9,
                None if operation is None else (operation - at_ns) / 1e9,
                _caught_up(record, heights),
            )
        )
    return found


def _next_height(kind: str, fields: Mapping[str, Any]) -> int:
    if kind == "decided":
        return int(fields["height"]) + 1
    return int(fields["next"] if kind == "caught_up" else fields["next_height"])


def _caught_up(record: FaultRecord, heights: list[tuple[int, str, int]]) -> dict[str, float | None]:
    target = max((height for at_ns, _, height in heights if at_ns <= record.at_ns), default=0)
    caught: dict[str, float | None] = {}
    for board in record.boards:
        reached = [at_ns for at_ns, teller, height in heights if teller == board and height >= target]
        first = min(reached, default=None)
        caught[board] = None if first is None else max(0.0, (first - record.at_ns) / 1e9)
    return caught
