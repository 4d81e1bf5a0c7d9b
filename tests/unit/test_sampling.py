"""Snowball in virtual time: one value a key, errors as often as sampling without replacement says, cuts and loss."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from brownout_node.core import codec, sampling, schema
from brownout_node.core.errors import ConfigError
from brownout_node.core.sampling import CHOOSE, CHOSEN
from gossip_cluster import CLIENT, GossipCluster
from nor_journal import NorJournal


def make(count: int = 7, seed: int = 1, **options: Any) -> GossipCluster:
    chosen = {"sampling": options.pop("sampling", {})}
    return GossipCluster(count, seed, protocols=["sampling"], options=chosen, **options)


def of(cluster: GossipCluster, board: int) -> Any:
    return cluster.node(board).protocol("sampling")


def accepted(cluster: GossipCluster, key: str) -> list[str | None]:
    decisions = [of(cluster, board).keys.get(key) for board in cluster.boards]
    return [decision.value if decision is not None and decision.accepted else None for decision in decisions]


def lay_down(cluster: GossipCluster, board: int, key: str, value: str, final: bool, slot: int = 0) -> None:
    """What a board holds when it boots."""
    cluster.boards[board].journal.records[0x23000 + slot] = codec.pack("kto", (key, value, final))


def hypergeometric_tail(population: int, holders: int, k: int, alpha: int) -> float:
    """How probable it is that at least alpha of k boards, drawn without replacement, are among the holders."""
    ways = sum(math.comb(holders, hits) * math.comb(population - holders, k - hits) for hits in range(alpha, k + 1))
    return ways / math.comb(population, k)


def first_run(wrong: float, right: float, beta: int) -> float:
    """How probable it is that `beta` wrong polls in a row come before as many right ones."""
    states = {("", 0): 1.0}
    end = 0.0
    for _ in range(4000):
        after: dict[tuple[str, int], float] = {}
        for (last, row), mass in states.items():
            for outcome, chance in (("wrong", wrong), ("right", right), ("", 1 - wrong - right)):
                run = row + 1 if outcome == last else 1
                if not outcome:
                    run, kept = 0, last
                else:
                    kept = outcome
                if run >= beta:
                    end += mass * chance * (outcome == "wrong")
                else:
                    after[kept, run] = after.get((kept, run), 0.0) + mass * chance
        states = after
    return end


def test_all_boards_accept_what_one_client_chose() -> None:
    cluster = make(7)
    assert cluster.command(1, CLIENT, 1, CHOOSE, "leader", "b3")
    cluster.need(lambda: accepted(cluster, "leader") == ["b3"] * 7, 3000)
    assert [(reply.status, reply.value) for reply in cluster.replies] == [(schema.OK, "b3")]
    assert cluster.ask(5, CHOSEN, "leader") == (schema.OK, "b3")
    assert cluster.ask(5, CHOOSE, "leader", "b9") == (schema.MISMATCH, "b3")
    assert cluster.ask(5, CHOSEN, "nobody asked") == (schema.OK, None)


def test_a_decision_takes_beta_polls_of_two_delays_each() -> None:
    cluster = make(7, latency_ms=(10, 10), tick_ms=1, sampling={"beta": 6, "query_ms": 1000}, sync_period_ms=60_000)
    cluster.run(100)
    start, sent = cluster.now_ms, len(cluster.sent)
    cluster.command(1, CLIENT, 1, CHOOSE, "leader", "b3")
    cluster.need(lambda: bool(cluster.replies), 1000)
    took = cluster.now_ms - start
    assert 6 * 20 <= took <= 6 * 22, "a poll begins with the tick after the last one's end"
    own = [item for item in cluster.sent[sent:] if item.source == 1 and item.kind == sampling.QUERY]
    assert len(own) == 6 * 5


def test_boards_that_prefer_different_values_come_to_one() -> None:
    for seed in range(1, 9):
        cluster = make(10, seed, latency_ms=(1, 20))
        cluster.split([[board] for board in cluster.boards])
        for board in cluster.boards:
            cluster.command(board, CLIENT + board, 1, CHOOSE, "colour", ("red", "green", "blue")[board % 3])
        cluster.heal()
        cluster.need(lambda cluster=cluster: None not in accepted(cluster, "colour"), 60_000)
        assert len(set(accepted(cluster, "colour"))) == 1, f"seed {seed}"
        assert {reply.value for reply in cluster.replies} == {accepted(cluster, "colour")[0]}
        assert sum(reply.status == schema.OK for reply in cluster.replies) in (3, 4)


@pytest.mark.parametrize(("k", "alpha", "beta"), [(3, 2, 2), (5, 4, 2)])
def test_errors_are_as_frequent_as_sampling_without_replacement_says(k: int, alpha: int, beta: int) -> None:
    """One board polls others of which 4 of 11 hold the wrong value for good.

    Exact: the race of two runs with hypergeometric outcomes. Bound: the union over polls of `beta` wrong ones in a row.
    """
    wrong_chance = hypergeometric_tail(11, 4, k, alpha)
    right_chance = hypergeometric_tail(11, 7, k, alpha)
    expected = first_run(wrong_chance, right_chance, beta)
    trials = errors = polls = 0
    options = {"k": k, "alpha": alpha, "beta": beta, "keys": 60}
    for seed in range(10):
        cluster = make(12, seed, start=False, sampling=options, sync_period_ms=600_000)
        for slot in range(60):
            holders = random.Random(seed * 1000 + slot).sample(range(2, 13), 4)
            for board in range(2, 13):
                lay_down(cluster, board, f"k{slot}", "wrong" if board in holders else "right", True, slot)
            lay_down(cluster, 1, f"k{slot}", "neither", False, slot)
        for board in cluster.boards:
            cluster.power_on(board)
        ends: list[Any] = []
        while len(ends) < 60:
            cluster.run(200)
            ends = [event for event in cluster.events if event.name == "accepted" and event.board == 1]
        trials += len(ends)
        errors += sum(event.fields["value"] == "wrong" for event in ends)
        polls += sum(event.fields["polls"] for event in ends)
    margin = 2.576 * math.sqrt(expected * (1 - expected) / trials)
    assert abs(errors / trials - expected) < margin, (
        f"{errors} of {trials}, expected {expected:.4f} +- {margin:.4f} (99%)"
    )
    bound = polls / trials * wrong_chance**beta
    assert expected <= bound
    assert errors / trials < bound + margin


def disagreements(runs: int, **options: int) -> int:
    count = 0
    for seed in range(runs):
        cluster = make(12, seed, start=False, sampling=options, sync_period_ms=600_000)
        for board in cluster.boards:
            lay_down(cluster, board, "k", "red" if board % 2 else "blue", False)
            cluster.power_on(board)
        cluster.need(lambda cluster=cluster: None not in accepted(cluster, "k"), 60_000)
        count += len(set(accepted(cluster, "k"))) > 1
    return count


def test_weak_parameters_disagree_and_strong_ones_do_not() -> None:
    """Six against six at the start, the hardest case."""
    assert disagreements(12, k=3, alpha=2, beta=1) > 4
    assert disagreements(20, k=6, alpha=5, beta=8) == 0


@pytest.mark.parametrize(("k", "alpha"), [(4, 2), (3, 4), (2, 1)])
def test_alpha_has_to_be_more_than_half_of_k(k: int, alpha: int) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        make(3, sampling={"k": k, "alpha": alpha})


@pytest.mark.parametrize(("count", "k", "alpha"), [(21, 10, 8), (7, 6, 5), (4, 3, 3), (3, 2, 2), (2, 1, 1)])
def test_in_a_small_bed_all_others_are_asked(count: int, k: int, alpha: int) -> None:
    here = of(make(count, sampling={"k": 10, "alpha": 8}), 1)
    assert (here.k, here.alpha) == (k, alpha)


def test_a_board_alone_accepts_at_once() -> None:
    cluster = make(1)
    assert cluster.ask(1, CHOOSE, "x", "1") == (schema.OK, "1")


def test_lost_queries_are_asked_again_and_a_row_that_breaks_is_begun_again() -> None:
    cluster = make(7, 3, loss_percent=30, latency_ms=(1, 30))
    cluster.command(1, CLIENT, 1, CHOOSE, "leader", "b3")
    cluster.need(lambda: accepted(cluster, "leader") == ["b3"] * 7, 60_000)
    assert any(event.fields["unclear"] for event in cluster.events if event.name == "accepted")


def test_late_answers_and_repeated_ones_do_not_count() -> None:
    cluster = make(4, sampling={"k": 3, "alpha": 2, "beta": 3}, sync_period_ms=600_000)
    cluster.run(60)
    cluster.isolate(1)
    cluster.command(1, CLIENT, 1, CHOOSE, "x", "mine")
    cluster.run(60)
    decision = of(cluster, 1).keys["x"]
    poll = decision.poll
    answer = codec.encode_message(7, 2, 1, 9, sampling.ANSWER, (poll, "x", "other"))
    cluster.receive(2, 1, answer)
    cluster.receive(2, 1, answer)
    assert (decision.polls, decision.answers) == (0, {"other": 1})
    cluster.run(700)
    assert decision.polls == 1 and decision.unclear == 1
    cluster.receive(3, 1, codec.encode_message(7, 3, 1, 9, sampling.ANSWER, (poll, "x", "other")))
    assert decision.answers == {}


def test_a_board_that_lost_its_journal_accepts_all_keys_again_in_a_few_periods() -> None:
    cluster = make(5, sampling={"keys": 60, "k": 4, "alpha": 3})
    for number in range(60):
        cluster.command(1, CLIENT, number, CHOOSE, f"k{number}", f"v{number}")
        cluster.run(50)
    cluster.run(2000)
    cluster.reboot(5, wipe=True)
    cluster.run(8000)
    for number in range(60):
        assert accepted(cluster, f"k{number}") == [f"v{number}"] * 5


def test_keys_and_values_of_any_length_fit_a_message() -> None:
    cluster = make(3, sampling={"keys": 10})
    for number in range(10):
        cluster.command(1, CLIENT, number, CHOOSE, f"{number}" * 32, f"{number}" * 64)
    cluster.run(5000)
    assert 400 < cluster.largest_message <= schema.MAX_MESSAGE


def test_full_and_busy_say_so() -> None:
    cluster = make(3, sampling={"keys": 2})
    cluster.isolate(1)
    for request in range(1, 17):
        cluster.command(1, CLIENT + request, 1, CHOOSE, f"k{request % 2}", "v")
    assert cluster.replies == []
    assert cluster.ask(1, CHOOSE, "k0", "v")[0] == schema.BUSY
    assert cluster.ask(1, CHOOSE, "third", "v")[0] == schema.FULL
    assert cluster.ask(1, CHOOSE, "k0", None)[0] == schema.REFUSED


def test_a_fifth_value_is_never_preferred() -> None:
    cluster = make(2, sampling={"k": 1, "alpha": 1, "beta": 2})
    cluster.isolate(1)
    here = of(cluster, 1)
    cluster.command(1, CLIENT, 1, CHOOSE, "k", "v0")
    decision = here.keys["k"]
    for number in range(1, 7):
        here._end("k", decision, f"v{number}")
    assert sorted(decision.successes) == ["v0", "v1", "v2", "v3"]


def test_what_is_accepted_survives_a_cut_at_any_effect() -> None:
    for effects in range(8):
        cluster = make(4, sampling={"beta": 2})
        cluster.command(1, CLIENT, 1, CHOOSE, "k", "v")
        cluster.run_until(lambda: of(cluster, 1).keys["k"].row == 1, 2000)  # noqa: B023
        cluster.power_off_within(1, effects)
        cluster.run(300)
        told = [event for event in cluster.events if event.name == "accepted" and event.board == 1]
        cluster.calm()
        assert not told or of(cluster, 1).keys["k"].accepted
        assert "k" in of(cluster, 1).keys, "the preference was durable before anybody was asked"
        cluster.need(lambda: accepted(cluster, "k") == ["v"] * 4, 10_000)  # noqa: B023


@pytest.mark.parametrize("seed", range(1, 7))
def test_storms_end_with_the_same_value_of_each_key_everywhere(seed: int) -> None:
    cluster = make(6, seed, latency_ms=(1, 40), loss_percent=10, duplicate_percent=5, journal=NorJournal)

    def load(request: int) -> None:
        board = cluster.random.choice(list(cluster.boards))
        cluster.command(board, CLIENT + board, request, CHOOSE, f"k{request % 12}", f"v{request}")
        if cluster.now_ms < 6000:
            cluster.at(cluster.now_ms + 100, load, request + 1)

    load(1)
    cluster.storm(6000)
    cluster.calm()
    cluster.run(15_000)
    for number in range(12):
        values = accepted(cluster, f"k{number}")
        assert None not in values and len(set(values)) == 1, f"k{number}: {values}, seed {seed}"
    told = {event.fields["key"]: event.fields["value"] for event in cluster.events if event.name == "accepted"}
    for event in cluster.events:
        assert event.name != "accepted" or told[event.fields["key"]] == event.fields["value"]
    assert cluster.replies and sum(state.cuts for state in cluster.boards.values()) > 3
