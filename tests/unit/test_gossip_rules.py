"""The settings of when gossip pushes and to whom: early or by the period, blind or with feedback, lap or draw."""

from __future__ import annotations

from typing import Any

from brownout_node.core import codec, schema
from cluster import CLUSTER
from gossip_cluster import GossipCluster

RUMOUR, SYNC, NEWS = schema.RUMOUR, schema.SYNC, schema.NEWS
PERIOD_MS = 200


def boards(count: int, seed: int = 1, **keys: Any) -> GossipCluster:
    cluster = GossipCluster(count, seed, protocols=["gossip"], **keys)
    cluster.run(3 * PERIOD_MS)
    cluster.sent.clear()
    return cluster


def test_shipped_boards_give_no_feedback() -> None:
    cluster = boards(5)
    cluster.write(1, "k", "x")
    cluster.run(10 * PERIOD_MS)
    assert cluster.reads("k") == {"x"}
    assert {sent.kind for sent in cluster.sent} <= {RUMOUR, SYNC, schema.REPAIR, schema.REPLY}


def test_without_early_pushes_news_waits_for_the_period() -> None:
    at_once = {}
    for early in (0, 1):
        cluster = boards(5, gossip_early=early)
        cluster.run_until(lambda cluster=cluster: any(sent.kind == SYNC for sent in cluster.sent), 5000)
        cluster.sent.clear()
        cluster.write(1, "k", "x")
        at_once[early] = [sent.source for sent in cluster.sent if sent.kind == RUMOUR]
        cluster.run(20 * PERIOD_MS)
        assert cluster.reads("k") == {"x"}
    assert at_once == {0: [], 1: [1, 1]}


def test_who_hears_no_answer_stops_after_the_set_rounds() -> None:
    cluster = boards(5, gossip_fanout=1, gossip_rounds=3, gossip_feedback=1, gossip_early=0)
    cluster.passes = lambda source, to, kind: False
    cluster.write(1, "k", "x")
    cluster.run(20 * PERIOD_MS)
    assert cluster.counts[RUMOUR] == 3


def test_every_board_to_which_it_was_news_makes_the_count_begin_anew() -> None:
    for seed in range(1, 9):
        cluster = boards(6, seed, gossip_fanout=1, gossip_rounds=2, gossip_feedback=1, gossip_early=0)
        cluster.passes = lambda source, to, kind: kind in (RUMOUR, NEWS)
        cluster.write(1, "k", "x")
        cluster.run(40 * PERIOD_MS)
        for board in cluster.boards:
            own = [sent for sent in cluster.sent if board in (sent.source, sent.to) and sent.kind in (RUMOUR, NEWS)]
            pushes, unnecessary = 0, 0
            for sent in own:
                if sent.kind == RUMOUR and sent.source == board:
                    assert unnecessary < 2, (seed, board, own)
                    pushes, unnecessary = pushes + 1, unnecessary + 1
                elif sent.kind == NEWS and sent.to == board:
                    unnecessary = 0
            assert unnecessary == (2 if pushes else 0)
            assert (pushes > 0) == ("k" in cluster.gossip(board).items)


def test_feedback_on_another_update_changes_nothing() -> None:
    cluster = boards(3, gossip_rounds=1, gossip_feedback=1, gossip_early=0)
    cluster.passes = lambda source, to, kind: False
    cluster.write(1, "k", "x")
    cluster.run(3 * PERIOD_MS)
    stamp = cluster.gossip(1).items["k"][0][2]

    def pushes_after(updates: list[tuple[str, int]]) -> int:
        cluster.counts.clear()
        cluster.receive(2, 1, codec.encode_message(CLUSTER, 2, 1, 1, NEWS, (updates,)))
        cluster.run(3 * PERIOD_MS)
        return cluster.counts.get(RUMOUR, 0)

    assert pushes_after([("k", stamp - 1), ("other", stamp)]) == 0
    assert pushes_after([("k", stamp)]) == 2  # one period, to both others
    assert pushes_after([]) == 0


def test_repairs_draw_their_partner_anew_only_where_that_is_set() -> None:
    for random_order in (0, 1):
        cluster = GossipCluster(5, protocols=["gossip"], random_order=random_order)
        cluster.run(40_000)
        partners = [sent.to for sent in cluster.sent if sent.kind == SYNC and sent.source == 1]
        starts = range(0, len(partners) - 4, 4)
        laps = [len(set(partners[start : start + 4])) == 4 for start in starts]
        assert set(partners) == {2, 3, 4, 5}
        assert all(laps) == (not random_order), partners
