"""Clients of a run: operations of a mix through random boards, and rumours at random boards, all recorded.

Jepsen's semantics: a process has one operation at a time and ends with its first `info`; its slot goes on as a new
process with a new client id. Client ids ascend and are never used twice. What each slot does next (operation, key,
boards to ask) comes from the seed alone; when it does it depends on how the bed answers. Must not judge anything.

Commands go at QoS 0: a broker that repeats one could make a board do what it has just refused, and then `fail` would
lie. The retry of the same request through another board makes up for losses; boards apply it once.

One task: everything happens in `_run`, at a due time or when a reply has come.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brownout_node.core import codec, schema
from brownout_node.core.errors import MessageError

from .history import Operation, Outcome
from .mqtt_connection import Connect, Connection
from .operations import LOG_OPERATIONS, Turn, closing_reads, default_mix, row_of
from .pace import Inbox, Pace, Task, WallPace
from .protocols import DEFAULT as DEFAULT_PROTOCOLS
from .protocols import OPERATION_IDS

TRY_S = 1.5  # how long one board has before another is asked
FINAL_READ_S = 10.0
FINAL_PAUSE_S = 0.05
IDLE_S = 0.5  # between looks where nothing is due
GOSSIP_KEYS = 8
STATUS_NAMES = dict(schema.STATUSES)
# Answers of the only board that was asked: nothing happened. After an earlier try elsewhere they do not say so.
REFUSALS = ("busy", "expired", "full", "refused")


@dataclass(frozen=True)
class PlannedOperation:
    """One [[operation]] of a campaign: begun at its time, or when the client's one before has ended.

    value: made up and unique where None. expected: what this client saw last of the key where None. boards: who is
    asked first, in this order; the others follow as the seed draws them.
    """

    at_s: float
    client: int
    operation: str
    key: str
    value: str | None = None
    expected: str | None = None
    boards: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkloadPlan:
    """The [workload] table of a campaign. deletes: the share of rumours that delete.

    operations: where there are any, clients do these and nothing else.
    """

    clients: int = 3
    operations_per_s: float = 20.0
    keys: int = 4
    mix: Mapping[str, float] = field(default_factory=lambda: default_mix(DEFAULT_PROTOCOLS))
    rumours_per_s: float = 4.0
    deletes: float = 0.2
    operation_timeout_s: float = 5.0
    operations: tuple[PlannedOperation, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> WorkloadPlan:
        """From the plan of a run."""
        operations = (
            PlannedOperation(**{**entry, "boards": tuple(entry["boards"])}) for entry in document.get("operations", ())
        )
        return cls(**{**document, "operations": tuple(operations)})


@dataclass
class Slot:
    """What goes on in one place: a line of processes, one after the other."""

    random: random.Random
    process: int
    client: int
    gossip: bool = False
    requests: int = 0
    seen: dict[str, str | None] = field(default_factory=dict)  # key -> last value that this client saw
    due_s: float = 0.0
    script: deque[PlannedOperation] | None = None  # what is left of it, where a campaign lists operations


@dataclass
class Pending:
    """An operation that is going on."""

    slot: Slot
    operation: Operation
    message: bytes
    deadline_s: float
    boards: list[str]  # still to be asked, in this order, round and round
    sent: int = 0
    done: Callable[[], None] | None = None


class Workload:
    """clock: nanoseconds since the run began. boards: who may be asked.

    In the workload's task are called on_invoke(operation), before it is sent, and on_complete(operation), as it ends.
    """

    def __init__(
        self,
        plan: WorkloadPlan,
        bed: str,
        cluster: int,
        boards: Sequence[str],
        seed: int,
        *,
        pace: Pace | None = None,
        clock: Callable[[], int] | None = None,
        first_client: int = schema.FIRST_CLIENT,
        on_invoke: Callable[[Operation], object] | None = None,
        on_complete: Callable[[Operation], object] | None = None,
        try_s: float = TRY_S,
        protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    ) -> None:
        self.plan = plan
        self.bed = bed
        self.operations: list[Operation] = []  # in order of invocation; the task's until `stop` has returned
        self._cluster = cluster
        self._boards = sorted(boards)
        self._seed = seed
        self._pace: Pace = pace or WallPace()
        self._clock = clock or self._pace.now_ns
        self._on_invoke = on_invoke
        self._on_complete = on_complete
        self._try_s = try_s
        self._protocols = tuple(protocols)
        self._clients = itertools.count(first_client)
        self._processes = itertools.count()
        self._sequence = itertools.count(1)
        self._order = itertools.count()  # ties in the heap
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._inbox = self._pace.inbox()  # of (topic, payload), and of functions to call
        self._pending: dict[tuple[int, int], Pending] = {}
        self._idle_gossip: list[Slot] = []
        self._slots = [self._new_slot(f"client {number}") for number in self._numbers()]
        self._rumours = random.Random(f"{seed} rumours")
        self._gossip_slots = 0
        self._draining = False
        self._ended = self._pace.signal()
        self._drained = self._pace.signal()
        self._connection: Connection | None = None
        self._task: Task | None = None

    # What a campaign calls.

    def start(self, connect: Connect) -> None:
        """Connect to the broker (RigError where there is none) and begin."""
        self._connection = connect([(f"{self.bed}/re/+", 1)], lambda topic, data: self._inbox.put((topic, data)))
        now_s = self._now_s()
        if self.plan.operations:
            self._start_scripts(now_s)
        elif self.plan.operations_per_s > 0 and self.plan.mix:
            for slot in self._slots:
                slot.due_s = now_s
                self._next_operation(slot)
        if self.plan.rumours_per_s > 0 and not self.plan.operations:
            self._next_rumour(now_s)
        self._task = self._pace.start(self._run, "workload")

    def stop(self) -> list[Operation]:
        """Begin nothing new, let what goes on end, and return every operation."""
        if self._task is not None and self._task.is_alive():
            self._inbox.put(self._drain)
            self._drained.wait(self.plan.operation_timeout_s + 2 * self._try_s)
        return list(self.operations)

    def final_reads(self, boards: Sequence[str] | None = None, within_s: float = FINAL_READ_S) -> list[Operation]:
        """After `stop`: one read of each key through whichever of `boards` answers; also part of `operations`."""
        results = self._pace.inbox()
        reads = self._closing_reads()
        self._inbox.put(lambda: self._begin_final_reads(reads, boards, within_s, results))
        return [results.get(timeout=within_s + 2 * self._try_s) for _read in reads]

    def close(self) -> None:
        """End the task and the connection; what still goes on is left as `info`."""
        self._ended.set()
        if self._task is not None and self._task.is_alive():
            self._inbox.put(lambda: None)
            self._task.join(5.0)
        if self._connection is not None:
            self._connection.close()

    def _closing_reads(self) -> list[tuple[str, str]]:
        """(operation, key) of what is read at the end: the keys that clients use."""
        if self.plan.operations:
            keys = {entry.key for entry in self.plan.operations if entry.operation in LOG_OPERATIONS}
            return [("get", key) for key in sorted(keys)]
        return closing_reads(self._protocols, self.plan.keys)

    # The task.

    def _now_s(self) -> float:
        return self._pace.now_ns() / 1e9

    def _run(self) -> None:
        while not self._ended.is_set():
            now_s = self._now_s()
            while self._due and self._due[0][0] <= now_s:
                heapq.heappop(self._due)[2]()
            if self._draining and not self._pending:
                self._drained.set()
            wait_s = self._due[0][0] - self._now_s() if self._due else IDLE_S
            try:
                item = self._inbox.get(timeout=max(0.0, min(wait_s, IDLE_S)))
            except queue.Empty:
                continue
            if callable(item):
                item()
            else:
                self._take(*item)

    def _at(self, due_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), action))

    def _drain(self) -> None:
        self._draining = True

    # What comes next.

    def _new_slot(self, name: str, gossip: bool = False) -> Slot:
        return Slot(random.Random(f"{self._seed} {name}"), next(self._processes), next(self._clients), gossip)

    def _new_process(self, slot: Slot) -> None:
        slot.process = next(self._processes)
        self._new_client(slot)

    def _new_client(self, slot: Slot) -> None:
        slot.client = next(self._clients)
        slot.requests = 0
        slot.seen = {}

    def _next_operation(self, slot: Slot) -> None:
        """Put the slot's next operation on the schedule; its pace is kept where the bed keeps up."""
        pause_s = slot.random.expovariate(self.plan.operations_per_s / max(1, self.plan.clients))
        slot.due_s = max(slot.due_s + pause_s, self._now_s())
        self._at(slot.due_s, lambda: self._begin_next(slot))

    def _begin_next(self, slot: Slot) -> None:
        if self._draining:
            return
        names = sorted(self.plan.mix)
        name = slot.random.choices(names, [self.plan.mix[entry] for entry in names])[0]
        row = row_of(name)
        turn = Turn(slot.random, slot.client, slot.requests + 1, self.plan.keys, slot.seen)
        key = row.key(turn)
        value = None if row.value is None else row.value(turn, key)
        expected = None if row.expected is None else row.expected(turn, key)
        boards = slot.random.sample(self._boards, len(self._boards))
        self._begin(slot, name, key, value, expected, boards, self.plan.operation_timeout_s)

    def _numbers(self) -> list[int]:
        """The numbers of the clients."""
        if self.plan.operations:
            return sorted({entry.client for entry in self.plan.operations})
        return list(range(self.plan.clients))

    def _start_scripts(self, start_s: float) -> None:
        for number, slot in zip(self._numbers(), self._slots, strict=True):
            mine = [entry for entry in self.plan.operations if entry.client == number]
            slot.script = deque(sorted(mine, key=lambda entry: entry.at_s))
            slot.due_s = start_s
            self._next_scripted(slot)

    def _next_scripted(self, slot: Slot) -> None:
        """due_s of such a slot is when the run began."""
        if slot.script:
            entry = slot.script.popleft()
            self._at(max(slot.due_s + entry.at_s, self._now_s()), lambda: self._begin_scripted(slot, entry))

    def _begin_scripted(self, slot: Slot, entry: PlannedOperation) -> None:
        if self._draining:
            return
        drawn = slot.random.sample(self._boards, len(self._boards))
        boards = [*entry.boards, *(board for board in drawn if board not in entry.boards)]
        value, expected = entry.value, entry.expected
        row = row_of(entry.operation)
        turn = Turn(slot.random, slot.client, slot.requests + 1, self.plan.keys, slot.seen)
        if value is None and row.value is not None:
            value = row.value(turn, entry.key)
        if expected is None and row.expected is not None:
            expected = row.expected(turn, entry.key)
        self._begin(slot, entry.operation, entry.key, value, expected, boards, self.plan.operation_timeout_s)

    def _next_rumour(self, after_s: float) -> None:
        due_s = after_s + self._rumours.expovariate(self.plan.rumours_per_s)
        self._at(due_s, lambda: self._begin_rumour(due_s))

    def _begin_rumour(self, due_s: float) -> None:
        if self._draining:
            return
        self._next_rumour(due_s)
        name = "delete" if self._rumours.random() < self.plan.deletes else "write"
        key = f"g{self._rumours.randrange(GOSSIP_KEYS)}"
        board = self._rumours.choice(self._boards)
        if self._idle_gossip:
            slot = self._idle_gossip.pop(0)
        else:
            self._gossip_slots += 1
            slot = self._new_slot(f"rumours {self._gossip_slots}", gossip=True)
        value = f"r{slot.client}-{slot.requests + 1}" if name == "write" else None
        self._begin(slot, name, key, value, None, [board], self.plan.operation_timeout_s)

    def _begin_final_reads(
        self, reads: list[tuple[str, str]], boards: Sequence[str] | None, within_s: float, results: Inbox
    ) -> None:
        for name, key in reads:
            slot = self._new_slot(f"final {key}")
            asked = slot.random.sample(sorted(boards or self._boards), len(boards or self._boards))
            pending = self._begin(slot, name, key, None, None, asked, within_s)
            pending.done = lambda pending=pending: results.put(pending.operation)

    # One operation.

    def _begin(
        self,
        slot: Slot,
        name: str,
        key: str,
        value: str | None,
        expected: str | None,
        boards: list[str],
        timeout_s: float,
    ) -> Pending:
        slot.requests += 1
        fields = (slot.requests, OPERATION_IDS[name], key, value, expected)
        message = codec.encode_message(self._cluster, slot.client, 0, next(self._sequence), schema.COMMAND, fields)
        operation = Operation(
            slot.process, slot.client, slot.requests, name, key, value, expected, boards[0], self._clock()
        )
        self.operations.append(operation)
        if self._on_invoke is not None:
            self._on_invoke(operation)
        pending = Pending(slot, operation, message, self._now_s() + timeout_s, boards)
        self._pending[slot.client, slot.requests] = pending
        self._at(pending.deadline_s, lambda: self._time_out(pending))
        self._try(pending)
        return pending

    def _try(self, pending: Pending) -> None:
        """Ask the next board, and another one if it does not answer in time, where boards do a request once."""
        if not self._goes_on(pending):
            return
        assert self._connection is not None
        if pending.sent and not row_of(pending.operation.operation).again:
            return
        board = pending.boards[pending.sent % len(pending.boards)]
        if self._connection.publish(f"{self.bed}/cmd/{board}", pending.message, qos=0):
            pending.sent += 1
            pending.operation.board = board
        self._at(self._now_s() + self._try_s, lambda: self._try(pending))

    def _goes_on(self, pending: Pending) -> bool:
        return self._pending.get((pending.operation.client, pending.operation.request)) is pending

    def _time_out(self, pending: Pending) -> None:
        if not self._goes_on(pending):
            return
        if pending.sent:
            self._end(pending, Outcome.INFO, "timeout", None, None)
        else:
            self._end(pending, Outcome.FAIL, "unsent", None, None)

    def _take(self, topic: str, data: bytes) -> None:
        """A reply; whatever is not the answer to something pending is a late or repeated one."""
        try:
            cluster, _source, _boot, _sequence, kind, fields = codec.decode_message(data)
        except MessageError:
            return
        if kind != schema.REPLY or cluster != self._cluster:
            return
        client, request, status, value, height = fields
        pending = self._pending.get((client, request))
        if pending is None or topic.rpartition("/")[2] != str(client):
            return
        self._answer(pending, STATUS_NAMES.get(status, str(status)), value, height)

    def _answer(self, pending: Pending, status: str, value: str | None, height: int) -> None:
        if status in ("ok", "mismatch"):
            happened = status == "ok"
            self._remember(pending, happened, value)
            self._end(pending, Outcome.OK if happened else Outcome.FAIL, status, value, height)
        elif status in ("busy", "refused", "stale") and pending.done is not None:
            self._at(self._now_s() + FINAL_PAUSE_S, lambda: self._try(pending))  # a final read asks until it knows
        elif (
            status == "stale"  # of a read, which changes nothing
            or (status == "full" and height > 0)  # decided in the log, where it is the one answer to the request
            or (status in REFUSALS and pending.sent == 1)
        ):
            self._end(pending, Outcome.FAIL, status, value, height)
        elif status not in ("busy", "refused"):
            self._end(pending, Outcome.INFO, status, value, height)

    @staticmethod
    def _remember(pending: Pending, happened: bool, value: str | None) -> None:
        operation = pending.operation
        if operation.operation in LOG_OPERATIONS:
            written = happened and operation.operation != "get"
            pending.slot.seen[operation.key] = operation.value if written else value

    def _end(self, pending: Pending, outcome: Outcome, status: str, value: str | None, height: int | None) -> None:
        slot, operation = pending.slot, pending.operation
        del self._pending[operation.client, operation.request]
        operation.outcome = outcome
        operation.status = status
        operation.result = value
        operation.height = height
        operation.finished_ns = None if outcome is Outcome.INFO else self._clock()
        if self._on_complete is not None:
            self._on_complete(operation)
        if outcome is Outcome.INFO:
            self._new_process(slot)
        elif status == "expired":
            self._new_client(slot)
        if pending.done is not None:
            pending.done()
        elif slot.script is not None:
            self._next_scripted(slot)
        elif slot.gossip:
            self._idle_gossip.append(slot)
        elif not self._draining:
            self._next_operation(slot)
