"""Figures are worked out from histories whose answer is known by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from brownout.analysis import coverage, summarise
from brownout.analysis.convergence import item_spreads, mean_curve
from brownout.analysis.distribution import distribution, percentile
from brownout.analysis.latency import decision_times, operation_latencies
from brownout.analysis.recovery import recoveries
from brownout.analysis.tables import board_metrics, connect, events_by_board
from brownout.store import load
from eventful_runs import eventful, save
from history_builder import World, healthy, is_event
from hypothesis import given
from hypothesis import strategies as st


def test_percentiles_are_measured_values() -> None:
    assert [percentile([1, 2, 3, 4], percent) for percent in (1, 25, 50, 75, 99, 100)] == [1, 1, 2, 3, 4, 4]
    assert distribution([]) == {"count": 0}
    assert distribution([5.0]) == {"count": 1, "min": 5.0, "p50": 5.0, "p90": 5.0, "p99": 5.0, "max": 5.0}


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_at_least_the_percentage_is_no_greater(values: list[float]) -> None:
    values.sort()
    for percent in (50, 90, 99):
        assert percentile(values, percent) in values
        assert sum(value <= percentile(values, percent) for value in values) * 100 >= percent * len(values)


def test_a_decision_is_timed_on_the_proposers_clock_and_until_all_voters() -> None:
    world = World(3)
    world.boot()
    world.decide([(1000, 1, "put", "k", "v", None)])
    (decision,) = decision_times(world.history())
    # Steps of a millisecond: proposal, 3 prevotes, 3 precommits, then each board decides and applies.
    assert (decision.height, decision.round, decision.proposer) == (1, 0, "b1")
    assert (decision.own_ms, decision.all_ms) == (7.0, 11.0)


def test_a_decision_whose_proposal_was_not_told_has_no_latency() -> None:
    world = World(3)
    world.boot()
    world.decide([(1000, 1, "put", "k", "v", None)])
    world.drop(is_event("b1", "proposed"))
    (decision,) = decision_times(world.history())
    assert decision.own_ms is None and decision.all_ms is None


def test_the_spread_of_an_update() -> None:
    world = World(4)
    world.boot()
    written = world.write("b1", "colour", "red", merged_by=[])
    for wait_s, board in ((0.009, "b3"), (0.009, "b2"), (0.979, "b4")):
        world.wait(wait_s)
        world.merge(board, written)
    world.write("b2", "colour", "blue", merged_by=["b1"])
    first, second = item_spreads(world.history())
    assert first.arrivals_ms == (0.0, 11.0, 21.0, 1001.0)  # answering the client takes a millisecond too
    assert (first.half_ms, first.most_ms, first.all_ms) == (11.0, 1001.0, 1001.0)
    assert second.all_ms is None and second.half_ms is not None
    curve = mean_curve([first.arrivals_ms[1:], second.arrivals_ms[1:]], 4, points=10)
    assert curve[0] == (0.0, 0.25) and curve[-1] == (1001.0, 1.0)
    assert mean_curve([], 4) == []


def test_operations_are_timed_as_the_client_saw_them() -> None:
    world = World(3)
    world.boot()
    world.ask("put", "k", "unanswered")
    item = world.operate("put", "k", "v")
    assert operation_latencies(world.history()) == {"put": [(item.finished_ns - item.invoked_ns) / 1e6]}


def test_recovery_after_a_heal() -> None:
    world = healthy()
    (recovery,) = recoveries(world.history())
    assert (recovery.fault, recovery.kind) == ("f01", "cut")
    assert recovery.first_decision_s == pytest.approx(0.009) and recovery.first_operation_s == pytest.approx(0.015)
    assert recovery.caught_up_s == {"b3": 0.0}
    world.cut("f02", "b1")
    last = recoveries(world.history())[-1]
    assert last.first_decision_s is None and last.document()["first_operation_s"] is None


def test_metrics_and_coverage_of_a_whole_run() -> None:
    history = eventful(operations=40).history()
    metrics, covered = summarise(history), coverage(history)
    assert metrics["decision_ms_on_the_proposers_clock"]["count"] > 40
    assert set(metrics["operation_ms"]) >= {"put", "get", "write"}
    assert covered["faults"]["split"] == {"applied": 1, "healed": 1, "planned": 1, "proven": 1}
    assert covered["boots"] == 5 + 1 + 5
    assert covered["operations"]["put"]["info"] >= 4


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_answers_questions_in_sql(tmp_path: Path, finished: bool) -> None:
    history = eventful(operations=40).history()
    folder = save(history, tmp_path, finished=finished)
    assert (folder / "events.parquet").exists() is finished
    with connect(folder) as tables:
        (events,) = tables.execute("SELECT count(*) FROM events").fetchone() or (0,)
        (puts,) = tables.execute("SELECT count(*) FROM operations WHERE operation = 'put'").fetchone() or (0,)
        (cuts,) = tables.execute("SELECT count(DISTINCT id) FROM faults WHERE stage = 'proven'").fetchone() or (0,)
    assert (events, cuts) == (len(history.events), 4)
    assert puts == sum(item.operation == "put" for item in history.operations)
    assert sum(count for _, _, count in events_by_board(folder)) == len(history.events)
    assert load(folder).events == history.events


def test_counters_add_up_over_the_lives_of_a_board(tmp_path: Path) -> None:
    world = World(1)
    metrics = {"heap_free": 90, "late_worst_ms": 3, "received": 5, "sent": 5, "persists": 2, "programs": 2, "erases": 0}
    world.boot()
    world.tell("b1", "metrics", **metrics)
    world.tell("b1", "metrics", **{**metrics, "received": 9, "heap_free": 70})
    world.boot()
    world.tell("b1", "metrics", **{**metrics, "late_worst_ms": 8})
    assert board_metrics(save(world.history(), tmp_path)) == {
        "b1": {
            "received": 14,
            "sent": 10,
            "persists": 4,
            "programs": 4,
            "erases": 0,
            "least_heap_free": 70,
            "late_worst_ms": 8,
        }
    }
