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
from typing import Any

from ..campaign_file import Campaign, ChecksSpec
from ..contracts import RigError, UsageError
from ..fault_kinds import KINDS
from ..faults import Plan, plan
from ..rig import Rig
from ..workload import PlannedOperation
from .ddmin import minimise
from .explicit import Recorded, explicit, message_faults, read_plan
from .runs import Simulated, simulate
from .smaller import earlier, simpler, unhurried, until, without

SEEDS = 5  # a campaign is tried with
ENOUGH = 0.8  # of them have to violate, where the run's own campaign does as well
SLOWER: tuple[dict[str, float], ...] = (
    {},
    {"latency": 3.0},
    {"boot_ms": 2.0, "work_ms": 2.0},
)  # the rigs that seeds take turns on: factors
UNHURRIED = (8.0, 4.0, 2.0)  # times as slow, at last: boards take longer for each step than the simulator's
UNHURRIED_AT_MOST_S = 5.0
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
            done += self._try(campaign, seed, rig_of_try(self.rig, at))
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


def rig_of_try(rig: Rig, number: int) -> Rig:
    """The boards of a try: the simulator's own, or slower ones."""
    return _slower(rig, SLOWER[number % len(SLOWER)])


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
                # Operations first: without its faults a run may still violate, by chance and by many operations.
                ("operations", self._operations),
                ("faults", self._faults),
                ("simpler faults", self._simpler_faults),
                ("boards", self._boards),
                ("how long faults last", self._fault_times),
                ("timings", self._settings),
            ):
                self._progress(what, size(self.campaign))
                step()
                self.oracle.ask_more(self.campaign)
        self._progress("unhurried", size(self.campaign))
        for factor in UNHURRIED:
            short = self.campaign.duration_s * factor <= UNHURRIED_AT_MOST_S
            if short and self._take(unhurried(self.campaign, factor)):
                break

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

    def _simpler_faults(self) -> None:
        """Counts from the beginning, no moment to wait for, and a plain power cycle where that does as well."""
        for at in range(len(self.campaign.faults)):
            for simple in simpler(self.campaign.faults[at]):
                faults = list(self.campaign.faults)
                faults[at] = simple
                if self._take(replace(self.campaign, faults=tuple(faults))):
                    break

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
            if self._take(until(self.campaign, share * self.campaign.duration_s)):
                break
        last_s = max(
            [fault.at_s + fault.for_s for fault in self.campaign.faults]
            + [operation.at_s for operation in self.campaign.workload.operations]
        )
        self._take(until(self.campaign, last_s + 0.01))
        starts = [fault.at_s for fault in self.campaign.faults]
        first_s = min(starts + [operation.at_s for operation in self.campaign.workload.operations])
        for share in (1.0, 0.7, 0.4):
            if first_s > 0.05 and self._take(earlier(self.campaign, first_s * share)):
                break

    def _boards(self) -> None:
        for number in range(self.campaign.boards, 0, -1):
            if self.campaign.boards > 1 and (smaller := without(self.campaign, number)) is not None:
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
