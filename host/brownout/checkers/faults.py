"""Every planned fault was applied, proven and healed; else the run says nothing about it, and is `unknown`.

A fault that could not be proven is never taken for one: a hub that reports "off" and keeps feeding its board is the
commonest lie on a bench.
"""

from __future__ import annotations

from ..history import Check, FaultRecord, FaultStage
from .evidence import Findings, fault
from .run import Run


def check(run: Run) -> Check:
    findings = Findings("faults")
    lives: dict[str, list[FaultRecord]] = {}
    for record in run.history.faults:
        lives.setdefault(record.id, []).append(record)
    planned = {entry["id"]: entry for entry in run.history.plan.get("faults", ()) if "id" in entry}
    for name, entry in planned.items():
        if not any(record.stage is FaultStage.APPLIED for record in lives.get(name, ())):
            findings.open(
                f"fault {name} ({entry.get('kind')}) was planned and never applied",
                *[fault(record) for record in lives.get(name, ())[:2]],
            )
    proven = 0
    for name, records in lives.items():
        proven += _life(name, records, findings)
    findings.metrics["planned"] = len(planned)
    findings.metrics["applied"] = sum(
        any(record.stage is FaultStage.APPLIED for record in records) for records in lives.values()
    )
    findings.metrics["proven"] = proven
    return findings.check(f"{proven} faults applied, proven and healed")


def _life(name: str, records: list[FaultRecord], findings: Findings) -> bool:
    stages = {record.stage for record in records}
    kind = records[0].kind
    unproven = next((record for record in records if record.stage is FaultStage.UNPROVEN), None)
    if unproven is not None:
        findings.open(f"fault {name} ({kind}) could not be proven", fault(unproven))
        return False
    if FaultStage.APPLIED not in stages:
        return False
    applied = next(record for record in records if record.stage is FaultStage.APPLIED)
    if FaultStage.PROVEN not in stages:
        findings.open(f"fault {name} ({kind}) was applied and never proven", fault(applied))
        return False
    if FaultStage.HEALED not in stages:
        findings.open(f"fault {name} ({kind}) was never healed", fault(applied))
        return False
    return True
