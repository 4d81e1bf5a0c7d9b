"""How long decisions and client operations took.

A decision is timed on one clock: from the proposal to the decision on the proposer itself, in that board's
milliseconds. Until all voters have it can only be seen from the host, with the delay of telemetry on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..history import History, Outcome


@dataclass(frozen=True)
class Decision:
    """One height, from the proposal that was decided."""

    height: int
    round: int
    proposer: str | None
    own_ms: float | None  # on the proposer's clock; None where its proposal or decision was not told in one life
    all_ms: float | None  # host time from the proposal until the last voter's decision; None if one never told
    decided_ns: int  # when the first decision was heard


def voters(history: History) -> list[str]:
    """Names of the boards with weight."""
    return [name for _, name, weight in history.manifest.get("roster", ()) if weight > 0]


def decision_times(history: History) -> list[Decision]:
    """By height; what was only caught up on is left out."""
    proposed: dict[tuple[int, int, str | None], list[tuple[str, int, int, int]]] = {}
    decided: dict[int, list[tuple[str, int, int, int, int, str | None]]] = {}
    for event in history.events:
        fields = event.fields
        if event.kind == "proposed":
            place = (fields["height"], fields["round"], fields["value_id"])
            proposed.setdefault(place, []).append((event.board, event.boot, event.now_ms, event.received_ns))
        elif event.kind == "decided" and not fields["caught_up"]:
            told = (event.board, event.boot, event.now_ms, event.received_ns, fields["round"], fields["value_id"])
            decided.setdefault(fields["height"], []).append(told)
    expected = set(voters(history))
    decisions = []
    for height in sorted(decided):
        tellers = decided[height]
        first = min(tellers, key=lambda told: told[3])
        proposals = proposed.get((height, first[4], first[5]), [])
        own_ms = all_ms = None
        proposer = proposals[0][0] if proposals else None
        for board, boot, now_ms, received_ns in proposals[:1]:
            own_ms = next((float(t[2] - now_ms) for t in tellers if (t[0], t[1]) == (board, boot)), None)
            if expected <= {t[0] for t in tellers}:
                all_ms = (max(t[3] for t in tellers if t[0] in expected) - received_ns) / 1e6
        decisions.append(Decision(height, first[4], proposer, own_ms, all_ms, first[3]))
    return decisions


def operation_latencies(history: History) -> Mapping[str, list[float]]:
    """Operation -> milliseconds from invocation to `ok`, as the client saw them."""
    latencies: dict[str, list[float]] = {}
    for operation in history.operations:
        if operation.outcome is Outcome.OK and operation.finished_ns is not None:
            latencies.setdefault(operation.operation, []).append((operation.finished_ns - operation.invoked_ns) / 1e6)
    return latencies
