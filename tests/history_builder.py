"""Hand-made histories: a small world in which everything goes right, until a test says otherwise.

The world keeps a clock, each board's boot, event and stamp counters, and what is durable on it, so that what it tells
is consistent by itself; tests then add, change or leave out single events. Must not import any checker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from brownout.history import BoardEvent, FaultRecord, FaultStage, Gap, History, Operation, Outcome

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
NUMBERS = {"put": 1, "get": 2, "cas": 3, "admit": 4}
NOTHING = {
    "round": 0,
    "locked_round": -1,
    "locked": None,
    "prevote_round": -1,
    "prevoted": None,
    "precommit_round": -1,
    "precommitted": None,
}


@dataclass
class Board:
    """What one board has durably, and where its counters are."""

    number: int
    name: str
    weight: int
    boot: int = 0
    sequence: int = 0
    began_ns: int = 0
    next_height: int = 1
    incarnation: int = 0
    gossip_number: int = 0
    votes: dict[str, Any] = field(default_factory=lambda: dict(NOTHING))
    items: dict[str, tuple[int, int, str | None]] = field(default_factory=dict)


class World:
    """Voters b1.. of weight 1, then learners. Every step takes a millisecond of host time."""

    def __init__(self, voters: int = 3, learners: int = 0) -> None:
        self.now_ns = 0
        self.stamp = 1000
        self.boards: dict[str, Board] = {}
        for number in range(1, voters + learners + 1):
            name = f"b{number}"
            self.boards[name] = Board(number, name, 1 if number <= voters else 0)
        self.events: list[BoardEvent] = []
        self.operations: list[Operation] = []
        self.faults: list[FaultRecord] = []
        self.gaps: list[Gap] = []
        self.plan: list[dict[str, Any]] = []
        self.registers: dict[str, str | None] = {}
        self.height = 1
        self.request = 0
        self.healed_ns = 0
        self.manifest: dict[str, Any] = {}

    # Time and telemetry.

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)

    def tell(self, teller: str, kind: str, /, channel: str = "serial", **fields: Any) -> BoardEvent:
        """One event of a board, now."""
        self.now_ns += MILLISECOND
        self.stamp += 1
        who = self.boards[teller]
        who.sequence += 1
        event = BoardEvent(
            teller,
            who.boot,
            who.sequence,
            (self.now_ns - who.began_ns) // MILLISECOND,
            self.stamp,
            kind,
            fields,
            self.now_ns,
            channel,
        )
        self.events.append(event)
        return event

    # Boards.

    def names(self, boards: Iterable[str] | None = None) -> list[str]:
        return list(self.boards if boards is None else boards)

    def voters(self) -> list[str]:
        return [board.name for board in self.boards.values() if board.weight]

    def boot(self, *boards: str, journal: int = 0, **changed: Any) -> None:
        """Boards start, from what is durable on them; `changed` overrides fields of the boot event."""
        for name in boards or self.names():
            who = self.boards[name]
            if journal:
                number = 0x10000000 + 16 * who.boot
                fresh = Board(who.number, name, who.weight, number, incarnation=who.incarnation)
                self.boards[name] = who = fresh
            else:
                who.boot += 1
            who.sequence, who.began_ns = 0, self.now_ns
            who.incarnation += 1
            fields = {
                "implementation": "micropython",
                "version": "1.24.1",
                "firmware": "00112233aabbccdd",
                "reset_cause": "power on",
                "journal": journal,
                "may_vote": bool(who.weight) and not journal,
                "next_height": who.next_height,
                **who.votes,
                "incarnation": who.incarnation,
                "gossip_number": who.gossip_number,
                **changed,
            }
            self.tell(name, "boot", **fields)

    def prevote(self, board: str, value_id: str | None, round: int = 0, valid_round: int = -1) -> BoardEvent:
        who = self.boards[board]
        who.votes.update(round=round, prevote_round=round, prevoted=value_id)
        return self.tell(
            board, "prevoted", height=who.next_height, round=round, value_id=value_id, valid_round=valid_round
        )

    def precommit(self, board: str, value_id: str | None, round: int = 0) -> BoardEvent:
        who = self.boards[board]
        who.votes.update(round=round, precommit_round=round, precommitted=value_id)
        if value_id is not None:
            who.votes.update(locked_round=round, locked=value_id)
        return self.tell(board, "precommitted", height=who.next_height, round=round, value_id=value_id)

    def decide(
        self,
        commands: Sequence[tuple[Any, ...]],
        boards: Iterable[str] | None = None,
        voting: Iterable[str] | None = None,
        round: int = 0,
        behind: Iterable[str] = (),
    ) -> str:
        """One height: voting boards propose and vote, then `boards` decide and apply; `behind` only catch up.

        A command is (client, request, operation, key, value, expected).
        """
        height = self.height
        value_id = hashlib.sha256(repr((height, commands)).encode()).hexdigest()[:16]
        electors = self.voters() if voting is None else list(voting)
        for name in self.names(boards):
            self.boards[name].next_height = height
        self.tell(electors[0], "proposed", height=height, round=round, value_id=value_id, valid_round=-1)
        for name in electors:
            self.prevote(name, value_id, round)
        for name in electors:
            self.precommit(name, value_id, round)
        results = [self._execute(command) for command in commands]
        for name in self.names(boards):
            learner = not self.boards[name].weight or name not in electors
            self.catch_up(name, height, round, value_id, commands, results, weight=0 if learner else len(electors))
        for name in behind:
            self.catch_up(name, height, 0, value_id, commands, results, weight=0)
        self.height += 1
        return value_id

    def catch_up(
        self,
        board: str,
        height: int,
        round: int,
        value_id: str,
        commands: Sequence[tuple[Any, ...]],
        results: Sequence[tuple[int, str | None]],
        weight: int,
    ) -> None:
        who = self.boards[board]
        self.tell(board, "decided", height=height, round=round, value_id=value_id, weight=weight, caught_up=not weight)
        for command, (status, result) in zip(commands, results, strict=True):
            client, request, operation, key, value, expected = command
            if operation != "admit":
                self.tell(
                    board,
                    "applied",
                    height=height,
                    client=client,
                    request=request,
                    operation=NUMBERS[operation],
                    key=key,
                    value=value,
                    expected=expected,
                    status=status,
                    result=result,
                )
        who.next_height = height + 1
        who.votes = dict(NOTHING)

    def _execute(self, command: tuple[Any, ...]) -> tuple[int, str | None]:
        _, _, operation, key, value, expected = command
        current = self.registers.get(key)
        if operation == "get":
            return 0, current
        if operation == "cas" and current != expected:
            return 1, current
        if operation != "admit":
            self.registers[key] = value
        return 0, None

    # Clients.

    def operate(
        self,
        operation: str,
        key: str,
        value: str | None = None,
        expected: str | None = None,
        board: str = "b1",
        **deciding: Any,
    ) -> Operation:
        """A client's operation that is decided and answered."""
        item = self.ask(operation, key, value, expected, board)
        status, result = self._preview(operation, key, expected)
        command = (item.client, item.request, operation, key, value, expected)
        self.decide([command], **deciding)
        self.answer(item, status, result, self.height - 1)
        return item

    def _preview(self, operation: str, key: str, expected: str | None) -> tuple[str, str | None]:
        current = self.registers.get(key)
        if operation == "get":
            return "ok", current
        if operation == "cas" and current != expected:
            return "mismatch", current
        return "ok", None

    def ask(
        self, operation: str, key: str, value: str | None = None, expected: str | None = None, board: str = "b1"
    ) -> Operation:
        self.request += 1
        self.now_ns += MILLISECOND
        item = Operation(1, 1000, self.request, operation, key, value, expected, board, self.now_ns)
        self.operations.append(item)
        return item

    def answer(self, item: Operation, status: str, result: str | None, height: int | None) -> None:
        self.now_ns += MILLISECOND
        item.finished_ns, item.status, item.result, item.height = self.now_ns, status, result, height
        item.outcome = Outcome.FAIL if status == "mismatch" else Outcome.OK

    # Gossip.

    def write(self, board: str, key: str, value: str | None, merged_by: Iterable[str] | None = None) -> BoardEvent:
        """A client writes (None deletes) at a board, which acknowledges; others merge it."""
        item = self.ask("delete" if value is None else "write", key, value, board=board)
        who = self.boards[board]
        who.gossip_number += 1
        event = self.tell(board, "written", key=key, value=value, stamp=self.stamp + 1, number=who.gossip_number)
        who.items[key] = (event.fields["stamp"], who.number, value)
        self.answer(item, "ok", None, None)
        for other in self.names() if merged_by is None else merged_by:
            if other != board:
                self.merge(other, event)
        return event

    def merge(self, board: str, written: BoardEvent, repair: bool = False) -> BoardEvent:
        """A board takes over an update that another one wrote."""
        fields = written.fields
        writer = self.boards[written.board].number
        self.boards[board].items[fields["key"]] = (fields["stamp"], writer, fields["value"])
        return self.tell(
            board,
            "merged",
            key=fields["key"],
            value=fields["value"],
            stamp=fields["stamp"],
            writer=writer,
            number=fields["number"],
            repair=repair,
        )

    def digests(self, *boards: str) -> None:
        """Boards tell the digest of their gossip store."""
        for name in boards or self.names():
            items = sorted(self.boards[name].items.items())
            digest = hashlib.sha256(repr(items).encode()).hexdigest()[:16]
            self.tell(name, "digest", protocol="gossip", height=0, digest=digest, count=len(items))

    # Faults.

    def fault(self, name: str, kind: str, stage: str, *boards: str, **evidence: Any) -> FaultRecord:
        self.now_ns += MILLISECOND
        record = FaultRecord(
            name, kind, FaultStage(stage), self.now_ns, self.now_ns, tuple(boards), "injected", evidence
        )
        self.faults.append(record)
        if stage == "healed":
            self.healed_ns = self.now_ns
        if stage == "planned":
            self.plan.append({"id": name, "kind": kind})
        return record

    def cut(
        self, name: str, *boards: str, for_s: float = 1.0, journal: int = 0, kind: str = "cut", **said: Any
    ) -> None:
        """Power goes, and comes back: planned, applied, proven, boot, healed."""
        self.fault(name, kind, "planned", *boards)
        last = {board: self.boards[board].boot for board in boards}
        self.fault(name, kind, "applied", *boards, last_boots=last)
        self.fault(name, kind, "proven", *boards)
        self.wait(for_s)
        for board in boards:
            self.boot(board, journal=journal, **said)
        self.fault(name, kind, "healed", *boards)

    # The history.

    def history(self, **manifest: Any) -> History:
        boots: dict[tuple[str, int], int] = {}
        for event in self.events:
            boots.setdefault((event.board, event.boot), len(boots))
        ordered = sorted(
            self.events,
            key=lambda event: (self.boards[event.board].number, boots[(event.board, event.boot)], event.sequence),
        )
        document = {
            "campaign": "hand-made",
            "seed": 1,
            "rung": "virtual",
            "finished": True,
            "roster": [[board.number, board.name, board.weight] for board in self.boards.values()],
            "boards": [{"name": board.name, "board": board.number} for board in self.boards.values()],
            "checks": {"progress_within_s": 5.0, "converge_within_s": 5.0},
            "timing": {"probe_period_ms": 100, "suspicion_ms": 200},
            "healed_ns": self.healed_ns,
            "ended_ns": self.now_ns,
            **self.manifest,
            **manifest,
        }
        return History(
            list(self.operations), ordered, list(self.faults), list(self.gaps), document, {"faults": self.plan}
        )

    def change(self, choose: Callable[[BoardEvent], bool], **fields: Any) -> None:
        """Rewrite fields of the events that `choose` picks; at least one must be picked."""
        picked = [index for index, event in enumerate(self.events) if choose(event)]
        assert picked, "the test meant to change an event that is not there"
        for index in picked:
            event = self.events[index]
            self.events[index] = replace(event, fields={**event.fields, **fields})

    def drop(self, choose: Callable[[BoardEvent], bool]) -> None:
        """Leave events out, as if they had never arrived."""
        kept = [event for event in self.events if not choose(event)]
        assert len(kept) < len(self.events), "the test meant to drop an event that is not there"
        self.events = kept


def is_event(board: str, kind: str, **fields: Any) -> Callable[[BoardEvent], bool]:
    """Picks events of one board and kind with these fields."""

    def choose(event: BoardEvent) -> bool:
        return (
            event.board == board
            and event.kind == kind
            and all(event.fields.get(name) == value for name, value in fields.items())
        )

    return choose


def healthy(voters: int = 3, learners: int = 0) -> World:
    """A run that deserves `valid`: operations, gossip, a proven cut, more operations, and time to settle."""
    world = World(voters, learners)
    world.boot()
    for number in range(6):
        world.operate("put", f"k{number % 2}", f"v{number}")
    world.operate("get", "k0")
    world.operate("cas", "k1", "w", "v5")
    world.operate("cas", "k1", "x", "nonsense")
    first = world.write("b1", "colour", "red")
    world.write("b2", "colour", "blue")
    assert first
    world.cut("f01", "b3", for_s=0.5)
    for number in range(4):
        world.operate("put", "k0", f"after{number}")
    world.write("b3", "colour", None)
    world.write("b1", "shape", "round")
    world.digests()
    world.wait(8.0)
    world.operate("get", "k0")
    world.digests()
    return world
