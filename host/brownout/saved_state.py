"""A board's voted state as the host holds it: the pages of core/catchup.py, fetched from a board and given to another.

Talks to boards as a client does, by commands and answers through the broker, on any rung. A board that is asked serves
what it would serve a board that is behind; one that is given a state decides by itself whether it takes it
(core/recovery.py). Must not touch files, and must not decide whose state is worth keeping.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

from brownout_node.core import codec, recovery, schema
from brownout_node.core.errors import MessageError
from brownout_node.core.register import PAGE

from .mqtt_connection import Connect
from .pace import Pace

CLIENT = 999_998  # the controller's number for saving and restoring
ASK_AGAIN_S = 0.25  # a page that does not come is asked for again
MOST_PAGES = 1000


@dataclass(frozen=True)
class SavedState:
    """What a board had applied: every height below `height`. pages: as they went over the wire."""

    height: int
    pages: tuple[bytes, ...]

    @cached_property
    def content(self) -> tuple[int, list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """(floor, registers, sessions). MessageError where the pages hold anything else."""
        floor, registers, sessions = 0, [], []
        for page in self.pages:
            floor, values, rows = codec.unpack(PAGE, page)
            registers += values
            sessions += rows
        return floor, registers, sessions

    @property
    def registers(self) -> dict[str, str]:
        return {key: value for key, value in self.content[1] if value is not None}

    @property
    def digest(self) -> bytes:
        """As the board makes it (core/register.py): the same if, and only if, height and state are the same."""
        floor, registers, sessions = self.content
        state = sha256(codec.pack("uu", (self.height, floor)))
        for row in registers:
            state.update(codec.pack("kv", row))
        for row in sessions:
            state.update(codec.pack("uuuvu", row))
        return state.digest()[:8]

    @property
    def check(self) -> bytes:
        """What a board compares the pages with before it takes them."""
        return sha256(b"".join(self.pages)).digest()[:8]

    @property
    def options(self) -> dict[str, int]:
        """The options of `recovery` by which a cluster begins with this state."""
        return {"from_height": self.height, "from_check": recovery.check_number(self.check)}


@dataclass(frozen=True)
class Restoration:
    """How far a board came. next_height: as it said last. reason: why it took nothing, or None."""

    complete: bool
    next_height: int
    reason: str | None = None


class StateClient:
    """The controller's talk with boards about their states. numbers: by name. Use as a context manager."""

    def __init__(self, connect: Connect, bed: str, cluster: int, pace: Pace, numbers: Mapping[str, int]) -> None:
        self._connect = connect
        self._bed = bed
        self._cluster = cluster
        self._pace = pace
        self._numbers = numbers
        self._inbox = pace.inbox()
        self._sequence = 0

    def __enter__(self) -> Self:
        self._connection = self._connect([(f"{self._bed}/re/{CLIENT}", 0)], self._take)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def _take(self, topic: str, payload: bytes) -> None:
        if topic == f"{self._bed}/re/{CLIENT}":
            self._inbox.put(payload)

    def fetch(self, name: str, within_s: float) -> SavedState | None:
        """The state of a board; None where it does not serve it in time."""
        until_ns = self._pace.now_ns() + int(within_s * 1e9)
        height = 0
        pages: list[bytes] = []
        while self._pace.now_ns() < until_ns:
            answer = self._ask(name, schema.STATE_FETCH, (height, len(pages)), schema.STATE_PAGE, until_ns)
            if answer is None:
                continue
            found, page, count, data = answer
            if found != height or page != len(pages):
                height, pages = found, []  # what the board had frozen is gone: from the first page of what it has now
                if page:
                    continue
            pages.append(bytes(data))
            if len(pages) >= min(count, MOST_PAGES):
                return SavedState(height, tuple(pages))
        return None

    def give(self, name: str, state: SavedState, within_s: float) -> Restoration:
        """Give a board that does not vote a state; complete where it has reached that height, by whatever way."""
        until_ns = self._pace.now_ns() + int(within_s * 1e9)
        page, next_height = 0, 0
        while self._pace.now_ns() < until_ns:
            fields = (state.height, page, len(state.pages), state.check, state.pages[page])
            answer = self._ask(name, recovery.RESTORE, fields, recovery.RESTORE_ANSWER, until_ns)
            if answer is None:
                continue
            next_height, page, refused, reason = answer
            if refused:
                return Restoration(False, next_height, reason)
            if next_height >= state.height:
                return Restoration(True, next_height)
            page = min(page, len(state.pages) - 1)
        return Restoration(False, next_height, f"no answer within {within_s:.0f} s")

    def decides(self, name: str, within_s: float) -> int | None:
        """A read through the log, which takes a majority: its height, or None where it was not answered in time."""
        until_ns = self._pace.now_ns() + int(within_s * 1e9)
        request = int(time.time() * 1000)  # above those of an earlier process: the state knows this client's last one
        while self._pace.now_ns() < until_ns:
            fields = (request, schema.GET, "recovery", None, None)
            answer = self._ask(name, schema.COMMAND, fields, schema.REPLY, until_ns)
            if answer is not None and answer[1] == request and answer[2] == schema.OK:
                return int(answer[4])
        return None

    def _ask(self, name: str, kind: int, fields: Sequence[Any], wanted: int, until_ns: int) -> tuple[Any, ...] | None:
        """Send one message, and wait a moment for that board's next answer of that kind."""
        self._sequence += 1
        message = codec.encode_message(self._cluster, CLIENT, 0, self._sequence, kind, fields)
        self._connection.publish(f"{self._bed}/cmd/{name}", message)
        again_ns = min(until_ns, self._pace.now_ns() + int(ASK_AGAIN_S * 1e9))
        while (left_ns := again_ns - self._pace.now_ns()) > 0:
            try:
                _, source, _, _, found, answer = codec.decode_message(self._inbox.get(timeout=left_ns / 1e9))
            except (queue.Empty, MessageError):
                continue
            if source == self._numbers[name] and found == wanted:
                return tuple(answer)
        return None
