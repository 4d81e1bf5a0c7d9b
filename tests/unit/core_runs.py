"""Runs of the real protocols in virtual time, recorded as a host would: what arrived of telemetry, operations, faults.

Events reach the record a little late, and those still on the board when its power goes are lost. Must not judge.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from brownout import store
from brownout.board_events import EventRecord, decode_events
from brownout.history import BoardEvent, FaultRecord, FaultStage, History, Operation, Outcome
from brownout_node.core import schema
from cluster import Board, Cluster, Sent

MILLISECOND = 1_000_000
TELEMETRY_MS = 30
PROOF_MS = 50
TRY_MS = 2500
NAMES = dict(schema.OPERATIONS)
STATUSES = dict(schema.STATUSES)


class RecordedCluster(Cluster):
    """A Cluster whose events, power cuts and wipes end up in a History."""

    def __init__(self, seed: int, *arguments: Any, **options: Any) -> None:
        self.record = EventRecord()
        self.faults: list[FaultRecord] = []
        self.dark: dict[int, FaultRecord] = {}
        self.operations: list[Operation] = []
        self.waiting: dict[tuple[int, int], Operation] = {}
        self.healed_ms = 0
        self.load = random.Random(seed)
        super().__init__(seed, *arguments, **options)
        self.on_sent.append(self._hear)

    # Telemetry.

    def _emit(self, state: Board, data: bytes) -> None:
        super()._emit(state, data)
        self._at(self.now_ms + TELEMETRY_MS, self._arrive, state, state.starts, data)

    def _arrive(self, state: Board, starts: int, data: bytes) -> None:
        if state.node is not None and state.starts == starts:
            self.record.add(f"b{state.board}", decode_events(data), "serial", self.now_ms * MILLISECOND)

    # Power.

    def _carry_out(self, state: Board) -> None:
        super()._carry_out(state)
        if state.node is None:
            self._went_dark(state.board)

    def power_off(self, board: int) -> None:
        was_on = self.boards[board].node is not None
        super().power_off(board)
        if was_on:
            self._went_dark(board)

    def _went_dark(self, board: int) -> None:
        name = f"f{len(self.faults):04}"
        self.dark[board] = self._fault(name, "cut", FaultStage.APPLIED, board, 0)
        self._at(self.now_ms + PROOF_MS, self._prove, board, self.dark[board])

    def _prove(self, board: int, applied: FaultRecord) -> None:
        if self.dark.get(board) is applied:
            self._fault(applied.id, applied.kind, FaultStage.PROVEN, board, 0)

    def wipe(self, board: int) -> None:
        super().wipe(board)
        for stage in (FaultStage.APPLIED, FaultStage.PROVEN, FaultStage.HEALED):
            self._fault(f"w{len(self.faults):04}", "wipe", stage, board, 0)

    def power_on(self, board: int) -> None:
        applied = self.dark.pop(board, None)
        super().power_on(board)
        if applied is not None:
            self._fault(applied.id, applied.kind, FaultStage.HEALED, board, 1)

    def _fault(self, name: str, kind: str, stage: FaultStage, board: int, later_ms: int) -> FaultRecord:
        at_ns = (self.now_ms + later_ms) * MILLISECOND
        record = FaultRecord(name, kind, stage, at_ns, at_ns, (f"b{board}",), "injected", {})
        self.faults.append(record)
        return record

    # Clients.

    def clients(self, count: int, until_ms: int, keys: int = 3) -> None:
        for number in range(count):
            self._begin(1000 + number, 1, until_ms, keys)

    def _begin(self, client: int, request: int, until_ms: int, keys: int) -> None:
        """One operation, and the next once it has ended or timed out; an unknown end makes a new client."""
        if self.now_ms >= until_ms:
            return
        kind = self.load.choice([schema.PUT, schema.GET, schema.CAS, schema.WRITE, schema.WRITE, schema.DELETE])
        gossip = kind in (schema.WRITE, schema.DELETE)
        key = f"{'g' if gossip else 'k'}{self.load.randrange(keys)}"
        value = None if kind in (schema.GET, schema.DELETE) else f"{client}-{request}"
        seen = [item.result for item in self.operations if item.key == key and item.result]
        expected = seen[-1] if kind == schema.CAS and seen else None
        board = self.load.choice(list(self.boards))
        now_ns = self.now_ms * MILLISECOND
        item = Operation(client, client, request, NAMES[kind], key, value, expected, f"b{board}", now_ns)
        self.operations.append(item)
        self.waiting[client, request] = item
        if not self.command(board, client, request, kind, key, value, expected):
            item.outcome, item.status, item.finished_ns = Outcome.FAIL, "unsent", now_ns
            del self.waiting[client, request]
        self._at(self.now_ms + self.load.randrange(20, 120), self._go_on, item, until_ms, keys, self.now_ms + TRY_MS)

    def _go_on(self, item: Operation, until_ms: int, keys: int, deadline_ms: int) -> None:
        open_still = (item.client, item.request) in self.waiting
        if open_still and self.now_ms < deadline_ms:
            self._at(self.now_ms + 50, self._go_on, item, until_ms, keys, deadline_ms)
        elif open_still:
            del self.waiting[item.client, item.request]
            item.status = "timeout"
            self._begin(item.client + 100, 1, until_ms, keys)
        else:
            self._begin(item.client, item.request + 1, until_ms, keys)

    def _hear(self, sent: Sent) -> None:
        if sent.kind != schema.REPLY:
            return
        client, request, status, value, height = sent.fields
        item = self.waiting.pop((client, request), None)
        if item is None:
            return
        item.status, item.result, item.height = STATUSES[status], value, height
        item.outcome = Outcome.OK if status == schema.OK else Outcome.FAIL
        item.finished_ns = self.now_ms * MILLISECOND

    # The history.

    def events_heard(self) -> list[BoardEvent]:
        return store.order_events(self.record.events())

    def history(self) -> History:
        manifest = {
            "campaign": "core",
            "seed": self.seed,
            "rung": "sim",
            "finished": True,
            "roster": self.roster,
            "checks": {"progress_within_s": 10.0, "converge_within_s": 10.0},
            "healed_ns": self.healed_ms * MILLISECOND,
            "ended_ns": self.now_ms * MILLISECOND,
        }
        return History(self.operations, self.events_heard(), self.faults, self.record.gaps(), manifest, {})


def storm(seed: int, *, for_ms: int = 8000, wipes: bool = False, voters: int = 5, **options: Any) -> RecordedCluster:
    """Clients and faults for a while, then calm until all has settled."""
    weather = {"latency_ms": (1, 30), "loss_percent": 10, "duplicate_percent": 5}
    cluster = RecordedCluster(seed, voters, **{**weather, **options})

    def may_wipe(board: int) -> bool:
        # What quorums still hold must survive: no more boards without standing than a minority.
        unfit = 1
        for voter in cluster.voters:
            node = cluster.boards[voter].node
            vote = next((item for item in node.protocols if hasattr(item, "voting")), None) if node else None
            unfit += voter != board and (vote is None or not vote.voting)
        return wipes and 2 * unfit < len(cluster.voters)

    cluster.run(500)
    cluster.clients(3, for_ms + 6000)
    cluster.storm(for_ms, may_wipe=may_wipe)
    cluster.calm()
    cluster.healed_ms = cluster.now_ms
    cluster.run(18000)
    return cluster


def broken(protocol: str, name: str, replacements: list[tuple[str, str]]) -> str:
    """Load a protocol with pieces of its source replaced, under a name of its own."""
    original = sys.modules["brownout_node.core." + protocol]
    source = Path(str(original.__file__)).read_text(encoding="utf-8")
    for old, new in replacements:
        assert source.count(old) == 1, f"{protocol}.py no longer holds, once, what {name} breaks: {old!r}"
        source = source.replace(old, new)
    module = ModuleType(f"brownout_node.core.checked_{name}")
    module.__package__ = "brownout_node.core"
    exec(compile(source, f"checked_{name}.py", "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    return f"checked_{name}"
