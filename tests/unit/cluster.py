"""A cluster of real nodes in virtual time: one seed, one run, whatever the interpreter of the day.

Boards run the real Node and the real step over a journal in memory. Messages have latency, get lost, come twice and
overtake each other; links are cut in one direction or both; power is cut at any effect of a step, between persist and
send too; a board restarts from what its journal held then. The harness knows no protocol: it takes any configuration,
records what was sent, emitted and answered, and judges nothing.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import cbor2
from brownout import protocols
from brownout_node.core import codec, schema
from brownout_node.core import step as real_step
from brownout_node.core.config import Config
from brownout_node.core.errors import MessageError
from brownout_node.core.node import Node

CLUSTER = 7
ABOUT = ("harness", "0", b"\0" * 8, "power")


class PowerCut(Exception):
    """The supply of a board went away in the middle of a step."""


class Sent(NamedTuple):
    """One message as it left a board."""

    time_ms: int
    source: int
    boot: int
    to: int
    kind: int
    fields: tuple[Any, ...]


class Event(NamedTuple):
    """One telemetry event."""

    time_ms: int
    board: int
    boot: int
    sequence: int
    name: str
    fields: dict[str, Any]


class Reply(NamedTuple):
    """An answer that left a board for a client."""

    time_ms: int
    board: int
    client: int
    request: int
    status: int
    value: str | None
    height: int


class MemoryJournal:
    """What a board's journal promises, on a dict: atomic, durable appends; records as of the last append."""

    def __init__(self, board: int) -> None:
        self.records: dict[int, bytes] = {schema.JOURNAL_GENESIS: codec.pack("uu", (CLUSTER, board))}
        self.condition = schema.JOURNAL_VALID
        self.appends = 0
        self.largest_append = 0

    def open(self) -> None:
        self.condition = schema.JOURNAL_VALID if self.records else schema.JOURNAL_MISSING

    def wipe(self) -> None:
        self.records.clear()

    def get(self, key: int) -> bytes | None:
        return self.records.get(key)

    def keys(self, low: int, high: int) -> list[int]:
        """Sorted keys from low up to, not including, high."""
        return sorted(key for key in self.records if low <= key < high)

    def append(self, records: Sequence[tuple[int, bytes | None]]) -> None:
        self.appends += 1
        self.largest_append = max(self.largest_append, sum(16 + len(value or b"") for _, value in records))
        for key, value in records:
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = bytes(value)


class Board:
    """One board: its journal outlives its power, its node does not."""

    def __init__(self, board: int, phase_ms: int, journal: Any) -> None:
        self.board = board
        self.phase_ms = phase_ms  # ticks of different boards fall at different times
        self.journal = journal
        self.node: Node | None = None
        self.starts = 0
        self.booted_ms = 0
        self.effects_left = -1  # power goes after that many effects; below zero: it stays
        self.cuts = 0

    def effect(self) -> None:
        """One effect is about to be done; raise where the power goes first."""
        if self.effects_left == 0:
            self.effects_left = -1
            raise PowerCut
        if self.effects_left > 0:
            self.effects_left -= 1

    # The journal as step() sees it: power can go before the records are durable, or right after.

    def append(self, records: Sequence[tuple[int, bytes | None]]) -> None:
        self.effect()
        self.journal.append(records)
        self.effect()


class Cluster:
    """Boards 1..voters vote (with `weights`, 1 each by default), the `learners` after them do not.

    Everything starts with `power_on`; `start=True` does it for all. `overrides` are keys of a board's configuration.
    """

    def __init__(
        self,
        seed: int = 1,
        voters: int = 5,
        learners: int = 0,
        *,
        weights: Sequence[int] | None = None,
        latency_ms: tuple[int, int] = (1, 1),
        loss_percent: float = 0,
        duplicate_percent: float = 0,
        late_percent: float = 0,
        late_ms: int = 500,
        step: Callable[..., bool] = real_step.step,
        journal: Callable[[int], Any] = MemoryJournal,
        start: bool = True,
        **overrides: Any,
    ) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.weights = list(weights or [1] * voters) + [0] * learners
        self.roster = [[index + 1, f"b{index + 1}", weight] for index, weight in enumerate(self.weights)]
        self.overrides = overrides
        self.latency_ms = latency_ms
        self.loss_percent = loss_percent
        self.duplicate_percent = duplicate_percent
        self.late_percent = late_percent
        self.late_ms = late_ms
        self.step = step
        self.now_ms = 0
        self.sent: list[Sent] = []
        self.events: list[Event] = []
        self.replies: list[Reply] = []
        self.on_sent: list[Callable[[Sent], None]] = []
        self.cut: set[tuple[int, int]] = set()  # directed pairs (source, target)
        self.drop: Callable[[Sent, int], bool] | None = None  # whether this message to this board is lost
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self.boards = {row[0]: Board(row[0], self.random.randrange(1000), journal(row[0])) for row in self.roster}
        if start:
            for board in self.boards:
                self.power_on(board)

    @property
    def voters(self) -> list[int]:
        return [row[0] for row in self.roster if row[2]]

    @property
    def running(self) -> list[int]:
        return [board for board, state in self.boards.items() if state.node is not None]

    def node(self, board: int) -> Node:
        node = self.boards[board].node
        assert node is not None, f"board {board} is off"
        return node

    # Power and storage.

    def power_on(self, board: int) -> None:
        state = self.boards[board]
        if state.node is not None:
            return
        document = {"cluster": CLUSTER, "board": board, "bed": "t", "seed": self.seed, "roster": self.roster}
        document.update(self.overrides)
        document.update(protocols.keys_of(self.overrides.get("protocols", ()), self.seed, board, self.boards))
        config = Config(document)
        state.journal.open()
        state.starts += 1
        state.booted_ms = self.now_ms
        state.node = Node(config, state.journal, ABOUT, self.random.getrandbits(24))
        self._carry_out(state)
        self._at(self.now_ms + 1 + state.phase_ms % config.tick_ms, self._tick, board, state.starts)

    def power_off(self, board: int) -> None:
        self.boards[board].node = None

    def power_off_within(self, board: int, effects: int) -> None:
        """Cut the power before the effect number `effects` (0 is the next) of what the board does from now on.

        An append counts twice, as it can be cut before or after it is durable; a send and an emit once each.
        """
        self.boards[board].effects_left = effects

    def wipe(self, board: int) -> None:
        """Lose the journal, genesis and all; only while the board is off."""
        assert self.boards[board].node is None
        self.boards[board].journal.wipe()

    # Links.

    def cut_link(self, source: int, target: int) -> None:
        self.cut.add((source, target))

    def split(self, groups: Iterable[Iterable[int]]) -> None:
        """Boards of different groups do not hear each other."""
        side = {board: index for index, group in enumerate(groups) for board in group}
        self.cut = {(a, b) for a in self.boards for b in self.boards if side.get(a) != side.get(b)}

    def isolate(self, board: int) -> None:
        for other in self.boards:
            self.cut |= {(board, other), (other, board)}

    def heal(self) -> None:
        self.cut = set()

    def calm(self) -> None:
        """No more faults: links whole, messages on time, every board on."""
        self.heal()
        self.drop = None
        self.loss_percent = self.duplicate_percent = self.late_percent = 0
        for board, state in self.boards.items():
            state.effects_left = -1
            self.power_on(board)

    # Time and input.

    def at(self, time_ms: int, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function at a virtual time."""
        self._at(time_ms, function, *arguments)

    def run(self, for_ms: int) -> None:
        end_ms = self.now_ms + for_ms
        while self._queue and self._queue[0][0] <= end_ms:
            self._next()
        self.now_ms = end_ms

    def run_until(self, condition: Callable[[], bool], within_ms: int) -> bool:
        """Run until the condition holds; False where it does not within the bound."""
        end_ms = self.now_ms + within_ms
        while not condition():
            if not self._queue or self._queue[0][0] > end_ms:
                self.now_ms = end_ms
                return condition()
            self._next()
        return True

    def command(
        self,
        board: int,
        client: int,
        request: int,
        operation: int,
        key: str,
        value: str | None = None,
        expected: str | None = None,
    ) -> bool:
        """Hand a client's command to a board; False where it is off."""
        state = self.boards[board]
        if state.node is None:
            return False
        state.node.command(client, request, operation, key, value, expected, self.now_ms - state.booted_ms)
        self._carry_out(state)
        return True

    def receive(self, source: int, target: int, data: bytes) -> None:
        """Deliver raw bytes to a board, as if from `source`, at once."""
        state = self.boards[target]
        if state.node is not None:
            state.node.receive(source, data, self.now_ms - state.booted_ms)
            self._carry_out(state)

    def _at(self, time_ms: int, function: Callable[..., None], *arguments: Any) -> None:
        self._order += 1
        heapq.heappush(self._queue, (time_ms, self._order, function, arguments))

    def _next(self) -> None:
        self.now_ms, _, function, arguments = heapq.heappop(self._queue)
        function(*arguments)

    def _tick(self, board: int, start: int) -> None:
        state = self.boards[board]
        if state.node is None or state.starts != start:
            return
        self._at(self.now_ms + state.node.config.tick_ms, self._tick, board, start)
        state.node.tick(self.now_ms - state.booted_ms)
        self._carry_out(state)

    def storm(self, for_ms: int, *, period_ms: int = 350, may_wipe: Callable[[int], bool] | None = None) -> None:
        """Faults drawn from the seed for that long: power cut at any effect, blackouts, splits, one-way cuts, wipes.

        Boards are wiped only where `may_wipe(board)` agrees. Ends as it happens to stand: see calm().
        """
        end_ms = self.now_ms + for_ms

        def strike() -> None:
            if self.now_ms < end_ms:
                self._strike(self.random.choice(list(self.boards)), may_wipe)
                self._at(self.now_ms + self.random.randint(1, 2 * period_ms), strike)

        strike()
        self.run(for_ms)

    def _strike(self, board: int, may_wipe: Callable[[int], bool] | None) -> None:
        draw = self.random.randrange(12)
        others = list(self.boards)
        if draw < 5:
            self.power_off_within(board, self.random.randrange(12))
            self._at(self.now_ms + self.random.randint(50, 1500), self.power_on, board)
        elif draw == 5:
            for other in others:
                self.power_off(other)
                self._at(self.now_ms + self.random.randint(50, 800), self.power_on, other)
        elif draw == 6:
            self.isolate(board)
        elif draw == 7:
            half = self.random.sample(others, len(others) // 2)
            self.split([half, [other for other in others if other not in half]])
        elif draw == 8:
            self.cut_link(board, self.random.choice(others))
        elif draw == 9 and may_wipe is not None and may_wipe(board):
            self.power_off(board)
            self.wipe(board)
            self.power_on(board)
        else:
            self.heal()

    # Effects.

    def _carry_out(self, state: Board) -> None:
        node = state.node
        assert node is not None

        def send(to: int, data: bytes) -> None:
            state.effect()
            self._send(node, to, data)

        def emit(data: bytes) -> None:
            state.effect()
            self._emit(state, data)

        try:
            self.step(node, state, send, emit)
        except PowerCut:
            state.cuts += 1
            state.node = None

    def _send(self, node: Node, to: int, data: bytes) -> None:
        source = node.board
        try:
            _, _, boot, _, kind, fields = codec.decode_message(data)
        except MessageError:
            boot, kind, fields = 0, 0, (data,)  # a malicious board may send anything
        sent = Sent(self.now_ms, source, boot, to, kind, fields)
        self.sent.append(sent)
        for observer in self.on_sent:
            observer(sent)
        if to >= schema.FIRST_CLIENT:
            if kind == schema.REPLY:
                self.replies.append(Reply(self.now_ms, source, *fields))
            return
        targets = [to]
        if to in (schema.ALL, schema.VOTERS):
            targets = [row[0] for row in self.roster if to == schema.ALL or row[2]]
        for target in targets:
            if target == node.board or (self.drop is not None and self.drop(sent, target)):
                continue
            copies = 1 + (self.random.random() * 100 < self.duplicate_percent)
            for _ in range(copies):
                if self.random.random() * 100 >= self.loss_percent and (source, target) not in self.cut:
                    self._at(self.now_ms + self._latency(), self._deliver, source, target, data)

    def _latency(self) -> int:
        latency_ms = self.random.randint(*self.latency_ms)
        if self.random.random() * 100 < self.late_percent:
            latency_ms += self.random.randint(0, self.late_ms)
        return latency_ms

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        if (source, target) not in self.cut:
            self.receive(source, target, data)

    def _emit(self, state: Board, data: bytes) -> None:
        boot, sequence, _now_ms, _stamp, kind, *values = cbor2.loads(data)
        _, name, fields = protocols.EVENTS[kind]
        names = [field.split(":")[0] for field in fields.split()]
        self.events.append(Event(self.now_ms, state.board, boot, sequence, name, dict(zip(names, values, strict=True))))
