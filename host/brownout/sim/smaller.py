"""Campaigns made smaller in one respect: less time, an earlier beginning, a board less, a simpler fault; or unhurried.

Pure. Must not judge whether the smaller one still does what the larger did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..campaign_file import Campaign, FaultSpec
from ..injector import POWER_FAULTS

LEAST_DURATION_S = 0.5
LEAST_VOTERS = 3


def simpler(fault: FaultSpec) -> list[FaultSpec]:
    """The simplest first."""
    found = []
    if fault.kind in POWER_FAULTS - {"cycle", "wipe", "blackout"} | {"trap"}:
        cycle = replace(fault, kind="cycle", for_s=max(0.05, min(fault.for_s, 0.2)), when=None, parameters={})
        found += [cycle, replace(cycle, when=fault.when)]
    if fault.when is not None:
        found.append(replace(fault, when=None))
    for name in ("operation", "count", "times", "copies"):
        if fault.parameters.get(name, 1) != 1:
            found.append(replace(fault, parameters={**fault.parameters, name: 1}))
    return found


def until(campaign: Campaign, duration_s: float) -> Campaign:
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


def earlier(campaign: Campaign, by_s: float) -> Campaign:
    """Everything so much earlier."""
    faults = tuple(replace(fault, at_s=round(max(0.0, fault.at_s - by_s), 3)) for fault in campaign.faults)
    operations = tuple(
        replace(entry, at_s=round(max(0.0, entry.at_s - by_s), 3)) for entry in campaign.workload.operations
    )
    duration_s = round(max(LEAST_DURATION_S, campaign.duration_s - by_s), 3)
    return replace(
        campaign, duration_s=duration_s, faults=faults, workload=replace(campaign.workload, operations=operations)
    )


def unhurried(campaign: Campaign, factor: float) -> Campaign:
    """The same events, so many times as far from each other: slower boards than the simulator's keep up with them."""

    def later(time_s: float) -> float:
        return round(time_s * factor, 3)

    faults = tuple(replace(fault, at_s=later(fault.at_s), for_s=later(fault.for_s)) for fault in campaign.faults)
    operations = tuple(replace(entry, at_s=later(entry.at_s)) for entry in campaign.workload.operations)
    workload = replace(campaign.workload, operations=operations)
    return replace(campaign, duration_s=later(campaign.duration_s), faults=faults, workload=workload)


def without(campaign: Campaign, number: int) -> Campaign | None:
    """Without the board of that number: those after it move up, as the names of a campaign's boards are counted."""
    voter = number <= campaign.voters
    if voter and campaign.voters <= LEAST_VOTERS:
        return None  # fewer cannot lose one and go on: what they violate says little of a cluster
    gone = f"b{number}"
    names = {f"b{other}": f"b{other - (other > number)}" for other in range(1, campaign.boards + 1) if other != number}

    def left(boards: Sequence[str]) -> tuple[str, ...]:
        return tuple(names.get(board, board) for board in boards if board != gone)

    faults = [moved for fault in campaign.faults if (moved := _fault_without(fault, left)) is not None]
    wiped = {board for fault in faults if fault.kind in ("wipe", "restore", "bitrot") for board in fault.select or ()}
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
        sites=None if campaign.sites is None else campaign.sites.with_boards(left),
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
