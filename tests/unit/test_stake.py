"""Stakes in virtual time: what costs how much, when a stake counts, whose turn it is, and what survives power cuts."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from brownout_node.core import schema
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from brownout_node.core.stake import BOND, UNBOND, Stakes, amount_of
from cluster import Cluster, MemoryJournal
from vote_checks import Promises
from vote_cluster import GET, PUT, ask, events, proposer_of, same_state, vote_of, wiped

EPOCH = 4
VOTES = (schema.REQUEST, schema.PROPOSAL, schema.PREVOTE, schema.PRECOMMIT)


def make(voters: int = 4, learners: int = 0, **options: Any) -> Cluster:
    chosen = {"epoch": EPOCH, "unit": 10, "purse": 20, **options.pop("stake", {})}
    return Cluster(options.pop("seed", 1), voters, learners, protocols=["stake"], options={"stake": chosen}, **options)


class ByStake(Promises):
    """The promises of the vote, with a majority of the stake in force."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.epochs: dict[int, dict[int, int]] = {}  # number of the epoch -> stakes

    def see(self, sent: Any) -> None:
        if sent.kind in VOTES:
            register = vote_of(self.cluster, sent.source).register
            self.epochs.setdefault((register.next_height - 1) // EPOCH, dict(register.stakes))
        super().see(sent)

    def weights_at(self, height: int) -> dict[int, int]:
        return self.epochs[(height - 1) // EPOCH]


def height_of(cluster: Cluster, board: int = 1) -> int:
    return int(vote_of(cluster, board).register.next_height)


def fill_epoch(cluster: Cluster, board: int = 1) -> None:
    """Decide until the next epoch begins."""
    began = (height_of(cluster, board) - 1) // EPOCH
    while (height_of(cluster, board) - 1) // EPOCH == began:
        ask(cluster, board, PUT, "k", "v")


def stakes_of(cluster: Cluster, board: int = 1) -> dict[int, int]:
    return dict(vote_of(cluster, board).register.stakes)


# What it costs.


@pytest.mark.parametrize(("voters", "delays"), [(3, 2), (4, 3), (7, 3)])
@pytest.mark.parametrize("operation", [BOND, PUT])
def test_a_bond_is_decided_in_exactly_three_delays_like_any_command(voters: int, delays: int, operation: int) -> None:
    """One more where another board than the proposer is asked. Of 3 equal stakes the proposer's and one's own are a
    majority, so that the prevotes of others are not waited for.
    """
    for board in (1, 2):
        cluster = make(voters, latency_ms=(10, 10), resend_ms=5000, fetch_period_ms=5000)
        cluster.run(300)
        assert proposer_of(cluster) == 1
        began = cluster.now_ms
        cluster.sent.clear()
        assert cluster.command(board, 1001, 1, operation, "1", "5", None)
        cluster.run(60)
        (proposed,) = events(cluster, "proposed")
        assert proposed.time_ms - began == (0 if board == 1 else 10)
        assert [event.time_ms - proposed.time_ms for event in events(cluster, "decided")] == [10 * delays] * voters
        (reply,) = cluster.replies
        assert reply.time_ms - began == 10 * (delays if board == 1 else delays + 1)
        counts = Counter(row.kind for row in cluster.sent if row.kind in VOTES)
        assert counts == {kind: 1 if kind in VOTES[:2] else voters for kind in VOTES}, "each to all voters"


class Counting(MemoryJournal):
    """How many records each append has that is a decision's."""

    def __init__(self, board: int) -> None:
        super().__init__(board)
        self.decisions: list[int] = []

    def append(self, records: Sequence[tuple[int, bytes | None]]) -> None:
        super().append(records)
        if any(key == schema.JOURNAL_HEIGHT for key, _value in records):
            self.decisions.append(len(records))


def test_a_move_adds_two_records_to_its_decision_and_an_epoch_one_for_each_voter_and_the_purse() -> None:
    cluster = make(4, journal=Counting)
    cluster.run(1000)
    ask(cluster, 1, PUT, "k", "v")
    for operation, key, value in ((GET, "k", None), (BOND, "2", "1"), (UNBOND, "2", "1"), (GET, "k", None)):
        before = {board: state.journal.appends for board, state in cluster.boards.items()}
        ask(cluster, 1, operation, key, value)
        cluster.run(5)
        assert max(state.journal.appends - before[board] for board, state in cluster.boards.items()) <= 4
    for state in cluster.boards.values():
        _put, get, bond, ends, plain = state.journal.decisions[-5:]
        assert (bond - get, ends - get, plain - get) == (2, 4 + 1, 0), "the moves of an epoch's end are among its rows"


# When it counts.


def test_a_stake_counts_from_the_next_epoch_on_and_not_before_on_every_board() -> None:
    cluster = make(4, 1)
    assert ask(cluster, 1, BOND, "2", "15") == (schema.OK, "25 from 5")
    assert stakes_of(cluster) == {1: 10, 2: 10, 3: 10, 4: 10}
    assert vote_of(cluster, 1).total_weight == 40
    fill_epoch(cluster)
    assert same_state(cluster)
    for board in cluster.running:
        assert stakes_of(cluster, board) == {1: 10, 2: 25, 3: 10, 4: 10}
        assert vote_of(cluster, board).total_weight == 55
        assert not vote_of(cluster, board).quorum(27)
        assert vote_of(cluster, board).quorum(28)
    told = {(event.fields["height"], event.fields["stake"]) for event in events(cluster, "staked", board=2)}
    assert told == {(1, 10), (5, 25)}


def test_what_was_unbonded_is_free_only_once_it_does_not_count_any_more() -> None:
    cluster = make(4)
    assert ask(cluster, 1, UNBOND, "3", "10") == (schema.OK, "0 from 5")
    assert ask(cluster, 1, BOND, "1", "21") == (schema.MISMATCH, "10 20")
    fill_epoch(cluster)
    assert ask(cluster, 1, BOND, "1", "21")[0] == schema.OK


def test_a_stake_is_a_majority_whatever_the_number_of_boards() -> None:
    """Board 1 with 70 of 110 decides nothing alone only because its weight is not yet in force; then it does."""
    cluster = make(4, stake={"purse": 60})
    ask(cluster, 1, BOND, "1", "60")
    fill_epoch(cluster)
    assert same_state(cluster)
    for board in (2, 3, 4):
        cluster.power_off(board)
    assert ask(cluster, 1, PUT, "k", "alone") == (schema.OK, None)
    for board in (2, 3, 4):
        cluster.power_on(board)
    assert same_state(cluster, 20_000)
    cluster.power_off(1)
    before = height_of(cluster, 2)
    cluster.command(2, 1002, 1, PUT, "k", "without")
    cluster.run(10_000)
    assert height_of(cluster, 2) == before, "three boards of four, and no majority of the stake"


@pytest.mark.parametrize(
    ("operation", "key", "value", "status"),
    [
        (BOND, "1", "21", schema.MISMATCH),
        (UNBOND, "1", "11", schema.MISMATCH),
        (BOND, "9", "1", schema.REFUSED),
        (BOND, "5", "1", schema.REFUSED),  # a learner
        (BOND, "x", "1", schema.REFUSED),
        (BOND, "1", "0", schema.REFUSED),
        (BOND, "1", "-1", schema.REFUSED),
        (BOND, "1", "²", schema.REFUSED),
        (BOND, "1", None, schema.REFUSED),
        (BOND, "1", "1" * 10, schema.REFUSED),
        (PUT, "stake/1", "99 99 0", schema.REFUSED),
        (schema.CAS, "stake/purse", "99 0", schema.REFUSED),
        (PUT, "stake/9", "1 1 0", schema.REFUSED),
    ],
)
def test_what_cannot_be_moved_is_not(operation: int, key: str, value: str | None, status: int) -> None:
    cluster = make(4, 1)
    assert ask(cluster, 1, operation, key, value)[0] == status
    assert ask(cluster, 1, GET, "stake/1") == (schema.OK, "10 10 0")
    assert ask(cluster, 1, GET, "stake/purse") == (schema.OK, "20 0")
    assert not events(cluster, "bonded")


def test_the_last_of_all_stake_stays() -> None:
    cluster = make(3)
    assert [ask(cluster, 1, UNBOND, str(board), "10")[0] for board in (1, 2, 3)] == [0, 0, schema.MISMATCH]
    assert ask(cluster, 1, UNBOND, "3", "9")[0] == schema.OK
    fill_epoch(cluster)
    assert stakes_of(cluster) == {1: 0, 2: 0, 3: 1}
    for _ in range(6):
        ask(cluster, 1, PUT, "k", "v")
    turns = [event.fields["board"] for event in events(cluster, "turn") if event.fields["height"] > EPOCH]
    assert set(turns) == {3}


def test_amounts_are_plain_numbers() -> None:
    assert [amount_of(text) for text in ("7", "0", "", None, "1e3", "٣", "999999999")] == [7, 0, 0, 0, 0, 0, 999999999]


def test_options_and_rosters_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match=r"options\.stake\.epoch"):
        make(stake={"epoch": 0})
    with pytest.raises(ConfigError, match="33 voters; allowed with stake: up to 32"):
        make(33)


# Turns.


class Quiet:
    """A node for a store alone."""

    def __init__(self, weights: list[int], **options: int) -> None:
        roster = [[index + 1, f"b{index + 1}", weight] for index, weight in enumerate(weights)]
        document = {"cluster": 1, "board": 1, "bed": "bed", "seed": 0, "roster": roster}
        chosen = {"unit": 1, "purse": 60, "epoch": 5, **options}
        self.config = Config({**document, "protocols": ["stake"], "options": {"stake": chosen}})
        self.records: dict[int, bytes] = {}

    def get(self, key: int) -> bytes | None:
        return self.records.get(key)

    def persist(self, key: int, value: bytes) -> None:
        self.records[key] = value

    def emit(self, kind: int, fields: Any) -> None:
        pass


def test_a_round_of_turns_is_exactly_proportional() -> None:
    """From the first height on, as many turns as there is stake: each has as many as it has stake."""
    for weights in itertools.product(range(1, 6), repeat=3):
        node = Quiet(list(weights))
        store = Stakes(node, node)
        turns: Counter[int] = Counter()
        for height in range(1, sum(weights) + 1):
            turns[store.turn] += 1
            for board, weight in enumerate(weights, 1):
                assert abs(turns[board] - height * weight / sum(weights)) < 1
            store.finish(height)
        assert [turns[board] for board in (1, 2, 3)] == list(weights)


@pytest.mark.parametrize("seed", range(4))
def test_turns_stay_within_two_of_the_share_whatever_moved_before(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(2, 12)
    node = Quiet([draw.choice((1, 2, 9)) for _ in range(count)])
    store = Stakes(node, node)
    turns: Counter[int] = Counter()
    began, worst = 1, 0.0
    for height in range(1, 1500):
        turns[store.turn] += 1
        if draw.random() < 0.02:
            store._move(draw.choice((BOND, UNBOND)), str(draw.randint(1, count)), str(draw.choice((1, 5, 20))))
        before = dict(store.stakes)
        for board, stake in before.items():
            off = turns[board] - (height - began + 1) * stake / store.total
            worst = max(worst, abs(off))
        store.finish(height)
        if store.stakes != before:
            turns, began = Counter(), height + 1
    assert worst < 2, worst


def test_turns_go_on_where_they_were_after_a_reboot() -> None:
    node = Quiet([3, 1, 2])
    store = Stakes(node, node)
    for height in range(1, 40):
        if height % 7 == 0:
            store._move(BOND, "2", "3")
        store.finish(height)
        again = Stakes(node, node)
        state = (store.turn, store._priorities, store.stakes, store.coming, store.free, store.leaving)
        assert (again.turn, again._priorities, again.stakes, again.coming, again.free, again.leaving) == state
        assert again.digest() == store.digest()


def test_a_turn_that_nobody_takes_goes_round_those_with_a_stake() -> None:
    cluster = make(4)
    ask(cluster, 1, UNBOND, "2", "10")
    fill_epoch(cluster)
    assert same_state(cluster)
    first = proposer_of(cluster)
    assert sorted(proposer_of(cluster, round_) for round_ in range(3)) == [1, 3, 4]
    assert proposer_of(cluster, 3) == first


# Faults.


def test_a_learner_far_behind_and_a_wiped_voter_take_the_stakes_with_the_copy() -> None:
    cluster = make(4, 1)
    ByStake(cluster)
    cluster.power_off(5)
    ask(cluster, 1, BOND, "2", "7")
    ask(cluster, 1, UNBOND, "3", "4")
    for number in range(schema.LOG_ENTRIES + 10):
        ask(cluster, 1, PUT, f"k{number % 9}", f"v{number}")
    ask(cluster, 1, BOND, "4", "2")  # still to come
    cluster.power_on(5)
    wiped(cluster, 4)
    assert same_state(cluster, 20_000)
    for board in (4, 5):
        register, other = vote_of(cluster, board).register, vote_of(cluster, 1).register
        assert (register.stakes, register.coming, register.turn) == (other.stakes, other.coming, other.turn)
        assert vote_of(cluster, board).total_weight == other.total
    assert cluster.run_until(lambda: vote_of(cluster, 4).voting, 20_000), "it is admitted again"


@pytest.mark.parametrize("seed", range(3))
def test_stakes_agree_under_loss_cuts_at_any_effect_and_overtaking(seed: int) -> None:
    cluster = make(
        5, 1, seed=seed, latency_ms=(1, 40), loss_percent=10, duplicate_percent=5, late_percent=5, stake={"purse": 60}
    )
    ByStake(cluster)
    draw = random.Random(seed)
    for number in range(1, 120):
        board = draw.choice(cluster.running)
        operation = draw.choice((BOND, BOND, UNBOND, PUT))
        cluster.command(board, 1001 + number % 20, number, operation, str(draw.randint(1, 5)), str(draw.randint(1, 9)))
        if draw.random() < 0.1 and len(cluster.running) > 4:
            cluster.boards[draw.choice(cluster.running)].effects_left = draw.randint(1, 12)
        cluster.run(draw.randint(20, 200))
        for board in sorted(set(cluster.boards) - set(cluster.running)):
            if draw.random() < 0.3:
                cluster.power_on(board)
    for board in sorted(set(cluster.boards) - set(cluster.running)):
        cluster.power_on(board)
    for state in cluster.boards.values():
        state.effects_left = -1
    cluster.loss_percent = 0
    assert same_state(cluster, 60_000)
    told: dict[tuple[int, int], tuple[int, int]] = {}
    for event in events(cluster, "staked"):
        fields = event.fields
        row = (fields["stake"], fields["priority"])
        assert told.setdefault((fields["height"], fields["board"]), row) == row
    register = vote_of(cluster, 1).register
    assert height_of(cluster) > 5 * EPOCH
    assert sum(register.coming.values()) + register.free + register.leaving == 110
