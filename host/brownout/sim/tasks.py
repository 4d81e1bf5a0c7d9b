"""Host code that waits, on virtual time: each task is a greenlet that leaves to the engine whenever it would block.

Satisfies pace.Pace. One task runs at a time and only the engine decides which is next, so a run of many tasks is as
deterministic as the engine. Code that the engine calls directly (boards, the network) must not wait.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

import greenlet

from .engine import Engine


class Deadlock(Exception):
    """Every task waits, and nothing is due that could wake one."""


class _Sleeper:
    """A parked task. Whoever wakes it first wins; the other comes too late and does nothing."""

    __slots__ = ("_engine", "_greenlet", "woken")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._greenlet = greenlet.getcurrent()
        self.woken = False

    def wake(self, value: bool = True) -> None:
        if not self.woken:
            self.woken = True
            self._engine.at(self._engine.now_ns, self._greenlet.switch, value)

    def time_out(self) -> None:
        if not self.woken:
            self.woken = True
            self._greenlet.switch(False)


class VirtualSignal:
    def __init__(self, pace: VirtualPace) -> None:
        self._pace = pace
        self._set = False
        self._sleepers: list[_Sleeper] = []

    def set(self) -> None:
        self._set = True
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            sleeper.wake()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper.woken]
            self._pace.park(self._sleepers.append, timeout)
        return self._set


class VirtualCondition:
    """Only one task runs at a time, so there is nothing to lock."""

    def __init__(self, pace: VirtualPace) -> None:
        self._pace = pace
        self._waiting: list[tuple[Callable[[], bool], _Sleeper]] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: Any) -> None:
        return None

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if predicate():
            return True
        self._pace.park(lambda sleeper: self._waiting.append((predicate, sleeper)), timeout)
        return predicate()

    def notify_all(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for predicate, sleeper in waiting:
            if sleeper.woken:
                continue
            if predicate():
                sleeper.wake()
            else:
                self._waiting.append((predicate, sleeper))


class VirtualInbox:
    def __init__(self, pace: VirtualPace) -> None:
        self._pace = pace
        self._items: deque[Any] = deque()
        self._reader: _Sleeper | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._items and block:
            self._pace.park(self._await, timeout)
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def _await(self, sleeper: _Sleeper) -> None:
        self._reader = sleeper


class VirtualTask:
    def __init__(self, pace: VirtualPace, function: Callable[[], None], name: str) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._pace = pace
        self._function = function
        self._over = VirtualSignal(pace)
        self.greenlet = greenlet.greenlet(self._run, pace.hub)

    def _run(self, *_arguments: Any) -> None:
        try:
            self._function()
        except BaseException as error:
            self.error = error
            self._pace.failed(self)
        finally:
            self._over.set()

    def join(self, timeout: float | None = None) -> None:
        self._over.wait(timeout)

    def is_alive(self) -> bool:
        return not self._over.is_set()


class VirtualPace:
    """Make it in the greenlet that calls `run`: that one is the hub, which drives the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.hub = greenlet.getcurrent()
        self._tasks: list[VirtualTask] = []
        self._failure: VirtualTask | None = None

    def now_ns(self) -> int:
        return self.engine.now_ns

    def park(self, register: Callable[[_Sleeper], None], timeout_s: float | None) -> None:
        """Leave to the engine until woken, or until the time is over."""
        sleeper = _Sleeper(self.engine)
        register(sleeper)
        if timeout_s is not None:
            # Rounded up: whoever waits for the rest of a nanosecond has to get past it.
            self.engine.at(self.engine.now_ns + max(0, int(timeout_s * 1e9)) + 1, sleeper.time_out)
        self.hub.switch()

    def sleep(self, seconds: float) -> None:
        self.park(lambda _sleeper: None, seconds)

    def signal(self) -> VirtualSignal:
        return VirtualSignal(self)

    def condition(self) -> VirtualCondition:
        return VirtualCondition(self)

    def inbox(self) -> VirtualInbox:
        return VirtualInbox(self)

    def start(self, function: Callable[[], None], name: str) -> VirtualTask:
        task = VirtualTask(self, function, name)
        self._tasks.append(task)
        self.engine.at(self.engine.now_ns, task.greenlet.switch)
        return task

    def run(self, function: Callable[[], None]) -> None:
        """Run `function` as a task, and everything else that is due, until it ends; what it raises is raised.

        What another task or a call of the engine raises is raised in it, where it waits: it has to put things in order.
        """
        main = self.start(lambda: self._main(function), "main")
        while main.is_alive():
            error: BaseException | None = None
            try:
                self.engine.run_until_stopped()
            except BaseException as raised:
                error = raised
            if self._failure is not None and self._failure is not main:
                error = self._failure.error
            self._failure = None
            if main.is_alive():
                main.greenlet.throw(error or Deadlock("every task of the run waits for what cannot come"))
        if main.error is not None:
            raise main.error

    def _main(self, function: Callable[[], None]) -> None:
        try:
            function()
        finally:
            self.engine.stop()

    def failed(self, task: VirtualTask) -> None:
        """A task has raised something."""
        if self._failure is None and not isinstance(task.error, greenlet.GreenletExit):
            self._failure = task
            self.engine.stop()

    def close(self) -> None:
        """End what still waits."""
        for task in self._tasks:
            if not task.greenlet.dead and task.greenlet.gr_frame is not None:
                task.greenlet.throw(greenlet.GreenletExit)
