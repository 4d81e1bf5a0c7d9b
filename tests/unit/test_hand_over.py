"""Planned hand-over in virtual time: what it promises, what it costs, what loss and power cuts leave of it."""

from __future__ import annotations

from typing import Any

import pytest
from brownout_node.core import hand_over, schema
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from brownout_node.core.node import Node
from cluster import ABOUT, Cluster, Event, MemoryJournal, Reply, Sent
from vote_checks import Promises

OPERATOR, CLIENT = 1900, 1000
HAND_OVER, PASS, PROMISE = 192, 192, 193
TIMEOUT_MS = 400


class Bench(Cluster):
    """Voters that can hand over, an operator, and clients that ask once. Every message takes exactly a millisecond."""

    def __init__(self, voters: int = 5, log: str = "vote", **options: Any) -> None:
        super().__init__(
            options.pop("seed", 1),
            voters,
            options.pop("learners", 0),
            protocols=options.pop("protocols", [log, "hand_over"]),
            propose_timeout_ms=TIMEOUT_MS,
            options={"hand_over": options.pop("hand_over", {})},
            **options,
        )
        if log == "vote":
            Promises(self)
        self.requests = 0
        self.run(200)

    def of(self, board: int) -> hand_over.HandOver:
        return self.node(board).protocol("hand_over")

    def vote(self, board: int) -> Any:
        return self.node(board).protocol("vote")

    def ask(self, board: int, operation: int = schema.PUT, client: int = CLIENT, value: str = "v") -> int:
        self.requests += 1
        assert self.command(board, client, self.requests, operation, "k", value)
        return self.requests

    def told(self, name: str, **fields: Any) -> list[Event]:
        return [event for event in self.events if event.name == name and fields.items() <= event.fields.items()]

    def answer(self, request: int) -> Reply | None:
        return next((reply for reply in self.replies if reply.request == request), None)

    def done(self, request: int, within_ms: int = 5000) -> Reply:
        assert self.run_until(lambda: self.answer(request) is not None, within_ms), f"{request} was not answered"
        reply = self.answer(request)
        assert reply is not None
        return reply

    def hand_over(self, board: int) -> Reply:
        return self.done(self.ask(board, HAND_OVER, OPERATOR))

    def proposed_what_was_passed(self) -> list[Event]:
        """Proposals of boards that had said, in that boot, that they make none."""
        passed: dict[tuple[int, int], int] = {}
        found = []
        for event in self.events:
            boot = event.board, event.boot
            if event.name == "passing":
                passed[boot] = event.fields["from_height"]
            elif event.name == "resumed":
                del passed[boot]
            elif event.name == "proposed" and event.fields["height"] >= passed.get(boot, 1 << 60):
                found.append(event)
        return found

    def turn_of(self, board: int) -> None:
        """Let heights be decided until that board's turn to begin one has come, and everybody knows."""
        running = self.running
        asked = next(other for other in running if other != board)
        while len({self.vote(other).register.next_height for other in running}) > 1 or (
            self.vote(asked).proposer(0) != board
        ):
            self.done(self.ask(asked))
            self.run(5)


def test_idle_it_takes_two_delays() -> None:
    bench = Bench()
    began_ms = bench.now_ms
    reply = bench.hand_over(2)
    assert (reply.status, reply.time_ms - began_ms) == (schema.OK, 2)
    (event,) = bench.told("handed_over")
    assert (event.fields["successor"], event.fields["weight"] >= 3) == (3, True)
    assert {event.board for event in bench.told("promised")} == {1, 3, 4, 5}


def test_with_a_proposal_in_flight_one_delay_more_than_the_decision() -> None:
    bench = Bench()
    bench.turn_of(2)
    began_ms = bench.now_ms
    put = bench.ask(2)
    handed = bench.ask(2, HAND_OVER, OPERATOR)
    reply = bench.done(handed)
    answer = bench.answer(put)
    assert answer is not None and answer.time_ms <= reply.time_ms, "its client was answered first"
    assert bench.vote(3).register.next_height == reply.height, "the successor holds the last height it proposed"
    assert reply.time_ms - began_ms == 4, "three delays to the successor's decision, one to its promise"


def test_a_successor_that_is_behind_is_brought_up_to_date_in_four_delays() -> None:
    bench = Bench()
    bench.isolate(3)
    for _ in range(3):
        bench.done(bench.ask(1))
    bench.run(5)
    bench.heal()
    bench.drop = lambda sent, _target: sent.kind == schema.FETCH  # it does not ask by itself
    behind = bench.vote(3).register.next_height
    began_ms = bench.now_ms
    reply = bench.hand_over(2)
    assert reply.time_ms - began_ms == 4, "asked and said; sent what it lacks, and said again"
    assert bench.vote(3).register.next_height >= reply.height > behind


@pytest.mark.parametrize("log", ["vote", "stake"])
def test_the_turns_of_a_board_without_power_cost_no_time_out(log: str) -> None:
    crash, planned = Bench(log=log), Bench(log=log)
    assert planned.hand_over(2).status == schema.OK
    waits: dict[str, list[int]] = {"crash": [], "planned": []}
    for name, bench in (("crash", crash), ("planned", planned)):
        bench.power_off(2)
        bench.run(3000)
        for _ in range(10):  # every board's turn comes twice
            began_ms = bench.now_ms
            waits[name].append(bench.done(bench.ask(1)).time_ms - began_ms)
    assert max(waits["crash"]) >= TIMEOUT_MS
    assert max(waits["planned"]) <= 5, waits["planned"]
    taken = [event for event in planned.told("decided", round=1) if event.board == 3]
    assert taken, "the successor decided what would have been the other's turns, in round 1"


def test_it_refuses_new_operations_and_not_what_it_had_taken() -> None:
    bench = Bench()
    bench.turn_of(2)
    bench.drop = lambda sent, target: sent.kind == schema.PRECOMMIT
    put = bench.ask(2)
    handed = bench.ask(2, HAND_OVER, OPERATOR)
    assert bench.done(bench.ask(2)).status == schema.REFUSED
    bench.command(2, CLIENT, put, schema.PUT, "k", "v")  # the same again
    bench.run(20)
    assert bench.answer(put) is None and bench.answer(handed) is None
    bench.drop = None
    assert bench.done(put).status == schema.OK
    assert bench.done(handed).status == schema.OK
    assert len([reply for reply in bench.replies if reply.request == put]) == 1


def test_what_it_has_passed_on_it_does_not_propose() -> None:
    bench = Bench()
    assert bench.hand_over(2).status == schema.OK
    from_height = bench.of(2).from_height
    for _ in range(12):
        bench.done(bench.ask(1))
    proposed = [event for event in bench.told("proposed") if event.board == 2]
    assert all(event.fields["height"] < from_height for event in proposed)
    voted = [event for event in bench.told("precommitted") if event.board == 2]
    assert any(event.fields["height"] >= from_height for event in voted), "it votes as ever"


def test_after_a_restart_its_turns_are_its_own_again() -> None:
    bench = Bench()
    bench.hand_over(2)
    bench.power_off(2)
    for _ in range(7):
        bench.done(bench.ask(1))
    bench.power_on(2)
    bench.run(300)
    before = len(bench.told("proposed"))
    for _ in range(6):
        bench.done(bench.ask(1))
        bench.run(5)
    assert any(event.board == 2 for event in bench.told("proposed")[before:])
    assert not bench.told("round", round=2)


def test_while_it_catches_up_its_turns_stay_with_others() -> None:
    bench = Bench()
    bench.hand_over(2)
    bench.power_off(2)
    for _ in range(7):
        bench.done(bench.ask(1))
    bench.drop = lambda sent, target: sent.kind == schema.ENTRIES and target == 2 and bench.now_ms < until_ms
    until_ms = bench.now_ms + 1500
    bench.power_on(2)
    waits = []
    while bench.vote(2).register.next_height < bench.vote(1).register.next_height - 1:
        began_ms = bench.now_ms
        waits.append(bench.done(bench.ask(1)).time_ms - began_ms)
        bench.run(10)
    assert len(waits) > 5 and max(waits) <= 5, waits


def test_a_return_that_nobody_heard_is_told_again() -> None:
    bench = Bench()
    bench.hand_over(2)
    bench.power_off(2)
    bench.drop = lambda sent, _target: sent.kind == PASS and sent.source == 2
    bench.power_on(2)
    bench.run(500)
    assert bench.of(3).away[2][2], "nobody knows that it is back"
    bench.drop = None
    assert bench.run_until(lambda: all(not bench.of(board).away[2][2] for board in (1, 3, 4, 5)), 3000)


def test_nobody_takes_its_power_away_and_it_resumes() -> None:
    bench = Bench(hand_over={"hold_ms": 500})
    bench.hand_over(2)
    assert bench.run_until(lambda: bool(bench.told("resumed", handed_over=True)), 700)
    bench.run(5)
    assert not any(bench.of(board).away[2][2] for board in (1, 3, 4, 5))
    assert bench.done(bench.ask(2)).status == schema.OK


def test_without_a_quorum_it_gives_up_refuses_and_proposes_again() -> None:
    bench = Bench(hand_over={"patience_ms": 400})
    bench.split([[1, 2], [3, 4, 5]])
    reply = bench.hand_over(2)
    assert reply.status == schema.REFUSED
    assert bench.told("resumed", handed_over=False) and not bench.told("handed_over")
    bench.heal()
    assert bench.run_until(lambda: not any(2 in bench.of(b).away and bench.of(b).away[2][2] for b in (1, 3, 4)), 3000)
    bench.turn_of(2)
    bench.done(bench.ask(2))
    assert bench.told("proposed")[-1].board == 2


def test_without_a_successor_that_is_up_to_date_it_does_not_say_that_it_is_done() -> None:
    bench = Bench(hand_over={"patience_ms": 600})
    bench.isolate(3)
    bench.done(bench.ask(1))
    assert bench.hand_over(2).status == schema.REFUSED
    assert len([e for e in bench.told("promised") if e.fields["board"] == 2]) >= 3, "though a quorum had promised"


def test_lost_messages_are_sent_again() -> None:
    lost: list[Sent] = []

    def first(sent: Sent, _target: int) -> bool:
        if sent.kind in (PASS, PROMISE) and len(lost) < 9:
            lost.append(sent)
            return True
        return False

    bench = Bench()
    bench.drop = first
    assert bench.hand_over(2).status == schema.OK
    assert len(lost) == 9


def test_a_board_that_loses_power_in_the_middle_costs_a_time_out_at_most() -> None:
    bench = Bench()
    bench.turn_of(2)
    bench.drop = lambda sent, target: sent.kind == PASS and target == 3  # the successor has not heard
    bench.ask(2, HAND_OVER, OPERATOR)
    bench.run(3)
    bench.power_off(2)
    bench.drop = None
    began_ms = bench.now_ms
    assert bench.done(bench.ask(1)).time_ms - began_ms <= 3 * TIMEOUT_MS
    for _ in range(10):
        bench.done(bench.ask(1))
    began_ms = bench.now_ms
    bench.run(2000)
    bench.turn_of(2)
    began_ms = bench.now_ms
    assert bench.done(bench.ask(1)).time_ms - began_ms <= 5, "by then the successor had been reminded"


def test_a_successor_that_loses_power_costs_a_time_out_and_no_more() -> None:
    bench = Bench()
    bench.hand_over(2)
    bench.power_off(2)
    bench.power_off(3)
    bench.turn_of(2)
    began_ms = bench.now_ms
    assert bench.done(bench.ask(1)).time_ms - began_ms <= TIMEOUT_MS + 200 + 3 * 50


def test_so_many_hand_over_that_those_left_are_a_quorum() -> None:
    bench = Bench()
    assert bench.hand_over(2).status == schema.OK
    assert bench.hand_over(3).status == schema.OK
    assert bench.hand_over(4).status == schema.REFUSED
    for _ in range(10):
        assert bench.done(bench.ask(1)).status == schema.OK


def test_of_three_that_ask_at_once_not_all_hand_over_and_none_proposes() -> None:
    bench = Bench(hand_over={"patience_ms": 1200, "hold_ms": 4000})
    asked = [bench.ask(board, HAND_OVER, OPERATOR) for board in (2, 3, 4)]
    for _ in range(10):
        assert bench.done(bench.ask(1), 10000).status == schema.OK
    assert sum(bench.done(request).status == schema.OK for request in asked) < 3
    assert bench.proposed_what_was_passed() == []


def test_a_board_without_turns_has_nothing_to_hand_over() -> None:
    bench = Bench(3, learners=1)
    assert bench.hand_over(4).status == schema.REFUSED
    alone = Bench(1)
    assert alone.hand_over(1).status == schema.REFUSED


def test_a_breaker_before_the_log_stays_before_it() -> None:
    bench = Bench(protocols=["vote", "breaker", "hand_over"])
    assert bench.done(bench.ask(2)).status == schema.OK
    assert bench.done(bench.ask(2, 160)).status == schema.OK  # trip
    assert bench.done(bench.ask(2)).status == schema.REFUSED
    assert bench.hand_over(2).status == schema.OK


def test_it_has_to_come_after_the_vote() -> None:
    document = {"cluster": 7, "board": 1, "bed": "t", "seed": 1, "roster": [[1, "b1", 1]]}
    config = Config({**document, "protocols": ["hand_over", "vote"]})
    with pytest.raises(ConfigError, match="after vote or stake"):
        Node(config, MemoryJournal(1), ABOUT)


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_storm_of_cuts_and_hand_overs_keeps_every_promise_of_the_vote(seed: int) -> None:
    bench = Bench(seed=seed, hand_over={"hold_ms": 1500, "patience_ms": 500}, loss_percent=5, latency_ms=(1, 20))

    def strike(number: int) -> None:
        board = bench.random.choice(list(bench.boards))
        bench.command(board, OPERATOR, number, HAND_OVER, "k")
        bench.command(bench.random.choice(list(bench.boards)), CLIENT + number, 1, schema.PUT, "k", str(number))

    for number in range(60):
        bench.at(bench.now_ms + 150 * number, strike, number + 1000)
    bench.storm(9000)
    bench.calm()
    bench.run(4000)
    assert bench.told("handed_over") and not bench.proposed_what_was_passed()
    assert bench.done(bench.ask(1, client=5000), 10000).status in (schema.OK, schema.REFUSED)
    bench.run(12000)
    assert bench.done(bench.ask(2, client=5000)).status == schema.OK
    assert bench.run_until(lambda: len({bench.vote(board).digest() for board in bench.boards}) == 1, 8000)
