"""How host code waits: on the clock of the wall with threads, or on virtual time (sim/tasks.py). One face for both.

Whoever runs a campaign, injects a fault, plays a client or watches the boards waits through a Pace and through nothing
else; so the very same code runs against boards and in the simulator. Must not know what it is that somebody waits for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol


class Signal(Protocol):
    """A flag that can be waited for; threading.Event is one."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Condition(Protocol):
    """Wait until a predicate holds, looked at again after each notify_all; threading.Condition is one."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *exception: Any) -> Any: ...

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool: ...

    def notify_all(self) -> None: ...


class Inbox(Protocol):
    """A queue of one reader; queue.SimpleQueue is one. `get` raises queue.Empty where nothing came in time."""

    def put(self, item: Any) -> None: ...

    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...


class Task(Protocol):
    """Something that goes on beside; threading.Thread is one."""

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...


class Pace(Protocol):
    """A clock and what waits on it."""

    def now_ns(self) -> int:
        """Nanoseconds of a clock that never goes back; where it begins means nothing."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def signal(self) -> Signal: ...

    def condition(self) -> Condition: ...

    def inbox(self) -> Inbox: ...

    def start(self, function: Callable[[], None], name: str) -> Task: ...


class WallPace:
    """Real time, real threads."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    def signal(self) -> threading.Event:
        return threading.Event()

    def condition(self) -> threading.Condition:
        return threading.Condition()

    def inbox(self) -> queue.SimpleQueue[Any]:
        return queue.SimpleQueue()

    def start(self, function: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=function, name=name, daemon=True)
        thread.start()
        return thread
