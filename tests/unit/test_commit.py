"""Atomic commit in virtual time: its exact cost, both outcomes, power cuts at any effect, shards that are blocked."""

from __future__ import annotations

from typing import Any

import pytest
from brownout_node.core import codec, schema
from brownout_node.core.commit import (
    ACK,
    BALANCE,
    DECISION,
    FORWARD,
    INQUIRE,
    PREPARE,
    TRANSFER,
    VOTE,
    parsed,
)
from brownout_node.core.errors import ConfigError
from cluster import CLUSTER, Cluster, Event, MemoryJournal, Reply

CLIENT = 2000
LOW, HIGH = 0x21000, 0x22000  # journal keys of this protocol
KINDS = (PREPARE, VOTE, DECISION, ACK, INQUIRE, FORWARD)


class CountingJournal(MemoryJournal):
    """Counts the appends that hold records of this protocol, and those of the vote."""

    def __init__(self, board: int) -> None:
        super().__init__(board)
        self.forced = 0
        self.voted = 0

    def append(self, records: Any) -> None:
        keys = [key for key, _ in records]
        self.forced += any(LOW <= key < HIGH for key in keys)
        self.voted += any(schema.JOURNAL_VOTE <= key < 0x400 or 0x10000 <= key < 0x20000 for key in keys)
        super().append(records)


class Bank(Cluster):
    """Boards with accounts; requests are numbered, clients too."""

    def __init__(self, count: int = 5, seed: int = 1, *, non_blocking: bool = False, **options: Any) -> None:
        chosen = {"non_blocking": int(non_blocking), **options.pop("commit", {})}
        self.requests = 0
        self.non_blocking = non_blocking
        names = ["vote", "commit"] if non_blocking else ["commit"]
        options.setdefault("journal", CountingJournal)
        super().__init__(seed, count, protocols=names, options={"commit": chosen}, **options)
        self.run(1000)

    def of(self, board: int) -> Any:
        return self.node(board).protocol("commit")

    def account(self, board: int, index: int = 0) -> str:
        """The index-th account of a board."""
        keys = (f"a{number}" for number in range(10_000))
        return [key for key, _ in zip((k for k in keys if self.owner(k) == board), range(index + 1), strict=False)][-1]

    def owner(self, key: str) -> int:
        return int(self.of(self.running[0]).shard.owner(key))

    def transfer(self, board: int, source: str, target: str, amount: int, *, again: int = 0, client: int = 0) -> int:
        """Ask for one; the request, whose answer comes later."""
        self.requests += not again
        request = again or self.requests
        self.command(board, client or CLIENT + request, request, TRANSFER, source, f"{target}:{amount}")
        return request

    def answers(self, request: int) -> list[Reply]:
        return [reply for reply in self.replies if reply.request == request]

    def answer(self, request: int, within_ms: int = 3000) -> int:
        assert self.run_until(lambda: bool(self.answers(request)), within_ms), f"seed {self.seed}"
        return self.answers(request)[-1].status

    def balance(self, key: str, board: int = 1) -> tuple[int, str | None, int]:
        self.requests += 1
        self.command(board, CLIENT + self.requests, self.requests, BALANCE, key)
        self.answer(self.requests)
        reply = self.answers(self.requests)[-1]
        return reply.status, reply.value, reply.height

    def told(self, name: str, **fields: Any) -> list[Event]:
        return [event for event in self.events if event.name == name and fields.items() <= event.fields.items()]

    def settled(self) -> bool:
        return all(not self.of(board).shard.prepared and not self.of(board).active for board in self.running)

    def totals(self) -> tuple[int, int]:
        sums = [self.of(board).shard.total() for board in self.running]
        return sum(row[0] for row in sums), sum(row[1] for row in sums)


both = pytest.mark.parametrize("non_blocking", [False, True], ids=["two-phase", "non-blocking"])


def test_a_transfer_by_two_phases_costs_what_the_page_says() -> None:
    """Coordinator 1, shards 2 and 3: 8 messages; answered after 2 delays, done after 3, forgotten after 4; 5 writes."""
    bank = Bank()
    source, target = bank.account(2), bank.account(3)
    began_ms = bank.now_ms
    before = {board: state.journal.forced for board, state in bank.boards.items()}
    bank.sent.clear()
    request = bank.transfer(1, source, target, 30)
    assert bank.answer(request) == schema.OK
    assert bank.answers(request)[0].time_ms - began_ms == 2
    assert bank.run_until(lambda: len(bank.told("commit_applied")) == 2, 100)
    assert bank.now_ms - began_ms == 3
    assert bank.run_until(lambda: not bank.of(1).active, 100)
    assert bank.now_ms - began_ms == 4
    bank.run(2000)
    counts = {kind: sum(sent.kind == kind for sent in bank.sent) for kind in KINDS}
    assert counts == {PREPARE: 2, VOTE: 2, DECISION: 2, ACK: 2, INQUIRE: 0, FORWARD: 0}
    forced = {board: state.journal.forced - before[board] for board, state in bank.boards.items()}
    assert forced == {1: 1, 2: 2, 3: 2, 4: 0, 5: 0}
    assert bank.balance(source) == (schema.OK, "70", 1)
    assert bank.balance(target) == (schema.OK, "130", 1)


def test_a_transfer_by_the_log_costs_what_the_page_says() -> None:
    """The decision takes 4 more delays (3 where the coordinator proposes), and no write of the coordinator's own."""
    delays = set()
    bank = Bank(non_blocking=True)
    for index in range(10):
        source, target = bank.account(2, index), bank.account(3, index)
        began_ms = bank.now_ms
        before = {board: (state.journal.forced, state.journal.voted) for board, state in bank.boards.items()}
        bank.sent.clear()
        proposed = len(bank.told("proposed"))
        request = bank.transfer(1, source, target, 30)
        assert bank.answer(request) == schema.OK
        delay = bank.answers(request)[0].time_ms - began_ms
        proposer = bank.told("proposed")[proposed].board
        assert delay == (5 if proposer == 1 else 6)
        delays.add(delay)
        assert bank.run_until(lambda: not bank.of(1).active, 100)
        assert bank.now_ms - began_ms == delay + 2
        bank.run(700)
        applied = [event.time_ms - began_ms for event in bank.told("commit_applied")[-2:]]
        assert max(applied) <= delay + 1
        counts = {kind: sum(sent.kind == kind for sent in bank.sent) for kind in KINDS}
        assert counts == {PREPARE: 2, VOTE: 2, DECISION: 2, ACK: 2, INQUIRE: 0, FORWARD: 0}
        for board, (forced, voted) in before.items():
            journal = bank.boards[board].journal
            assert journal.forced - forced == (2 if board in (2, 3) else 0), board
            assert journal.voted - voted == 3, board
        assert not [sent for sent in bank.sent if sent.kind == schema.REPLY and sent.to >= schema.FIRST_OWN]
    assert delays == {5, 6}


@both
def test_a_transfer_on_one_board_is_one_write(non_blocking: bool) -> None:
    bank = Bank(non_blocking=non_blocking)
    source, target = bank.account(4), bank.account(4, 1)
    for asked, messages in ((4, 0), (1, 1)):
        before = bank.boards[4].journal.forced
        bank.sent.clear()
        request = bank.transfer(asked, source, target, 10)
        assert bank.answer(request) == schema.OK
        assert bank.boards[4].journal.forced - before == 1
        assert sum(sent.kind in KINDS for sent in bank.sent) == messages
    assert bank.balance(source)[1:] == ("80", 2)


@both
def test_money_that_is_not_there_is_not_spent_and_the_answer_stays(non_blocking: bool) -> None:
    bank = Bank(non_blocking=non_blocking)
    source, target = bank.account(2), bank.account(3)
    request = bank.transfer(1, source, target, 101)
    assert bank.answer(request) == schema.MISMATCH
    assert bank.answer(bank.transfer(1, target, source, 50)) == schema.OK
    assert bank.run_until(bank.settled, 1000)
    bank.transfer(4, source, target, 101, again=request)
    bank.run(500)
    assert [reply.status for reply in bank.answers(request)] == [schema.MISMATCH] * 2
    assert bank.totals() == (200, 2)
    same = bank.account(2, 1)
    request = bank.transfer(2, source, same, 1000)
    assert bank.answer(request) == schema.MISMATCH


@both
def test_a_request_is_carried_out_once_whoever_is_asked(non_blocking: bool) -> None:
    bank = Bank(non_blocking=non_blocking)
    source, target = bank.account(2), bank.account(3)
    request = bank.transfer(1, source, target, 10)
    bank.transfer(4, source, target, 10, again=request)  # at the same time
    bank.transfer(1, source, target, 10, again=request)
    bank.run(500)
    for board in (1, 2, 3, 5):
        bank.transfer(board, source, target, 10, again=request)
        bank.run(300)
    for board in (2, 3):
        bank.power_off(board)
        bank.power_on(board)
    bank.run(500)
    bank.transfer(5, source, target, 10, again=request)
    bank.run(500)
    statuses = [reply.status for reply in bank.answers(request)]
    assert statuses.count(schema.OK) >= 5 and set(statuses) <= {schema.OK, schema.BUSY}
    assert bank.balance(source) == (schema.OK, "90", 1)
    assert bank.balance(target) == (schema.OK, "110", 1)


@pytest.mark.parametrize(
    "value", [None, "", "b", "b:", ":5", "b:0", "b:-1", "b:+1", "b: 1", "b:1.5", "b:1234567890", "x" * 33 + ":1"]
)
def test_nonsense_is_refused(value: str | None) -> None:
    assert parsed(value) is None
    bank = Bank(3)
    bank.command(1, CLIENT, 1, TRANSFER, "a", value)
    assert bank.answer(1) == schema.REFUSED


def test_the_account_may_have_a_colon_and_must_be_another() -> None:
    assert parsed("b:c:5") == ("b:c", 5)
    bank = Bank(3)
    bank.command(1, CLIENT, 1, TRANSFER, "b:c", "b:c:5")
    assert bank.answer(1) == schema.REFUSED


def test_the_variant_without_blocking_needs_the_vote_and_room_in_its_log() -> None:
    with pytest.raises(ConfigError, match="vote has to stand before commit"):
        Cluster(1, 3, protocols=["commit"], options={"commit": {"non_blocking": 1}})
    with pytest.raises(ConfigError, match="the log has room for 5"):
        Cluster(1, 12, protocols=["vote", "commit"], options={"commit": {"non_blocking": 1, "slots": 6}})


# What becomes of a transaction whose boards lose their power or their links.


def dark(bank: Bank) -> int:
    """Shards 2 and 3 are prepared, and their coordinator, 1, loses power before it tells them anything."""
    bank.drop = lambda sent, target: sent.kind == VOTE
    request = bank.transfer(1, bank.account(2), bank.account(3), 30)
    assert bank.run_until(lambda: len(bank.told("commit_prepared")) == 2, 100)
    bank.power_off(1)
    bank.drop = None
    return request


def test_a_shard_in_doubt_is_blocked_for_as_long_as_its_coordinator_is_away() -> None:
    bank = Bank()
    dark(bank)
    bank.run(5000)
    assert bank.balance(bank.account(2), 4)[0] == schema.BUSY
    assert bank.answer(bank.transfer(4, bank.account(2), bank.account(5), 1)) == schema.BUSY
    assert len(bank.told("commit_blocked")) == 2 and not bank.told("commit_resolved")
    bank.power_on(1)
    assert bank.run_until(bank.settled, 1000)
    resolved = [event.fields["blocked_ms"] for event in bank.told("commit_resolved", commit=False)]
    assert len(resolved) == 2 and all(5000 <= blocked_ms < 5300 for blocked_ms in resolved)
    assert bank.balance(bank.account(2)) == (schema.OK, "100", 0)


def test_the_log_unblocks_a_shard_whose_coordinator_is_away() -> None:
    bank = Bank(non_blocking=True)
    dark(bank)
    bank.run(5000)
    assert bank.settled()
    resolved = [event.fields["blocked_ms"] for event in bank.told("commit_resolved", commit=False)]
    assert resolved and all(800 <= blocked_ms < 1000 for blocked_ms in resolved)
    assert bank.balance(bank.account(2), 4) == (schema.OK, "100", 0)
    bank.power_on(1)
    bank.run(1000)
    assert bank.answer(bank.transfer(1, bank.account(2), bank.account(3), 30)) == schema.OK  # in the same slot
    assert bank.run_until(bank.settled, 1000)
    assert bank.totals() == (200, 2)


def test_without_a_majority_the_log_unblocks_nobody() -> None:
    bank = Bank(non_blocking=True)
    dark(bank)
    bank.power_off(4)
    bank.power_off(5)
    bank.run(5000)
    assert len(bank.of(2).shard.prepared) == len(bank.of(3).shard.prepared) == 1
    bank.power_on(4)
    assert bank.run_until(bank.settled, 3000)


@pytest.mark.parametrize("commits", [True, False])
def test_who_asks_the_log_first_decides(commits: bool) -> None:
    """Both shards are prepared and both votes are in; the log takes the coordinator's word, or a shard's."""
    bank = Bank(non_blocking=True)
    source, target = bank.account(2), bank.account(3)
    asks = bank.of(1).log
    if not commits:
        bank.drop = lambda sent, to: 1 in (sent.source, to) and sent.kind not in KINDS
    request = bank.transfer(1, source, target, 30)
    bank.run(3000)
    bank.drop = None
    assert bank.answer(request) == (schema.OK if commits else schema.BUSY)
    assert bank.run_until(bank.settled, 3000)
    assert asks.look(1, 0)[1] == ([2, 3] if commits else None)
    assert {event.fields["commit"] for event in bank.told("commit_decided")} == {commits}
    assert bank.totals()[0] in (200, 0)


def test_a_coordinator_that_waits_for_votes_hears_of_the_abort_from_the_log() -> None:
    bank = Bank(non_blocking=True, commit={"vote_timeout_ms": 5000, "doubt_timeout_ms": 100})
    bank.drop = lambda sent, target: sent.kind == VOTE and sent.source == 3
    request = bank.transfer(1, bank.account(2), bank.account(3), 30)
    assert bank.answer(request, 300) == schema.BUSY
    assert bank.run_until(bank.settled, 100)


def test_a_shard_that_is_asked_after_the_abort_does_not_stay_in_doubt() -> None:
    """A request to prepare comes late, when the log has decided: it will not grow again for that transaction."""
    bank = Bank(non_blocking=True, commit={"vote_timeout_ms": 5000, "doubt_timeout_ms": 100})
    bank.drop = lambda sent, target: sent.kind == PREPARE and target == 3
    request = bank.transfer(1, bank.account(2), bank.account(3), 30)
    late = next(sent for sent in bank.sent if sent.kind == PREPARE and sent.to == 3)
    assert bank.answer(request, 400) == schema.BUSY
    assert bank.run_until(bank.settled, 100)
    bank.run(5000)
    bank.receive(1, 3, codec.encode_message(CLUSTER, 1, late.boot, 999, PREPARE, late.fields))
    assert bank.of(3).shard.prepared
    assert bank.run_until(bank.settled, 200)
    assert bank.balance(bank.account(3)) == (schema.OK, "100", 0)


@both
@pytest.mark.parametrize("board", [1, 2, 3])
def test_power_goes_before_any_effect_of_a_transfer(board: int, non_blocking: bool) -> None:
    """One board after the other loses power before its n-th effect; whatever was answered is so, and money stays."""
    outcomes = set()
    for effects in range(14):
        bank = Bank(non_blocking=non_blocking, seed=effects + 1)
        source, target = bank.account(2), bank.account(3)
        bank.power_off_within(board, effects)
        request = bank.transfer(1, source, target, 30)
        bank.run(1500)
        bank.boards[board].effects_left = -1
        bank.power_on(board)
        bank.run(3000)
        assert bank.settled(), f"cut of {board} before effect {effects}"
        left = bank.balance(source, 4)[1]
        assert (left, bank.balance(target, 4)[1]) in {("70", "130"), ("100", "100")}, effects
        for reply in bank.answers(request):
            assert reply.status == (schema.OK if left == "70" else schema.BUSY)
        outcomes.add(left)
        bank.transfer(5, source, target, 30, again=request)  # the client asks somebody else
        assert bank.run_until(lambda bank=bank: bank.settled(), 2000)
        bank.run(600)
        assert bank.balance(source, 4)[1] == "70"
    assert outcomes == {"70", "100"}


@both
@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_storm_no_money_is_made_or_lost(seed: int, non_blocking: bool) -> None:
    weather = {"latency_ms": (1, 30), "loss_percent": 10, "duplicate_percent": 10, "late_percent": 5}
    bank = Bank(seed=seed, non_blocking=non_blocking, **weather)
    keys = [bank.account(board, index) for board in (1, 2, 3, 4, 5) for index in (0, 1)]

    def ask() -> None:
        if bank.now_ms < 9000:
            source, target = bank.random.sample(keys, 2)
            amount = bank.random.randint(1, 40)
            request = bank.transfer(bank.random.randint(1, 5), source, target, amount)
            bank.at(bank.now_ms + 150, again, source, target, amount, request)
            bank.at(bank.now_ms + 30, ask)

    def again(source: str, target: str, amount: int, request: int) -> None:
        bank.transfer(bank.random.randint(1, 5), source, target, amount, again=request)

    ask()
    bank.storm(8000)
    bank.calm()
    bank.run(6000)
    assert bank.settled()
    money, accounts = bank.totals()
    assert money == 100 * accounts
    assert len(bank.told("commit_applied")) > 10
    for board in bank.running:
        fresh = [bank.account(shard, 20 + board) for shard in (1, 3)]
        assert bank.answer(bank.transfer(board, *fresh, 5)) == schema.OK
    assert bank.run_until(bank.settled, 1000)
    for board in bank.running:
        for key, (_slot, balance, version) in bank.of(board).shard.accounts.items():
            told = {event.fields["version"]: event.fields for event in bank.told("commit_applied", key=key)}
            assert len(told) == len(bank.told("commit_applied", key=key)), "a change was made twice"
            assert max(told, default=0) <= version and (version not in told or told[version]["balance"] == balance)
