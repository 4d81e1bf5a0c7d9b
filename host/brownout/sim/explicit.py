"""From a run to a campaign that leaves nothing to a seed but latencies: operations, boards and messages by name.

Must not simulate anything, and must not change what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..campaign_file import Campaign, ChecksSpec, FaultSpec
from ..contracts import UsageError
from ..fault_kinds import KINDS
from ..faults import Plan, PlannedFault, load_own
from ..history import FaultStage, History, Operation
from ..protocols import DEFAULT
from ..rig import PlannedBoard
from ..sites import Sites
from ..store import load, read_document
from ..workload import PlannedOperation, WorkloadPlan
from .network import Struck, Weather

WINDOW_S = 0.03  # around a message that only its time can name
LONGEST_NAME = 32
MOST_CLIENTS = 31


@dataclass(frozen=True)
class Recorded:
    """A run as its folder has it. document: plan.json."""

    document: dict[str, Any]
    weather: Weather
    history: History
    violated: tuple[str, ...]


def read_run(folder: Path) -> Recorded:
    """UsageError where this is no run that violated something."""
    verdict = read_document(folder, "verdict.json")
    names = tuple(check["name"] for check in verdict.get("checks", ()) if check["verdict"] == "invalid")
    if not names:
        raise UsageError(
            f"{folder}: this run violated nothing (its verdict is {verdict.get('verdict')}); nothing to shrink"
        )
    history = load(folder)
    weather = Weather(**history.manifest.get("weather", {}))
    return Recorded(dict(history.plan), weather, history, names)


def read_plan(document: dict[str, Any]) -> Plan:
    """plan.json as a plan again."""
    document = {"protocols": DEFAULT, "options": {}, "checker": None, "sources": {}, "sites": None, **document}
    load_own(document["checker"], document["sources"])
    faults = [PlannedFault(**{**entry, "boards": tuple(entry["boards"])}) for entry in document["faults"]]
    boards = tuple(PlannedBoard(**entry) for entry in document["boards"])
    sites = None if document["sites"] is None else Sites.from_document(document["sites"])
    more = {"boards": boards, "faults": tuple(faults), "protocols": tuple(document["protocols"]), "sites": sites}
    return Plan(**{**document, **more})


def explicit(run: Recorded, the_plan: Plan) -> Campaign:
    """The run as a campaign that leaves nothing to a seed but latencies."""
    began_ns = int(run.history.manifest["began_ns"])
    voters = sum(board.weight > 0 for board in the_plan.boards)
    return Campaign(
        name=f"shrunk-{the_plan.campaign}"[:LONGEST_NAME],
        source="shrink",
        description="",
        duration_s=the_plan.duration_s,
        voters=voters,
        learners=len(the_plan.boards) - voters,
        serial_only=sum(board.mesh == "serial" for board in the_plan.boards),
        timing=dict(the_plan.timing),
        protocols=tuple(the_plan.protocols),
        options=the_plan.options,
        checker=the_plan.checker,
        sources=the_plan.sources,
        sites=the_plan.sites,
        workload=replace(
            WorkloadPlan(),
            operation_timeout_s=float(the_plan.workload["operation_timeout_s"]),
            operations=_operations(run.history.operations, began_ns, the_plan.duration_s),
        ),
        faults=tuple(_fault(fault, run.history, began_ns) for fault in the_plan.faults),
        nemesis=None,
        checks=ChecksSpec(**the_plan.checks),
    )


def _operations(done: Sequence[Operation], began_ns: int, duration_s: float) -> tuple[PlannedOperation, ...]:
    """What clients asked for while the campaign lasted, each process a client as long as there are numbers."""
    numbers: dict[int, int] = {}
    listed = []
    for operation in done:
        at_s = round((operation.invoked_ns - began_ns) / 1e9, 3)
        if not 0 <= at_s <= duration_s:
            continue
        number = numbers.setdefault(operation.process, len(numbers) % MOST_CLIENTS + 1)
        listed.append(PlannedOperation(at_s, number, operation.operation, operation.key, boards=(operation.board,)))
    return tuple(listed)


def _fault(fault: PlannedFault, history: History, began_ns: int) -> FaultSpec:
    parameters = {key: value for key, value in fault.parameters.items() if key in _parameter_names(fault.kind)}
    for end in ("from", "to", "kinds", "between"):
        if end in parameters:
            parameters[end] = tuple(parameters[end])
    select: Any = None
    if KINDS[fault.kind].select is not None:
        select = fault.select or tuple(fault.boards)
    shape = groups = None
    if fault.kind == "split":
        shape = fault.parameters.get("shape")
        if "groups" in fault.parameters:
            shape, groups = None, tuple(tuple(group) for group in fault.parameters["groups"])
    at_s = fault.at_s
    if fault.select is not None and fault.when is None:
        select, at_s = _as_it_came(fault, history, began_ns)
    return FaultSpec("fault", fault.kind, at_s, fault.for_s, 0.0, select, fault.when, shape, groups, parameters)


def _parameter_names(kind: str) -> set[str]:
    return {parameter.name for parameter in KINDS[kind].parameters}


def _as_it_came(fault: PlannedFault, history: History, began_ns: int) -> tuple[Any, float]:
    """The boards that a selector came to as the run went."""
    for record in history.faults:
        if record.id == fault.id and record.stage is FaultStage.APPLIED and record.boards:
            return tuple(record.boards), fault.at_s
    return fault.select, fault.at_s


def message_faults(struck: Sequence[Struck], began_ns: int, duration_s: float) -> list[FaultSpec]:
    """What the weather did to single messages, as faults of these messages."""
    faults = []
    for entry in struck:
        at_s = entry.at_s - began_ns / 1e9
        if not 0 <= at_s < duration_s:
            continue
        parameters: dict[str, Any] = {"kinds": (entry.kind,), "from": (entry.source,), "to": (entry.target,)}
        if entry.height is not None:
            parameters |= {"height": entry.height, "nth": entry.nth}
            from_s, until_s = 0.0, (min(duration_s, at_s + entry.for_s + WINDOW_S) if entry.for_s else duration_s)
        else:
            from_s = max(0.0, at_s - WINDOW_S)
            until_s = min(duration_s, at_s + max(WINDOW_S, entry.for_s))
        if entry.action == "duplicate":
            parameters["copies"] = 1
        for_s = round(max(0.01, until_s - from_s - 0.001), 3)
        faults.append(FaultSpec("fault", entry.action, round(from_s, 3), for_s, parameters=parameters))
    return faults
