"""Recovery: a saved state goes back to a board that lost its journal, or to a whole cluster that begins anew."""

from __future__ import annotations

from typing import Any

import pytest
from brownout.saved_state import CLIENT, SavedState
from brownout_node.core import codec, recovery, schema
from cluster import CLUSTER, Cluster

PROTOCOLS = ["membership", "gossip", "vote", "recovery"]
WRITER = 2000


def make(seed: int = 1, **overrides: Any) -> Cluster:
    return Cluster(seed, protocols=PROTOCOLS, **overrides)


def put(cluster: Cluster, board: int, request: int, value: str, key: str = "k") -> None:
    cluster.command(board, WRITER, request, schema.PUT, key, value)
    assert cluster.run_until(lambda: any(reply.request == request for reply in cluster.replies), 5000)


def tell(cluster: Cluster, board: int, kind: int, fields: tuple[Any, ...], source: int = CLIENT) -> tuple[Any, ...]:
    """Send a message from the host, and return the board's answer to it."""
    before = len(cluster.sent)
    message = codec.encode_message(CLUSTER, source, 0, 1, kind, fields)
    cluster.receive(schema.HOST, board, message)
    return next(sent.fields for sent in cluster.sent[before:] if sent.to == source)


def save(cluster: Cluster, board: int) -> SavedState:
    height, _, pages, data = tell(cluster, board, schema.STATE_FETCH, (0, 0))
    rest = [tell(cluster, board, schema.STATE_FETCH, (height, page))[3] for page in range(1, pages)]
    return SavedState(height, (data, *rest))


def restore(cluster: Cluster, board: int, state: SavedState, check: bytes | None = None) -> tuple[Any, ...]:
    answer: tuple[Any, ...] = (0, 0, False, "")
    for page, data in enumerate(state.pages):
        fields = (state.height, page, len(state.pages), check or state.check, data)
        answer = tell(cluster, board, recovery.RESTORE, fields)
    return answer


def registers(cluster: Cluster, board: int) -> dict[str, str]:
    return {key: row[1] for key, row in cluster.node(board).protocol("vote").register.values.items()}


def filled(cluster: Cluster, keys: int = 7) -> SavedState:
    for request in range(1, keys + 1):
        put(cluster, 1, request, f"v{request}", f"k{request}")
    return save(cluster, 1)


def test_a_saved_state_is_what_the_board_has() -> None:
    cluster = make()
    state = filled(cluster)
    assert state.registers == {f"k{n}": f"v{n}" for n in range(1, 8)} == registers(cluster, 1)
    assert state.digest == cluster.node(1).protocol("vote").digest()
    assert len(state.pages) == 4


def test_a_restored_board_does_not_vote_until_it_is_admitted_through_the_log() -> None:
    cluster = make()
    state = filled(cluster)
    put(cluster, 1, 8, "later")
    cluster.power_off(3)
    cluster.wipe(3)
    cluster.isolate(3)
    cluster.power_on(3)
    assert restore(cluster, 3, state) == (state.height, len(state.pages), False, "")
    vote = cluster.node(3).protocol("vote")
    assert registers(cluster, 3) == state.registers
    assert vote.digest() == state.digest
    assert not vote.voting
    cluster.run(1000)
    cluster.power_off(3)
    cluster.power_on(3)
    assert registers(cluster, 3) == state.registers
    assert not cluster.node(3).protocol("vote").voting
    cluster.heal()
    assert cluster.run_until(lambda: cluster.node(3).protocol("vote").voting, 10_000)
    admitted = [event.fields["height"] for event in cluster.events if event.name == "admitted" and event.board == 3]
    assert admitted and admitted[0] > state.height
    assert registers(cluster, 3)["k"] == "later"


def test_a_board_that_votes_takes_no_state() -> None:
    cluster = make()
    state = filled(cluster)
    newer = SavedState(state.height + 50, state.pages)
    next_height, _, refused, reason = restore(cluster, 2, newer)
    assert refused
    assert next_height <= state.height
    assert "votes" in reason


def test_damaged_pages_are_not_installed() -> None:
    cluster = make()
    state = filled(cluster)
    cluster.power_off(3)
    cluster.wipe(3)
    cluster.isolate(3)
    cluster.power_on(3)
    pages = list(state.pages)
    pages[1] = pages[1].replace(b"v3", b"v9")
    assert pages[1] != state.pages[1]
    next_height, _, refused, reason = restore(cluster, 3, SavedState(state.height, tuple(pages)), state.check)
    assert (next_height, refused) == (1, True)
    assert "damaged" in reason
    assert restore(cluster, 3, state)[2] is False
    assert registers(cluster, 3) == state.registers


def test_a_cluster_begins_anew_with_a_saved_state_and_with_no_other() -> None:
    state = filled(make())
    cluster = make(options={"recovery": state.options}, seed=2)
    other = SavedState(state.height + 1, state.pages)
    cluster.run(3000)
    assert not [sent for sent in cluster.sent if sent.kind in (schema.PREVOTE, schema.PRECOMMIT)]
    assert restore(cluster, 1, other)[2] is True
    for board in (1, 2, 3):
        assert restore(cluster, board, state)[2] is False
    put(cluster, 1, 8, "new")
    reply = next(reply for reply in cluster.replies if reply.request == 8)
    assert reply.height >= state.height
    assert cluster.run_until(lambda: all(registers(cluster, board).get("k") == "new" for board in range(1, 6)), 10_000)
    assert registers(cluster, 5) == {**state.registers, "k": "new"}
    # A request from before the save is known as done, and not done again.
    cluster.command(2, WRITER, 8, schema.PUT, "k", "again")
    cluster.run(1000)
    assert registers(cluster, 2)["k"] == "new"


def test_votes_of_the_restored_cluster_are_kept_over_a_reboot() -> None:
    state = filled(make())
    cluster = make(options={"recovery": state.options}, seed=3)
    for board in range(1, 6):
        restore(cluster, board, state)
    put(cluster, 1, 8, "new")
    for board in range(1, 6):
        cluster.power_off(board)
        cluster.power_on(board)
    assert all(cluster.node(board).protocol("vote").voting for board in range(1, 6))
    put(cluster, 1, 9, "newer")


def test_other_boards_restore_nothing() -> None:
    cluster = make()
    state = filled(cluster)
    cluster.power_off(3)
    cluster.wipe(3)
    cluster.isolate(3)
    cluster.power_on(3)
    fields = (state.height, 0, len(state.pages), state.check, state.pages[0])
    cluster.receive(2, 3, codec.encode_message(CLUSTER, 2, 1, 1, recovery.RESTORE, fields))
    assert cluster.node(3).rejected == 1
    assert registers(cluster, 3) == {}


@pytest.mark.parametrize("seed", range(3))
def test_a_restore_meets_losses_and_a_copy_from_a_peer(seed: int) -> None:
    """The two ways to a state cross: whatever page comes when, the board ends with a state that was decided."""
    cluster = make(seed, loss_percent=10)
    state = filled(cluster)
    for request in range(8, 90):
        put(cluster, 1, request, f"v{request}")
    cluster.power_off(3)
    cluster.wipe(3)
    cluster.power_on(3)
    for page, data in enumerate(state.pages):
        cluster.run(cluster.random.randint(0, 60))
        fields = (state.height, page, len(state.pages), state.check, data)
        tell(cluster, 3, recovery.RESTORE, fields)
    assert cluster.run_until(lambda: cluster.node(3).protocol("vote").voting, 20_000)
    assert cluster.run_until(lambda: registers(cluster, 3) == registers(cluster, 1), 5000)
