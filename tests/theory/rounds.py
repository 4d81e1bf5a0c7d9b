"""The network that the theory speaks of: boards that act in rounds, all at once, over links that lose nothing.

In a round every board that is up ticks once; then everything is delivered, answers too, before the next round begins.
What a board hears in a round it passes on in the next: messages of boards that did not hold the watched update when
the round began go first, so that whoever asks is answered by the state of that moment. The boards are the firmware's
nodes and its step. Must not decide whom a board contacts, when it stops, or what it sends.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.step import step

CLUSTER = 7
CLIENT = 5000
LONGEST_MS = 600_000
ABOUT = ("theory", "0", b"\0" * 8, "power")


class Journal(dict[int, Any]):
    """Records in memory; power is never cut here."""

    condition = schema.JOURNAL_VALID

    def append(self, records: Sequence[tuple[int, bytes | None]]) -> None:
        self.update(records)


def configurations(count: int, seed: int, **keys: Any) -> list[Config]:
    """One for each board. They are checked for a lone board first, since a checked roster ends at 200 boards."""
    document = {"cluster": CLUSTER, "board": 1, "bed": "t", "seed": seed, "roster": [[1, "b1", 1]], **keys}
    alone = Config(document)
    names = {board: f"b{board}" for board in range(1, count + 1)}
    alone.names = names
    alone.boards = {name: board for board, name in names.items()}
    alone.roster = tuple((board, name, 1) for board, name in names.items())
    alone.voters = tuple((board, 1) for board in names)
    alone.total_weight = count
    configs = []
    for board, name in names.items():
        config = copy.copy(alone)
        config.board, config.name = board, name
        configs.append(config)
    return configs


class Rounds:
    """`count` boards, numbered from 1; rounds are `round_ms` apart; `keys` are keys of a board's configuration.

    Board `gone` stands in the roster, and is not there: it takes nothing and sends nothing.
    """

    def __init__(self, count: int, seed: int, round_ms: int, gone: int = 0, **keys: Any) -> None:
        self.round_ms = round_ms
        self.nodes: dict[int, Node] = {}
        self.journals: dict[int, Journal] = {}
        self.watched: str | None = None
        self.events: list[bytes] = []  # of all boards; who only counts messages may clear it
        # Messages that boards sent of their own accord, at a tick, not as an answer: of each to each, and of all.
        self.contacts: Counter[tuple[int, int]] = Counter()
        self.sent = 0
        for config in configurations(count, seed, **keys):
            if config.board == gone:
                continue
            journal = Journal({schema.JOURNAL_GENESIS: codec.pack("uu", (CLUSTER, config.board))})
            self.journals[config.board] = journal
            self.nodes[config.board] = Node(config, journal, ABOUT)
        # A first tick that comes later than every period brings them all into phase: late ticks are not made up for.
        self.now_ms = 2 * LONGEST_MS
        self._first: deque[tuple[int, int, bytes]] = deque()
        self._second: deque[tuple[int, int, bytes]] = deque()
        self._passed_on: set[int] = set()
        self.tick()

    def protocol(self, board: int, name: str) -> Any:
        return self.nodes[board].protocol(name)

    def holders(self) -> set[int]:
        """The boards that hold the watched update."""
        if self.watched is None:
            return set()
        return {board for board in self.nodes if self.watched in self.protocol(board, "gossip").items}

    def write(self, board: int, key: str) -> None:
        """A client writes at one board; from now on that key is watched."""
        self.watched = key
        self.nodes[board].command(CLIENT, self.now_ms, schema.WRITE, key, "news", None, self.now_ms)
        self._carry_out(board)
        self._deliver()

    def next_round(self) -> None:
        self.now_ms += self.round_ms
        self.tick()

    def tick(self) -> None:
        """Every board ticks at this moment; then all that is under way arrives."""
        self._passed_on = self.holders()
        for board, node in self.nodes.items():
            node.tick(self.now_ms)
            self._carry_out(board)
        self.contacts.update(message[:2] for message in (*self._first, *self._second))
        self.sent += len(self._first) + len(self._second)
        self._deliver()

    def _carry_out(self, board: int) -> None:
        queue = self._second if board in self._passed_on else self._first

        def send(to: int, data: bytes) -> None:
            if to != CLIENT:
                queue.append((board, to, data))

        step(self.nodes[board], self.journals[board], send, self.events.append)

    def _deliver(self) -> None:
        while self._first or self._second:
            source, to, data = (self._first or self._second).popleft()
            node = self.nodes.get(to)
            if node is not None:
                node.receive(source, data, self.now_ms)
                self._carry_out(to)
