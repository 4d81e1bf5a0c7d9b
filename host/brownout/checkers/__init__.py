"""Judges a history: every checker in turn, and one verdict. `invalid` outranks `unknown` outranks `valid`.

Checkers are pure: they read a History, through its index `Run`, and nothing else. One file each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..analysis import coverage, summarise
from ..history import Check, History, Verdict
from ..store import RunFolder, load
from . import (
    agreement,
    breaker,
    byzantine,
    commit,
    crashes,
    durability,
    faults,
    gossip,
    hand_over,
    liveness,
    majority,
    membership,
    mirror,
    own,
    promises,
    recovery,
    register,
    sampling,
    sites,
    stake,
    telemetry,
    validity,
    voting,
    work,
)
from .run import Run

CHECKERS: tuple[Callable[[Run], Check], ...] = (
    agreement.check,
    promises.check,
    voting.check,
    validity.check,
    durability.check,
    register.check,
    gossip.check,
    membership.check,
    byzantine.check,
    breaker.check,
    mirror.check,
    work.check,
    sampling.check,
    commit.check,
    stake.check,
    hand_over.check,
    liveness.check,
    majority.check,
    recovery.check,
    crashes.check,
    faults.check,
    telemetry.check,
)
# What a run must have loaded, one of these, for a check to say anything of it; absent: every run.
NEEDS: dict[Callable[[Run], Check], frozenset[str]] = {
    agreement.check: frozenset({"vote", "stake"}),
    promises.check: frozenset({"vote", "stake", "membership", "lifeguard"}),
    voting.check: frozenset({"vote", "stake"}),
    validity.check: frozenset({"vote", "stake", "gossip"}),
    durability.check: frozenset({"vote", "stake", "gossip"}),
    register.check: frozenset({"vote", "stake"}),
    gossip.check: frozenset({"gossip"}),
    membership.check: frozenset({"membership", "lifeguard"}),
    majority.check: frozenset({"vote", "stake"}),
    recovery.check: frozenset({"vote", "stake"}),
    byzantine.check: frozenset({"byzantine"}),
    breaker.check: frozenset({"breaker"}),
    mirror.check: frozenset({"mirror"}),
    work.check: frozenset({"work"}),
    sampling.check: frozenset({"sampling"}),
    commit.check: frozenset({"commit"}),
    stake.check: frozenset({"stake"}),
    hand_over.check: frozenset({"hand_over"}),
}


def checks_of(protocols: Iterable[str]) -> list[Callable[[Run], Check]]:
    """The checks for boards that have loaded these, in the order of the verdict."""
    loaded = set(protocols)
    return [check for check in CHECKERS if check not in NEEDS or NEEDS[check] & loaded]


def judge(history: History) -> dict[str, Any]:
    """The document of verdict.json."""
    run = Run(history)
    checks = [check(run) for check in checks_of(run.protocols)]
    if history.plan.get("sites"):
        checks.append(sites.check(run))
    file = history.plan.get("checker")
    if file is not None:
        checks.append(own.check(run, file, history.plan["sources"][file]))
    manifest = history.manifest
    document: dict[str, Any] = {
        "verdict": str(overall(checks)),
        "campaign": manifest.get("campaign"),
        "seed": manifest.get("seed"),
        "rung": manifest.get("rung"),
        "checks": [
            {
                "name": check.name,
                "verdict": str(check.verdict),
                "detail": check.detail,
                "evidence": [dict(entry) for entry in check.evidence],
                "metrics": dict(check.metrics),
            }
            for check in checks
        ],
        "metrics": summarise(history),
        "coverage": coverage(history),
    }
    if manifest.get("trace_hash") is not None:
        document["trace_hash"] = manifest["trace_hash"]
    return document


def overall(checks: list[Check]) -> Verdict:
    """The verdict of a run from the verdicts of its checks."""
    verdicts = {check.verdict for check in checks}
    for verdict in (Verdict.INVALID, Verdict.UNKNOWN):
        if verdict in verdicts:
            return verdict
    return Verdict.VALID


def check_run(folder: Path) -> dict[str, Any]:
    """Load a run's folder, judge it, and write its verdict.json."""
    document = judge(load(folder))
    RunFolder(folder).write_verdict(document)
    return document
