"""What clients are told when sessions give way: never that nothing happened where something may have."""

from __future__ import annotations

from brownout_node.core import schema
from vote_cluster import FAR_MS, PUT, ask, events, make, same_state, vote_of

FIRST, LAST = 1001, 3000  # clients below and above all that have a session


def test_no_session_gives_way_to_another_of_the_same_batch() -> None:
    cluster = make()
    cluster.run(1000)
    for client in range(2000, 2000 + schema.MAX_SESSIONS):
        ask(cluster, 1, PUT, "a", "1", client=client, request=1)
    cluster.command(1, 2000, 2, PUT, "a", "2")  # while this one is decided, the others come together
    for client in (FIRST, LAST):
        cluster.command(1, client, 1, PUT, "b", str(client))
    assert cluster.run_until(lambda: any(reply.client == LAST for reply in cluster.replies), FAR_MS)
    heights = {
        event.fields["client"]: event.fields["height"]
        for event in events(cluster, "applied")
        if event.fields["client"] in (FIRST, LAST)
    }
    assert heights[FIRST] == heights[LAST], "both have to be in one batch"
    assert [reply.status for reply in cluster.replies if reply.client == FIRST] == [schema.OK]
    assert ask(cluster, 1, PUT, "b", "more", client=2000, request=3) == (schema.EXPIRED, None)
    assert same_state(cluster)


def test_a_board_that_installed_a_copy_does_not_say_that_nothing_happened() -> None:
    cluster = make()
    cluster.run(1000)
    for source in range(1, 5):
        cluster.cut_link(source, 5)  # board 5 is heard and hears nothing
    cluster.command(5, FIRST, 1, PUT, "b", "1")
    cluster.run(1000)
    cluster.isolate(5)
    for request in range(1, 3 + schema.LOG_ENTRIES // schema.MAX_SESSIONS):
        for client in range(2000, 2000 + schema.MAX_SESSIONS):
            ask(cluster, 1, PUT, "a", "1", client=client, request=request)
    assert [event.board for event in events(cluster, "applied", client=FIRST)] == [1, 2, 3, 4]
    cluster.heal()
    assert same_state(cluster)
    assert vote_of(cluster, 5).register.base > 1, "it has to have caught up by a copy"
    assert not vote_of(cluster, 5).pool.entries
    assert [reply for reply in cluster.replies if reply.client == FIRST] == []
