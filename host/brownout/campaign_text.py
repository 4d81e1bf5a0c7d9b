"""Campaigns as text: the TOML file that campaign_file.py reads back to the same campaign.

Must not hold rules of its own about what a campaign may say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .campaign_file import Campaign, FaultSpec
from .fault_kinds import KINDS
from .protocols import DEFAULT
from .workload import PlannedOperation, WorkloadPlan


def campaign_text(campaign: Campaign, comment: str = "") -> str:
    """A campaign file. comment: what stands above it."""
    head = {
        "name": campaign.name,
        "description": campaign.description or None,
        "duration_s": campaign.duration_s,
        "voters": campaign.voters,
        "learners": campaign.learners or None,
        "serial_only": campaign.serial_only or None,
        "protocols": None if campaign.protocols == DEFAULT else [_own(campaign, name) for name in campaign.protocols],
    }
    parts = ["".join(f"# {line}\n" for line in comment.splitlines()), _table("[campaign]", head)]
    if campaign.timing:
        parts.append(_table("[timing]", campaign.timing))
    if campaign.sites is not None:
        parts.append(_table("[sites]", vars(campaign.sites)))
    parts += [_table(f"[protocol.{name}]", options) for name, options in campaign.options.items()]
    parts.append(_table("[workload]", _workload(campaign.workload)))
    parts += [_table("[[operation]]", _operation(entry)) for entry in campaign.workload.operations]
    parts += [_table("[[fault]]", _fault(fault)) for fault in campaign.faults]
    if campaign.nemesis is not None:
        nemesis = campaign.nemesis
        parts.append(_table("[nemesis]", {"kinds": nemesis.kinds, "every_s": nemesis.every_s, "for_s": nemesis.for_s}))
    bounds = {key: value for key, value in vars(campaign.checks).items() if value != {}}
    parts.append(_table("[checks]", {**bounds, "file": campaign.checker}))
    return "\n".join(part for part in parts if part)


def _own(campaign: Campaign, name: str) -> str:
    """A protocol as a campaign names it: its file, where it is not one of the firmware's."""
    return f"{name}.py" if f"{name}.py" in campaign.sources else name


def _table(head: str, rows: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_value(value)}\n" for key, value in rows.items() if value is not None]
    return f"{head}\n{''.join(lines)}"


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(round(value, 6))
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


def _workload(workload: WorkloadPlan) -> dict[str, Any]:
    if workload.operations:
        return {"operation_timeout_s": workload.operation_timeout_s}
    return {key: value for key, value in vars(workload).items() if key != "operations"}


def _operation(entry: PlannedOperation) -> dict[str, Any]:
    return {key: value for key, value in vars(entry).items() if value not in (None, ())}


def _fault(fault: FaultSpec) -> dict[str, Any]:
    """Only what its kind takes."""
    rows: dict[str, Any] = {"kind": fault.kind, "at_s": fault.at_s}
    if KINDS[fault.kind].lasts:
        rows["for_s"] = fault.for_s
    rows |= {"jitter_s": fault.jitter_s or None, "select": fault.select, "when": fault.when}
    rows |= {"shape": fault.shape, "groups": fault.groups}
    return rows | {key: value for key, value in fault.parameters.items() if _given(value)}


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, Iterable) and not isinstance(value, str) and not list(value))
