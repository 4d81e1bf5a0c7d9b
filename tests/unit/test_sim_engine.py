"""Virtual time: the engine's order, and host code that waits on it."""

from __future__ import annotations

import queue

import pytest
from brownout.sim.engine import Engine
from brownout.sim.tasks import Deadlock, VirtualPace
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(0, 20), max_size=30))
def test_calls_come_in_order_of_time_and_then_of_scheduling(times: list[int]) -> None:
    engine = Engine()
    called: list[tuple[int, int]] = []
    for number, time_ns in enumerate(times):
        engine.at(time_ns, lambda entry: called.append(entry), (time_ns, number))
    engine.run(100)
    assert called == sorted(called)
    assert len(called) == len(times) == engine.calls
    assert engine.now_ns == 100


def test_the_past_is_now_and_what_is_due_later_waits() -> None:
    engine = Engine()
    engine.run(50)
    seen: list[int] = []
    engine.at(10, lambda: seen.append(engine.now_ns))
    engine.at(60, lambda: seen.append(engine.now_ns))
    engine.run(59)
    assert seen == [50]
    engine.run(60)
    assert seen == [50, 60]


def drive(function) -> VirtualPace:  # noqa: ANN001
    pace = VirtualPace(Engine())
    try:
        pace.run(lambda: function(pace))
    finally:
        pace.close()
    return pace


def test_sleeping_takes_virtual_time_only() -> None:
    def course(pace: VirtualPace) -> None:
        pace.sleep(3600)
        assert pace.now_ns() >= 3600 * 10**9

    assert drive(course).engine.now_ns < 3601 * 10**9


def test_tasks_take_turns_and_are_joined() -> None:
    told: list[str] = []

    def course(pace: VirtualPace) -> None:
        def worker(name: str, pause_s: float) -> None:
            for turn in range(3):
                pace.sleep(pause_s)
                told.append(f"{name}{turn}")

        tasks = [pace.start(lambda: worker("a", 1.0), "a"), pace.start(lambda: worker("b", 0.4), "b")]
        tasks[1].join(0.5)
        assert tasks[1].is_alive()
        for task in tasks:
            task.join()
            assert not task.is_alive()

    drive(course)
    assert told == ["b0", "b1", "a0", "b2", "a1", "a2"]


def test_a_signal_wakes_whoever_waits_and_time_outs_are_told() -> None:
    def course(pace: VirtualPace) -> None:
        signal = pace.signal()
        assert not signal.wait(0.25)
        assert 250_000_000 <= pace.now_ns() < 250_000_010
        pace.engine.at(pace.now_ns() + 10, signal.set)
        assert signal.wait(5)
        assert pace.now_ns() < 300_000_000
        assert signal.wait(0)

    drive(course)


def test_a_condition_holds_when_it_is_told_that_something_changed() -> None:
    def course(pace: VirtualPace) -> None:
        condition = pace.condition()
        values: list[int] = []

        def add() -> None:
            values.append(1)
            condition.notify_all()

        for at_s in (1, 2, 3):
            pace.engine.at(at_s * 10**9, add)
        assert condition.wait_for(lambda: len(values) == 2, 10)
        assert pace.now_ns() == 2 * 10**9
        assert not condition.wait_for(lambda: len(values) == 9, 10)
        assert len(values) == 3

    drive(course)


def test_an_inbox_hands_over_in_order_or_says_that_it_is_empty() -> None:
    def course(pace: VirtualPace) -> None:
        inbox = pace.inbox()
        with pytest.raises(queue.Empty):
            inbox.get(timeout=1)
        pace.engine.at(2 * 10**9, inbox.put, "first")
        pace.engine.at(2 * 10**9, inbox.put, "second")
        assert inbox.get(timeout=5) == "first"
        assert inbox.get(timeout=5) == "second"
        assert pace.now_ns() == 2 * 10**9

    drive(course)


def test_a_pause_shorter_than_a_nanosecond_still_passes() -> None:
    def course(pace: VirtualPace) -> None:
        before = pace.now_ns()
        pace.sleep(1e-12)
        assert pace.now_ns() > before  # a loop that sleeps for the rest of its time must end

    drive(course)


def test_what_another_task_raises_is_raised_in_the_one_that_runs_the_show() -> None:
    order: list[str] = []

    def course(pace: VirtualPace) -> None:
        def fail() -> None:
            pace.sleep(1)
            raise ValueError("of the worker")

        pace.start(fail, "worker")
        try:
            pace.sleep(100)
        finally:
            pace.sleep(1)  # whoever puts things in order may wait
            order.append("in order")

    with pytest.raises(ValueError, match="of the worker"):
        drive(course)
    assert order == ["in order"]


def test_an_interrupt_reaches_the_one_that_runs_the_show() -> None:
    def course(pace: VirtualPace) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        pace.engine.at(5, interrupt)
        pace.sleep(100)

    with pytest.raises(KeyboardInterrupt):
        drive(course)


def test_waiting_for_what_cannot_come_is_said() -> None:
    with pytest.raises(Deadlock):
        drive(lambda pace: pace.signal().wait())
