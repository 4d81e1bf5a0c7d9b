"""Proof of work in virtual time: one chain, forks as often as theory says, catching up, deep forks refused."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

import pytest
from brownout_node.core import codec, schema, work
from brownout_node.core.errors import ConfigError
from brownout_node.core.work import _HEADER, ASK_POST, ONE, id_of
from gossip_cluster import CLIENT, GossipCluster
from nor_journal import NorJournal

FAST = {"bits": 6, "hashes": 1, "interval_ms": 800, "retarget": 0, "window": 8, "confirmations": 4}


def make(count: int = 4, seed: int = 1, **options: Any) -> GossipCluster:
    chosen = {**FAST, **options.pop("work", {})}
    return GossipCluster(count, seed, protocols=["work"], options={"work": chosen}, **options)


def of(cluster: GossipCluster, board: int) -> Any:
    return cluster.node(board).protocol("work")


def height(cluster: GossipCluster, board: int) -> int:
    return int(of(cluster, board).tip[work._HEIGHT])


def chain(cluster: GossipCluster, board: int) -> dict[int, str]:
    """What the board's events say of its chain, lives of before included."""
    blocks: dict[int, str] = {}
    for event in cluster.events:
        if event.board == board and event.name == "reorganised":
            for at in range(event.fields["height"] + 1, event.fields["height"] + event.fields["depth"] + 1):
                blocks.pop(at, None)  # what was adopted may have been told by nobody: power went first
        elif event.board == board and event.name == "adopted":
            blocks[event.fields["height"]] = event.fields["id"]
    return blocks


def agree(cluster: GossipCluster, deep: int = 4) -> None:
    """All boards have the same blocks below the last few."""
    chains = [of(cluster, board).main for board in cluster.running]
    top = min(max(main) for main in chains) - deep
    for at in range(max(min(main) for main in chains), top + 1):
        assert len({main[at] for main in chains}) == 1, f"height {at}, seed {cluster.seed}"


def grow(cluster: GossipCluster, boards: list[int], to: int, within_ms: int = 120_000) -> None:
    cluster.need(lambda: all(height(cluster, board) >= to for board in boards), within_ms)


def mine(cluster: GossipCluster, board: int, **changed: Any) -> bytes:
    """A block on top of that board's chain, whatever is wrong with it; with a proof for what it claims."""
    here = of(cluster, board)
    target = changed.get("target", here.tip[work._TARGET])
    fields = {
        "parent": here.best,
        "height": here.tip[work._HEIGHT] + 1,
        "target": target,
        "total": here.tip[work._TOTAL] + ONE // target,
        "miner": 2,
        "elapsed_ms": 100,
        "posts": [],
        **changed,
    }
    body = codec.pack(_HEADER, tuple(fields.values()))
    nonce = 0
    while not work.proven(body + nonce.to_bytes(4, "big"), target):
        nonce += 1
    return body + nonce.to_bytes(4, "big")


def test_boards_build_one_chain_whose_every_block_has_its_proof() -> None:
    cluster = make(4, work={"retarget": 4})
    grow(cluster, [1, 2, 3, 4], 30)
    cluster.run(20)
    agree(cluster)
    parents = {event.fields["id"]: event.fields["parent"] for event in cluster.events if event.name == "adopted"}
    blocks = chain(cluster, 1)
    assert all(parents[blocks[at]] == blocks[at - 1] for at in range(2, 31))
    for block in of(cluster, 1).blocks.values():
        if block[work._RAW]:
            tries = int.from_bytes(hashlib.sha256(block[work._RAW]).digest()[:4], "big") >> 2
            assert tries < block[work._TARGET]
    assert len({event.fields["miner"] for event in cluster.events if event.name == "adopted"}) == 4


@pytest.mark.parametrize(("delay_ms", "blocks"), [(100, 600), (400, 600)])
def test_forks_are_as_frequent_as_the_theory_says(delay_ms: int, blocks: int) -> None:
    """1 - exp(-delay/interval), for the hashes of the boards that have yet to hear (Decker and Wattenhofer 2013)."""
    cluster = make(5, 7, latency_ms=(delay_ms, delay_ms), tick_ms=100, work={"bits": 6}, sync_period_ms=60_000)
    cluster.run_until(lambda: len(cluster.events) % 64 == 0 and height(cluster, 1) >= blocks, 10_000_000)
    mined = Counter(event.fields["height"] for event in cluster.events if event.name == "mined")
    settled = [mined[at] for at in range(1, height(cluster, 1) - 4)]
    forked = sum(count > 1 for count in settled) / len(settled)
    interval_ms = 2**6 * 100 / 5
    expected = 1 - math.exp(-delay_ms * 4 / 5 / interval_ms)
    margin = 2.576 * math.sqrt(expected * (1 - expected) / len(settled))
    assert abs(forked - expected) < margin, f"{forked:.4f} forked, expected {expected:.4f} +- {margin:.4f} (99%)"


@pytest.mark.parametrize("bits", [3, 9])
def test_the_target_moves_until_blocks_take_the_interval(bits: int) -> None:
    cluster = make(4, work={"bits": bits, "retarget": 8, "interval_ms": 1500})
    grow(cluster, [1], 40, 600_000)
    start_ms = cluster.now_ms
    grow(cluster, [1], 120, 600_000)
    mean_ms = (cluster.now_ms - start_ms) / 80
    assert 1500 * 0.7 < mean_ms < 1500 * 1.4, mean_ms


def test_a_target_moves_by_at_most_four_times() -> None:
    cluster = make(1, work={"retarget": 4, "interval_ms": 1000})
    here = of(cluster, 1)
    for elapsed, factor in ((1, 0.25), (500, 0.5), (1000, 1), (3000, 3), (90_000, 4)):
        blocks = {bytes([at] * 8): (bytes([at - 1] * 8), at, 1 << 20, 0, elapsed, b"") for at in range(1, 5)}
        here.blocks = blocks
        assert here._target_after(blocks[bytes([4] * 8)]) == factor * (1 << 20)
        assert here._target_after(blocks[bytes([3] * 8)]) == 1 << 20


def test_a_post_is_answered_once_it_is_deep_enough() -> None:
    cluster = make(4)
    assert cluster.command(2, CLIENT, 1, ASK_POST, "note", "hello")
    cluster.need(lambda: bool(cluster.replies), 60_000)
    reply = cluster.replies[0]
    assert (reply.status, reply.board) == (schema.OK, 2)
    assert height(cluster, 2) - reply.height + 1 == 4
    included = [event for event in cluster.events if event.name == "included" and event.board == 3]
    assert [(event.fields["height"], event.fields["value"]) for event in included] == [(reply.height, "hello")]
    cluster.command(3, CLIENT, 1, ASK_POST, "note", "hello")  # asked once more, elsewhere
    cluster.run(100)
    assert [reply.height for reply in cluster.replies] == [reply.height] * 2
    grow(cluster, [1], height(cluster, 1) + 12)
    posts = [event for event in cluster.events if event.name == "included" and event.board == 1]
    assert len({event.fields["height"] for event in posts}) == 1


def test_a_full_pool_is_busy() -> None:
    cluster = make(2, work={"bits": 24})
    for request in range(1, 18):
        cluster.command(1, CLIENT, request, ASK_POST, "note", "x" * 64)
    assert [(reply.request, reply.status) for reply in cluster.replies] == [(17, schema.BUSY)]
    cluster.command(1, CLIENT, 20, ASK_POST, "note", None)
    assert cluster.replies[-1].status == schema.REFUSED


def test_blocks_full_of_the_longest_posts_fit_their_messages() -> None:
    cluster = make(2, work={"bits": 4})
    for request in range(1, 13):
        cluster.command(1, (1 << 62) + request, (1 << 62) + request, ASK_POST, "note", "x" * 64)
    cluster.need(lambda: len(cluster.replies) == 12, 60_000)
    assert 370 < cluster.largest_message <= schema.MAX_MESSAGE


def test_the_longer_side_of_a_split_wins_and_posts_of_the_other_get_in_again() -> None:
    cluster = make(5, work={"window": 32})
    grow(cluster, [1, 2, 3, 4, 5], 3)
    cluster.split([[1, 2, 3, 4], [5]])
    cluster.command(5, CLIENT, 1, ASK_POST, "note", "from the smaller side")
    grow(cluster, [5], height(cluster, 5) + 1)
    grow(cluster, [1], height(cluster, 5) + 1)
    cluster.heal()
    cluster.need(lambda: bool(cluster.replies), 60_000)
    agree(cluster)
    depths = [event.fields["depth"] for event in cluster.events if event.name == "reorganised" and event.board == 5]
    assert depths and max(depths) <= 32
    assert cluster.replies[0].status == schema.OK


def test_a_reorganisation_deeper_than_the_window_is_refused_and_said() -> None:
    cluster = make(2, work={"window": 4, "confirmations": 4})
    grow(cluster, [1, 2], 2)
    cluster.split([[1], [2]])
    grow(cluster, [1, 2], 12)
    before = chain(cluster, 1), chain(cluster, 2)
    cluster.heal()
    cluster.run(20_000)
    assert any(event.name == "fork_refused" for event in cluster.events)
    for board, blocks in zip((1, 2), before, strict=True):
        assert blocks.items() <= chain(cluster, board).items(), "what is deep stays"


def test_a_board_that_was_away_catches_up_on_what_the_journals_hold() -> None:
    cluster = make(4, work={"bits": 5})
    grow(cluster, [1, 2, 3, 4], 5)
    cluster.power_off(4)
    grow(cluster, [1, 2, 3], 60)
    cluster.power_on(4)
    assert height(cluster, 4) >= 4
    cluster.need(lambda: height(cluster, 4) >= height(cluster, 1) - 1, 3000)
    agree(cluster)
    assert not [event for event in cluster.events if event.name == "fork_refused"]


def test_a_wiped_board_takes_over_a_chain_and_makes_none_of_its_own() -> None:
    cluster = make(4, work={"bits": 5, "retarget": 8})
    grow(cluster, [1, 2, 3, 4], 120)
    cluster.isolate(4)
    cluster.reboot(4, wipe=True)
    cluster.run(20_000)
    assert height(cluster, 4) == 0
    cluster.heal()
    cluster.need(lambda: height(cluster, 4) >= height(cluster, 1) - 1, 5000)
    agree(cluster)
    assert of(cluster, 4)._first % 8 == 1, "from where the next target can be told"
    cluster.reboot(4)
    grow(cluster, [4], height(cluster, 4) + 20)
    agree(cluster)
    mined = [event for event in cluster.events if event.name == "mined" and event.board == 4]
    assert mined and not [event for event in cluster.events if event.name == "rejected"]


def test_boards_that_all_lost_their_journals_begin_anew() -> None:
    cluster = make(3)
    for board in cluster.boards:
        cluster.power_off(board)
        cluster.wipe(board)
    for board in cluster.boards:
        cluster.power_on(board)
    grow(cluster, [1, 2, 3], 5)
    agree(cluster, 2)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"target": 1 << 25}, "another target"),
        ({"total": 1 << 40}, "another total"),
        ({"height": 1000}, "another target"),
        ({"miner": 77}, "not a miner's"),
        ({"elapsed_ms": 0}, "not a miner's"),
        ({"posts": [(1001, 1, "x"), (1001, 1, "x")]}, ""),
    ],
)
def test_blocks_that_break_a_rule_are_rejected(changed: dict[str, Any], reason: str) -> None:
    cluster = make(2, work={"bits": 4, "hashes": 1})
    grow(cluster, [1], 2)
    cluster.isolate(1)
    raw = mine(cluster, 1, **changed)
    before = of(cluster, 1).best
    message = codec.encode_message(7, 2, 1, 9, work.BLOCK, (raw,))
    cluster.receive(2, 1, message)
    if reason:
        assert of(cluster, 1).best == before
        assert reason in cluster.events[-1].fields["reason"]


def test_a_block_without_its_proof_is_rejected() -> None:
    cluster = make(2)
    raw = bytearray(mine(cluster, 1))
    while work.proven(bytes(raw), of(cluster, 1).tip[work._TARGET]):
        raw[-1] ^= 1
        raw[-2] += 1
    cluster.receive(2, 1, codec.encode_message(7, 2, 1, 9, work.BLOCK, (bytes(raw),)))
    assert "no proof" in cluster.events[-1].fields["reason"]
    cluster.receive(2, 1, codec.encode_message(7, 2, 1, 9, work.BLOCK, (b"rubbish",)))
    assert cluster.events[-1].name == "rejected"
    assert height(cluster, 1) == 0


def test_a_post_that_is_in_already_is_not_taken_again() -> None:
    cluster = make(2, work={"bits": 4})
    cluster.command(1, CLIENT, 1, ASK_POST, "note", "once")
    cluster.need(lambda: bool(cluster.replies), 60_000)
    cluster.isolate(1)
    cluster.run(10)
    raw = mine(cluster, 1, posts=[(CLIENT, 1, "once")])
    cluster.receive(2, 1, codec.encode_message(7, 2, 1, 9, work.BLOCK, (raw,)))
    assert "a post twice" in cluster.events[-1].fields["reason"]


def test_confirmations_have_to_fit_the_window() -> None:
    with pytest.raises(ConfigError, match="confirmations"):
        make(2, work={"window": 4, "confirmations": 5})


@pytest.mark.parametrize("seed", range(1, 7))
def test_storms_leave_one_chain_that_holds_what_was_answered(seed: int) -> None:
    cluster = make(
        4,
        seed,
        latency_ms=(1, 40),
        loss_percent=10,
        duplicate_percent=5,
        journal=NorJournal,
        work={"bits": 6, "window": 24, "confirmations": 8, "retarget": 8, "interval_ms": 800},
    )

    def load(request: int) -> None:
        board = cluster.random.choice(list(cluster.boards))
        cluster.command(board, CLIENT + board, request, ASK_POST, "note", f"post {request}")
        if cluster.now_ms < 18_000:
            cluster.at(cluster.now_ms + 300, load, request + 1)

    load(1)
    cluster.storm(12_000, period_ms=700)
    cluster.calm()
    cluster.run(20_000)
    agree(cluster)
    assert sum(state.cuts for state in cluster.boards.values()) > 2
    told = {(reply.client, reply.request) for reply in cluster.replies if reply.status == schema.OK}
    assert len(told) > 10
    for board in cluster.boards:
        here = of(cluster, board)
        blocks = [here._logged(at) for at in range(1, height(cluster, board) + 1)]
        held = Counter(post[:2] for raw in blocks for post in codec.unpack(_HEADER, raw[:-4])[6])
        assert max(held.values()) == 1, f"board {board}, seed {seed}"
        assert told <= set(held), f"board {board}, seed {seed}"


def test_the_name_of_a_block_says_nothing_of_its_proof() -> None:
    cluster = make(1, work={"bits": 12, "hashes": 400})
    grow(cluster, [1], 8)
    names = [id_of(block[work._RAW]) for block in of(cluster, 1).blocks.values() if block[work._RAW]]
    assert len({name[0] for name in names}) > 4
