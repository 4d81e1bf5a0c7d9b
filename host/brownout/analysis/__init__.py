"""Figures from a history: how fast decisions, operations and gossip were, and what a run covered. Judges nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..history import FaultStage, History
from .anomalies import anomaly_figures
from .convergence import item_spreads
from .distribution import distribution
from .failover import failover_figures
from .latency import decision_times, operation_latencies
from .recovery import recoveries
from .reroutes import reroute_figures

__all__ = ["coverage", "summarise"]


def summarise(history: History) -> dict[str, Any]:
    """The metrics of verdict.json. Milliseconds of host time, except where a board's own clock is named."""
    decisions = decision_times(history)
    spreads = item_spreads(history)
    latencies = operation_latencies(history)
    return {
        "decision_ms_on_the_proposers_clock": distribution(d.own_ms for d in decisions if d.own_ms is not None),
        "decision_ms_until_all_voters": distribution(d.all_ms for d in decisions if d.all_ms is not None),
        "rounds": _counted(d.round for d in decisions),
        "operation_ms": {name: distribution(values) for name, values in sorted(latencies.items())},
        "gossip_ms_to_half": distribution(s.half_ms for s in spreads if s.half_ms is not None),
        "gossip_ms_to_nine_tenths": distribution(s.most_ms for s in spreads if s.most_ms is not None),
        "gossip_ms_to_all": distribution(s.all_ms for s in spreads if s.all_ms is not None),
        "gossip_items": {"written": len(spreads), "on_all": sum(s.all_ms is not None for s in spreads)},
        "recovery": [recovery.document() for recovery in recoveries(history)],
        "failover": failover_figures(history),
        "anomalies": anomaly_figures(history),
        **({"reroutes": reroute_figures(history)} if history.plan.get("sites") else {}),
    }


def coverage(history: History) -> dict[str, Any]:
    """What the run has exercised."""
    kinds = Counter(event.kind for event in history.events)
    operations: dict[str, Counter[str]] = {}
    for operation in history.operations:
        operations.setdefault(operation.operation, Counter())[str(operation.outcome)] += 1
    faults: dict[str, Counter[str]] = {}
    for record in history.faults:
        faults.setdefault(record.kind, Counter())[str(record.stage)] += 1
    boots = {(event.board, event.boot) for event in history.events}
    return {
        "boards": len({event.board for event in history.events}),
        "boots": len(boots),
        "reset_causes": _counted(event.fields["reset_cause"] for event in history.events if event.kind == "boot"),
        "events": dict(sorted(kinds.items())),
        "operations": {name: dict(sorted(counts.items())) for name, counts in sorted(operations.items())},
        "faults": {name: dict(sorted(counts.items())) for name, counts in sorted(faults.items())},
        "faults_proven": sum(record.stage is FaultStage.PROVEN for record in history.faults),
        "heights": len({event.fields["height"] for event in history.events if event.kind == "decided"}),
        "highest_round": max((event.fields["round"] for event in history.events if event.kind == "round"), default=0),
    }


def _counted(values: Any) -> Mapping[str, int]:
    return dict(sorted(Counter(str(value) for value in values).items()))
