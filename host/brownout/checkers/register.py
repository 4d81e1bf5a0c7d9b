"""Puts, gets and cas of a run are linearizable, key by key. Brings a History to the search of `linearizability.py`."""

from __future__ import annotations

from collections import defaultdict

from ..history import Check, Operation, Outcome
from .evidence import Findings, operation
from .linearizability import Answer, check_keys
from .models import CAS_REGISTER, Call
from .run import LOG_OPERATIONS, Run


def calls(operations: list[Operation]) -> dict[str, list[Call]]:
    """Key -> calls. What definitely did not happen is left out; a cas that found another value is a look at it."""
    keys: dict[str, list[Call]] = defaultdict(list)
    for item in operations:
        if item.operation not in LOG_OPERATIONS:
            continue
        mismatch = item.operation == "cas" and item.status == "mismatch"
        if item.outcome is Outcome.FAIL and not mismatch:
            continue
        known = item.outcome is Outcome.OK or mismatch
        end = item.finished_ns if known else None
        if item.operation == "put":
            call = Call(item.invoked_ns, end, "write", item.value, None, item)
        elif item.operation == "get":
            call = Call(item.invoked_ns, end, "read", None, item.result, item)
        else:
            action = "mismatch" if mismatch else "cas"
            call = Call(item.invoked_ns, end, action, (item.expected, item.value), item.result, item)
        keys[item.key].append(call)
    return keys


def check(run: Run, steps: int | None = None) -> Check:
    findings = Findings("linearizability")
    keys = calls(run.history.operations)
    found = check_keys(keys, CAS_REGISTER, steps)
    for key, finding in sorted(found.items()):
        if finding.answer is Answer.OPEN:
            findings.open(f"key {key!r}: {len(keys[key])} operations, search given up after {finding.steps} steps")
        elif finding.answer is Answer.NO:
            culprit = finding.culprit.name if finding.culprit is not None else None
            last = f": no order explains the {_described(culprit)}" if culprit is not None else ""
            findings.wrong(
                f"key {key!r} is not linearizable{last}",
                *[
                    operation(call.name, "no order explains this one" if call.name is culprit else None)
                    for call in finding.counter_example
                ],
            )
    checked = sum(len(items) for items in keys.values())
    findings.metrics["operations"] = checked
    findings.metrics["keys"] = len(keys)
    findings.metrics["search_steps"] = sum(finding.steps for finding in found.values())
    return findings.check(f"{checked} operations on {len(keys)} keys have an order that explains them all")


def _described(item: Operation) -> str:
    at = f"client {item.client} had from {item.board}"
    if item.operation == "get":
        return f"value {item.result!r} that {at}"
    return f"answer {item.status!r} to {item.operation} that {at}"
