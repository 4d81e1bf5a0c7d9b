"""Clients that load a Cluster, and what must hold of the vote whatever happened to it. Judges; injects nothing.

The checks see everything: each message as it leaves with the journal it leaves from, each answer, each record. They
must fail for a replica that sends before it persists, counts quorums short, forgets its lock or votes once wiped.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict

from brownout_node.core import codec, schema
from cluster import Cluster, Sent

NAMES = {schema.PREVOTE: "prevote", schema.PRECOMMIT: "precommit", schema.PROPOSAL: "proposal"}


class Violation(AssertionError):
    """Something that must never happen, or that must happen and did not."""


class Promises:
    """Watches every vote as it leaves: none contradicts an earlier one, wiped since or not, and each obeys the lock."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.votes: dict[tuple[int, int, int, int], bytes | None] = {}  # (board, kind, height, round)
        self.weight: dict[tuple[int, int, bytes], set[int]] = defaultdict(set)  # (height, round, value): who prevoted
        self.locks: dict[tuple[int, int], dict[int, bytes]] = defaultdict(dict)  # (board, height): round -> value
        self.submitted: set[tuple[int, int]] = set()
        self.proposals: dict[tuple[int, int], bytes] = {}
        cluster.on_sent.append(self.see)

    def see(self, sent: Sent) -> None:
        if sent.kind == schema.PROPOSAL:
            self._see_proposal(sent)
        elif sent.kind in NAMES:
            height, round_, value_id = sent.fields
            name = f"board {sent.source} at {sent.time_ms} ms: {NAMES[sent.kind]} of height {height} round {round_}"
            earlier = self.votes.setdefault((sent.source, sent.kind, height, round_), value_id)
            if earlier != value_id:
                raise Violation(f"{name} contradicts its earlier one")
            stored = self._check_durable(sent, name)
            if stored[:4] == (height, round_, round_, value_id):
                # Its own prevote counts once it is durable, even where power went before it was sent.
                self.weight[height, round_, value_id].add(sent.source)
            if value_id is not None and sent.kind == schema.PREVOTE:
                self._check_lock(sent, name)
                self.weight[height, round_, value_id].add(sent.source)
            if value_id is not None and sent.kind == schema.PRECOMMIT:
                if not self._is_quorum(height, self.weight[height, round_, value_id]):
                    raise Violation(f"{name} without a quorum of prevotes")
                self.locks[sent.source, height][round_] = value_id

    def _see_proposal(self, sent: Sent) -> None:
        height, round_, _valid_round, value = sent.fields
        if self.proposals.setdefault((height, round_), value) != value:
            raise Violation(f"board {sent.source} proposed two values at height {height} round {round_}")

    def weights_at(self, height: int) -> dict[int, int]:
        """What each board's vote weighs at that height."""
        return {row[0]: row[2] for row in self.cluster.roster}

    def _is_quorum(self, height: int, boards: set[int]) -> bool:
        weights = self.weights_at(height)
        return 2 * sum(weights[board] for board in boards) > sum(weights.values())

    def _check_durable(self, sent: Sent, name: str) -> tuple:
        packed = self.cluster.boards[sent.source].journal.get(schema.JOURNAL_VOTE)
        height, round_, value_id = sent.fields
        if packed is None:
            raise Violation(f"{name} is not durable")
        stored = codec.unpack("uuidid", packed)
        vote = stored[2:4] if sent.kind == schema.PREVOTE else stored[4:6]
        # A later vote of the same step may already have taken the record's place.
        if (stored[0], vote[0]) < (height, round_) or (
            (stored[0], *vote[:1]) == (height, round_) and vote[1] != value_id
        ):
            raise Violation(f"{name} is not durable")
        return stored

    def _check_lock(self, sent: Sent, name: str) -> None:
        height, round_, value_id = sent.fields
        earlier = [(at, value) for at, value in self.locks[sent.source, height].items() if at < round_]
        if not earlier:
            return
        locked_round, locked = max(earlier)
        if locked != value_id and not any(
            self._is_quorum(height, self.weight[height, at, value_id]) for at in range(locked_round, round_)
        ):
            raise Violation(f"{name} ignores the lock of round {locked_round}")


class Clients:
    """Sequential clients of random boards: each retries through another board until it is answered or gives up."""

    def __init__(
        self,
        cluster: Cluster,
        count: int = 3,
        *,
        keys: int = 3,
        retry_ms: int = 1500,
        give_up_ms: int = 20000,
        seed: int = 0,
    ) -> None:
        self.cluster = cluster
        self.random = random.Random(f"clients {cluster.seed} {seed}")
        self.keys = keys
        self.retry_ms = retry_ms
        self.give_up_ms = give_up_ms
        self.next_client = schema.FIRST_CLIENT + 100 * seed
        self.invoked: dict[tuple[int, int], tuple[int, tuple]] = {}  # (client, request): time, operation
        self.answered: dict[tuple[int, int], tuple[int, int, str | None, int]] = {}  # time, status, value, height
        self.open: list[tuple[int, int]] = []
        self.stopped = False
        self._seen = 0
        for _ in range(count):
            self._begin(self._fresh(), 1)

    def _fresh(self) -> int:
        self.next_client += 1
        return self.next_client

    def _begin(self, client: int, request: int) -> None:
        if self.stopped:
            return
        operation = self.random.choice((schema.PUT, schema.GET, schema.CAS))
        key = f"k{self.random.randrange(self.keys)}"
        value = None if operation == schema.GET else f"{client}.{request}"
        expected = None
        if operation == schema.CAS:
            known = [row[1][2] for row in self.invoked.values() if row[1][1] == key] + [None]
            expected = self.random.choice(known[-4:])
        self.invoked[client, request] = (self.cluster.now_ms, (operation, key, value, expected))
        self.open.append((client, request))
        self._attempt(client, request)

    def _attempt(self, client: int, request: int) -> None:
        self.collect()
        if (client, request) not in self.open:
            return
        started_ms, operation = self.invoked[client, request]
        if self.cluster.now_ms - started_ms > self.give_up_ms:
            self.open.remove((client, request))
            self._begin(self._fresh(), 1)
            return
        self.cluster.command(self.random.choice(list(self.cluster.boards)), client, request, *operation)
        self.cluster.at(
            self.cluster.now_ms + self.random.randrange(self.retry_ms // 2, self.retry_ms),
            self._attempt,
            client,
            request,
        )

    def collect(self) -> None:
        """Take the answers that have come, and go on with the next requests."""
        replies = self.cluster.replies
        while self._seen < len(replies):
            reply = replies[self._seen]
            self._seen += 1
            answer = (reply.time_ms, reply.status, reply.value, reply.height)
            key = (reply.client, reply.request)
            if key in self.answered:
                if self.answered[key][1:] != answer[1:]:
                    raise Violation(f"two answers to {key}: {self.answered[key]} and {answer}")
            elif key in self.open and reply.status not in (schema.BUSY, schema.REFUSED):
                self.answered[key] = answer
                self.open.remove(key)
                self.cluster.at(self.cluster.now_ms + self.random.randrange(1, 80), self._begin, key[0], key[1] + 1)

    def stop(self) -> None:
        self.stopped = True


def decided_log(cluster: Cluster) -> dict[int, bytes]:
    """height -> value, from every event and every journal; agreement is that there is one value for each."""
    ids: dict[int, tuple[bytes, int]] = {}
    for event in cluster.events:
        if event.name == "decided":
            found = (event.fields["value_id"], event.board)
            first = ids.setdefault(event.fields["height"], found)
            if first[0] != found[0]:
                raise Violation(
                    f"height {event.fields['height']}: boards {first[1]} and {event.board} decided differently"
                )
    # Journals keep the last decisions alone; earlier values are found by their id among what was proposed.
    proposed = {
        hashlib.sha256(sent.fields[3]).digest()[:8]: sent.fields[3]
        for sent in cluster.sent
        if sent.kind == schema.PROPOSAL
    }
    log = {height: (proposed[value_id], board) for height, (value_id, board) in ids.items() if value_id in proposed}
    for sent in cluster.sent:
        if sent.kind == schema.ENTRIES:
            for index, (value,) in enumerate(sent.fields[2]):
                _agree(log, sent.fields[0] + index, value, sent.source)
    for board, state in cluster.boards.items():
        for key in state.journal.keys(schema.JOURNAL_LOG, schema.JOURNAL_LOG + schema.LOG_ENTRIES):
            _agree(log, *codec.unpack("ub", state.journal.get(key)), board)
    return {height: log[height][0] for height in sorted(log)}


def _agree(log: dict[int, tuple[bytes, int]], height: int, value: bytes, board: int) -> None:
    first = log.setdefault(height, (value, board))
    if first[0] != value:
        raise Violation(f"height {height}: boards {first[1]} and {board} hold different decisions")


def replay(log: dict[int, bytes], clients: Clients) -> dict[tuple[int, int], tuple[int, str | None, int, int]]:
    """Apply the log to a model; what each (client, request) must have been answered: status, value, height, place."""
    values: dict[str, str] = {}
    last: dict[int, int] = {}
    results: dict[tuple[int, int], tuple[int, str | None, int, int]] = {}
    place = floor = 0
    for height in range(1, max(log, default=0) + 1):
        if height not in log:
            raise Violation(f"height {height} was decided by nobody, a later one was")
        for client, request, operation, key, value, expected in codec.unpack(schema.BATCH, log[height])[0]:
            if operation == schema.ADMIT:
                continue
            if clients.invoked.get((client, request), (0, None))[1] != (operation, key, value, expected):
                raise Violation(f"height {height}: nobody asked for request {request} of client {client}")
            if request <= last.get(client, 0) or (client not in last and client <= floor):
                continue
            if client not in last and len(last) == schema.MAX_SESSIONS:
                floor = max(floor, min(last))
                del last[min(last)]
            last[client] = request
            place += 1
            status, result = schema.OK, None
            if operation == schema.GET:
                result = values.get(key)
            elif operation == schema.CAS and values.get(key) != expected:
                status, result = schema.MISMATCH, values.get(key)
            elif key not in values and len(values) == schema.MAX_KEYS:
                status = schema.FULL
            else:
                values[key] = value
            results[client, request] = (status, result, height, place)
    return results


def check_safety(cluster: Cluster, clients: Clients) -> None:
    """Agreement, validity, requests applied once, durable and linearizable answers, equal states at equal heights."""
    clients.collect()
    results = replay(decided_log(cluster), clients)
    for key, (_time_ms, status, value, height) in clients.answered.items():
        if status != schema.EXPIRED and results.get(key, ())[:3] != (status, value, height):
            raise Violation(f"{key} was answered {(status, value, height)}, the log says {results.get(key)}")
    completed = sorted((answer[0], results[key][3], key) for key, answer in clients.answered.items() if key in results)
    for key, (invoked_ms, _operation) in clients.invoked.items():
        if key in results:
            for answered_ms, place, other in completed:
                if answered_ms >= invoked_ms:
                    break
                if place > results[key][3]:
                    raise Violation(f"{key} began after {other} was answered, yet took effect before it")
    applied = defaultdict(set)
    digests: dict[int, bytes] = {}
    for event in cluster.events:
        if event.name == "applied":
            applied[event.fields["client"], event.fields["request"]].add(event.fields["height"])
        if event.name == "digest":
            height, digest = event.fields["height"], event.fields["digest"]
            if digests.setdefault(height, digest) != digest:
                raise Violation(f"board {event.board} has another state at height {height}")
    twice = {key: heights for key, heights in applied.items() if len(heights) > 1}
    if twice:
        raise Violation(f"applied twice: {twice}")


def height_of(cluster: Cluster, board: int) -> int:
    return cluster.node(board).protocol(cluster.node(board).protocols[0].name).register.next_height


def check_liveness(cluster: Cluster, clients: Clients, within_ms: int = 15000) -> None:
    """After the last fault: what is asked is answered within the bound, and every board comes to the same height."""
    clients.stop()

    def all_answered() -> bool:
        clients.collect()
        return not clients.open

    if not cluster.run_until(all_answered, within_ms):
        raise Violation(f"seed {cluster.seed}: no answer within {within_ms} ms to {clients.open}")

    def same_height() -> bool:
        return len({height_of(cluster, board) for board in cluster.boards}) == 1

    if not cluster.run_until(same_height, within_ms):
        heights = {board: height_of(cluster, board) for board in cluster.boards}
        raise Violation(f"seed {cluster.seed}: heights differ after {within_ms} ms: {heights}")
    states = {cluster.node(board).protocols[0].digest() for board in cluster.boards}
    if len(states) != 1:
        raise Violation(f"seed {cluster.seed}: states differ at the same height")
