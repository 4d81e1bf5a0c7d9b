"""What would explain that a board's state was another than its replay's: one bit, of one field.

A board tells no more than a CRC-32 of its state. So each bit of the replayed state is turned over, one at a time, until
the CRC-32 is the board's: then the field, and the value that the board must have held, are known. What had further
consequences before the look is not found so. Must not leave the state changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from .engine import BoardReplay, BootResult, Missing, Replay, target_name
from .recording import Recording
from .stream import STATE, Entry

LONGEST_S = 20.0
BITS = 63  # of an integer
MOST_TARGETS = 3  # whose state is not the same, that are tried

Leaf = tuple[str, Any, Callable[[Any], None]]


class _Over(Exception):
    """Enough is known, or enough was tried."""


def explain(recording: Recording, results: Sequence[BootResult]) -> None:
    """Note in the first difference of the run, by time, what would explain it."""
    found = [result for result in results if result.difference is not None]
    if not found:
        return
    first = min(found, key=lambda result: _at_ns(recording, result))
    assert first.difference is not None
    told = Explainer(recording, first).run()
    if told is not None:
        first.difference = replace(first.difference, found=told)


def _at_ns(recording: Recording, result: BootResult) -> int:
    assert result.difference is not None
    boots = recording.boards[result.board].boots
    offset_ns = next(boot.offset_ns for boot in boots if boot.number == result.boot)
    return (offset_ns or 0) + result.difference.now_ms * 1_000_000


class Explainer:
    """Replays the board of a difference, and tries at each look that is not the same."""

    def __init__(self, recording: Recording, result: BootResult) -> None:
        self._result = result
        self._told: str | None = None
        self._tried = 0
        self._looks: Iterator[Entry] = iter(())
        self._until_s = time.monotonic() + LONGEST_S
        self._replay = Replay(recording)
        self._board = self._replay.board(result.board)
        self._board.on_boot = self._booted

    def run(self) -> str | None:
        try:
            self._replay.run()
        except (_Over, Missing):
            return self._told
        return self._told

    def _booted(self, board: BoardReplay) -> None:
        assert board.boot is not None and board.node is not None
        if board.boot.number == self._result.boot:
            self._looks = iter([entry for step in board.boot.steps for entry in step if entry.kind == STATE])
            board.node.on_state = self._look

    def _look(self, target: Any, crc: int) -> None:
        entry = next(self._looks, None)
        if entry is None or entry.crc == crc:
            return
        self._told = self._search(target, entry.crc, entry.now_ms)
        self._tried += 1
        if self._told is not None or self._tried == MOST_TARGETS or time.monotonic() > self._until_s:
            raise _Over

    def _search(self, target: Any, wanted: int, now_ms: int) -> str | None:
        node = self._board.node
        assert node is not None
        seen = [node, node.config, node._stored, *(other for other in node.targets() if other is not target)]
        for path, value, put in list(_leaves(target_name(target), target, _nowhere, seen)):
            for other in _flipped(value):
                put(other)
                same = node.state_of(target) == wanted
                put(value)
                if same:
                    return f"one bit would explain it: {path} was {other!r} on the board at {now_ms} ms, not {value!r}"
            if time.monotonic() > self._until_s:
                return None
        return None


def _nowhere(_value: Any) -> None:
    """The target itself is not replaced."""


def _leaves(path: str, value: Any, put: Callable[[Any], None], seen: list[Any]) -> Iterator[Leaf]:
    """Every plain value that hangs on this one, with how to replace it."""
    if isinstance(value, (int, bytes, bytearray)):
        yield path, value, put
    elif isinstance(value, (tuple, list)):
        for index, element in enumerate(value):
            yield from _leaves(f"{path}[{index}]", element, _in_row(value, index, put), seen)
    elif isinstance(value, dict):
        for key, element in value.items():
            yield from _leaves(f"{path}[{key!r}]", element, _in_table(value, key, put), seen)
    elif hasattr(value, "__dict__") and not callable(value) and not any(other is value for other in seen):
        seen.append(value)
        for name in sorted(vars(value)):
            yield from _leaves(f"{path}.{name}", vars(value)[name], _in_part(value, name), seen)


def _in_row(row: Any, index: int, put: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda new: put(type(row)([*row[:index], new, *row[index + 1 :]]))


def _in_table(table: dict[Any, Any], key: Any, put: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda new: put({**table, key: new})


def _in_part(part: Any, name: str) -> Callable[[Any], None]:
    def put(new: Any) -> None:
        vars(part)[name] = new

    return put


def _flipped(value: Any) -> Iterator[Any]:
    """The value with each of its bits turned over."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        for bit in range(BITS):
            yield value ^ 1 << bit
    else:
        for index in range(len(value)):
            for bit in range(8):
                other = bytearray(value)
                other[index] ^= 1 << bit
                yield type(value)(other)
