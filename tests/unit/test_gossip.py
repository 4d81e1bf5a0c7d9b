"""The gossip store merges to one state in any order, loses nothing acknowledged, and brings nothing deleted back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.repair import add_within, line_of, pages_of
from brownout_node.core.step import step
from cluster import ABOUT, CLUSTER, MemoryJournal
from gossip_cluster import CLIENT, GossipCluster
from hypothesis import given, settings
from hypothesis import strategies as st

RUMOUR, SYNC, REPAIR = schema.RUMOUR, schema.SYNC, schema.REPAIR
PERIOD_MS = 200
SYNC_MS = 1000
LONG_KEY = "\u00e9" * 16  # 32 bytes
LONG_VALUE = "\u20ac" * 21 + "x"  # 64 bytes


def boards(count: int, seed: int = 1, **options: Any) -> GossipCluster:
    return GossipCluster(count, seed, protocols=["gossip"], **options)


def no_rumours(source: int, to: int, kind: int) -> bool:
    return kind != RUMOUR


# Merging.


class Replica:
    """One board alone: what it is told is carried out at once, what it sends goes nowhere."""

    def __init__(self, board: int, count: int = 4) -> None:
        document = {
            "cluster": CLUSTER,
            "board": board,
            "bed": "t",
            "seed": 1,
            "roster": [[index, f"b{index}", 1] for index in range(1, count + 1)],
            "protocols": ["gossip"],
        }
        self.config = Config(document)
        self.journal = MemoryJournal(board)
        self.boot()

    def boot(self) -> None:
        self.node = Node(self.config, self.journal, ABOUT)
        self.gossip: Any = self.node.protocol("gossip")
        self.settle()

    def settle(self) -> None:
        while step(self.node, self.journal, lambda to, data: None, lambda data: None):
            pass

    def rumour(self, source: int, items: list[tuple[Any, ...]]) -> None:
        self.node.receive(source, codec.encode_message(CLUSTER, source, 1, 1, RUMOUR, (items,)), self.node.now_ms + 1)
        self.settle()

    def state(self) -> dict[str, tuple[Any, ...]]:
        return {key: held[0] for key, held in self.gossip.items.items()}


def make_updates(draws: list[tuple[int, int, bool, int]]) -> list[tuple[Any, ...]]:
    """Updates of three writers to few keys, stamps often equal; each writer's numbers count from 1, stamps grow."""
    numbers = {2: 0, 3: 0, 4: 0}
    stamps = {2: 0, 3: 0, 4: 0}
    updates = []
    for writer, key, deletes, gap in draws:
        numbers[writer] += 1
        stamps[writer] += 1 + gap
        value = None if deletes else f"{writer}.{numbers[writer]}"
        updates.append((f"k{key}", value, stamps[writer], writer, numbers[writer]))
    return updates


UPDATES = st.lists(
    st.tuples(st.sampled_from([2, 3, 4]), st.integers(0, 3), st.booleans(), st.integers(0, 2)), min_size=1, max_size=14
).map(make_updates)


@given(updates=UPDATES, data=st.data())
def test_any_order_and_any_repetition_end_in_the_same_state(updates: list[tuple[Any, ...]], data: Any) -> None:
    expected: dict[str, tuple[Any, ...]] = {}
    for update in updates:
        if update[0] not in expected or update[2:] > expected[update[0]][2:]:
            expected[update[0]] = update
    digests = set()
    for _ in range(3):
        replica = Replica(1)
        order = data.draw(st.permutations(updates)) + data.draw(st.lists(st.sampled_from(updates), max_size=6))
        for update in order:
            replica.rumour(2, [update])
        assert replica.state() == expected
        replica.boot()  # and all of it was durable
        assert replica.state() == expected
        digests.add(replica.gossip.digest())
    assert len(digests) == 1


@settings(max_examples=40)
@given(
    script=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=20),
    seed=st.integers(0, 1 << 16),
)
def test_writers_everywhere_at_once_converge(script: list[tuple[int, int, int]], seed: int) -> None:
    cluster = boards(4, seed, latency_ms=(1, 400), loss_percent=30, duplicate_percent=30)
    for number, (board, key, gap) in enumerate(script):
        if number % 3 == 2:
            cluster.delete(board, f"k{key}")
        else:
            cluster.write(board, f"k{key}", str(number))
        cluster.run(gap * 150)
    cluster.calm()
    cluster.need(cluster.converged, 20 * SYNC_MS)
    last: dict[str, tuple[Any, ...]] = {}
    for event in cluster.named("written"):
        last[event.fields["key"]] = max(
            last.get(event.fields["key"], (0,)), (event.fields["stamp"], event.board, event.fields["value"] or "")
        )
    for key, (_, _, value) in last.items():
        assert cluster.reads(key) == {value or None}


def test_digests_tell_states_apart() -> None:
    one, other = Replica(1), Replica(1)
    assert one.gossip.digest() == other.gossip.digest()
    one.rumour(2, [("a", "1", 5, 2, 1)])
    other.rumour(2, [("a", "2", 5, 2, 1)])
    assert one.gossip.digest() != other.gossip.digest()
    one.rumour(2, [("a", None, 6, 2, 2)])
    assert one.gossip.digest() == Replica(1).gossip.digest()


def test_a_digest_is_reported_once_for_each_state() -> None:
    cluster = boards(3)
    cluster.run(5000)
    cluster.write(1, "a", "1")
    cluster.run(5000)
    cluster.delete(2, "a")
    cluster.run(20_000)
    for board in cluster.boards:
        reported = [event.fields for event in cluster.named("digest") if event.board == board]
        assert [fields["count"] for fields in reported] == [0, 1, 0]
        assert reported[-1]["digest"] == cluster.gossip(board).digest() == reported[0]["digest"]


# Rumours.


def ideal_push_pull_rounds(count: int, fanout: int, rng: random.Random) -> int:
    """Synchronous rounds in which every board meets `fanout` others and both sides tell all that they knew before."""
    knows = [False] * count
    knows[0] = True
    rounds = 0
    while not all(knows):
        before = list(knows)
        for board in range(count):
            for other in rng.sample([peer for peer in range(count) if peer != board], fanout):
                if before[board] or before[other]:
                    knows[board] = knows[other] = True
        rounds += 1
    return rounds


def test_a_rumour_reaches_fifty_boards_in_1_25_times_the_ideal_rounds() -> None:
    rng = random.Random(1)
    ideal = sum(ideal_push_pull_rounds(50, 2, rng) for _ in range(400)) / 400
    assert 3 < ideal < 4
    rounds = []
    for seed in range(1, 5):
        cluster = GossipCluster(50, seed, latency_ms=(5, 5))
        cluster.run(2000)
        for number in range(6):
            cluster.run(cluster.random.randrange(PERIOD_MS))
            key = f"k{number}"
            start_ms = cluster.now_ms
            cluster.write(cluster.random.randrange(50) + 1, key, "fresh")
            while cluster.reads(key) != {"fresh"}:
                cluster.run(5)
            rounds.append((cluster.now_ms - start_ms) / PERIOD_MS)
            cluster.run(2500)
        assert cluster.largest_message <= schema.MAX_MESSAGE
        # What it costs: so many pushes of each item by each board, and then silence.
        pushes = sum(len(sent.fields[0]) for sent in cluster.sent if sent.kind == RUMOUR)
        assert pushes <= 6 * 50 * (3 + 6 + 1)
    assert sum(rounds) / len(rounds) <= 1.25 * ideal, (rounds, ideal)


def test_rumours_alone_leave_almost_nobody_out() -> None:
    missed = 0
    for seed in range(1, 6):
        cluster = boards(50, seed, latency_ms=(5, 5))
        cluster.passes = lambda source, to, kind: kind == RUMOUR
        for number in range(4):
            cluster.write(cluster.random.randrange(50) + 1, f"k{number}", "x")
            cluster.run(2000)
            missed += sum(f"k{number}" not in cluster.gossip(board).items for board in cluster.boards)
    assert missed <= 10  # of 1000


def test_news_in_a_flood_does_not_become_a_flood_of_messages() -> None:
    cluster = boards(5)
    cluster.run(1000)
    cluster.sent.clear()
    start_ms = cluster.now_ms
    for number in range(60):
        cluster.write(1 + number % 5, f"k{number}", "x")
        cluster.run(10)
    cluster.run(5000)
    rumours = [sent for sent in cluster.sent if sent.kind == RUMOUR]
    for board in cluster.boards:
        for window_ms in range(start_ms, cluster.now_ms, PERIOD_MS):
            mine = [m for m in rumours if m.source == board and window_ms <= m.time_ms < window_ms + PERIOD_MS]
            assert len(mine) <= 2 * (2 + 2)  # fan-out 2, early and periodic, in two periods that the window may touch
    assert cluster.converged()


def test_a_rumour_that_skips_a_number_does_not_hide_the_gap() -> None:
    replica = Replica(1)
    replica.rumour(2, [("a", "1", 10, 2, 1), ("c", "3", 30, 2, 3)])
    assert replica.gossip.vector[2] == 1
    replica.rumour(2, [("b", "2", 20, 2, 2)])
    assert replica.gossip.vector[2] == 2  # the third comes with the next repair
    replica.rumour(3, [("d", "9", 40, 3, 2)])
    assert 3 not in replica.gossip.vector


# Anti-entropy.


@pytest.mark.parametrize("count", [2, 5, 50])
def test_repair_alone_brings_everything_everywhere(count: int) -> None:
    cluster = boards(count, latency_ms=(1, 10))
    cluster.passes = no_rumours
    for number in range(60):
        cluster.write(number % count + 1, f"k{number}", f"v{number}")
    while not cluster.converged():
        cluster.run(100)
        assert cluster.now_ms <= 15 * SYNC_MS
    for number in range(60):
        assert cluster.reads(f"k{number}") == {f"v{number}"}
    assert {event.fields["repair"] for event in cluster.named("merged")} == {True}
    cluster.run(1100)
    assert cluster.named("digest")[-1].fields["count"] == 60


def test_repair_survives_heavy_loss() -> None:
    cluster = boards(5, loss_percent=40)
    cluster.passes = no_rumours
    for number in range(60):
        cluster.write(number % 5 + 1, f"k{number}", LONG_VALUE)
    cluster.need(cluster.converged, 90 * SYNC_MS)


def test_behind_a_gap_that_nobody_can_close_items_spread_all_the_same() -> None:
    # Board 1 is gone with its first update; its second and third had reached board 2, and no vector covers them.
    cluster = boards(4)
    cluster.power_off(1)
    items = [(f"k{number}", "kept", 70 + number, 1, number) for number in range(2, 12)]
    cluster.passes = no_rumours
    for at in range(0, len(items), 4):
        cluster.receive(1, 2, codec.encode_message(CLUSTER, 1, 1, 9, RUMOUR, (items[at : at + 4],)))
    cluster.need(cluster.converged, 20 * SYNC_MS)
    assert all(1 not in cluster.gossip(board).vector for board in cluster.running)
    assert all(len(cluster.gossip(board).items) == 10 for board in cluster.running)


def test_pages_are_bounded_and_messages_fit_with_the_longest_of_everything() -> None:
    cluster = boards(50, latency_ms=(1, 3))
    cluster.passes = no_rumours
    for board in cluster.boards:
        cluster.write(board, f"{board:02}" + LONG_KEY[1:], LONG_VALUE)
    for number in range(14):
        cluster.write(number + 1, f"{number + 50:02}" + LONG_KEY[1:], LONG_VALUE)
    while not cluster.converged():
        cluster.run(200)
        assert cluster.now_ms <= 20 * SYNC_MS
    cluster.passes = lambda source, to, kind: True
    cluster.write(1, "00" + LONG_KEY[1:], LONG_VALUE[:-1] + "y")
    cluster.run(3000)
    assert cluster.converged()
    assert max(len(sent.fields[4]) for sent in cluster.sent if sent.kind == SYNC) == 40
    assert max(sent.fields[2] for sent in cluster.sent if sent.kind == SYNC) == 2
    for sent in cluster.sent:
        if sent.kind == REPAIR:
            assert len(sent.fields[2]) <= 4
            assert len(codec.encode_message(CLUSTER, sent.source, sent.boot, 1 << 30, REPAIR, sent.fields)) <= 512
    assert 300 < cluster.largest_message <= schema.MAX_MESSAGE


def test_messages_fit_where_every_board_has_lost_a_journal() -> None:
    # Lineages make every number nine bytes long.
    cluster = boards(50, latency_ms=(1, 3))
    cluster.run(1500)
    cluster.write(1, "first", "x")
    cluster.run(1500)
    for board in range(2, 51):
        cluster.reboot(board, wipe=True)
    cluster.run(3000)
    for board in cluster.boards:
        cluster.write(board, f"{board:02}" + LONG_KEY[1:], LONG_VALUE)
    for _ in range(30):
        cluster.run(1000)
    assert cluster.converged()
    assert cluster.largest_message <= schema.MAX_MESSAGE
    for board in cluster.boards:
        cluster.reboot(board)
    for _ in range(12):
        cluster.run(1000)
    assert cluster.converged()
    assert len(cluster.gossip(9).items) == 51


def test_a_page_fits_with_the_largest_of_all_numbers() -> None:
    most = (1 << 54) - 1
    for numbers in ((1 << 32) - 1, most):
        pages = pages_of({line_of(writer, numbers): numbers for writer in range(900, 1000)})
        assert sum(len(page) for page in pages) == 100
        for page in pages:
            fields = (1 << 30, len(pages), len(pages), False, page, bytes(8))
            assert len(codec.encode_message(1 << 29, 999, 1 << 30, 1 << 33, SYNC, fields)) <= 512
    items: list[Any] = []
    while add_within(items, (LONG_KEY, LONG_VALUE, most, 999, most), 280):
        pass
    claims = [(999, most)] * 12
    assert len(items) == 2
    fields = (1 << 30, False, items, claims, most)
    assert len(codec.encode_message(1 << 29, 999, 1 << 30, 1 << 33, REPAIR, fields)) <= 512
    while add_within(items, (LONG_KEY, LONG_VALUE, most, 999, most), 440):
        pass
    assert len(items) == 3
    assert len(codec.encode_message(1 << 29, 999, 1 << 30, 1 << 33, RUMOUR, (items,))) <= 512


# Power.


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_blackout_loses_nothing_acknowledged(seed: int) -> None:
    cluster = boards(5, seed)
    rng = random.Random(seed)
    acknowledged: dict[str, str | None] = {}
    for number in range(120):
        key = f"k{rng.randrange(20)}"
        board = rng.choice(cluster.running or [1])
        value = None if rng.random() < 0.2 else str(number)
        if rng.random() < 0.2 and board in cluster.running:
            cluster.power_off_within(board, rng.randrange(6))
        before = len(cluster.replies)
        if board in cluster.running:
            operation = schema.DELETE if value is None else schema.WRITE
            cluster.command(board, CLIENT, number + 1, operation, key, value)
        if len(cluster.replies) > before:
            assert cluster.replies[-1].status == schema.OK
            acknowledged[key] = value
        cluster.run(rng.randrange(40, 200))  # so that the order of two writes of one key is known nearly always
        for other in cluster.boards:
            if other not in cluster.running and rng.random() < 0.5:
                cluster.power_on(other)
    for board in cluster.boards:
        cluster.power_off(board)
    cluster.calm()
    cluster.need(cluster.converged, 20 * SYNC_MS)
    cluster.run(10 * SYNC_MS)  # tombstones do not count for digests: let them arrive too
    for key in acknowledged:
        told = [e.fields["stamp"] for e in cluster.named("written") if e.fields["key"] == key]
        for board in cluster.boards:
            # There is what was acknowledged last, or what came after it, unless that was a delete and is forgotten.
            held = cluster.gossip(board).items.get(key)
            known = [] if held is None else [held[0][2]]
            known += [e.fields["stamp"] for e in cluster.named("forgotten") if e.fields["key"] == key]
            assert max(known) >= max(told, default=0), key
            assert acknowledged[key] is not None or held is None or held[0][1] is None or held[0][2] > max(told)


def test_numbers_and_slots_survive_reboots() -> None:
    cluster = boards(3)
    for number in range(30):
        board = number % 3 + 1
        cluster.write(board, f"k{number % 12}", str(number))
        if number % 5 == 0:
            cluster.reboot(board)
        cluster.run(137)
    cluster.need(cluster.converged, 5000)
    before = {board: {key: held[0] for key, held in cluster.gossip(board).items.items()} for board in cluster.boards}
    for board in cluster.boards:
        cluster.reboot(board)
        assert cluster.named("boot")[-1].fields["gossip_number"] == 10
        gossip = cluster.gossip(board)
        assert {key: held[0] for key, held in gossip.items.items()} == before[board]
        assert sorted(held[1] for held in gossip.items.values()) == list(range(12))
    numbers = [(e.board, e.fields["number"]) for e in cluster.named("written")]
    assert len(numbers) == len(set(numbers)) == 30


def test_what_a_command_says_is_durable_before_the_answer_leaves() -> None:
    replica = Replica(1)
    replica.node.command(CLIENT, 1, schema.WRITE, "a", "1", None, 5)
    records, messages, _events = replica.node.take_ready()
    assert {schema.JOURNAL_ITEM, schema.JOURNAL_GOSSIP_NUMBER} <= {key for key, _ in records}
    assert codec.unpack("kvuuu", dict(records)[schema.JOURNAL_ITEM])[:2] == ("a", "1")
    assert any(to == CLIENT for to, _ in messages)


# Clients.


def test_operations_and_their_answers() -> None:
    cluster = boards(2)
    assert cluster.read(1, "a") is None
    cluster.write(1, "a", "1")
    assert cluster.read(1, "a") == "1"
    cluster.run(50)
    assert cluster.read(2, "a") == "1"
    cluster.delete(2, "a")
    assert cluster.read(2, "a") is None
    assert cluster.ask(1, schema.WRITE, "a", None) == (schema.REFUSED, None)
    cluster.write(1, "empty", "")
    assert cluster.read(1, "empty") == ""


def test_a_request_that_is_delivered_twice_is_done_once() -> None:
    cluster = boards(2)
    assert cluster.ask(1, schema.WRITE, "a", "1", request=7) == (schema.OK, None)
    cluster.run(100)
    cluster.write(2, "a", "2")
    cluster.run(100)
    assert cluster.ask(1, schema.WRITE, "a", "1", request=7) == (schema.OK, None)
    cluster.run(2000)
    assert cluster.reads("a") == {"2"}


def test_a_full_store_says_so_and_takes_no_new_key() -> None:
    cluster = boards(2)
    for number in range(schema.MAX_KEYS):
        cluster.write(1, f"k{number}", "x")
    assert cluster.ask(1, schema.WRITE, "one more", "x") == (schema.FULL, None)
    assert cluster.ask(1, schema.DELETE, "never seen", None) == (schema.FULL, None)
    cluster.write(1, "k3", "y")
    cluster.need(cluster.converged, 30_000)
    assert cluster.ask(2, schema.WRITE, "one more", "x") == (schema.FULL, None)
    cluster.delete(2, "k5")
    cluster.need(lambda: all("k5" not in cluster.gossip(board).items for board in cluster.boards), 30_000)
    cluster.write(2, "one more", "x")
    cluster.need(cluster.converged, 5000)


@pytest.mark.parametrize(("each", "fits"), [(32, True), (33, False), (60, False)])
def test_boards_that_fill_up_apart_have_room_for_each_other_up_to_a_bound(each: int, fits: bool) -> None:
    cluster = boards(3)
    cluster.split([[1], [2], [3]])
    for number in range(each):
        for board in cluster.boards:
            cluster.write(board, f"{board}.{number}", "x")
    cluster.heal()
    cluster.run(20_000)
    assert cluster.converged() == fits
    for board in cluster.boards:
        items = cluster.gossip(board).items
        assert len(items) == 96  # what found no room is not counted as seen, and nothing had to make room for it
        assert sorted(held[1] for held in items.values()) == list(range(96))
        for event in cluster.named("written"):
            seen = cluster.gossip(board).vector.get(event.board, 0) >= event.fields["number"]
            assert event.fields["key"] in items or not seen
        assert all(f"{board}.{number}" in items for number in range(each))
        assert cluster.ask(board, schema.WRITE, "one more", "x") == (schema.FULL, None)


# Deletes.


def gone(cluster: GossipCluster, key: str) -> bool:
    return all(key not in cluster.gossip(board).items for board in cluster.running)


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_board_that_was_away_does_not_bring_back_what_was_deleted(seed: int) -> None:
    cluster = GossipCluster(5, seed)
    cluster.write(1, "a", "old")
    cluster.need(lambda: cluster.reads("a") == {"old"}, 5000)
    cluster.power_off(4)
    cluster.delete(2, "a")
    cluster.run(30_000)
    assert all("a" in cluster.gossip(board).items for board in cluster.running)  # kept for the one that is away
    cluster.power_on(4)
    cluster.need(lambda: cluster.reads("a") == {None}, 10_000)
    cluster.need(lambda: gone(cluster, "a"), 60_000)
    for board in cluster.boards:
        cluster.reboot(board)
    cluster.run(10_000)
    assert gone(cluster, "a")
    assert len(cluster.named("forgotten")) == 5


def test_tombstones_go_at_fifty_boards_too() -> None:
    cluster = GossipCluster(50, latency_ms=(1, 5))
    cluster.write(1, "a", "1")
    cluster.run(2000)
    cluster.delete(2, "a")
    for _ in range(150):
        cluster.run(1000)
        cluster.sent.clear()
        if gone(cluster, "a"):
            break
    assert gone(cluster, "a")


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_message_from_before_a_delete_resurrects_nothing(seed: int) -> None:
    # Rumours of the first value towards board 3 are held back until everybody has forgotten the tombstone.
    cluster = boards(5, seed)
    cluster.passes = lambda source, to, kind: not (to == 3 and kind == RUMOUR)
    cluster.write(1, "a", "old")
    cluster.run(200)
    cluster.write(2, "a", "older and wiser")
    cluster.run(700)
    held = [message for message in cluster.held if message[1] == 3]
    assert held
    cluster.passes = lambda source, to, kind: True
    cluster.delete(5, "a")
    cluster.need(lambda: cluster.reads("a") == {None}, 10_000)
    cluster.need(lambda: gone(cluster, "a"), 60_000)
    if seed % 2:
        for board in cluster.boards:
            cluster.reboot(board)
    for source, to, data in held:
        cluster.receive(source, to, data)
    assert gone(cluster, "a")
    cluster.run(5000)
    assert gone(cluster, "a")


def test_a_board_that_lost_its_journal_learns_what_is_from_before_a_delete() -> None:
    cluster = boards(4)
    cluster.passes = lambda source, to, kind: not (to == 3 and kind == RUMOUR)
    cluster.write(1, "a", "old")
    cluster.run(1000)
    held = [message for message in cluster.held if message[1] == 3]
    cluster.passes = lambda source, to, kind: True
    cluster.delete(2, "a")
    cluster.need(lambda: gone(cluster, "a"), 60_000)
    cluster.reboot(3, wipe=True)
    for source, to, data in held:
        cluster.receive(source, to, data)  # it takes no rumours yet
    cluster.need(lambda: cluster.gossip(3).ready, 3000)
    cluster.reboot(3)
    for source, to, data in held:
        cluster.receive(source, to, data)
    assert held and gone(cluster, "a")


@pytest.mark.parametrize("seed", range(1, 31))
def test_a_board_wiped_in_between_resurrects_nothing(seed: int) -> None:
    # Board 4 is away with the old value; board 3 has seen the delete and is wiped; both come back at once, and
    # may meet each other first.
    cluster = GossipCluster(5, seed)
    cluster.write(1, "a", "old")
    cluster.need(lambda: cluster.reads("a") == {"old"}, 5000)
    cluster.power_off(4)
    cluster.delete(2, "a")
    cluster.run(10_000)
    cluster.power_off(3)
    cluster.wipe(3)
    if seed % 3 == 0:
        cluster.split([[3, 4], [1, 2, 5]])
    cluster.power_on(3)
    cluster.power_on(4)
    cluster.run(seed * 200)
    if seed % 3 == 0:
        cluster.need(lambda: cluster.read(3, "a") == "old", 10_000)
    cluster.heal()
    cluster.need(lambda: cluster.reads("a") == {None}, 30_000)
    cluster.need(lambda: gone(cluster, "a"), 60_000)
    cluster.run(5000)
    assert gone(cluster, "a")


def test_leftovers_of_a_wiped_board_are_dropped_where_the_tombstone_is_forgotten() -> None:
    # The worst case, made by hand: board 3 holds a value whose deletion all others have seen and forgotten, under a
    # vector that covers it.
    cluster = boards(4)
    cluster.write(1, "a", "old")
    cluster.write(1, "b", "stays")
    cluster.need(cluster.converged, 5000)
    record = {
        key: value
        for key, value in cluster.boards[3].journal.records.items()
        if key >= schema.JOURNAL_ITEM and codec.unpack("kvuuu", value)[0] == "a"
    }
    cluster.delete(2, "a")
    cluster.need(lambda: gone(cluster, "a"), 60_000)
    cluster.power_off(3)
    cluster.boards[3].journal.append(list(record.items()))
    cluster.power_on(3)
    assert cluster.read(3, "a") == "old"
    cluster.need(lambda: gone(cluster, "a"), 15 * SYNC_MS)
    assert cluster.converged()
    assert cluster.reads("b") == {"stays"}
    cluster.reboot(3)
    assert cluster.read(3, "a") is None


# Lost journals.


def test_a_board_without_its_journal_serves_nothing_until_one_repair_is_complete() -> None:
    cluster = boards(4)
    for number in range(20):
        cluster.write(3, f"k{number}", "mine")
    cluster.need(cluster.converged, 5000)
    cluster.power_off(3)
    cluster.wipe(3)
    cluster.isolate(3)
    cluster.power_on(3)
    assert cluster.ask(3, schema.WRITE, "a", "1") == (schema.REFUSED, None)
    assert cluster.ask(3, schema.DELETE, "k1") == (schema.REFUSED, None)
    cluster.run(5000)
    assert cluster.ask(3, schema.WRITE, "a", "1") == (schema.REFUSED, None)
    cluster.heal()
    cluster.need(cluster.converged, 3000)
    assert not [m for m in cluster.sent if m.kind == RUMOUR and m.source == 3 and m.time_ms > cluster.now_ms - 3000]
    cluster.write(3, "k1", "new")
    cluster.need(lambda: cluster.reads("k1") == {"new"}, 3000)
    numbers = [e.fields["number"] for e in cluster.named("written") if e.board == 3]
    assert numbers[-1] == cluster.node(3).boot * 2**24 + 1
    cluster.reboot(3)
    cluster.write(3, "k2", "newer")
    assert cluster.named("written")[-1].fields["number"] == numbers[-1] + 1
    cluster.need(lambda: cluster.reads("k2") == {"newer"}, 3000)


def test_boards_that_all_lost_their_journals_do_not_declare_each_other_complete() -> None:
    cluster = boards(3, start=False)
    for board in cluster.boards:
        cluster.wipe(board)
        cluster.power_on(board)
    cluster.run(10_000)
    assert {cluster.ask(board, schema.WRITE, "a", "1")[0] for board in cluster.boards} == {schema.REFUSED}


def test_an_answer_to_an_earlier_life_completes_nothing() -> None:
    cluster = boards(3)
    cluster.write(1, "a", "1")
    cluster.passes = lambda source, to, kind: not (to == 3 and kind == REPAIR)
    cluster.run(10_000)
    held = [message for message in cluster.held if message[1] == 3]
    assert {source for source, _, _ in held} == {1, 2}
    cluster.isolate(3)
    cluster.reboot(3, wipe=True)
    for _ in range(20):
        cluster.run(200)
        for source, to, data in held:
            cluster.receive(source, to, data)
    assert not cluster.gossip(3).ready
    assert cluster.ask(3, schema.WRITE, "a", "2") == (schema.REFUSED, None)


def test_a_board_that_lost_its_clock_writes_above_all_that_was_forgotten() -> None:
    cluster = boards(3)
    for _ in range(5):
        cluster.reboot(2)  # each boot moves its clock on by a minute
    cluster.write(2, "a", "1")
    cluster.delete(2, "a")
    deleted = cluster.named("written")[-1].fields["stamp"]
    cluster.run(500)
    cluster.need(lambda: gone(cluster, "a"), 60_000)
    cluster.reboot(3, wipe=True)
    cluster.need(lambda: cluster.gossip(3).ready, 3000)
    cluster.write(3, "a", "2")
    assert cluster.named("written")[-1].fields["stamp"] > deleted


def test_an_unfinished_write_of_a_lost_life_and_a_new_one_do_not_collide() -> None:
    # Board 3's last update reached only board 2; wiped, it completes a repair from board 1, which has not got it.
    cluster = boards(3)
    cluster.run(1500)
    cluster.passes = lambda source, to, kind: kind == RUMOUR and to == 2
    cluster.write(3, "a", "last words")
    cluster.run(100)
    assert cluster.read(2, "a") == "last words"
    cluster.power_off(3)
    cluster.wipe(3)
    cluster.passes = lambda source, to, kind: 2 not in (source, to)
    cluster.power_on(3)
    cluster.run(3000)
    cluster.write(3, "b", "first words")
    cluster.passes = lambda source, to, kind: True
    cluster.need(cluster.converged, 10_000)
    assert (cluster.reads("a"), cluster.reads("b")) == ({"last words"}, {"first words"})


# Storms, and rubbish.


@pytest.mark.parametrize("seed", range(1, 13))
def test_storms_of_faults_end_in_one_state(seed: int) -> None:
    rng = random.Random(seed)
    cluster = GossipCluster(
        5, seed, latency_ms=(1, 30), loss_percent=10, duplicate_percent=10, late_percent=5, late_ms=3000
    )
    wiped_ms: dict[int, int] = {}
    for number in range(150):
        if cluster.running:
            board = rng.choice(cluster.running)
            operation = schema.DELETE if rng.random() < 0.3 else schema.WRITE
            cluster.ask(board, operation, f"k{rng.randrange(12)}", None if operation == schema.DELETE else str(number))
        draw = rng.random()
        if draw < 0.1 and len(cluster.running) > 1:
            cluster.power_off(rng.choice(cluster.running))
        elif draw < 0.13 and len(cluster.running) > 3:
            victim = rng.choice(cluster.running)
            wiped_ms[victim] = cluster.now_ms
            cluster.reboot(victim, wipe=True)
        elif draw < 0.2:
            side = rng.sample(list(cluster.boards), 2)
            cluster.split([side, [other for other in cluster.boards if other not in side]])
        elif draw < 0.5:
            cluster.heal()
            for other in cluster.boards:
                cluster.power_on(other)
        cluster.run(rng.randrange(300))
    cluster.calm()
    cluster.run(4000)  # what is late arrives
    cluster.need(cluster.converged, 40 * SYNC_MS)
    digest = cluster.gossip(1).digest()
    cluster.run(20_000)
    assert cluster.converged() and cluster.gossip(1).digest() == digest
    # Nothing from before a delete, where a board that took note of that delete has kept its journal since.
    deletes: dict[str, int] = {}
    for event in cluster.named("written") + cluster.named("merged"):
        if event.fields["value"] is None and event.time_ms > wiped_ms.get(event.board, -1):
            deletes[event.fields["key"]] = max(deletes.get(event.fields["key"], 0), event.fields["stamp"])
    for board in cluster.boards:
        for key, held in cluster.gossip(board).items.items():
            assert held[0][1] is None or held[0][2] > deletes.get(key, 0), (board, key)


def test_rubbish_changes_nothing() -> None:
    replica = Replica(1)
    replica.rumour(2, [("a", "1", 10, 2, 1)])
    before = replica.state(), dict(replica.gossip.vector)
    rubbish = [
        ("x", "1", 10, 99, 1),  # no such writer
        ("x", "1", 10, 2, 0),  # numbers count from 1
        ("x", "1", 10, 2, 1 << 62),
        ("x", "1", 1 << 62, 2, 2),  # a stamp centuries ahead
    ]
    replica.rumour(2, rubbish)
    replica.rumour(99, [("y", "1", 10, 2, 2)])
    for kind, fields in (
        (REPAIR, (1, True, [("x", "1", 10, 3, 1)], [(3, 50)], 11)),  # nobody asked
        (SYNC, (1, 5, 3, False, [(3, 50)], None)),
        (SYNC, (1, 1 << 40, 1 << 40, False, [(3, 50)], None)),
        (SYNC, (2, 0, 0, False, [(99, 50)], None)),
        (SYNC, (3, 0, 1, True, [(99, 50), (3, 1 << 62)], bytes(8))),
    ):
        replica.node.receive(2, codec.encode_message(CLUSTER, 2, 1, 1, kind, fields), replica.node.now_ms + 1)
        replica.settle()
    assert (replica.state(), dict(replica.gossip.vector)) == before


def test_one_seed_is_one_run() -> None:
    def run() -> Any:
        cluster = GossipCluster(5, seed=9, loss_percent=20, latency_ms=(1, 50))
        for number in range(20):
            cluster.write(number % 5 + 1, f"k{number % 7}", str(number))
            cluster.run(300)
        return cluster.sent, cluster.events

    assert run() == run()
