"""The links of the virtual lab: one MQTT-parsing proxy, with a listener of its own for each board.

It acts on whole PUBLISH packets and lets everything else pass. A message between boards is judged once, on its way
down to the receiver, by the sender that its topic names: so group topics can be cut pair by pair, and one way. What
a board says to the host (re, ev, up) is judged on its way up, what the host says to it (cmd) on its way down.

Must not invent or reorder messages of a pair, and must not know why a rule stands. What QoS 1 needs:
- dropped on the way up: no PUBACK comes, so the board keeps the message and sends it again;
- dropped or held on the way down: the proxy acknowledges it to the broker itself, because the broker would otherwise
  fill its window of unacknowledged messages and stop serving the board; a held one is then delivered at QoS 0.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from brownout.link_rules import HOST, RuleBook

from .link_session import MAX_HELD, Message, Session, Side


class Held(NamedTuple):
    message: Message
    session: Session
    holders: set[str]
    seen: set[str]


class Proxy:
    """All links of one bed. Everything but `start` and `stop` is synchronous and belongs to the event loop's thread."""

    def __init__(
        self,
        bed: str,
        boards: Iterable[str],
        upstream_host: str,
        upstream_port: int,
        *,
        seed: int = 0,
        listen: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        routes: Mapping[str, Mapping[str, tuple[str, int]]] | None = None,
    ) -> None:
        """listen: the address for boards; tls: what they are met with. The broker is reached in the clear.

        routes: board -> site -> that broker's address, where there are several; the first is the board's own, and each
        has a port of its own, `route_ports`.
        """
        self._listen = listen
        self._tls = tls
        self.bed = bed
        self.boards = tuple(boards)
        self.upstream = (upstream_host, upstream_port)
        self.rules = RuleBook(self.boards, seed)
        self.ports: dict[str, int] = {}
        self.route_ports: dict[str, dict[str, int]] = {board: {} for board in self.boards}
        self._routes = dict(routes or {})
        self._parted: set[tuple[str, str]] = set()  # (board, site) whose link has died
        self._servers: list[asyncio.Server] = []
        self._sessions: dict[str, list[Session]] = {board: [] for board in self.boards}
        self._held: deque[Held] = deque()
        self._held_by: dict[str, int] = {}
        self._pairs: dict[tuple[str, bool, bytes], tuple[str, str] | None] = {}

    async def start(self, ports: Mapping[str, int] | None = None) -> dict[str, int]:
        """Listen, on `ports` where given and on free ones else; return board -> port."""
        loop = asyncio.get_running_loop()
        for board in self.boards:
            routes: list[tuple[str, tuple[str, int] | None]] = list(self._routes.get(board, {}).items())
            routes = routes or [("", None)]
            for site, upstream in routes:
                port = (ports or {}).get(board, 0) if site == routes[0][0] else 0
                server = await loop.create_server(
                    partial(self._accept, board, site, upstream), self._listen, port, backlog=128, ssl=self._tls
                )
                self._servers.append(server)
                port = server.sockets[0].getsockname()[1]
                self.ports.setdefault(board, port)
                self.route_ports[board][site] = port
        return dict(self.ports)

    def _accept(self, board: str, site: str, upstream: tuple[str, int] | None) -> Side:
        return Session(self, board, site, upstream).up_side

    async def stop(self) -> None:
        """Stop listening and reset every connection."""
        for server in self._servers:
            server.close()
        for session in self._all_sessions():
            session.close()
        for server in self._servers:
            await server.wait_closed()
        self._held.clear()

    def set_upstream(self, host: str, port: int) -> None:
        """Where new connections find the broker from now on."""
        self.upstream = (host, port)

    def connected(self) -> dict[str, bool]:
        """board -> whether the broker has accepted a connection of it that stands."""
        return {board: any(session.established for session in self._sessions[board]) for board in self.boards}

    def part(self, site: str, boards: Iterable[str]) -> None:
        """The links of these boards to that site's broker die: connections are reset, and new ones too."""
        for board in boards:
            self._parted.add((board, site))
            for session in list(self._sessions[board]):
                if session.site == site:
                    session.close()

    def rejoin(self, boards: Iterable[str] | None = None, site: str | None = None) -> None:
        """Undo it; all of it where nothing is named."""
        kept = () if boards is None else tuple(boards)
        gone = {pair for pair in self._parted if boards is None or (pair[0] in kept and pair[1] == site)}
        self._parted -= gone

    def whole(self, board: str, site: str) -> bool:
        return (board, site) not in self._parted

    # Rules.

    def apply(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Set rules (contracts.LinkRule as plain data), all or, with ValueError, none."""
        parsed = self.rules.parse(rules)
        self._release_held(self.rules.clear([rule.id for rule in parsed]))
        self.rules.apply(parsed)
        self._release_delayed()
        self._bend_connections()

    def clear(self, ids: Iterable[str] | None = None) -> None:
        """Lift these rules, or all; what they held is delivered in the order in which it came."""
        gone = self.rules.clear(None if ids is None else list(ids))
        self._release_delayed()
        self._release_held(gone)
        self._bend_connections()

    def counts(self) -> list[dict[str, Any]]:
        """For each rule and directed pair, since the rule was set: messages it met, and those it let pass."""
        return self.rules.counts()

    def _bend_connections(self) -> None:
        """Make every connection stalled, reset or free, as the rules that stand say."""
        for session in self._all_sessions():
            self._bend(session)

    def _bend(self, session: Session) -> None:
        board = session.board
        reset_up, reset_down = self.rules.directions("reset")
        if board in reset_up or board in reset_down:
            self.rules.count_connection("reset", board, HOST)
            self.rules.count_connection("reset", HOST, board)
            session.close()
            return
        stall_up, stall_down = self.rules.directions("stall")
        for side, stalled, pair in (
            (session.up_side, board in stall_up, (board, HOST)),
            (session.down_side, board in stall_down, (HOST, board)),
        ):
            if stalled and side.pause("stall"):
                self.rules.count_connection("stall", *pair)
            elif not stalled:
                side.resume("stall")

    def pair(self, board: str, down: bool, topic: bytes) -> tuple[str, str] | None:
        """The directed pair that a topic stands for on this board's link; None where nothing judges it here."""
        key = (board, down, topic)
        if key not in self._pairs:
            if len(self._pairs) > 100_000:  # replies go to topics of ever new clients
                self._pairs.clear()
            self._pairs[key] = self._read_topic(board, down, topic)
        return self._pairs[key]

    def _read_topic(self, board: str, down: bool, topic: bytes) -> tuple[str, str] | None:
        prefix = self.bed.encode() + b"/"
        if not topic.startswith(prefix):
            return None
        levels = topic[len(prefix) :].decode(errors="replace").split("/")
        if down and levels[0] == "g" and len(levels) == 3 and levels[1] != board:
            return levels[1], board
        if down and levels[0] == "cmd":
            return HOST, board
        if not down and levels[0] in ("re", "ev", "up"):
            return board, HOST
        return None

    def _release_delayed(self) -> None:
        for session in self._all_sessions():
            session.release_delayed()

    # Held messages.

    def hold(self, session: Session, message: Message, holders: set[str], seen: set[str] | None = None) -> None:
        """Keep a message until every rule in `holders` is lifted; lost where all of them are full."""
        holders = {rule for rule in holders if self._held_by.get(rule, 0) < MAX_HELD}
        if not holders:
            return
        for rule in holders:
            self._held_by[rule] = self._held_by.get(rule, 0) + 1
        self._held.append(Held(message, session, holders, (seen or set()) | self.rules.ids()))

    def _release_held(self, gone: list[str]) -> None:
        if not gone:
            return
        for rule in gone:
            self._held_by.pop(rule, None)
        waiting, self._held = self._held, deque()
        for held in waiting:
            held.holders.difference_update(gone)
            held.seen.difference_update(gone)
            if held.holders:
                self._held.append(held)
            else:
                self._let_go(held)

    def _let_go(self, held: Held) -> None:
        """Deliver a held message, unless a rule that was set since it was held is in its way."""
        message = held.message
        payload = message.packet[message.publish.payload_at :]
        verdict = self.rules.judge(
            message.source, message.target, payload, len(message.packet), time.monotonic(), seen=held.seen
        )
        if verdict is not None and verdict.drop:
            return
        if verdict is not None and verdict.holders:
            self.hold(held.session, message, verdict.holders, held.seen)
            return
        session = held.session
        if session.closed:
            # The network outlives a board's connection; what the board sent at QoS 1 it sends again by itself.
            standing = [other for other in self._sessions[session.board] if other.established]
            if not standing or (message.publish.qos and not message.down):
                return
            session = standing[-1]
        session.deliver_late(message)

    # Sessions.

    def opened(self, session: Session) -> None:
        self._sessions[session.board].append(session)
        if (session.board, session.site) in self._parted:
            session.close()
        else:
            self._bend(session)

    def forget(self, session: Session) -> None:
        sessions = self._sessions[session.board]
        if session in sessions:
            sessions.remove(session)

    def _all_sessions(self) -> list[Session]:
        return [session for sessions in self._sessions.values() for session in sessions]
