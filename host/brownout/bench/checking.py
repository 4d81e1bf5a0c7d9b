"""How many operations a second the search for a linearization judges, in a history of clients that are never idle.

The history is made here: each operation takes effect at one instant between its invocation and its completion, some
are never answered, and where one is to be stale a read returns the value before the last. Must not measure the making.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ..checkers.linearizability import Answer, check_keys
from ..checkers.models import CAS_REGISTER, Call
from .figures import Figure, Sample
from .workbench import Workbench

OPERATIONS = 100_000
CLIENTS = 10
KEYS = 100
ROUNDS = 3
LEAST_PER_S = 10_000.0
UNANSWERED = 0.002  # of the writes: so many are lost where a bed has faults
LONGEST = 200  # between invocation and completion, in units of the made time; pauses are a quarter of that


def history(seed: int, operations: int = OPERATIONS, clients: int = CLIENTS, keys: int = KEYS) -> dict[int, list[Call]]:
    """A linearizable history, key by key: reads, writes and compare-and-sets of clients that are concurrent."""
    draw = random.Random(seed)
    free = [0] * clients
    spans = []
    for number in range(operations):
        client = number % clients
        start = free[client] + draw.randrange(1, LONGEST // 4)
        free[client] = end = start + draw.randrange(2, LONGEST)
        spans.append((draw.randrange(start, end), number, start, end))
    registers: dict[int, int | None] = {}
    calls: dict[int, list[Call]] = {key: [] for key in range(keys)}
    for _effect, number, start, end in sorted(spans):  # in the order in which they take effect
        key = draw.randrange(keys)
        held = registers.get(key)
        action = draw.choice(("read", "write", "cas", "mismatch"))
        if action == "read":
            call = Call(start, end, action, None, held, number)
        elif action == "write":
            lost = draw.random() < UNANSWERED
            call = Call(start, None if lost else end, action, number, None, number)
        else:
            expected = held if action == "cas" else -1
            call = Call(start, end, action, (expected, number), None if action == "cas" else held, number)
        if action in ("write", "cas"):
            registers[key] = number
        calls[key].append(call)
    return calls


def plant_stale_read(calls: list[Call]) -> None:
    """The last read of one key returns what an earlier write made that another, later write had replaced for sure."""
    writes = [call for call in calls if call.action == "write" and call.end is not None]
    latest = max(writes, key=lambda call: call.start)
    before = [call for call in writes if call.end is not None and call.end < latest.start]
    old = max(before, key=lambda call: call.start)
    assert latest.end is not None
    calls.append(Call(latest.end + LONGEST, latest.end + LONGEST + 1, "read", None, old.argument, "stale"))


def measure(bench: Workbench) -> list[Figure]:
    """Side by side in one run: a history that is linearizable, and the same with one stale read."""
    speeds: dict[Answer, list[float]] = {Answer.YES: [], Answer.NO: []}
    for seed in range(ROUNDS):
        bench.progress("histories judged", seed, ROUNDS)
        calls = history(seed)
        speeds[Answer.YES].append(_operations_per_s(calls, Answer.YES))
        plant_stale_read(calls[KEYS // 2])
        speeds[Answer.NO].append(_operations_per_s(calls, Answer.NO))
    return [
        _figure("operations judged per second", speeds[Answer.YES], "linearizable"),
        _figure("operations judged per second, one read stale", speeds[Answer.NO], "with the minimal counter-example"),
    ]


def _operations_per_s(
    calls: dict[int, list[Call]], expected: Answer, now: Callable[[], float] = time.perf_counter
) -> float:
    began = now()
    findings = check_keys(calls, CAS_REGISTER)
    took_s = now() - began
    answers = {finding.answer for finding in findings.values()}
    if (Answer.NO in answers) is not (expected is Answer.NO) or Answer.OPEN in answers:
        raise AssertionError(
            f"a history that is {expected.value} was judged {sorted(answer.value for answer in answers)}"
        )
    return sum(map(len, calls.values())) / took_s


def _figure(name: str, speeds: list[float], note: str) -> Figure:
    sample = Sample.of(speeds)
    return Figure(
        name,
        sample.median,
        "/s",
        LEAST_PER_S,
        sample.count,
        measure="value",
        at_least=True,
        note=f"{note}; {OPERATIONS:,} operations of {CLIENTS} clients on {KEYS} keys, made anew each time",
    )
