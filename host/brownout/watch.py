"""What the bed is doing right now, as its telemetry shows it: last boots, the proposal in flight, heights.

The campaign asks it for moments ("proposal in flight") and for proofs (a new boot). It waits on events, never polls,
and must not judge: checkers read the history afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .contracts import UsageError
from .history import BoardEvent
from .pace import Pace

PROPOSAL_IN_FLIGHT = "proposal in flight"
CONVERGENT = ("gossip", "mirror", "sampling")
MOMENTS = (PROPOSAL_IN_FLIGHT,)


class Watch:
    """Fed with every event once, by `take`; thread-safe."""

    def __init__(self, pace: Pace) -> None:
        self._changed = pace.condition()
        self._boots: dict[str, BoardEvent] = {}
        self._connected: dict[str, int] = {}
        self._described: dict[str, int] = {}
        self._files: dict[str, dict[str, str]] = {}
        self._proposal: BoardEvent | None = None
        self._heights: dict[str, int] = {}
        self._digests: dict[str, dict[str, str | None]] = {name: {} for name in CONVERGENT}
        self._members: dict[str, dict[int, int]] = {}  # board -> how it sees the others, by their numbers
        self._behaviours: dict[str, tuple[int, int]] = {}  # board -> (boot, how it said that it behaves)
        self._handed_over: dict[str, BoardEvent] = {}  # board -> how it last said that its turns are another's
        self._degraded: dict[str, BoardEvent] = {}  # board -> how it last said that it had failed
        self._newest: dict[str, BoardEvent] = {}  # board -> its newest event
        self.decided_height = 0

    def take(self, events: Iterable[BoardEvent]) -> None:
        with self._changed:
            for event in events:
                self._take(event)
            self._changed.notify_all()

    def _take(self, event: BoardEvent) -> None:
        fields = event.fields
        newest = self._newest.get(event.board)
        if newest is None or (event.boot, event.sequence) > (newest.boot, newest.sequence) or event.kind == "boot":
            self._newest[event.board] = event
        if event.kind == "boot":
            self._boots[event.board] = event
            self._files.pop(event.board, None)
            self._members[event.board] = {}
        elif event.kind == "connected":
            self._connected[event.board] = event.boot
        elif event.kind == "file":
            self._files.setdefault(event.board, {})[fields["name"]] = fields["hash"]
        elif event.kind == "described":
            self._described[event.board] = fields["request"]
        elif event.kind == "degraded":
            self._degraded[event.board] = event
        elif event.kind == "handed_over":
            self._handed_over[event.board] = event
        elif event.kind == "adversary":
            self._behaviours[event.board] = (event.boot, fields["behaviour"])
        elif event.kind in ("proposed", "byzantine_proposed"):
            self._proposal = event
        elif event.kind in ("decided", "byzantine_decided"):
            self._heights[event.board] = max(self._heights.get(event.board, 0), fields["height"])
            self.decided_height = max(self.decided_height, fields["height"])
        elif event.kind == "member":
            self._members.setdefault(event.board, {})[fields["board"]] = fields["state"]
        elif event.kind == "digest" and fields["protocol"] in CONVERGENT:
            self._digests[fields["protocol"]][event.board] = fields["digest"]

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait until `condition`, evaluated after each batch of events, holds."""
        with self._changed:
            return self._changed.wait_for(condition, within_s)

    def boot(self, board: str) -> BoardEvent | None:
        return self._boots.get(board)

    def boots(self, boards: Iterable[str]) -> dict[str, int]:
        with self._changed:
            return {board: self._boots[board].boot for board in boards if board in self._boots}

    def wait_for_boot(self, board: str, after: int | None, within_s: float) -> BoardEvent | None:
        """The board's newest boot event, once it is another boot than `after`."""

        def booted() -> bool:
            event = self._boots.get(board)
            return event is not None and event.boot != after

        return self._boots.get(board) if self.wait(booted, within_s) else None

    def ahead_ms(self, board: str, after_ns: int, within_s: float) -> tuple[int, float] | None:
        """(boot, how far its clock is ahead of ours), by the board's newest event that arrived after `after_ns`.

        What an event took on its way counts as behind.
        """

        def told() -> bool:
            event = self._newest.get(board)
            return event is not None and event.received_ns > after_ns

        if not self.wait(told, within_s):
            return None
        event = self._newest[board]
        return event.boot, event.now_ms - event.received_ns / 1e6

    def degraded(self, board: str, after_ns: int) -> str | None:
        """Why the board has said, after that time, that it takes no part."""
        event = self._degraded.get(board)
        return event.fields["reason"] if event is not None and event.received_ns > after_ns else None

    def wait_for_behaviour(self, board: str, behaviour: int, within_s: float) -> bool:
        """Whether the board has told, in its current boot, that it behaves so now."""

        def behaves() -> bool:
            boot = self._boots.get(board)
            return boot is not None and self._behaviours.get(board) == (boot.boot, behaviour)

        return self.wait(behaves, within_s)

    def wait_for_hand_over(self, board: str, after_ns: int, within_s: float) -> BoardEvent | None:
        """What the board said, after that time, of the turns that it has handed over."""

        def handed_over() -> bool:
            event = self._handed_over.get(board)
            return event is not None and event.received_ns >= after_ns

        return self._handed_over.get(board) if self.wait(handed_over, within_s) else None

    def wait_for_connections(self, boards: Iterable[str], within_s: float) -> list[str]:
        """The boards whose current boot has not reported a connection in time."""

        def missing() -> list[str]:
            return [
                board
                for board in boards
                if board not in self._boots or self._connected.get(board) != self._boots[board].boot
            ]

        self.wait(lambda: not missing(), within_s)
        return missing()

    def wait_for_description(self, board: str, request: int, within_s: float) -> dict[str, str] | None:
        """The firmware files that the board named in answer to DESCRIBE `request`, with their hashes."""
        if not self.wait(lambda: self._described.get(board) == request, within_s):
            return None
        with self._changed:
            return dict(self._files.get(board, {}))

    def proposer(self) -> str | None:
        """Who proposed last."""
        return self._proposal.board if self._proposal else None

    def wait_for_moment(self, moment: str, within_s: float) -> BoardEvent | None:
        """The event that makes `moment` true; None when it did not come in time."""
        if moment != PROPOSAL_IN_FLIGHT:
            raise UsageError(f"when = {moment!r} is not a moment that can be waited for; allowed: {', '.join(MOMENTS)}")

        def in_flight() -> bool:
            return self._proposal is not None and self._proposal.fields["height"] > self.decided_height

        return self._proposal if self.wait(in_flight, within_s) else None

    def wait_for_height(self, boards: Iterable[str], height: int, within_s: float) -> list[str]:
        """The boards that have not decided `height` in time."""
        self.wait(lambda: all(self._heights.get(board, 0) >= height for board in boards), within_s)
        return [board for board in boards if self._heights.get(board, 0) < height]

    def wait_for_one_digest(self, boards: Iterable[str], within_s: float) -> bool:
        """Whether the last digests of these boards became one, for each protocol that converges by itself."""
        names = tuple(boards)
        return self.wait(
            lambda: all(len({last.get(board) for board in names}) == 1 for last in self._digests.values()), within_s
        )

    def wait_for_all_alive(self, boards: Iterable[str], within_s: float) -> bool:
        """Whether these boards came to see every other one alive (state 0)."""
        return self.wait(lambda: not any(any(self._members.get(board, {}).values()) for board in boards), within_s)
