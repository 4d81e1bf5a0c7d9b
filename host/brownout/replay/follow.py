"""One board of a recording, step by step: to a time, to the step where an expression changes, and back again.

Must not print; the command line does.
"""

from __future__ import annotations

import bdb
import pdb
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..board_events import decode_events
from ..contracts import UsageError
from .engine import BoardReplay, Missing, Replay, frozen, state_of, target_name
from .recording import Recording

WORDS = {"len": len, "any": any, "all": all, "min": min, "max": max, "sum": sum, "sorted": sorted}  # for expressions


class Follower:
    """board: the replayed board as it stands after `step` steps."""

    def __init__(self, recording: Recording, name: str) -> None:
        self._recording = recording
        self._name = name
        self._start()

    def _start(self) -> None:
        self._replay = Replay(self._recording)
        self.board: BoardReplay = self._replay.board(self._name)

    @property
    def step(self) -> int:
        return self.board.step

    @property
    def at_s(self) -> float | None:
        """The run's time at this step, in seconds; None before the first step, or where no event gave it away."""
        boot, entries = self.board.boot, self.board.entries
        if boot is None or not entries or boot.offset_ns is None:
            return None
        return (boot.offset_ns + entries[-1].now_ms * 1_000_000) / 1e9

    def forward(self) -> bool:
        """One step; False at the end of the recording. Other boards run where only they know a message's content."""
        while True:
            try:
                return self.board.advance()
            except Missing:
                before = sum(other.step for other in self._replay.boards.values())
                for other in self._replay.boards.values():
                    if other is not self.board:
                        self._replay.follow(other)
                if sum(other.step for other in self._replay.boards.values()) == before:
                    self._replay.skip([self.board])

    def back(self) -> bool:
        """One step back: everything runs again from the first boot. False where there is none."""
        if self.step <= 1:
            return False
        self.go_to(self.step - 1)
        return True

    def go_to(self, step: int) -> bool:
        """To right after a step; False where the recording ends before it."""
        if step < self.step:
            self._start()
        while self.step < step:
            if not self.forward():
                return False
        return True

    def until(self, at_s: float) -> bool:
        """To the last step before that time of the run; False where the recording ends before it."""
        if self.at_s is not None and self.at_s > at_s:
            self._start()
        while self.forward():
            if self.at_s is not None and self.at_s > at_s:
                self.back()
                return True
        return False

    def until_change(self, expression: str) -> bool:
        """To the first step at which the expression becomes true, or another value, within one boot."""
        code = compiled(expression)
        before, known = None, 0
        while self.forward():
            boot = self.board.result.boot
            value = self.value(code, expression)
            if boot == known and changed(before, value):
                return True
            if boot != known and value is True:
                return True
            before, known = frozen(value), boot
        return False

    # Looking.

    def names(self) -> dict[str, Any]:
        """What an expression may speak of: the protocols and the clock, the node, and what the last step did."""
        board = self.board
        assert board.node is not None
        events = decode_events(b"".join(board.events))
        return {
            **{target_name(target): target for target in board.node.targets()},
            "node": board.node,
            "now_ms": board.node.now_ms,
            "boot": board.result.boot,
            "step": board.step,
            "events": [event[4] for event in events],
            "reported": [{"kind": event[4], **event[5]} for event in events],
            "sent": board.sent,
        }

    def value(self, code: Any, expression: str) -> Any:
        if self.board.node is None:
            return None
        try:
            return eval(code, {"__builtins__": WORDS, **self.names()})
        except Exception as error:
            names = ", ".join(self.names())
            raise UsageError(f"{expression!r}: {type(error).__name__}: {error}; there are: {names}") from None

    def state(self) -> dict[str, Any]:
        """The plain fields of every protocol and of the clock."""
        return {} if self.board.node is None else state_of(self.board.node)

    def debug(self, step: int) -> bool:
        """Python's debugger in the protocol that takes the inputs of that step. False: there is no such step."""
        if not self.go_to(step - 1):
            return False
        self.board.before_inputs = _debugged
        with suppress(bdb.BdbQuit):  # whoever leaves the debugger has seen enough
            return self.forward()
        return True


def _debugged(board: BoardReplay) -> None:
    """Let every handler of the node run in a debugger that stops at its first line."""
    debugger = pdb.Pdb()
    node: Any = board.node
    handlers: dict[int, Callable[..., None]] = node._handlers
    ticks = [type(protocol).on_tick for protocol in node.protocols]
    for kind, handler in list(handlers.items()):
        handlers[kind] = partial(debugger.runcall, handler)
    for protocol, tick in zip(node.protocols, ticks, strict=True):
        protocol.on_tick = partial(debugger.runcall, tick, protocol)


def compiled(expression: str) -> Any:
    """UsageError where it is no expression."""
    try:
        return compile(expression, "--break", "eval")
    except SyntaxError as error:
        raise UsageError(
            f"--break {expression!r}: {error.msg}; give a Python expression, such as 'vote.locked'"
        ) from None


def changed(before: Any, value: Any) -> bool:
    """Whether a step counts: something that is or is not has come to be; anything else has changed."""
    if isinstance(value, bool) and isinstance(before, bool):
        return value and not before
    return bool(before != value)
