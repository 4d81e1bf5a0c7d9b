"""What clients are told when sessions give way: never that nothing happened where something may have."""

from __future__ import annotations

from brownout_node.core import schema
from vote_cluster import FAR_MS, PUT, ask, events, make, same_state

FIRST, LAST = 1001, 3000  # clients below and above all that have a session


def test_who_is_applied_and_evicted_in_one_batch_is_not_told_that_nothing_happened() -> None:
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
    assert [reply.status for reply in cluster.replies if reply.client == FIRST] == []
    assert same_state(cluster)
    # Asked again, a board can only say that the session is gone: a client that asks twice knows what that leaves open.
    assert ask(cluster, 2, PUT, "b", str(FIRST), client=FIRST, request=1) == (schema.EXPIRED, None)
