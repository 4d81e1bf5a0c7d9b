"""How replicas that were away, or lost their journal, come back to the vote."""

from __future__ import annotations

import pytest
from brownout_node.core import codec, schema
from cluster import CLUSTER
from nor_journal import NorJournal
from vote_checks import Clients, height_of
from vote_cluster import (
    FAR_MS,
    GET,
    PUT,
    VOTES,
    ask,
    events,
    fill,
    make,
    same_state,
    vote_of,
    votes_sent,
    wiped,
)

# Catching up.


def test_a_learner_follows_by_polling_and_serves_its_clients() -> None:
    cluster = make(3, learners=2)
    fill(cluster, 20)
    assert same_state(cluster)
    assert not [row for row in cluster.sent if row.source > 3 and row.kind in VOTES]
    start_ms = cluster.now_ms
    assert ask(cluster, 5, GET, "key-03" + "k" * 20)[1].startswith("3 ")
    assert cluster.now_ms - start_ms < 100, "the voters push what a learner waits for"


def test_a_voter_that_was_cut_off_catches_up_when_nobody_proposes() -> None:
    cluster = make(3)
    cluster.run(5000)
    cluster.isolate(3)
    fill(cluster, 10)
    cluster.heal()
    assert same_state(cluster, 4000)


@pytest.mark.parametrize("board", [3, 4])
def test_who_was_away_for_longer_than_the_log_copies_the_state(board: int) -> None:
    cluster = make(3, learners=1)
    fill(cluster, 5)
    cluster.power_off(board)
    fill(cluster, 2 * schema.LOG_ENTRIES)
    cluster.power_on(board)
    assert same_state(cluster)
    assert [row for row in cluster.sent if row.source == board and row.kind == schema.STATE_FETCH]
    cluster.power_off(board)
    cluster.power_on(board)
    assert same_state(cluster, 0), "what was copied is durable"
    fill(cluster, 10)
    assert same_state(cluster)


def test_a_copy_that_is_cut_short_leaves_the_old_state_or_the_new_one() -> None:
    cluster = make(3)
    fill(cluster, 5)
    old = height_of(cluster, 3)
    cluster.power_off(3)
    fill(cluster, schema.LOG_ENTRIES + 20)
    new = height_of(cluster, 1)
    rebooted = 0
    for effects in range(0, 80, 3):
        cluster.power_on(3)
        assert height_of(cluster, 3) in (old, new)
        cluster.power_off_within(3, effects)
        cluster.run_until(lambda: 3 not in cluster.running, 600)
        rebooted += 3 not in cluster.running
        cluster.power_off(3)
    assert rebooted > 10
    cluster.calm()
    assert same_state(cluster)


def test_a_copy_goes_on_though_its_source_dies_and_decisions_go_on() -> None:
    cluster = make(5, learners=1, latency_ms=(1, 20), loss_percent=10, duplicate_percent=10)
    cluster.power_off(6)
    fill(cluster, schema.LOG_ENTRIES + 30)
    cluster.power_on(6)
    assert cluster.run_until(lambda: len([r for r in cluster.sent if r.kind == schema.STATE_PAGE]) > 3, FAR_MS)
    source = next(row.source for row in reversed(cluster.sent) if row.kind == schema.STATE_PAGE)
    cluster.power_off(source)
    fill(cluster, 20, tuple(board for board in (1, 2, 3) if board != source))
    cluster.calm()
    assert same_state(cluster, 6000)


def test_the_largest_state_fits_the_journal_and_is_copied_into_it() -> None:
    cluster = make(3, learners=1, journal=NorJournal)
    cluster.power_off(4)
    number = 0
    for key in range(schema.MAX_KEYS):
        ask(cluster, 1, PUT, f"{key:032}", "v" * 64, client=2**62 + key % schema.MAX_SESSIONS, request=2**62 + number)
        number += 1
    for key in range(schema.MAX_SESSIONS):
        ask(cluster, 2, GET, f"{key:032}", client=2**62 + key, request=2**62 + number)
        number += 1
    assert len(vote_of(cluster, 1).register.values) == schema.MAX_KEYS
    cluster.power_on(4)
    assert same_state(cluster, 6000)
    for board in cluster.boards:
        cluster.power_off(board)
        cluster.power_on(board)
    assert same_state(cluster, 0)


def test_a_decision_is_a_page_program_a_write() -> None:
    cluster = make(3, journal=NorJournal)
    cluster.run(1000)
    state = cluster.boards[1].journal
    before = (state.appends, state.device.programs, state.device.erases)
    for number in range(300):
        ask(cluster, 1, PUT, f"k{number % 8}", str(number), client=1001, request=5000 + number)
    appends, programs, erases = (
        now - then
        for now, then in zip((state.appends, state.device.programs, state.device.erases), before, strict=True)
    )
    print(f"{appends} appends, {programs / appends:.3f} programs and {erases / appends:.4f} erases each")
    assert programs <= 1.05 * appends
    assert erases <= 0.025 * appends


# Boards that lost their journal.


def test_a_wiped_voter_is_silent_until_it_is_admitted_through_the_log() -> None:
    cluster = make()
    fill(cluster, 10)
    wiped(cluster, 2)
    assert not vote_of(cluster, 2).voting
    boot = cluster.node(2).boot
    before = len(votes_sent(cluster, 2))
    assert cluster.run_until(lambda: vote_of(cluster, 2).voting, FAR_MS)
    assert len(votes_sent(cluster, 2)) == before
    (admitted,) = events(cluster, "admitted")
    assert (admitted.board, admitted.boot, admitted.fields["board"]) == (2, boot, 2)
    # The answer that brought the admission may have brought later entries too.
    assert 10 < admitted.fields["height"] <= height_of(cluster, 2)
    fill(cluster, 5)
    cluster.run(100)
    assert all(row.fields[0] >= admitted.fields["height"] for row in votes_sent(cluster, 2)[before:])
    assert len(votes_sent(cluster, 2)) > before
    cluster.power_off(2)
    cluster.power_on(2)
    assert vote_of(cluster, 2).voting, "standing survives reboots"


def test_a_wiped_voter_is_admitted_while_decisions_go_on() -> None:
    cluster = make()
    fill(cluster, schema.LOG_ENTRIES + 10)
    clients = Clients(cluster, 4, seed=5)
    cluster.run(500)
    wiped(cluster, 2)
    assert cluster.run_until(lambda: (clients.collect(), vote_of(cluster, 2).voting)[1], 4000)


def test_an_admission_that_another_boot_asked_for_is_void() -> None:
    cluster = make()
    fill(cluster, 3)
    wiped(cluster, 2)
    cluster.drop = lambda sent, target: target == 2  # it hears of nothing
    assert cluster.run_until(lambda: height_of(cluster, 1) == 5, FAR_MS), "it is admitted, and does not know"
    cluster.power_off(2)
    cluster.drop = lambda sent, target: sent.kind == schema.REQUEST
    cluster.power_on(2)
    assert cluster.run_until(lambda: height_of(cluster, 2) == 5, FAR_MS)
    cluster.run(1000)
    assert not vote_of(cluster, 2).voting
    cluster.drop = None
    assert cluster.run_until(lambda: vote_of(cluster, 2).voting, 5000), "it asks again"


def test_without_a_quorum_of_boards_that_remember_nobody_votes() -> None:
    cluster = make(3)
    fill(cluster, 3)
    wiped(cluster, 1)
    wiped(cluster, 2)
    cluster.run(10000)
    assert not vote_of(cluster, 1).voting
    assert not vote_of(cluster, 2).voting


def test_a_foreign_genesis_gives_no_standing() -> None:
    cluster = make(3, start=False)
    cluster.boards[1].journal.append([(schema.JOURNAL_GENESIS, codec.pack("uu", (CLUSTER, 2)))])
    for board in cluster.boards:
        cluster.power_on(board)
    assert [vote_of(cluster, board).voting for board in cluster.boards] == [False, True, True]
