"""The vote, one behaviour at a time, on a quiet cluster with one fault."""

from __future__ import annotations

import pytest
from brownout_node.core import codec, schema
from cluster import CLUSTER, Sent
from vote_checks import Clients, Violation, check_liveness, check_safety, height_of
from vote_cluster import CAS, FAR_MS, GET, PUT, ask, events, make, proposer_of, same_state, vote_of

# Progress and its price.


@pytest.mark.parametrize("voters", [4, 5, 7])
def test_a_decision_takes_exactly_three_message_delays(voters: int) -> None:
    cluster = make(voters, latency_ms=(10, 10))
    cluster.run(1001)
    proposer = proposer_of(cluster)
    ask(cluster, proposer, PUT, "a", "1")
    cluster.run(10)
    (proposed,) = events(cluster, "proposed")
    decided = events(cluster, "decided")
    assert proposed.time_ms == 1001
    assert [event.time_ms - proposed.time_ms for event in decided] == [30] * voters
    kinds = [sent.kind for sent in cluster.sent]
    assert kinds.count(schema.PROPOSAL) == 1
    assert kinds.count(schema.PREVOTE) == kinds.count(schema.PRECOMMIT) == voters


def test_a_decision_costs_three_durable_writes_at_each_voter() -> None:
    cluster = make()
    cluster.run(1000)
    before = {board: state.journal.appends for board, state in cluster.boards.items()}
    ask(cluster, proposer_of(cluster), PUT, "a", "1")
    cluster.run(10)
    assert [state.journal.appends - before[board] for board, state in cluster.boards.items()] == [3] * 5


def test_nothing_but_seldom_polls_is_sent_when_nothing_is_pending() -> None:
    cluster = make(learners=2)
    cluster.run(2000)
    ask(cluster, 1, PUT, "a", "1")
    cluster.run(4000)
    quiet = len(cluster.sent)
    cluster.run(32000)
    sent = cluster.sent[quiet:]
    assert {row.kind for row in sent} == {schema.FETCH}
    for board in cluster.boards:
        polls = [row for row in sent if row.source == board]
        assert len(polls) <= (11 if board in cluster.voters else 81)


def test_pending_commands_are_decided_in_batches() -> None:
    cluster = make()
    cluster.run(1000)
    for client in range(1001, 1025):
        cluster.command(1 + client % 5, client, 1, PUT, f"k{client}", "v" * 20)
    assert cluster.run_until(lambda: len(cluster.replies) == 24, FAR_MS)
    assert height_of(cluster, 1) <= 8
    assert all(len(row.fields[3]) <= schema.MAX_BATCH_BYTES for row in cluster.sent if row.kind == schema.PROPOSAL)


def test_heights_go_round_by_weight_and_rounds_through_every_voter() -> None:
    cluster = make(weights=[3, 1, 2])
    vote = vote_of(cluster, 1)
    turns = []
    for height in range(60):
        vote.register.next_height = height
        turns.append(vote.proposer(0))
        assert {vote.proposer(round_) for round_ in range(3)} == {1, 2, 3}
    assert [turns.count(board) for board in (1, 2, 3)] == [30, 10, 20]


def test_quorums_are_by_weight() -> None:
    cluster = make(weights=[3, 1, 1])
    cluster.power_off(2)
    cluster.power_off(3)
    assert ask(cluster, 1, PUT, "a", "1") == (schema.OK, None)
    cluster.power_on(2)
    cluster.power_on(3)
    assert same_state(cluster)
    cluster.power_off(1)
    cluster.command(2, 1002, 1, PUT, "a", "2", None)
    cluster.run(FAR_MS)
    assert [reply.client for reply in cluster.replies] == [1001]


def test_a_dead_proposer_costs_one_time_out() -> None:
    cluster = make(latency_ms=(2, 2))
    cluster.run(1000)
    dead, next_one = proposer_of(cluster), proposer_of(cluster, 1)
    cluster.power_off(dead)
    start_ms = cluster.now_ms
    assert ask(cluster, next_one, PUT, "a", "1") == (schema.OK, None)
    assert cluster.now_ms - start_ms < 400 + 2 * 50
    assert events(cluster, "decided", height=1, round=1)


def test_a_later_round_is_joined_as_soon_as_it_is_heard_of() -> None:
    cluster = make()
    cluster.run(1000)
    vote = vote_of(cluster, 1)
    message = codec.encode_message(CLUSTER, 3, 1, 9999, schema.PREVOTE, (1, 7, None))
    cluster.receive(3, 1, message)
    assert (vote.round, vote.active) == (7, True)
    assert events(cluster, "round", height=1, round=7)[0].board == 1


def test_a_minority_spins_through_no_rounds() -> None:
    cluster = make()
    cluster.run(1000)
    cluster.split([[1, 2], [3, 4, 5]])
    cluster.command(1, 1001, 1, PUT, "a", "1", None)
    appends = cluster.boards[1].journal.appends
    cluster.run(20000)
    assert vote_of(cluster, 1).round <= 1
    assert cluster.boards[1].journal.appends - appends <= 3
    cluster.heal()
    assert cluster.run_until(lambda: bool(cluster.replies), FAR_MS)


# Lost messages, locks and power.


def test_a_lost_proposal_is_sent_again() -> None:
    cluster = make()
    cluster.run(1000)
    proposer = proposer_of(cluster)
    lost = []

    def drop(sent: Sent, target: int) -> bool:
        if sent.kind == schema.PROPOSAL and len(lost) < 4:
            lost.append(target)
            return True
        return False

    cluster.drop = drop
    ask(cluster, proposer, PUT, "a", "1")
    assert len(lost) == 4
    assert {event.fields["round"] for event in events(cluster, "decided")} == {0}


def test_who_never_sees_the_proposal_still_learns_the_decision() -> None:
    cluster = make()
    cluster.run(1000)
    proposer = proposer_of(cluster)
    blind = next(board for board in cluster.voters if board != proposer)
    cluster.drop = lambda sent, target: sent.kind == schema.PROPOSAL and target == blind
    ask(cluster, proposer, PUT, "a", "1")
    assert same_state(cluster)
    assert events(cluster, "decided", height=1, caught_up=True)[0].board == blind


def test_one_that_alone_saw_the_quorum_of_prevotes_does_not_block() -> None:
    # It locks, and its precommits are lost; the others go on without a lock, and with one voter less they need it.
    cluster = make(3)
    cluster.run(1000)
    proposer = proposer_of(cluster)
    locked, other = (board for board in cluster.voters if board != proposer)
    cluster.drop = lambda sent, target: (
        (sent.kind == schema.PREVOTE and target != locked) or (sent.kind == schema.PRECOMMIT and sent.source == locked)
    )
    cluster.command(proposer, 1001, 1, PUT, "a", "1", None)
    assert cluster.run_until(lambda: vote_of(cluster, locked).locked is not None, FAR_MS)
    value_id = vote_of(cluster, locked).locked
    cluster.power_off(proposer)
    cluster.run(2000)
    cluster.drop = None
    assert cluster.run_until(lambda: len(events(cluster, "decided", height=1)) == 2, 5000)
    assert {event.fields["value_id"] for event in events(cluster, "decided", height=1)} == {value_id}
    assert {event.board for event in events(cluster, "decided", height=1)} == {locked, other}


def test_a_lock_survives_power_loss_and_is_proposed_again() -> None:
    cluster = make()
    cluster.run(1000)
    cluster.drop = lambda sent, target: sent.kind == schema.PRECOMMIT
    cluster.command(proposer_of(cluster), 1001, 1, PUT, "a", "1", None)
    assert cluster.run_until(lambda: len(events(cluster, "precommitted", height=1)) == 5, FAR_MS)
    value_id = vote_of(cluster, 1).locked
    for board in cluster.boards:
        cluster.power_off(board)
    cluster.run(100)
    cluster.drop = None
    for board in cluster.boards:
        cluster.power_on(board)
    boots = [event for event in events(cluster, "boot") if event.boot == 2]
    assert {(event.fields["locked"], event.fields["locked_round"]) for event in boots} == {(value_id, 0)}
    assert {(event.fields["precommitted"], event.fields["precommit_round"]) for event in boots} == {(value_id, 0)}
    # Nobody asks again: the stored votes alone bring the height to its end.
    assert cluster.run_until(lambda: len(events(cluster, "decided", height=1)) == 5, FAR_MS)
    assert ask(cluster, 3, GET, "a") == (schema.OK, "1")


def test_a_locked_value_is_proposed_with_its_round_by_the_next_proposer() -> None:
    cluster = make()
    cluster.run(1000)
    first = proposer_of(cluster)
    cluster.drop = lambda sent, target: sent.kind == schema.PRECOMMIT and sent.fields[1] == 0 and target != sent.source
    cluster.command(first, 1001, 1, PUT, "a", "1", None)
    assert cluster.run_until(lambda: len(events(cluster, "precommitted", round=0)) == 5, FAR_MS)
    # Somebody who saw no quorum of precommits goes on to round 1.
    message = codec.encode_message(CLUSTER, first, 1, 9999, schema.PREVOTE, (1, 1, None))
    for board in cluster.voters:
        cluster.receive(first, board, message) if board != first else None
    assert cluster.run_until(lambda: len(events(cluster, "decided", height=1)) == 5, FAR_MS)
    (again,) = events(cluster, "proposed", round=1)
    assert again.fields["valid_round"] == 0
    assert len({event.fields["value_id"] for event in events(cluster, "decided", height=1)}) == 1


def test_a_blackout_at_any_effect_loses_nothing_that_was_answered() -> None:
    for effects in range(12):
        cluster = make(seed=effects)
        cluster.run(1000)
        ask(cluster, 1, PUT, "a", "before", client=1001, request=1)
        for board in cluster.boards:
            cluster.power_off_within(board, effects)
        cluster.command(2, 1002, 1, PUT, "a", "after", None)
        cluster.run(2000)
        answered = any(reply.client == 1002 for reply in cluster.replies)
        for board in cluster.boards:
            cluster.power_off(board)
        cluster.calm()
        _, value = ask(cluster, 3, GET, "a", client=1003, request=1)
        assert value == "after" if answered else value in ("before", "after")
        assert same_state(cluster)


# Clients.


def test_put_get_and_compare_and_set() -> None:
    cluster = make(3)
    assert ask(cluster, 1, GET, "a") == (schema.OK, None)
    assert ask(cluster, 2, CAS, "a", "1", None) == (schema.OK, None)
    assert ask(cluster, 3, CAS, "a", "2", None) == (schema.MISMATCH, "1")
    assert ask(cluster, 1, CAS, "a", "2", "1") == (schema.OK, None)
    assert ask(cluster, 2, GET, "a") == (schema.OK, "2")
    assert ask(cluster, 3, PUT, "a", None) == (schema.OK, None)
    assert ask(cluster, 1, CAS, "a", "3", "2") == (schema.MISMATCH, None)
    assert vote_of(cluster, 1).register.values == {}
    assert ask(cluster, 1, schema.ADMIT, "1", "1")[0] == schema.REFUSED


def test_a_request_through_several_boards_is_applied_once() -> None:
    cluster = make(5, learners=1)
    cluster.run(1000)
    for board in cluster.boards:
        cluster.command(board, 1001, 1, CAS, "a", "1", None)
    assert cluster.run_until(lambda: len(cluster.replies) == 6, FAR_MS)
    assert ask(cluster, 2, CAS, "a", "1", None, client=1001, request=1) == (schema.OK, None)
    assert {(row.status, row.value, row.height) for row in cluster.replies} == {(schema.OK, None, 1)}
    assert len(events(cluster, "applied")) == 6
    assert len(events(cluster, "submitted")) == 6


def test_an_old_request_is_not_applied_again() -> None:
    cluster = make(3)
    ask(cluster, 1, PUT, "a", "1", client=1001, request=1)
    ask(cluster, 2, PUT, "a", "2", client=1001, request=2)
    answered = len(cluster.replies)
    cluster.run(1000)
    cluster.command(3, 1001, 1, PUT, "a", "1", None)
    cluster.run(FAR_MS)
    assert len(cluster.replies) == answered
    assert ask(cluster, 1, GET, "a", client=1002, request=1) == (schema.OK, "2")


def test_the_lowest_session_is_evicted_and_expired_for_good() -> None:
    cluster = make(3)
    for client in range(1001, 1001 + schema.MAX_SESSIONS):
        ask(cluster, 1, PUT, "a", str(client), client=client, request=1)
    assert ask(cluster, 1, PUT, "a", "more", client=2000, request=1) == (schema.OK, None)
    assert ask(cluster, 2, PUT, "a", "again", client=1001, request=2) == (schema.EXPIRED, None)
    assert ask(cluster, 2, PUT, "a", "never seen", client=1000, request=1) == (schema.EXPIRED, None)
    assert ask(cluster, 3, GET, "a", client=1002, request=2) == (schema.OK, "more")
    assert len(vote_of(cluster, 1).register.sessions) == schema.MAX_SESSIONS
    cluster.power_off(1)
    cluster.power_on(1)
    assert vote_of(cluster, 1).register.floor == 1001
    assert same_state(cluster)


def test_a_board_with_too_many_pending_commands_is_busy() -> None:
    cluster = make(3)
    cluster.isolate(1)
    for client in range(1001, 1034):
        cluster.command(1, client, 1, PUT, "a", "1", None)
    assert [(row.client, row.status) for row in cluster.replies] == [(1033, schema.BUSY)]
    cluster.heal()
    assert cluster.run_until(lambda: len(cluster.replies) == 33, 10000)
    assert {row.status for row in cluster.replies[1:]} == {schema.OK}


def test_the_store_is_full_at_its_bound() -> None:
    cluster = make(3)
    for key in range(schema.MAX_KEYS):
        assert ask(cluster, 1, PUT, f"k{key}", "1") == (schema.OK, None)
    assert ask(cluster, 1, PUT, "one more", "1") == (schema.FULL, None)
    assert ask(cluster, 1, CAS, "one more", "1", None) == (schema.FULL, None)
    assert ask(cluster, 1, PUT, "k3", None) == (schema.OK, None)
    assert ask(cluster, 1, PUT, "one more", "1") == (schema.OK, None)
    cluster.power_off(2)
    cluster.power_on(2)
    assert same_state(cluster)


def test_pools_are_bounded_and_everything_is_decided_all_the_same() -> None:
    cluster = make(5, latency_ms=(1, 20))
    cluster.run(1000)
    for board in cluster.boards:
        for client in range(30):
            cluster.command(board, 1000 + board * 100 + client, 1, PUT, f"k{client}", "v" * 60, None)
    assert max(len(vote_of(cluster, board).pool.entries) for board in cluster.boards) <= 64
    assert cluster.run_until(lambda: len(cluster.replies) == 150, 20000)
    assert same_state(cluster)
    assert all(not vote_of(cluster, board).pool.entries for board in cluster.boards)


def test_rubbish_from_a_peer_is_refused_and_harms_nothing() -> None:
    cluster = make(3, learners=1)
    cluster.run(1000)
    proposer = proposer_of(cluster)
    other, target = (board for board in cluster.voters if board != proposer)
    batch = codec.pack(schema.BATCH, ([(1001, 1, PUT, "a", "1", None)],))
    rubbish = [
        (other, schema.PROPOSAL, (1, 0, -1, batch)),  # not its turn
        (proposer, schema.PROPOSAL, (1, 0, 0, batch)),  # valid in the round that it is proposed in
        (proposer, schema.PROPOSAL, (1, 0, -1, b"rubbish")),
        (4, schema.PREVOTE, (1, 0, None)),  # a learner
        (other, schema.REQUEST, (1001, 1, 9, "a", "1", None)),
        (other, schema.REQUEST, (7, 1, PUT, "a", "1", None)),
        (other, schema.REQUEST, (proposer, 1, schema.ADMIT, "1", "1", None)),
        (other, schema.ENTRIES, (1, 2, [(b"rubbish",)])),
    ]
    for number, (source, kind, fields) in enumerate(rubbish):
        cluster.receive(source, target, codec.encode_message(CLUSTER, source, 1, 1000 + number, kind, fields))
        assert len(events(cluster, "rejected")) == number + 1
    assert not vote_of(cluster, target).active
    assert ask(cluster, target, PUT, "a", "2") == (schema.OK, None)


# The checks themselves: what they are given to see, they see.


def test_the_checks_notice_a_lost_answer() -> None:
    cluster = make(3)
    clients = Clients(cluster, 1)
    cluster.run(2000)
    check_liveness(cluster, clients)
    check_safety(cluster, clients)
    key = next(iter(clients.answered))
    clients.answered[key] = (*clients.answered[key][:3], 99)
    with pytest.raises(Violation, match="was answered"):
        check_safety(cluster, clients)
