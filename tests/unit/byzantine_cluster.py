"""A cluster of byzantine.py with adversaries among it, clients that load it, and what must hold among the honest.

Judges by events, as the host's checker does: what a malicious board says of itself counts for nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from brownout_node.core import adversary, byzantine, codec, schema
from cluster import CLUSTER, Cluster, Event, Sent

CONTROLLER = 900000
PROTOCOLS = ["adversary", "byzantine"]
KINDS = (
    adversary.SILENT,
    adversary.EQUIVOCATE,
    adversary.LIE,
    adversary.REPLAY_OLD,
    adversary.DELAY_VOTES,
    adversary.CORRUPT,
)


class Violation(AssertionError):
    """Something that must never happen among honest boards."""


class Bed:
    """Boards 1..voters; `adversaries` are malicious from the moment that turn() says so."""

    def __init__(self, seed: int = 1, voters: int = 4, *, adversaries: Iterable[int] = (), **options) -> None:
        options.setdefault("protocols", PROTOCOLS)
        self.cluster = Cluster(seed, voters, **options)
        self.random = random.Random(f"bed {seed}")
        self.adversaries = tuple(adversaries)
        self.honest = [board for board in self.cluster.boards if board not in self.adversaries]
        self.asked: dict[tuple[int, int, int], tuple] = {}  # (board, client, request): operation, key, value
        self._requests = 0
        self._turns = 0
        self._said: dict[tuple, bytes] = {}  # what an honest board said in one place of the protocol
        self._reported: dict[tuple[int, int], int] = {}  # (board, height): the highest view that it reported for
        self.cluster.on_sent.append(self._see)

    def protocol(self, board: int):
        return self.cluster.node(board).protocol("byzantine")

    def _see(self, sent: Sent) -> None:
        """No honest board contradicts itself, to whomever, whatever power it lost in between."""
        if sent.source not in self.honest:
            return
        if sent.kind in (byzantine.VOTE, byzantine.PROPOSAL):
            place, said = (sent.source, sent.kind, *sent.fields[:-2]), sent.fields[-2]
            if self._said.setdefault(place, said) != said:
                raise Violation(f"at {sent.time_ms} ms: {place} was {self._said[place]!r}, now {said!r}")
        if sent.kind == byzantine.VOTE and sent.fields[1] < self._reported.get((sent.source, sent.fields[0]), 0):
            raise Violation(f"board {sent.source} votes in view {sent.fields[1]}, which its report has closed")
        if sent.kind in (byzantine.PROOF, byzantine.SUGGESTION):
            at = (sent.source, sent.fields[0])
            self._reported[at] = max(self._reported.get(at, 0), sent.fields[1])

    def turn(self, board: int, behaviour: int, split: int = 0, source: int = CONTROLLER) -> None:
        self._turns += 1
        fields = (behaviour, split)
        data = codec.encode_message(CLUSTER, source, 0, self._turns, adversary.TURN, fields)
        self.cluster.receive(schema.HOST if source >= schema.FIRST_CLIENT else source, board, data)

    def turn_all(self, behaviour: int, split: int | None = None) -> None:
        """The coalition: all adversaries do the same to the same boards."""
        if split is None:
            split = sum(1 << board for board in self.honest[: len(self.honest) // 2])
        for board in self.adversaries:
            self.turn(board, behaviour, split)

    def ask(self, board: int, client: int, key: str = "a", value: str | None = "1") -> tuple[int, int]:
        self._requests += 1
        operation = byzantine.BGET if value is None else byzantine.BPUT
        if self.cluster.command(board, client, self._requests, operation, key, value):
            self.asked[board, client, self._requests] = (operation, key, value)
        return client, self._requests

    def load(self, for_ms: int, period_ms: int = 150) -> None:
        """Clients ask running honest boards now and then, for that long."""
        end_ms = self.cluster.now_ms + for_ms

        def work() -> None:
            board = self.random.choice([*self.honest, *self.adversaries])
            for _ in range(self.random.choice((1, 1, 3))):
                value = None if self.random.random() < 0.3 else f"value {self._requests}"
                self.ask(board, 1000 + self.random.randrange(1, 9), f"key {self.random.randrange(4)}", value)
            if self.cluster.now_ms < end_ms:
                self.cluster.at(self.cluster.now_ms + self.random.randint(1, 2 * period_ms), work)

        work()

    def events(self, name: str, **fields) -> list[Event]:
        rows = [event for event in self.cluster.events if event.name == name]
        return [event for event in rows if fields.items() <= event.fields.items()]

    def answered(self, client: int, request: int) -> bool:
        return any((row.client, row.request) == (client, request) for row in self.cluster.replies)

    def check_safety(self) -> None:
        """Agreement and validity among the honest; no honest board is accused."""
        decided: dict[int, bytes] = {}
        applied: dict[tuple, tuple] = {}
        for event in self.cluster.events:
            if event.board not in self.honest:
                continue
            fields = event.fields
            if event.name == "byzantine_decided":
                if decided.setdefault(fields["height"], fields["value_id"]) != fields["value_id"]:
                    raise Violation(f"board {event.board} decided another value at height {fields['height']}")
            elif event.name == "byzantine_applied":
                row = tuple(fields.values())
                if applied.setdefault((row[0], row[2], row[3]), row) != row:
                    raise Violation(f"board {event.board} applied {row}")
                asked = self.asked.get((row[1], row[2], row[3]))
                if row[1] in self.honest and asked != row[4:7]:
                    raise Violation(f"{row} was never asked of board {row[1]}")
            elif event.name == "contradiction" and fields["board"] in self.honest:
                raise Violation(f"board {fields['board']} is honest, yet contradicted itself: {fields}")

    def check_liveness(self, within_ms: int = 30000) -> int:
        """New commands are decided at every honest board; how long that took."""
        began_ms = self.cluster.now_ms
        pending = [self.ask(board, 500000 + board, "alive", f"by {board}") for board in self.honest]
        if not self.cluster.run_until(lambda: all(self.answered(*row) for row in pending), within_ms):
            missing = [row for row in pending if not self.answered(*row)]
            heights = {board: self.protocol(board).register.next_height for board in self.honest}
            raise Violation(f"not answered within {within_ms} ms: {missing}; heights {heights}")
        took_ms = self.cluster.now_ms - began_ms

        def same() -> bool:
            return len({(p.register.next_height, p.digest()) for p in map(self.protocol, self.honest)}) == 1

        if not self.cluster.run_until(same, within_ms):
            raise Violation(f"honest boards stay apart: {[self.protocol(b).register.next_height for b in self.honest]}")
        return took_ms


def violates(bed: Bed) -> bool:
    try:
        bed.check_safety()
    except Violation:
        return True
    return False
