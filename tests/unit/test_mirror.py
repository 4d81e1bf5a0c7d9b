"""Counters, sets and registers that every board writes: merged without loss, in any order, over cuts and wipes."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from brownout_node.core import codec, mirror, schema
from brownout_node.core.mirror import ADD, ASSIGN, COUNT, INCREMENT, MEMBERS, RECALL, REMOVE, amount_of
from gossip_cluster import CLIENT, GossipCluster
from nor_journal import NorJournal

SYNC_MS = 1000


def make(count: int = 3, seed: int = 1, **options: Any) -> GossipCluster:
    options.setdefault("protocols", ["mirror"])
    return GossipCluster(count, seed, **options)


def of(cluster: GossipCluster, board: int) -> Any:
    return cluster.node(board).protocol("mirror")


def same(cluster: GossipCluster) -> bool:
    """All boards are on, hold the same rows and have seen the same."""
    if len(cluster.running) < len(cluster.boards):
        return False
    return len({of(cluster, board)._summary() for board in cluster.boards}) == 1


def cut_off(cluster: GossipCluster) -> None:
    cluster.split([[board] for board in cluster.boards])


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5", 5), ("-12", -12), ("", None), (None, None), ("-", None), ("1_0", None), (" 1", None), ("1234567890", None)],
)
def test_amounts(text: str | None, amount: int | None) -> None:
    assert amount_of(text) == amount


def test_a_write_reaches_all_others_after_one_delay_and_one_message() -> None:
    cluster = make(5, latency_ms=(7, 7), sync_period_ms=600_000)
    cluster.run(100)
    sent = len(cluster.sent)
    assert cluster.ask(1, INCREMENT, "hits", "3") == (schema.OK, "3")
    assert [(item.kind, item.to) for item in cluster.sent[sent:]] == [
        (mirror.UPDATE, schema.ALL),
        (schema.REPLY, CLIENT),
    ]
    assert cluster.need(lambda: all(of(cluster, board).total("hits") == 3 for board in cluster.boards), 100) == 7


def test_increments_of_boards_that_are_apart_add_up() -> None:
    cluster = make(3)
    cut_off(cluster)
    for board, amount in ((1, "5"), (2, "-7"), (3, "4"), (1, "5")):
        cluster.ask(board, INCREMENT, "stock", amount)
    assert [of(cluster, board).total("stock") for board in (1, 2, 3)] == [10, -7, 4]
    cluster.heal()
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert cluster.ask(2, COUNT, "stock") == (schema.OK, "7")
    assert len(of(cluster, 2).rows) == 3, "one row a writer, however often it counted"


def test_an_add_wins_over_a_remove_that_did_not_see_it() -> None:
    cluster = make(3)
    cluster.ask(1, ADD, "team", "ada")
    cluster.ask(1, ADD, "team", "bob")
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    cut_off(cluster)
    cluster.ask(2, REMOVE, "team", "ada")
    cluster.ask(2, REMOVE, "team", "bob")
    cluster.ask(3, ADD, "team", "ada")
    cluster.heal()
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert cluster.ask(1, MEMBERS, "team") == (schema.OK, "ada")
    assert cluster.replies[-1].height == 1
    assert len(of(cluster, 1).rows) == 1, "no tombstone and no superseded add is left"


def test_members_that_do_not_fit_an_answer_are_counted() -> None:
    cluster = make(2)
    for number in range(9):
        cluster.ask(1, ADD, "names", f"{number}" * 12)
    status, text = cluster.ask(1, MEMBERS, "names")
    assert (status, text) == (schema.OK, " ".join(f"{number}" * 12 for number in range(5)))
    assert cluster.replies[-1].height == 9


def test_of_two_assignments_the_later_stamp_stays() -> None:
    cluster = make(3)
    cut_off(cluster)
    cluster.ask(1, ASSIGN, "mode", "day")
    cluster.run(500)
    cluster.ask(2, ASSIGN, "mode", "night")
    cluster.heal()
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert cluster.ask(3, RECALL, "mode") == (schema.OK, "night")
    cluster.ask(1, ASSIGN, "mode", "dawn")
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert cluster.ask(2, RECALL, "mode") == (schema.OK, "dawn"), "a write outranks all that its board has seen"
    assert len(of(cluster, 2).rows) == 1


def test_what_pages_bring_never_makes_a_counter_fall() -> None:
    """The row that replaces another one may come pages later; until then the old one has to stay."""
    cluster = make(2, sync_period_ms=500)
    for number in range(30):
        cluster.ask(1, INCREMENT, f"c{number}", "1")
    cluster.need(lambda: same(cluster), 5000)
    cut_off(cluster)
    for number in reversed(range(30)):
        cluster.ask(1, INCREMENT, f"c{number}", "1")
    cluster.heal()
    lowest = [1] * 30

    def watch() -> bool:
        totals = [of(cluster, 2).total(f"c{number}") for number in range(30)]
        assert all(now >= before for now, before in zip(totals, lowest, strict=True))
        lowest[:] = totals
        return same(cluster)

    cluster.need(watch, 5000)
    assert lowest == [2] * 30


def test_a_full_board_refuses_new_rows_and_takes_the_others() -> None:
    cluster = make(2, options={"mirror": {"rows": 4}})
    cut_off(cluster)
    for board in (1, 2):
        for number in range(4):
            assert cluster.ask(board, ADD, "s", f"{board}-{number}")[0] == schema.OK
        assert cluster.ask(board, ADD, "s", "more")[0] == schema.FULL
        assert cluster.ask(board, ADD, "s", f"{board}-1")[0] == schema.OK, "it takes the place of its own"
    cluster.heal()
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert len(of(cluster, 1).rows) == 8
    assert cluster.ask(1, REMOVE, "s", "2-0")[0] == schema.OK
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert len(of(cluster, 2).rows) == 7


def test_no_message_is_too_long_with_the_longest_of_everything() -> None:
    cluster = make(2, options={"mirror": {"rows": 30}}, sync_period_ms=300)
    cluster.power_off(2)
    cluster.wipe(2)
    key = "k" * 32
    for number in range(30):
        cluster.ask(
            1, (ADD, ASSIGN, INCREMENT)[number % 3], key[:30] + f"{number:02}", "9" * (9 if number % 3 == 2 else 64)
        )
    for entry in range(100):  # lines as wiped boards have them: the longest numbers there are
        assert of(cluster, 1)._advance((0x2FFFFFFF - entry) << 10 | 2, 1 << 40)
    cluster.power_on(2)
    cluster.need(lambda: same(cluster), 60_000)
    assert 350 < cluster.largest_message <= schema.MAX_MESSAGE


def test_a_request_that_is_delivered_twice_counts_once() -> None:
    cluster = make(2)
    assert cluster.ask(1, INCREMENT, "hits", "2", request=50) == (schema.OK, "2")
    assert cluster.ask(1, INCREMENT, "hits", "2", request=50) == (schema.OK, "2")
    assert of(cluster, 1).total("hits") == 2


@pytest.mark.parametrize("operation", [INCREMENT, ADD, REMOVE, ASSIGN])
def test_writes_that_make_no_sense_are_refused(operation: int) -> None:
    cluster = make(2)
    assert cluster.ask(1, operation, "x", None)[0] == schema.REFUSED
    assert cluster.ask(1, INCREMENT, "x", "many")[0] == schema.REFUSED


@pytest.mark.parametrize("effects", range(4))
def test_what_was_answered_survives_a_cut_at_any_effect(effects: int) -> None:
    """Power goes before the append, right after it, before the answer, before the event: all or nothing."""
    cluster = make(2)
    cluster.cut_link(1, 2)
    cluster.power_off_within(1, effects)
    cluster.command(1, CLIENT, 1, INCREMENT, "hits", "2")
    cluster.command(1, CLIENT, 2, INCREMENT, "hits", "2")
    answered = len(cluster.replies)
    cluster.calm()
    durable = of(cluster, 1).total("hits")
    assert 2 * answered <= durable <= 2 * answered + 2
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert of(cluster, 2).total("hits") == durable


def test_a_wiped_board_counts_on_a_new_line_and_writes_only_once_it_has_read_a_store() -> None:
    cluster = make(3)
    cluster.ask(1, INCREMENT, "hits", "5")
    cluster.ask(1, ADD, "s", "x")
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    cluster.isolate(1)
    cluster.reboot(1, wipe=True)
    assert cluster.ask(1, INCREMENT, "hits", "1")[0] == schema.REFUSED
    cluster.heal()
    cluster.need(lambda: of(cluster, 1).ready, 2 * SYNC_MS)
    assert cluster.ask(1, INCREMENT, "hits", "1") == (schema.OK, "6")
    cluster.reboot(1)
    assert cluster.ask(1, INCREMENT, "hits", "1") == (schema.OK, "7")
    cluster.need(lambda: same(cluster), 3 * SYNC_MS)
    assert of(cluster, 2).total("hits") == 7
    assert cluster.ask(3, MEMBERS, "s") == (schema.OK, "x"), "what a wiped board does not have was not removed"


def test_boards_that_all_lost_their_journals_start_again() -> None:
    cluster = make(3)
    for board in cluster.boards:
        cluster.power_off(board)
        cluster.wipe(board)
    for board in cluster.boards:
        cluster.power_on(board)
    cluster.need(lambda: all(of(cluster, board).ready for board in cluster.boards), 10 * SYNC_MS)
    assert cluster.ask(1, INCREMENT, "hits", "1") == (schema.OK, "1")


def test_an_update_behind_a_gap_is_left_to_the_pages() -> None:
    cluster = make(2, sync_period_ms=600_000)
    cluster.run(50)
    cluster.drop = lambda sent, target: sent.kind == mirror.UPDATE
    cluster.ask(1, ADD, "s", "first")
    cluster.drop = None
    cluster.ask(1, ADD, "s", "second")
    cluster.run(100)
    assert of(cluster, 2).members("s") == []
    of(cluster, 2)._pull(1, True)
    cluster._carry_out(cluster.boards[2])
    cluster.need(lambda: of(cluster, 2).members("s") == ["first", "second"], 100)


def test_an_answer_to_an_earlier_life_is_not_taken() -> None:
    cluster = make(2)
    page = codec.encode_message(7, 2, 1, 9, mirror.PAGE, (5, 1 << 60, True, 1 << 20, [], []))
    cluster.reboot(1, wipe=True)
    cluster.receive(2, 1, page)
    assert not of(cluster, 1).ready


class Script:
    """Clients everywhere, and what may follow from what they were told."""

    def __init__(self, cluster: GossipCluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.sure: Counter[str] = Counter()
        self.unsure: dict[str, list[int]] = {"c0": [], "c1": [], "c2": []}
        self.elements: list[tuple[int, str, str, int]] = []
        self.request = 0

    def write(self) -> None:
        board = self.random.choice(list(self.cluster.boards))
        self.request += 1
        operation = self.random.choice((INCREMENT, INCREMENT, ADD, REMOVE, ASSIGN))
        key = f"c{self.random.randrange(3)}"
        value = str(self.random.randint(-3, 9)) if operation == INCREMENT else f"e{self.random.randrange(6)}"
        before = len(self.cluster.replies)
        if not self.cluster.command(board, CLIENT + board, self.request, operation, key, value):
            return
        told = self.cluster.replies[before:]
        if operation == INCREMENT and not told:
            self.unsure[key].append(int(value))
        elif operation == INCREMENT and told[0].status == schema.OK:
            self.sure[key] += int(value)

    def check(self) -> None:
        for key, amounts in self.unsure.items():
            total = of(self.cluster, 1).total(key)
            least = self.sure[key] + sum(amount for amount in amounts if amount < 0)
            most = self.sure[key] + sum(amount for amount in amounts if amount > 0)
            assert least <= total <= most, f"seed {self.cluster.seed}: {key} is {total}, not {least}..{most}"


@pytest.mark.parametrize("seed", range(1, 9))
def test_storms_lose_no_increment_and_end_in_one_state(seed: int) -> None:
    cluster = make(4, seed, latency_ms=(1, 40), loss_percent=10, duplicate_percent=5, late_percent=5)
    script = Script(cluster, seed)

    def load() -> None:
        script.write()
        if cluster.now_ms < 9000:
            cluster.at(cluster.now_ms + 25, load)

    load()
    cluster.storm(8000)
    cluster.calm()
    cluster.run(1500)
    cluster.need(lambda: same(cluster), 8 * SYNC_MS)
    script.check()
    assert sum(state.cuts for state in cluster.boards.values()) > 3
    assert sum(script.sure.values()) > 50


@pytest.mark.parametrize("seed", range(1, 5))
def test_storms_with_wipes_end_in_one_state(seed: int) -> None:
    cluster = make(4, seed, latency_ms=(1, 40), loss_percent=10, duplicate_percent=5, journal=NorJournal)
    script = Script(cluster, seed)

    def load() -> None:
        script.write()
        if cluster.now_ms < 6000:
            cluster.at(cluster.now_ms + 40, load)

    load()
    cluster.storm(5000, may_wipe=lambda board: True)
    cluster.calm()
    cluster.run(1500)
    cluster.need(lambda: same(cluster), 10 * SYNC_MS)
    digests = [event.fields["digest"] for event in cluster.events if event.name == "digest"]
    assert len(digests) > 5


def test_fifty_boards_converge_in_a_few_periods() -> None:
    cluster = make(50, sync_period_ms=500, options={"mirror": {"rows": 96}})
    cluster.drop = lambda sent, target: sent.kind == mirror.UPDATE
    for board in cluster.boards:
        cluster.ask(board, INCREMENT, "hits", "1")
    cluster.run(5000)
    assert same(cluster)
    assert of(cluster, 50).total("hits") == 50
