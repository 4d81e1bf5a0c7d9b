"""Fifty real MicroPython boards at a gossip period of 200 ms: how late their ticks are, and how fast a rumour is known.

The ideal that gossip is held against is simulated here: synchronous rounds in which every board contacts `fan-out`
others at random and both end with what either knew. Must not count a rumour that a board never told of.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from brownout_node.core import schema

from ..bed import Bed
from ..contracts import RigError
from ..history import BoardEvent
from .command_client import CommandClient
from .figures import Figure, Sample
from .workbench import VOTERS, Workbench

BOARDS = 50
PERIOD_MS = 200
FAN_OUT = 2
RUMOURS = 40
KEYS = 20
IDLE_S = 12.0
SPREAD_WITHIN_S = 10.0
REPORTS_WITHIN_S = 60.0
MOST_LATE_MS = 20.0
MOST_ROUNDS = 1.25
IDEAL_RUNS = 2000
BOUNDS_MS = (1, 5, 20, 100)  # of the boards' histogram of late ticks
LATE_FIELDS = ("late_1ms", "late_5ms", "late_20ms", "late_100ms", "late_more")


def measure(bench: Workbench) -> list[Figure]:
    timing = {"gossip_period_ms": PERIOD_MS, "gossip_fanout": FAN_OUT}
    bed = bench.bed("fleet", BOARDS, voters=VOTERS, timing=timing)
    try:
        return [_ticks(bed), _rounds(bed)]
    finally:
        bench.close_bed("fleet")


def _ticks(bed: Bed) -> Figure:
    """Lateness of the ticks between two reports of every board, the boards gossiping and probing meanwhile."""
    before = _reports(bed)
    bed.watch.wait(lambda: False, IDLE_S)  # nothing ends it: this is the time that is measured
    after = _reports(bed)
    counts = [sum(after[board][field] - before[board][field] for board in before) for field in LATE_FIELDS]
    total = sum(counts)
    worst = max(report["late_worst_ms"] for report in after.values())
    return Figure(
        "tick lateness, p99 at most",
        _bound(counts, 0.99, worst),
        "ms",
        MOST_LATE_MS,
        total,
        measure="value",
        note=f"upper bound from the boards' own histograms, {BOARDS} boards for {IDLE_S:.0f} s: "
        + ", ".join(f"{count} up to {bound} ms" for bound, count in zip(BOUNDS_MS, counts, strict=False))
        + f", {counts[-1]} later; the worst {worst} ms",
    )


def _reports(bed: Bed) -> dict[str, dict[str, int]]:
    """The newest METRICS of every board. Raises RigError when a board sends none."""
    deadline = time.monotonic() + REPORTS_WITHIN_S
    while True:
        newest = {event.board: dict(event.fields) for event in bed.telemetry.events() if event.kind == "metrics"}
        silent = [board for board in bed.names if board not in newest]
        if not silent:
            return newest
        if time.monotonic() > deadline:
            raise RigError(f"bench: no metrics from {', '.join(silent)} within {REPORTS_WITHIN_S:.0f} s")
        bed.watch.wait(lambda: False, 0.5)


def _bound(counts: Sequence[int], share: float, worst: int) -> float:
    """The least bound of the histogram below which that share of the ticks lies."""
    seen = 0
    for bound, count in zip((*BOUNDS_MS, worst), counts, strict=True):
        seen += count
        if seen >= share * sum(counts):
            return float(bound)
    return float(worst)


def _rounds(bed: Bed) -> Figure:
    """Gossip periods from a write until the last board tells that it has it, one write at a time."""
    client = CommandClient(bed.broker_address, bed.rig.bed, bed.cluster, 3000)
    draw = random.Random(bed.seed)
    rounds, lost = [], 0
    for number in range(RUMOURS):
        mark = bed.telemetry.mark()
        board = draw.choice(bed.names)
        value = f"rumour {number}"
        if client.ask(board, schema.WRITE, f"g{number % KEYS}", value) is None:
            lost += 1
            continue
        spread_ms = _spread_ms(bed, mark, value)
        if spread_ms is None:
            lost += 1
        else:
            rounds.append(spread_ms / PERIOD_MS)
        time.sleep(draw.uniform(0, PERIOD_MS / 1000))  # so that writes fall anywhere in the boards' periods
    client.close()
    ideal = [ideal_rounds(BOARDS, FAN_OUT, draw) for _ in range(IDEAL_RUNS)]
    if not rounds:
        return Figure("gossip rounds", None, "rounds", MOST_ROUNDS, 0, note=f"none of {RUMOURS} rumours spread in time")
    return Figure(
        "gossip rounds, mean",
        sum(rounds) / len(rounds),
        "rounds",
        MOST_ROUNDS,
        len(rounds),
        p99=Sample.of(rounds).p99,
        compared_to="ideal push-pull, synchronous",
        compared_value=sum(ideal) / len(ideal),
        compared_p99=Sample.of([float(value) for value in ideal]).p99,
        note=f"{BOARDS} boards, fan-out {FAN_OUT}, period {PERIOD_MS} ms, until the last event is here; {lost} lost. "
        "Boards pass a rumour on when they first hear it, not only at their next period, so it can be below the ideal",
    )


def _spread_ms(bed: Bed, mark: int, value: str) -> float | None:
    """From the writer's event to the last board's, on this host's clock."""
    told: dict[str, int] = {}

    def complete(event: BoardEvent) -> bool:
        if event.kind in ("written", "merged") and event.fields["value"] == value:
            told.setdefault(event.board, event.received_ns)
        return len(told) == BOARDS

    if bed.telemetry.wait_for(complete, SPREAD_WITHIN_S, since=mark) is None:
        return None
    return (max(told.values()) - min(told.values())) / 1e6


def ideal_rounds(boards: int, fan_out: int, draw: random.Random) -> int:
    """Rounds until all know, in one simulated run of synchronous push-pull."""
    knows = {0}
    rounds = 0
    while len(knows) < boards:
        rounds += 1
        before = frozenset(knows)
        for board in range(boards):
            for other in draw.sample([peer for peer in range(boards) if peer != board], fan_out):
                if board in before or other in before:
                    knows |= {board, other}
    return rounds
