"""The cluster in virtual time, with what tests of membership and gossip ask of it: what passes, who holds what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brownout_node.core import codec, schema
from brownout_node.core.node import Node
from cluster import Cluster, Event

CLIENT = schema.FIRST_CLIENT


class GossipCluster(Cluster):
    """`count` boards; up to 7 are voters. `passes(source, to, kind)` judges each message before the links do."""

    def __init__(self, count: int, seed: int = 1, **options: Any) -> None:
        voters = min(count, 7)
        self.passes: Callable[[int, int, int], bool] = lambda source, to, kind: True
        self.largest_message = 0
        self.counts: dict[int, int] = {}  # messages by kind
        self.held: list[tuple[int, int, bytes]] = []  # what did not pass
        self._request = 0
        options.setdefault("protocols", ["membership", "gossip"])
        super().__init__(seed, voters, count - voters, **options)

    def _send(self, node: Node, to: int, data: bytes) -> None:
        _, source, _, _, kind, _ = codec.decode_message(data)
        self.largest_message = max(self.largest_message, len(data))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if to >= CLIENT or self.passes(source, to, kind):
            super()._send(node, to, data)
        else:
            self.held.append((source, to, data))

    def need(self, condition: Callable[[], bool], within_ms: int) -> int:
        """Run until the condition holds and return how long it took; it must hold within the bound."""
        start_ms = self.now_ms
        assert self.run_until(condition, within_ms), f"not within {within_ms} ms (seed {self.seed})"
        return self.now_ms - start_ms

    def reboot(self, board: int, wipe: bool = False) -> None:
        self.power_off(board)
        if wipe:
            self.wipe(board)
        self.power_on(board)

    def membership(self, board: int) -> Any:
        return self.node(board).protocol("membership")

    def gossip(self, board: int) -> Any:
        return self.node(board).protocol("gossip")

    def ask(self, board: int, operation: int, key: str, value: str | None = None, request: int = 0) -> tuple[int, Any]:
        """(status, value) of a client's operation; the reply comes in the same step."""
        self._request += 1
        before = len(self.replies)
        assert self.command(board, CLIENT, request or self._request, operation, key, value)
        assert len(self.replies) == before + 1
        return self.replies[-1].status, self.replies[-1].value

    def write(self, board: int, key: str, value: str) -> None:
        assert self.ask(board, schema.WRITE, key, value) == (schema.OK, None)

    def delete(self, board: int, key: str) -> None:
        assert self.ask(board, schema.DELETE, key) == (schema.OK, None)

    def read(self, board: int, key: str) -> str | None:
        status, value = self.ask(board, schema.READ, key)
        assert status == schema.OK
        return value

    def reads(self, key: str) -> set[str | None]:
        """The values that the running boards hold under a key."""
        values = set()
        for board in self.running:
            held = self.gossip(board).items.get(key)
            values.add(held and held[0][1])
        return values

    def converged(self) -> bool:
        return len({self.gossip(board).digest() for board in self.running}) == 1

    def views(self) -> dict[int, list[int]]:
        """Each running board's belief about every board: a list of states."""
        return {board: [self.membership(board).state_of(other) for other in self.boards] for board in self.running}

    def all_alive(self) -> bool:
        return all(state == schema.ALIVE for view in self.views().values() for state in view)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]
