"""Shrinks a run that violated a check to a campaign file with as little in it as still violates the same check.

Delta debugging over faults, messages, operations, boards and times. The run becomes explicit first: operations as a
list, boards by name, and instead of weather the drops, holds and duplicates of the very messages that it met. A smaller
campaign counts when it violates under several seeds and on slower boards than the simulator's, so that it is a matter
of its events and not of one course of chance. Must not write anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..campaign_file import Campaign, ChecksSpec, FaultSpec
from ..contracts import RigError, UsageError
from ..fault_kinds import KINDS
from ..faults import Plan, PlannedFault, plan
from ..history import FaultStage, History, Operation
from ..rig import PlannedBoard, Rig
from ..store import load, read_document
from ..workload import PlannedOperation, WorkloadPlan
from .ddmin import minimise
from .network import Struck, Weather
from .runs import Simulated, simulate

SEEDS = 5  # a campaign is tried with
ENOUGH = 0.8  # of them have to violate, where the run's own campaign does as well
SLOWER: tuple[dict[str, float], ...] = (
    {},
    {"latency": 3.0},
    {"boot_ms": 2.0, "work_ms": 2.0},
)  # the rigs that seeds take turns on: factors
WINDOW_S = 0.03  # around a message that only its time can name
LONGEST_NAME = 32
MOST_CLIENTS = 31
LEAST_DURATION_S = 0.5
NEAREST_CHECKS = ("crashes", "promises", "voting")  # what one board did wrong, before what came of it
SHORT_CHECKS = ChecksSpec(1.0, 1.0, 0)
FINISHED_CHECKS = ("liveness", "gossip", "membership", "durability", "linearizability")  # judged at the end of a run


@dataclass(frozen=True)
class Shrunk:
    """campaign: the smallest found. check: what it violates. rate: of the tries at the end. tries: simulations."""

    campaign: Campaign
    check: str
    rate: float
    tries: int
    seconds: float
    before: dict[str, int]
    after: dict[str, int]
    ended: str  # smallest | time limit


def size(campaign: Campaign) -> dict[str, int]:
    return {
        "boards": campaign.boards,
        "faults": len(campaign.faults),
        "operations": len(campaign.workload.operations),
    }


@dataclass
class Oracle:
    """Whether a campaign still violates the check. Remembers what it was asked."""

    rig: Rig
    check: str
    seeds: list[int]
    need: int = 1
    tries: int = 0
    until: float | None = None
    _known: dict[str, bool] = field(default_factory=dict)

    def violates(self, campaign: Campaign) -> bool:
        """In at least `need` of the tries. False once the time is over: what there is stays."""
        text = repr(campaign)
        if text not in self._known:
            if self.until is not None and time.monotonic() > self.until:
                return False
            self._known[text] = self.count(campaign, stop=True) >= self.need
        return self._known[text]

    def count(self, campaign: Campaign, *, stop: bool = False) -> int:
        """How many tries violate; stop: no more tries than decide about `need`."""
        done = 0
        for at, seed in enumerate(self.seeds):
            done += self._try(campaign, seed, _slower(self.rig, SLOWER[at % len(SLOWER)]))
            left = len(self.seeds) - at - 1
            if stop and (done >= self.need or done + left < self.need):
                break
        return done

    def ask_more(self, campaign: Campaign) -> None:
        """Want from now on what this campaign can do, up to ENOUGH: what is certain must not become chance again."""
        need = max(self.need, min(self.count(campaign), round(ENOUGH * len(self.seeds))))
        if need > self.need:
            self.need = need
            self._known.clear()

    def _try(self, campaign: Campaign, seed: int, rig: Rig) -> bool:
        self.tries += 1
        try:
            simulated = simulate(plan(campaign, rig, seed), rig)
        except (RigError, UsageError):
            return False
        return self.check in violated(simulated)


def _slower(rig: Rig, factors: dict[str, float]) -> Rig:
    spec = rig.simulated
    assert spec is not None, "shrink asks for a simulated rig"
    changes: dict[str, Any] = {}
    for name, factor in factors.items():
        if name == "latency":
            low_ms, high_ms = spec.latency_ms
            changes["latency_ms"] = (low_ms * factor, high_ms * factor)
        else:
            changes[name] = getattr(spec, name) * factor
    return replace(rig, simulated=replace(spec, **changes))


def violated(simulated: Simulated) -> list[str]:
    return [check["name"] for check in simulated.document["checks"] if check["verdict"] == "invalid"]


# From a run to an explicit campaign.


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
    faults = [PlannedFault(**{**entry, "boards": tuple(entry["boards"])}) for entry in document["faults"]]
    boards = tuple(PlannedBoard(**entry) for entry in document["boards"])
    return Plan(**{**document, "boards": boards, "faults": tuple(faults)})


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
    for end in ("from", "to", "kinds"):
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


# Shrinking.


def shrink(
    run: Recorded,
    rig: Rig,
    *,
    check: str | None = None,
    time_limit_s: float | None = None,
    progress: Callable[[str, dict[str, int]], None] = lambda _what, _size: None,
) -> Shrunk:
    """UsageError where the run cannot be made to violate the check again in the simulator."""
    if rig.simulated is None:
        raise UsageError(f"{rig.source}: rig {rig.name!r} has no [sim]; runs are shrunk on simulated boards")
    began = time.monotonic()
    the_plan = read_plan(run.document)
    name = _chosen(run, check)
    seeds = [the_plan.seed, *(the_plan.seed + number for number in range(1, SEEDS))]
    oracle = Oracle(rig, name, seeds)
    campaign = _start(run, the_plan, rig, oracle, progress)
    before = size(campaign)
    oracle.ask_more(campaign)
    oracle.until = None if time_limit_s is None else began + time_limit_s
    shrinker = Shrinker(oracle, campaign, progress)
    shrinker.run()
    smallest = shrinker.campaign
    over = oracle.until is not None and time.monotonic() > oracle.until
    rate = oracle.count(smallest)
    return Shrunk(
        smallest,
        name,
        rate / SEEDS,
        oracle.tries,
        time.monotonic() - began,
        before,
        size(smallest),
        "time limit" if over else "smallest",
    )


def _chosen(run: Recorded, check: str | None) -> str:
    """The check to violate: the one asked for, else the one nearest to the cause."""
    if check is not None:
        if check not in run.violated:
            raise UsageError(f"--check: the run did not violate {check!r}; allowed: {', '.join(run.violated)}")
        return check
    return next((name for name in NEAREST_CHECKS if name in run.violated), run.violated[0])


def _start(
    run: Recorded, the_plan: Plan, rig: Rig, oracle: Oracle, progress: Callable[[str, dict[str, int]], None]
) -> Campaign:
    """An explicit campaign that violates the check, without weather."""
    campaign = explicit(run, the_plan)
    progress("calm weather", size(campaign))
    if oracle.violates(campaign):
        return campaign
    if not run.weather.calm:
        simulated = simulate(replace(the_plan, rig=rig.name, rung=rig.rung), rig, weather=run.weather)
        began_ns = int(simulated.history.manifest["began_ns"])
        faults = message_faults(simulated.struck, began_ns, the_plan.duration_s)
        stormy = replace(campaign, faults=(*campaign.faults, *faults))
        progress("single messages", size(stormy))
        if oracle.violates(stormy):
            return stormy
    raise UsageError(
        f"the run does not violate {oracle.check} again when its operations and faults are given one by one "
        f"({oracle.tries} tries): it hangs on the course of chance; look at its report instead"
    )


class Shrinker:
    """Tries smaller campaigns, in rounds, until a whole round finds none."""

    def __init__(self, oracle: Oracle, campaign: Campaign, progress: Callable[[str, dict[str, int]], None]) -> None:
        self.oracle = oracle
        self.campaign = campaign
        self._progress = progress

    def run(self) -> None:
        before = None
        while repr(self.campaign) != before:
            before = repr(self.campaign)
            for what, step in (
                ("bounds", self._checks),
                ("time", self._duration),
                ("faults", self._faults),
                ("operations", self._operations),
                ("boards", self._boards),
                ("how long faults last", self._fault_times),
                ("timings", self._settings),
            ):
                self._progress(what, size(self.campaign))
                step()
                self.oracle.ask_more(self.campaign)

    def _take(self, candidate: Campaign) -> bool:
        if candidate != self.campaign and self.oracle.violates(candidate):
            self.campaign = candidate
            return True
        return False

    def _with_operations(self, campaign: Campaign, operations: Sequence[PlannedOperation]) -> Campaign:
        return replace(campaign, workload=replace(campaign.workload, operations=tuple(operations)))

    def _faults(self) -> None:
        campaign = self.campaign
        kept = minimise(campaign.faults, lambda part: self.oracle.violates(replace(campaign, faults=tuple(part))))
        self._take(replace(campaign, faults=tuple(kept)))

    def _operations(self) -> None:
        """At least one stays: a campaign without any is one with a load of its own."""
        campaign = self.campaign

        def fails(part: list[PlannedOperation]) -> bool:
            return bool(part) and self.oracle.violates(self._with_operations(campaign, part))

        self._take(self._with_operations(campaign, minimise(campaign.workload.operations, fails)))

    def _checks(self) -> None:
        """Shorter bounds make shorter runs; not where the bound is what was broken."""
        if self.oracle.check not in FINISHED_CHECKS:
            self._take(replace(self.campaign, checks=SHORT_CHECKS))

    def _duration(self) -> None:
        """Cut the end off, then the time before the first event."""
        for share in (0.3, 0.5, 0.7, 0.85):
            if self._take(_until(self.campaign, share * self.campaign.duration_s)):
                break
        last_s = max(
            [fault.at_s + fault.for_s for fault in self.campaign.faults]
            + [operation.at_s for operation in self.campaign.workload.operations]
        )
        self._take(_until(self.campaign, last_s + 0.01))
        starts = [fault.at_s for fault in self.campaign.faults]
        first_s = min(starts + [operation.at_s for operation in self.campaign.workload.operations])
        for share in (1.0, 0.7, 0.4):
            if first_s > 0.05 and self._take(_earlier(self.campaign, first_s * share)):
                break

    def _boards(self) -> None:
        for number in range(self.campaign.boards, 0, -1):
            if self.campaign.boards > 1 and (smaller := _without(self.campaign, number)) is not None:
                self._take(smaller)

    def _fault_times(self) -> None:
        for at, fault in enumerate(self.campaign.faults):
            for share in (0.25, 0.5, 0.75):
                if not KINDS[fault.kind].lasts or fault.for_s <= 0.1:
                    continue
                faults = list(self.campaign.faults)
                faults[at] = replace(fault, for_s=round(max(0.05, fault.for_s * share), 3))
                if self._take(replace(self.campaign, faults=tuple(faults))):
                    break

    def _settings(self) -> None:
        if self.campaign.timing:
            self._take(replace(self.campaign, timing={}))
        if self.campaign.serial_only:
            self._take(replace(self.campaign, serial_only=0))
        merged = [replace(entry, client=1) for entry in self.campaign.workload.operations]
        self._take(self._with_operations(self.campaign, merged))


def _until(campaign: Campaign, duration_s: float) -> Campaign:
    """Without what comes later."""
    duration_s = round(max(LEAST_DURATION_S, min(duration_s, campaign.duration_s)), 3)
    faults = []
    for fault in campaign.faults:
        if fault.at_s + 0.05 <= duration_s:
            for_s = round(min(fault.for_s, duration_s - fault.at_s), 3)
            faults.append(replace(fault, for_s=for_s))
    operations = tuple(entry for entry in campaign.workload.operations if entry.at_s <= duration_s)
    if not operations:
        return campaign
    workload = replace(campaign.workload, operations=operations)
    return replace(campaign, duration_s=duration_s, faults=tuple(faults), workload=workload)


def _earlier(campaign: Campaign, by_s: float) -> Campaign:
    """Everything so much earlier."""
    faults = tuple(replace(fault, at_s=round(max(0.0, fault.at_s - by_s), 3)) for fault in campaign.faults)
    operations = tuple(
        replace(entry, at_s=round(max(0.0, entry.at_s - by_s), 3)) for entry in campaign.workload.operations
    )
    duration_s = round(max(LEAST_DURATION_S, campaign.duration_s - by_s), 3)
    return replace(
        campaign, duration_s=duration_s, faults=faults, workload=replace(campaign.workload, operations=operations)
    )


def _without(campaign: Campaign, number: int) -> Campaign | None:
    """Without the board of that number: those after it move up, as the names of a campaign's boards are counted."""
    voter = number <= campaign.voters
    if voter and campaign.voters == 1:
        return None
    gone = f"b{number}"
    names = {f"b{other}": f"b{other - (other > number)}" for other in range(1, campaign.boards + 1) if other != number}

    def left(boards: Sequence[str]) -> tuple[str, ...]:
        return tuple(names.get(board, board) for board in boards if board != gone)

    faults = [moved for fault in campaign.faults if (moved := _fault_without(fault, left)) is not None]
    wiped = {board for fault in faults if fault.kind == "wipe" for board in fault.select or ()}
    if 2 * len(wiped) >= campaign.voters - voter and wiped:
        return (
            None  # a majority without its journal breaks what no replica can hold: another failure than the one sought
        )
    operations = tuple(replace(entry, boards=left(entry.boards)) for entry in campaign.workload.operations)
    return replace(
        campaign,
        voters=campaign.voters - voter,
        learners=campaign.learners - (not voter),
        serial_only=min(campaign.serial_only, campaign.boards - 1),
        faults=tuple(faults),
        workload=replace(campaign.workload, operations=operations),
    )


def _fault_without(fault: FaultSpec, left: Callable[[Sequence[str]], tuple[str, ...]]) -> FaultSpec | None:
    """The fault as it meets the boards that are left; None where it meets none."""
    changes: dict[str, Any] = {}
    if isinstance(fault.select, tuple):
        changes["select"] = left(fault.select)
        if not changes["select"]:
            return None
    if fault.groups is not None:
        groups = tuple(group for group in map(left, fault.groups) if group)
        if len(groups) < 2:
            return None
        changes["groups"] = groups
    parameters = dict(fault.parameters)
    for end in ("from", "to"):
        if end in parameters:
            parameters[end] = left(parameters[end])
            if not parameters[end]:
                return None
    return replace(fault, parameters=parameters, **changes)
