"""Clocks of boards and intervals of figures, against what is known to be true."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from brownout.analysis.intervals import difference, median_interval, median_weights
from brownout.analysis.record import Record
from brownout.campaign_file import load_campaign
from brownout.faults import plan
from brownout.history import BoardEvent, History, Operation, Outcome
from brownout.rig import load_rig
from brownout.session import Session
from brownout.sim.bed import SimBed
from brownout.sim.runs import MemoryRecord
from eventful_runs import save

RIG = load_rig("sim")
MS = 1_000_000


def simulated(base: Path, name: str) -> tuple[Path, SimBed]:
    """A run's folder, and the bed that it ran on."""
    the_plan = plan(load_campaign(name), RIG, 1)
    assert RIG.simulated is not None
    bed = SimBed(RIG.simulated, the_plan, RIG)
    record = MemoryRecord(the_plan)
    Session(the_plan, RIG, record, bed).run()
    return save(record.history(), base), bed


def test_the_true_offset_of_simulated_boards_is_inside_the_bound(tmp_path: Path) -> None:
    folder, bed = simulated(tmp_path, "broker-loss")
    with Record(folder) as record:
        windows = [window for window in record.clocks if window.bound_ns is not None]
        last = {name: max(w.boot for w in record.clocks if w.board == name) for name in bed.world.boards}
    judged = inside = 0
    for window in windows:
        if window.boot != last[window.board]:
            continue  # the bed knows when the last life of a board began
        began_ns = bed.world.boards[window.board]._booted_ns
        judged += 1
        # A count of milliseconds stands for any instant within one: both ends of it are to be inside.
        inside += all(abs(window.base_ns - at_ns) <= (window.bound_ns or 0) for at_ns in (began_ns, began_ns + MS))
    assert judged >= 10
    assert inside >= 0.99 * judged
    assert {window.board for window in windows} == set(bed.world.boards)


def world_of_clocks(draw: random.Random, boards: int, jump_ms: int = 0) -> tuple[History, dict[tuple[str, int], int]]:
    """Boards whose crystals are off by up to 50 parts in a million, and messages that take as long as they like.

    Also the true instant of each event, by board and sequence.
    """
    events, operations, truth = [], [], {}
    for board in range(1, boards + 1):
        began_ns = draw.randrange(10**9)
        rate = 1 + draw.uniform(-50e-6, 50e-6)
        at_ns = began_ns
        for sequence in range(1, 120):
            at_ns += draw.randrange(50 * MS, 500 * MS)
            counted_ms = int((at_ns - began_ns) * rate / MS) + (jump_ms if sequence > 60 else 0)
            sent_ns = at_ns - int(draw.expovariate(1 / (8 * MS))) - 1
            received_ns = at_ns + int(draw.expovariate(1 / (3 * MS))) + 1
            operation = Operation(1, board, sequence, "put", "k", "v", None, f"b{board}", sent_ns)
            operation.finished_ns, operation.outcome = received_ns, Outcome.OK
            operations.append(operation)
            fields = {"client": board, "request": sequence}
            events.append(BoardEvent(f"b{board}", 1, sequence, counted_ms, 0, "submitted", fields, received_ns, "mqtt"))
            truth[(f"b{board}", sequence)] = at_ns
    manifest = {"campaign": "clocks", "seed": 1, "roster": [[n, f"b{n}", 1] for n in range(1, boards + 1)]}
    return History(operations, events, [], [], manifest, {"faults": []}), truth


@pytest.mark.parametrize("jump_ms", [0, 700])
def test_every_time_is_inside_its_bound_though_clocks_drift_and_jump(tmp_path: Path, jump_ms: int) -> None:
    history, truth = world_of_clocks(random.Random(7), 8, jump_ms)
    with Record(save(history, tmp_path)) as record:
        bounds = {(w.board, w.from_ms): w for w in record.clocks}
        width = {board: min(w.until_ms - w.from_ms for w in record.clocks if w.board == board) for board, _ in bounds}
        rows = record.rows("SELECT board, sequence, now_ms, at_ns FROM timed")
    inside = narrow = 0
    for board, sequence, now_ms, at_ns in rows:
        window = bounds[(board, now_ms // width[board] * width[board])]
        assert window.bound_ns is not None
        inside += abs(at_ns - truth[(board, sequence)]) <= window.bound_ns
        narrow += window.bound_ns <= 10 * MS
    assert inside >= 0.99 * len(rows)
    if not jump_ms:
        assert narrow >= 0.99 * len(rows)  # a bound that is wide enough for anything would say nothing


def test_the_interval_of_a_median_is_what_drawing_comes_to() -> None:
    draw = random.Random(3)
    values = [draw.lognormvariate(0, 1) for _ in range(41)]
    interval = median_interval(values)
    assert interval is not None and interval.low < interval.median < interval.high
    drawn = sorted(sorted(draw.choices(values, k=41))[20] for _ in range(4000))
    exact = median_interval(values, 0.9)
    assert exact is not None
    assert sum(value < exact.low for value in drawn) / 4000 <= 0.06
    assert sum(value > exact.high for value in drawn) / 4000 <= 0.06
    assert sum(value <= exact.low for value in drawn) / 4000 >= 0.04
    for count in (2, 5, 400, 401, 5000):
        assert sum(median_weights(count)) == pytest.approx(1)


def test_intervals_of_few_values_promise_nothing() -> None:
    assert median_interval([]) is None
    lone = median_interval([4.0])
    assert lone is not None
    assert json.dumps(lone.document()) == '{"median": 4.0, "low": null, "high": null, "count": 1}'


def test_a_change_is_seen_and_chance_is_not() -> None:
    draw = random.Random(5)
    before = [draw.gauss(100, 10) for _ in range(30)]
    slower = [draw.gauss(120, 10) for _ in range(30)]
    moved = difference(before, slower)
    assert moved is not None and moved.moved and moved.low <= 20 <= moved.high
    false = sum(
        change.moved
        for change in (
            difference([draw.gauss(0, 1) for _ in range(6)], [draw.gauss(0, 1) for _ in range(6)]) for _ in range(100)
        )
        if change is not None
    )
    assert false <= 13  # 5 are expected; more than 13 come by chance once in 2,000 times
    exact = difference([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert exact is not None and exact.exact and exact.chance == pytest.approx(0.1) and not exact.moved
    assert difference([], [1.0]) is None
