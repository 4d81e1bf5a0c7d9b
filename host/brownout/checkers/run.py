"""What a history says, indexed for the checkers: who is in the rig, boots, votes, outages, how each board ended.

Everything here is derived from the History alone and judges nothing. Where the record leaves something open, the
answer here is the one that cannot accuse a board wrongly; the checkers rely on that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from brownout_node.core import schema

from ..history import BoardEvent, FaultRecord, FaultStage, History, Operation, Outcome
from ..protocols import DEFAULT, PROTOCOLS
from ..store import SAME_COUNT, UNCOUNTED_BOOTS_FROM

STATUS_NAMES: Mapping[Any, str] = {**dict(schema.STATUSES), **{name: name for _, name in schema.STATUSES}}
LOG_OPERATIONS = ("put", "get", "cas")
GOSSIP_WRITES = ("write", "delete")
DARK_KINDS = frozenset(
    {"cut", "cycle", "power_flap", "blackout", "reset", "cut_mid_write", "wipe", "restore", "bitrot", "upgrade", "trap"}
)
DARK_WHEN_SPRUNG = frozenset({"cut_mid_write", "trap"})  # armed when applied; dark only from the proof on
BROKER_KINDS = frozenset({"broker_kill", "broker_stall", "broker", "bridge"})
# Faults after which a journal may be missing or invalid.
JOURNAL_KINDS = frozenset({"wipe", "restore", "bitrot", "worn"})


@dataclass
class Boot:
    """One life of a board, as far as it was heard."""

    board: str
    number: int
    order: int  # 0 is the board's first
    events: list[BoardEvent]
    anew: bool = False  # the board had lost its journal: its count of boots does not follow on the last life's

    @property
    def start(self) -> BoardEvent | None:
        """The boot event, or None where it never arrived."""
        first = self.events[0]
        return first if first.kind == "boot" else None

    @property
    def lost_journal(self) -> bool:
        """Whether the journal was lost at this boot, or at one before it that was not heard."""
        return self.anew or (self.start is not None and self.start.fields["journal"] != schema.JOURNAL_VALID)

    @property
    def began_ns(self) -> int:
        """When the board started, at the latest."""
        return min(event.received_ns - event.now_ms * 1_000_000 for event in self.events)

    @cached_property
    def whole_until(self) -> int:
        """The number of the last event up to which none is missing; 0 where the first is."""
        last = 0
        for event in self.events:
            if event.sequence != last + 1:
                break
            last = event.sequence
        return last

    def whole_after(self, sequence: int) -> bool:
        """Whether at least one event after `sequence` arrived, and none up to it is missing."""
        return self.whole_until > sequence


@dataclass(frozen=True)
class Outage:
    """One fault's grip on some boards. until_ns is None where it was never healed."""

    fault: str
    kind: str
    boards: frozenset[str]
    from_ns: int
    until_ns: int | None
    applied: FaultRecord
    cut_pairs: frozenset[tuple[str, str]] = field(default_factory=frozenset)  # directed, shown by counters

    def overlaps(self, from_ns: int, until_ns: int) -> bool:
        return self.from_ns <= until_ns and (self.until_ns is None or self.until_ns >= from_ns)


class Run:
    """The index. Build it once, hand it to every checker."""

    def __init__(self, history: History) -> None:
        self.history = history
        manifest = history.manifest
        roster = [tuple(row) for row in manifest.get("roster", ())]
        self.ids: dict[str, int] = {name: number for number, name, _ in roster}
        self.names: dict[int, str] = {number: name for number, name, _ in roster}
        self.weights: dict[str, int] = {name: weight for _, name, weight in roster}
        self.protocols: tuple[str, ...] = tuple(manifest.get("protocols", DEFAULT))
        self.boards: list[str] = [name for _, name, _ in sorted(roster)]
        self.voters: list[str] = [name for name in self.boards if self.weights[name] > 0]
        self.total_weight = sum(self.weights.values())
        self.boots: dict[str, list[Boot]] = _boots(history.events)
        self.by_kind: dict[str, list[BoardEvent]] = defaultdict(list)
        for event in history.events:
            self.by_kind[event.kind].append(event)
        self.outages: list[Outage] = _outages(history)
        self.healed_ns, self.ended_ns = _times(history)
        self.finished = bool(manifest.get("finished"))  # else it was interrupted, and the end state says little
        checks = manifest.get("checks", {})
        self.progress_ns = int(float(checks.get("progress_within_s", 10.0)) * 1e9)
        self.converge_ns = int(float(checks.get("converge_within_s", 10.0)) * 1e9)

    # Weights that the log moves.

    def option(self, protocol: str, name: str) -> int:
        """What the campaign sets an option of a protocol to, or its default."""
        row = next(row for row in PROTOCOLS[protocol].options.split() if row.startswith(name + ":"))
        return int(self.history.plan.get("options", {}).get(protocol, {}).get(name, row.split(":")[1]))

    @cached_property
    def epoch(self) -> int:
        """How many heights the same stakes are in force for."""
        return self.option("stake", "epoch")

    def epoch_of(self, height: int) -> int:
        """The first height of the epoch that it lies in."""
        return height - (height - 1) % self.epoch

    @cached_property
    def _stakes(self) -> dict[int, dict[str, int]]:
        stakes: dict[int, dict[str, int]] = defaultdict(dict)
        for event in self.of("staked"):
            board = self.names.get(event.fields["board"], "")
            stakes[event.fields["height"]].setdefault(board, event.fields["stake"])
        return stakes

    def weights_at(self, height: int) -> Mapping[str, int] | None:
        """What each voter's vote weighs at that height; None where the log moves weights and nobody told these."""
        if "stake" not in self.protocols:
            return {board: self.weights[board] for board in self.voters}
        stakes = self._stakes.get(self.epoch_of(height), {})
        return stakes if stakes.keys() == set(self.voters) else None

    def of(self, *kinds: str) -> Iterable[BoardEvent]:
        """Events of these kinds, by board, boot and sequence within each kind."""
        for kind in kinds:
            yield from self.by_kind.get(kind, ())

    def acknowledged(self, names: Iterable[str]) -> list[Operation]:
        """Operations of these kinds that a client was told have happened."""
        wanted = set(names)
        return [
            operation
            for operation in self.history.operations
            if operation.operation in wanted and operation.outcome is Outcome.OK and operation.status != "mismatch"
        ]

    def is_dark_at_end(self, board: str) -> bool:
        """Whether a fault still keeps this board without power."""
        return any(
            outage.until_ns is None and board in outage.boards for outage in self.outages if outage.kind in DARK_KINDS
        )

    def live_boards(self) -> list[str]:
        """Boards that are supposed to run when the run ends, and were heard at least once."""
        return [board for board in self.boards if board in self.boots and not self.is_dark_at_end(board)]

    def last_boot(self, board: str) -> Boot | None:
        boots = self.boots.get(board)
        return boots[-1] if boots else None

    def next_height(self, board: str, until_ns: int | None = None) -> int:
        """The first height that the board is not known to have decided, going by its last life alone."""
        boot = self.last_boot(board)
        if boot is None:
            return 0
        reached = 0
        for event in boot.events:
            if until_ns is None or event.received_ns <= until_ns:
                reached = max(reached, height_told(event))
        return reached

    def highest(self, until_ns: int | None = None) -> int:
        """The first height that no board is known to have decided, over all lives up to an instant."""
        reached = 0
        for event in self.of("boot", "decided", "caught_up"):
            if until_ns is None or event.received_ns <= until_ns:
                reached = max(reached, height_told(event))
        return reached

    def disturbed(self, board: str, from_ns: int, until_ns: int) -> bool:
        """Whether any fault touched the board, or the broker, in that time."""
        return any(
            (board in outage.boards or outage.kind in BROKER_KINDS) and outage.overlaps(from_ns, until_ns)
            for outage in self.outages
        )


def height_told(event: BoardEvent) -> int:
    """The next undecided height that this event says is durable; 0 where it says nothing of heights."""
    if event.kind == "boot":
        return int(event.fields["next_height"])
    if event.kind == "decided":
        return int(event.fields["height"]) + 1
    if event.kind == "caught_up":
        return int(event.fields["next"])
    if event.kind in ("prevoted", "precommitted"):
        return int(event.fields["height"])
    return 0


def _boots(events: Iterable[BoardEvent]) -> dict[str, list[Boot]]:
    boots: dict[str, list[Boot]] = {}
    for event in events:
        lives = boots.setdefault(event.board, [])
        if not lives or lives[-1].number != event.boot:
            follows = not lives or 0 < event.boot - lives[-1].number < SAME_COUNT
            anew = event.boot >= UNCOUNTED_BOOTS_FROM and (not lives or not follows)
            lives.append(Boot(event.board, event.boot, len(lives), [], anew))
        lives[-1].events.append(event)
    return boots


def _times(history: History) -> tuple[int, int]:
    """When the last fault was healed, and when the run ended; from the record where the manifest does not say."""
    manifest = history.manifest
    healed = manifest.get("healed_ns")
    if healed is None:
        healed = max((record.at_ns for record in history.faults if record.stage is FaultStage.HEALED), default=0)
    ended = manifest.get("ended_ns")
    if ended is None:
        ended = max((event.received_ns for event in history.events), default=0)
    return int(healed), int(ended)


def _outages(history: History) -> list[Outage]:
    stages: dict[str, dict[FaultStage, FaultRecord]] = {}
    for record in history.faults:
        lives = stages.setdefault(record.id, {})
        if record.stage is FaultStage.APPLIED:
            lives.setdefault(record.stage, record)
        else:
            lives[record.stage] = record
    outages = []
    for fault, lives in stages.items():
        applied = lives.get(FaultStage.APPLIED)
        if applied is None:
            continue
        proof = lives.get(FaultStage.PROVEN)
        healed = lives.get(FaultStage.HEALED)
        from_ns = proof.at_ns if proof is not None and applied.kind in DARK_WHEN_SPRUNG else applied.at_ns
        boards = frozenset(board for record in lives.values() for board in record.boards)
        pairs = _cut_pairs(proof) if proof is not None else frozenset()
        touched = boards | {board for pair in pairs for board in pair if board != "host"}
        outages.append(Outage(fault, applied.kind, touched, from_ns, healed.at_ns if healed else None, applied, pairs))
    return outages


def _cut_pairs(proof: FaultRecord) -> frozenset[tuple[str, str]]:
    """The directed pairs "b1 -> b2" that met messages of a fault that lets nothing through."""
    if proof.kind not in {"isolate", "split", "one_way"}:
        return frozenset()
    pairs = set()
    for name in proof.evidence:
        source, arrow, target = name.partition(" -> ")
        if arrow:
            pairs.add((source, target))
    return frozenset(pairs)
