"""TetraBFT over many heights: its price, what f malicious boards cannot do, and what f+1 can."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import random
from collections import Counter

import pytest
from brownout_node.core import adversary, byzantine, codec, schema
from brownout_node.core.ballot import Ballot
from brownout_node.core.byzantine_pool import BATCH
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from brownout_node.core.register import PAGE, page_of
from brownout_node.core.seal import Seal
from byzantine_cluster import KINDS, Bed, Violation, violates
from cluster import CLUSTER

WEATHER = {"latency_ms": (1, 30), "loss_percent": 10, "duplicate_percent": 5, "late_percent": 5, "late_ms": 400}


@pytest.mark.parametrize("voters", [4, 5, 7])
def test_a_decision_takes_exactly_five_message_delays(voters: int) -> None:
    bed = Bed(1, voters, latency_ms=(10, 10))
    bed.cluster.run(1001)
    bed.ask(bed.protocol(1).leader(1, 0), 1001)
    bed.cluster.run(50)
    (proposed,) = bed.events("byzantine_proposed")
    assert proposed.time_ms == 1001
    assert [event.time_ms - proposed.time_ms for event in bed.events("byzantine_decided")] == [50] * voters
    kinds = [sent.kind for sent in bed.cluster.sent]
    assert kinds.count(byzantine.PROPOSAL) == voters - 1
    assert kinds.count(byzantine.VOTE) == 4 * voters * (voters - 1)


def test_a_decision_costs_five_durable_writes_at_most() -> None:
    bed = Bed()
    bed.cluster.run(1000)
    before = {board: state.journal.appends for board, state in bed.cluster.boards.items()}
    bed.ask(2, 1001)
    bed.cluster.run(10)
    assert len(bed.events("byzantine_decided")) == 4
    assert max(state.journal.appends - before[board] for board, state in bed.cluster.boards.items()) <= 5


def test_nothing_but_seldom_polls_is_sent_when_nothing_is_pending() -> None:
    bed = Bed(voters=4, learners=1)
    bed.cluster.run(2000)
    bed.ask(1, 1001)
    bed.cluster.run(4000)
    quiet = len(bed.cluster.sent)
    bed.cluster.run(32000)
    sent = bed.cluster.sent[quiet:]
    assert {row.kind for row in sent} == {byzantine.FETCH}
    assert max(sum(row.source == board for row in sent) for board in range(1, 5)) <= 3 * 11


def test_one_malicious_board_alone_makes_nobody_begin_a_height() -> None:
    bed = Bed()
    bed.cluster.run(2000)
    quiet = len(bed.cluster.sent)
    (alone,) = [board for board in range(1, 5) if bed.protocol(board).leader(1, 0) == board]
    bed.protocol(alone).broadcast(byzantine.ASK, (1, 7))
    bed.protocol(alone).broadcast(byzantine.PROPOSAL, (1, 0, bed.protocol(alone).fresh_value(1)))
    bed.cluster.run(4000)
    honest = [row for row in bed.cluster.sent[quiet:] if row.source != alone]
    assert {row.kind for row in honest} <= {byzantine.FETCH, byzantine.ENTRIES}


def test_a_burst_at_every_board_is_known_to_all_and_takes_no_second_view() -> None:
    bed = Bed(latency_ms=(1, 30))
    bed.cluster.run(500)
    asked = [
        bed.ask(board, 1000 + 10 * number + board, "k", f"v{number}") for number in range(30) for board in range(1, 5)
    ]
    assert bed.cluster.run_until(lambda: len(bed.cluster.replies) == len(asked), 10000)
    statuses = Counter(row.status for row in bed.cluster.replies)
    assert statuses[schema.BUSY] > 20
    assert statuses[schema.OK] > 40
    assert not bed.events("byzantine_view")
    bed.check_safety()


def test_a_command_that_only_the_leader_was_sent_costs_it_one_view() -> None:
    bed = Bed(adversaries=(1,))
    bed.cluster.run(500)
    poison = (1, 1001, 1, byzantine.BPUT, "a", "b")
    for board in (2, 3, 4):
        bed.protocol(1).send(board, byzantine.REQUEST, (*poison[:5], f"only for {board}"))
    bed.cluster.boards[1].node.tick(bed.cluster.now_ms)
    bed.cluster.run(100)
    for number in range(40):
        client, request = bed.ask(2 + number % 3, 2000, "k", f"v{number}")
        assert bed.cluster.run_until(lambda row=(client, request): bed.answered(*row), 10000)
    assert len({(event.fields["height"]) for event in bed.events("byzantine_view")}) <= 3
    bed.check_safety()


# What f malicious boards cannot do.


def storm(
    seed: int, voters: int, adversaries: tuple[int, ...], behaviour: int, *, cuts: bool = False, **options
) -> Bed:
    """Three seconds of load and malice in bad weather, honest boards losing power where `cuts`; then calm."""
    bed = Bed(seed, voters, adversaries=adversaries, **{**WEATHER, **options})
    cluster = bed.cluster
    bed.load(3000)
    bed.turn_all(behaviour)

    def cut() -> None:
        board = bed.random.choice(bed.honest)
        cluster.power_off_within(board, bed.random.randrange(25))
        cluster.at(cluster.now_ms + bed.random.randint(50, 1500), cluster.power_on, board)
        if cluster.now_ms < 3000:
            cluster.at(cluster.now_ms + bed.random.randint(1, 800), cut)

    if cuts:
        cut()
    cluster.run(3500)
    for board in bed.honest:
        cluster.boards[board].effects_left = -1
        cluster.power_on(board)
    cluster.run(1500)
    bed.check_safety()
    bed.check_liveness()
    bed.check_safety()
    return bed


@pytest.mark.parametrize("behaviour", KINDS)
def test_one_malicious_board_of_four_does_no_harm(behaviour: int) -> None:
    for seed in range(2):
        bed = storm(seed, 4, (1 + (seed + behaviour) % 4,), behaviour)
        assert {event.fields["behaviour"] for event in bed.events("adversary")} == {behaviour}


@pytest.mark.parametrize("behaviour", KINDS)
def test_a_coalition_of_two_of_seven_does_no_harm(behaviour: int) -> None:
    storm(behaviour, 7, (1 + behaviour, 1 + (behaviour + 3) % 7), behaviour)


def test_two_malicious_boards_that_weigh_less_than_a_third_do_no_harm() -> None:
    for behaviour in (adversary.EQUIVOCATE, adversary.LIE):
        storm(behaviour, 5, (4, 5), behaviour, weights=[3, 2, 2, 1, 1])


def test_safe_where_honest_boards_lose_power_at_any_effect() -> None:
    cuts = 0
    for seed in range(8):
        bed = storm(seed, 4, (1 + seed % 4,), KINDS[seed % len(KINDS)], cuts=True)
        cuts += sum(state.cuts for state in bed.cluster.boards.values())
    assert cuts > 15


def test_a_board_that_sends_before_it_persists_is_caught_contradicting_itself() -> None:
    def hasty(node, journal, send, emit, after=None) -> bool:
        ready = node.take_ready()
        if ready is None:
            return False
        records, messages, events = ready
        for to, data in messages:
            send(to, data)
        if records:
            journal.append(records)
        for data in events:
            emit(data)
        return True

    with pytest.raises(Violation):
        for seed in range(30):
            storm(seed, 4, (), adversary.HONEST, cuts=True, step=hasty)


# What f+1 can, and this testbed must find.


def test_two_malicious_boards_of_four_split_the_log() -> None:
    found = 0
    for seed in range(3):
        bed = Bed(seed, 4, adversaries=(2, 3), latency_ms=(1, 30))
        bed.cluster.run(500)
        bed.turn_all(adversary.EQUIVOCATE)
        bed.load(2000)
        bed.cluster.run(3000)
        found += violates(bed)
    assert found >= 2


def test_two_silent_boards_of_four_stop_the_log() -> None:
    bed = Bed(1, 4, adversaries=(2, 3))
    bed.cluster.run(500)
    bed.turn_all(adversary.SILENT)
    bed.cluster.run(5000)
    with pytest.raises(Violation, match="not answered"):
        bed.check_liveness(20000)


# Seals and the word of one board.


def test_a_message_whose_seal_is_another_boards_is_rejected() -> None:
    bed = Bed()
    bed.cluster.run(500)
    one, two = bed.protocol(1), bed.protocol(2)
    fields = (1, 0, 1, b"i" * 32)
    for forged in (
        one.seal.close(3, byzantine.VOTE, fields),  # for somebody else
        (2, *one.seal.close(2, byzantine.VOTE, fields)[1:]),  # changed
        (*fields, b"m" * 16),
        (*fields, b""),
    ):
        before = two.node.rejected
        data = codec.encode_message(CLUSTER, 1, 1, 1, byzantine.VOTE, forged)
        bed.cluster.receive(1, 2, data)
        assert two.node.rejected == before + 1
    data = codec.encode_message(CLUSTER, 1, 1, 1, byzantine.VOTE, one.seal.close(2, byzantine.VOTE, fields))
    before = two.node.rejected
    bed.cluster.receive(1, 2, data)
    assert two.node.rejected == before
    data = codec.encode_message(CLUSTER, 3, 1, 1, byzantine.VOTE, one.seal.close(2, byzantine.VOTE, fields))
    bed.cluster.receive(3, 2, data)
    assert two.node.rejected == before + 1


def test_seals_are_the_hmac_of_the_standard_library() -> None:
    bed = Bed()
    seal = bed.protocol(1).seal
    key = bed.cluster.node(1).config.keys[2]
    fields = (5, 6, 1, b"i" * 32)
    text = b"\x81\x02" + codec.encode_message(CLUSTER, 1, 0, 0, byzantine.VOTE, (*fields, b""))
    sealed = seal.close(2, byzantine.VOTE, fields)
    assert sealed[-1] == hmac.new(key, text, hashlib.sha256).digest()[:16]


def test_boards_without_keys_do_not_start() -> None:
    document = {"cluster": 1, "board": 1, "bed": "t", "seed": 0, "roster": [[1, "b1", 1], [2, "b2", 1]]}
    with pytest.raises(ConfigError, match="keys: none for board 2"):
        Seal(Config(document))


def test_a_board_cannot_make_another_one_malicious() -> None:
    bed = Bed()
    bed.cluster.run(100)
    bed.turn(2, adversary.SILENT, source=1)
    assert not bed.events("adversary")
    bed.turn(2, adversary.SILENT)
    bed.cluster.power_off(2)
    bed.cluster.power_on(2)
    bed.check_liveness()


def test_what_one_board_says_was_decided_is_not_believed() -> None:
    bed = Bed()
    bed.cluster.run(500)
    liar, other = bed.protocol(1), bed.protocol(2)
    value = codec.pack(BATCH, ([(1, 1001, 1, byzantine.BPUT, "a", "lie")],))
    liar.send(2, byzantine.ENTRIES, (1, 2, [(value,)]))
    bed.cluster.boards[1].node.tick(bed.cluster.now_ms)
    bed.cluster.run(500)
    assert other.register.next_height == 1
    bed.check_liveness()
    bed.check_safety()


@pytest.mark.parametrize("behaviour", [adversary.SILENT, adversary.LIE, adversary.CORRUPT])
def test_a_board_that_was_away_catches_up_by_what_a_blocking_set_says(behaviour: int) -> None:
    bed = Bed(7, 4, adversaries=(1,), latency_ms=(1, 5))
    cluster = bed.cluster
    cluster.run(500)
    cluster.power_off(4)
    for number in range(90):
        client, request = bed.ask(2 + number % 2, 1001 + number % 30, f"key {number % 40}", f"value {number}")
        assert cluster.run_until(lambda row=(client, request): bed.answered(*row), 5000)
    cluster.run(1000)
    bed.turn_all(behaviour)
    cluster.power_on(4)

    def same() -> bool:
        return bed.protocol(4).digest() == bed.protocol(2).digest()

    assert cluster.run_until(same, 20000)
    assert [event.fields["copied"] for event in bed.events("byzantine_caught_up") if event.board == 4][0] is True
    bed.check_liveness()
    bed.check_safety()


def test_a_state_with_a_wrong_page_is_not_installed() -> None:
    bed = Bed(7, 4)
    bed.cluster.power_off(4)
    for number in range(5):
        client, request = bed.ask(2, 1001 + number, f"key {number}", f"value {number}")
        assert bed.cluster.run_until(lambda row=(client, request): bed.answered(*row), 5000)
    source = bed.protocol(2).register
    frozen, digest, height = source.freeze(), source.digest(), source.next_height
    bed.cluster.power_on(4)
    behind = bed.protocol(4)
    pages = page_of(frozen, 0)[0]

    def offer(changed: int | None) -> None:
        for board in (1, 2):
            behind.catchup.on_message(board, byzantine.STATE_PAGE, (height, digest, 0, 0, b""))
        for page in range(pages):
            data = page_of(frozen, page)[1]
            if page == changed:
                floor, values, sessions = codec.unpack(PAGE, data)
                data = codec.pack(PAGE, (floor, values, [(*sessions[0][:3], "lie", *sessions[0][4:])]))
            behind.catchup.on_message(1, byzantine.STATE_PAGE, (height, digest, page, pages, data))

    for changed in range(pages):
        offer(changed)
        assert behind.register.next_height == 1
    offer(None)
    assert (behind.register.next_height, behind.digest()) == (height, digest)


def check_votes_since_admission(bed: Bed, board: int, sent: int) -> None:
    """Below the height of its admission nobody knows any more what it has promised."""
    (admitted,) = bed.events("byzantine_admitted")
    heights = [row.fields[0] for row in bed.cluster.sent[sent:] if row.source == board and row.kind == byzantine.VOTE]
    assert heights and min(heights) >= admitted.fields["height"]
    assert all(height >= admitted.fields["height"] for height in bed.protocol(board).ballots)


def test_a_voter_that_lost_its_journal_votes_again_once_admitted() -> None:
    bed = Bed(3, 4, latency_ms=(1, 5))
    bed.check_liveness()
    bed.cluster.power_off(2)
    bed.cluster.wipe(2)
    bed.cluster.power_on(2)
    assert not bed.protocol(2).voting
    lost = len(bed.cluster.sent)
    assert bed.cluster.run_until(lambda: bed.protocol(2).voting, 20000)
    bed.cluster.power_off(1)
    bed.honest.remove(1)
    bed.check_liveness()
    check_votes_since_admission(bed, 2, lost)


def test_a_voter_that_lost_a_value_it_voted_for_votes_again_once_admitted() -> None:
    bed = Bed(3, 4, latency_ms=(10, 10))
    bed.cluster.run(500)
    bed.ask(bed.protocol(1).leader(1, 0), 1001)
    bed.cluster.run(15)  # everybody has cast vote-1
    bed.cluster.power_off(2)
    records = bed.cluster.boards[2].journal.records
    lost = [key for key in records if 0x20400 < key < 0x20420 and key % 16]
    assert lost
    for key in lost:
        del records[key]
    bed.cluster.power_on(2)
    assert not bed.protocol(2).voting
    bed.cluster.power_off(2)
    bed.cluster.power_on(2)
    assert not bed.protocol(2).voting
    lost = len(bed.cluster.sent)
    assert bed.cluster.run_until(lambda: bed.protocol(2).voting, 20000)
    height = bed.protocol(2).register.next_height
    vote = (height - 1, 9, 1, b"i" * 32)  # as if the height before went on
    data = bed.protocol(1).seal.close(2, byzantine.VOTE, vote)
    bed.cluster.receive(1, 2, codec.encode_message(CLUSTER, 1, 1, 1, byzantine.VOTE, data))
    assert height - 1 not in bed.protocol(2).ballots
    bed.check_liveness()
    bed.check_safety()
    check_votes_since_admission(bed, 2, lost)


# The rules of safe values, beside the specification's own words.


def claims_safe(votes, value, view, at, phase) -> bool:
    return at == 0 or any(
        first[0] < view
        and at <= first[0]
        and first[1] == phase
        and (
            first[2] == value
            or any(at <= other[0] < first[0] and other[1] == phase and other[2] != first[2] for other in votes)
        )
        for first in votes
    )


def shows_safe(votes, value, view, late, early) -> bool:
    """ShowsSafeAt of nano-o/tetrabft-tla for some quorum: votes[board] is a set of (view, phase, value)."""
    boards = sorted(votes)
    quorums = list(itertools.combinations(boards, 3)) + [tuple(boards)]
    for quorum in quorums:
        past = [[vote for vote in votes[board] if vote[0] < view and vote[1] == late] for board in quorum]
        if not any(past):
            return True
        for at in range(view):
            agree = all(vote[0] < at or (vote[0] == at and vote[2] == value) for rows in past for vote in rows)
            claims = sum(claims_safe(votes[board], value, view, at, early) for board in boards)
            if agree and claims >= 2:
                return True
    return False


def test_safe_values_are_those_of_the_specification() -> None:
    bed = Bed()
    ids = [letter * 32 for letter in (b"a", b"b", b"c")]
    draw = random.Random(5)
    seen = Counter()
    for _ in range(3000):
        view = draw.randint(1, 4)
        votes = {
            board: {(at, phase, draw.choice(ids)) for at in range(view) for phase in (1, 4) if draw.random() < 0.5}
            for board in range(1, 5)
        }
        ballot = Ballot(bed.protocol(1), 1)
        ballot.view = view
        for board in range(1, 5):
            early = sorted((at, value) for at, phase, value in votes[board] if phase == 1)
            highest = early[-1] if early else (-1, b"")
            other = ([vote for vote in early if vote[1] != highest[1]] or [(-1, b"")])[-1]
            late = max([(at, value) for at, phase, value in votes[board] if phase == 4] or [(-1, b"")])
            ballot.take_report(board, True, (view, *highest, *other, *late))
        for value in ids:
            expected = shows_safe(votes, value, view, 4, 1)
            assert ballot.is_safe(value, ballot._proofs) == expected, (view, votes, value)
            seen[expected] += 1
    assert min(seen.values()) > 500
