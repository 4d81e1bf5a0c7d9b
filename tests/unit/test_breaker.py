"""The circuit breaker in virtual time: what opens it, what passes while it is open, what closes it; and its check."""

from __future__ import annotations

from typing import Any

import pytest
from brownout.checkers import breaker as checker
from brownout.checkers.run import Run
from brownout.history import Verdict
from brownout_node.core import breaker, schema
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from brownout_node.core.node import Node
from cluster import ABOUT, Cluster, MemoryJournal
from history_builder import World

CLIENT = schema.FIRST_CLIENT
TRIP, RESET = 160, 161
PROTOCOLS = ["membership", "vote", "breaker"]


class Guarded(Cluster):
    """Five voters behind breakers, and a client that asks once."""

    def __init__(self, seed: int = 1, **options: Any) -> None:
        chosen = {"breaker": {"quorum_ms": 300, "cooldown_ms": 200, "answer_ms": 800, "window": 4, **options}}
        super().__init__(seed, 5, protocols=PROTOCOLS, options=chosen, suspicion_ms=600)
        self.clients = CLIENT
        self.run(500)

    def of(self, board: int) -> breaker.Breaker:
        return self.node(board).protocol("breaker")

    def ask(self, board: int, operation: int, key: str = "k", value: str | None = None) -> int:
        """A client's number; its answer, if any, is in `answer`."""
        self.clients += 1
        assert self.command(board, self.clients, 1, operation, key, value)
        return self.clients

    def answer(self, client: int) -> Any:
        return next((reply for reply in self.replies if reply.client == client), None)

    def done(self, client: int, within_ms: int = 5000) -> Any:
        assert self.run_until(lambda: self.answer(client) is not None, within_ms)
        return self.answer(client)

    def states(self, board: int) -> list[tuple[int, int]]:
        told = [event.fields for event in self.events if event.board == board and event.name == "breaker"]
        return [(fields["state"], fields["cause"]) for fields in told]


def test_closed_everything_passes() -> None:
    cluster = Guarded()
    assert cluster.done(cluster.ask(1, schema.PUT, value="v")).status == schema.OK
    assert cluster.done(cluster.ask(2, schema.GET)).value == "v"
    assert cluster.states(1) == []


def test_a_minority_opens_refuses_writes_marks_reads_and_closes_again() -> None:
    cluster = Guarded()
    assert cluster.done(cluster.ask(1, schema.PUT, value="old")).status == schema.OK
    assert cluster.run_until(lambda: cluster.of(1).guarded.register.values.get("k") is not None, 3000)
    cluster.split([[1, 2], [3, 4, 5]])
    assert cluster.run_until(lambda: cluster.of(1).state == breaker.OPEN, 6000)
    assert cluster.states(1) == [(breaker.OPEN, breaker.QUORUM)]
    before = cluster.node(1).protocol("vote").register.next_height
    assert cluster.answer(cluster.ask(1, schema.PUT, value="lost")).status == schema.REFUSED
    read = cluster.answer(cluster.ask(1, schema.GET))
    assert (read.status, read.value, read.height) == (schema.STALE, "old", before - 1)
    assert cluster.of(3).state == breaker.CLOSED, "the majority serves"
    assert cluster.done(cluster.ask(3, schema.PUT, value="new")).status == schema.OK
    cluster.heal()
    assert cluster.run_until(lambda: cluster.of(1).state == breaker.HALF_OPEN, 6000)
    probe = cluster.ask(1, schema.GET)
    assert cluster.answer(cluster.ask(1, schema.PUT, value="x")).status == schema.REFUSED, "one probe at a time"
    assert cluster.done(probe).value == "new"
    assert cluster.of(1).state == breaker.CLOSED
    cluster.run(3000)
    assert cluster.done(cluster.ask(1, schema.GET)).value == "new", "what was refused did not happen"


def test_failures_open_it_and_a_failed_probe_opens_it_again() -> None:
    cluster = Guarded(quorum_ms=60000)  # so that membership does not come first
    cluster.split([[1], [2, 3, 4, 5]])
    for number in range(4):
        cluster.ask(1, schema.PUT, f"k{number}", "v")
    assert cluster.run_until(lambda: cluster.of(1).state == breaker.OPEN, 3000)
    assert cluster.states(1) == [(breaker.OPEN, breaker.ERRORS)]
    # Its own view of the others is what lets it probe: give it back for a moment.
    cluster.heal()
    assert cluster.run_until(lambda: cluster.of(1).state == breaker.HALF_OPEN, 5000)
    cluster.split([[1], [2, 3, 4, 5]])
    cluster.ask(1, schema.PUT, value="v")
    assert cluster.run_until(lambda: cluster.of(1).state == breaker.OPEN, 3000)
    assert cluster.states(1)[-1] == (breaker.OPEN, breaker.ERRORS)


def test_an_operators_trip_outlives_a_power_cut_until_it_is_reset() -> None:
    cluster = Guarded()
    assert cluster.answer(cluster.ask(1, TRIP)).status == schema.OK
    cluster.run(2000)
    assert cluster.of(1).state == breaker.OPEN, "no cooldown ends it"
    cluster.power_off(1)
    cluster.power_on(1)
    assert cluster.states(1)[-1] == (breaker.OPEN, breaker.OPERATOR)
    told = [event for event in cluster.events if event.board == 1 and event.boot == 2]
    assert [(event.sequence, event.name) for event in told[:2]] == [(1, "boot"), (2, "breaker")]
    assert cluster.answer(cluster.ask(1, schema.PUT, value="v")).status == schema.REFUSED
    cluster.ask(1, RESET)
    assert cluster.done(cluster.ask(1, schema.PUT, value="v")).status == schema.OK
    cluster.power_off(1)
    cluster.power_on(1)
    assert cluster.of(1).state == breaker.CLOSED


def test_a_register_that_leaves_its_range_opens_it_until_somebody_looks() -> None:
    cluster = Guarded(least=0, most=100)
    for value in ("0", "100", None):
        assert cluster.done(cluster.ask(1, schema.PUT, value=value)).status == schema.OK
    cluster.run(500)
    assert cluster.states(2) == []
    cluster.ask(1, schema.PUT, value="101")
    assert cluster.run_until(lambda: all(cluster.of(board).state == breaker.OPEN for board in range(1, 6)), 3000)
    assert cluster.states(2) == [(breaker.OPEN, breaker.RANGE)]
    assert cluster.answer(cluster.ask(2, schema.PUT, value="5")).status == schema.REFUSED
    cluster.power_off(2)
    cluster.power_on(2)
    assert cluster.states(2)[-1] == (breaker.OPEN, breaker.RANGE)
    cluster.ask(2, RESET)
    assert cluster.done(cluster.ask(2, schema.GET)).value == "101", "it may be looked at without being flagged again"
    assert cluster.done(cluster.ask(2, schema.PUT, value="7")).status == schema.OK
    assert cluster.of(2).state == breaker.CLOSED


@pytest.mark.parametrize(
    ("value", "allowed"),
    [("0", True), ("-5", True), ("10", True), ("11", False), ("-6", False), ("", False), ("-", False), ("1e1", False)]
    + [("99999999999", False), ("x", False), (None, True), ("--1", False), ("²", False)],
)
def test_what_is_no_number_is_within_no_range(value: str | None, allowed: bool) -> None:
    assert Guarded(least=-5, most=10).of(1)._is_allowed(value) == allowed


def test_a_voter_with_another_state_is_noticed_by_itself_and_by_the_others() -> None:
    cluster = Guarded()
    cluster.done(cluster.ask(1, schema.PUT, value="v"))
    assert cluster.run_until(lambda: "k" in cluster.of(4).guarded.register.values, 3000)
    slot, _ = cluster.of(4).guarded.register.values["k"]
    cluster.of(4).guarded.register.values["k"] = (slot, "V")  # a bit of its memory turned over
    for number in range(20):
        cluster.done(cluster.ask(1, schema.PUT, "other", str(number)))
        if cluster.of(4).state == breaker.OPEN:
            break
    assert cluster.states(4) == [(breaker.OPEN, breaker.DIVERGENCE)]


def test_it_needs_the_vote_before_it() -> None:
    roster = [[1, "b1", 1]]
    document = {"cluster": 1, "board": 1, "bed": "t", "seed": 0, "roster": roster, "protocols": ["breaker", "vote"]}
    with pytest.raises(ConfigError, match="breaker; allowed: after vote"):
        Node(Config(document), MemoryJournal(1), ABOUT, 0)


# The check.


def world() -> World:
    made = World(voters=3)
    made.boot()
    return made


def judged(made: World) -> Any:
    return checker.check(Run(made.history(protocols=PROTOCOLS)))


def outage(made: World, for_s: float, opens: bool) -> None:
    pairs = {"b1 -> b2": {}, "b2 -> b1": {}, "b1 -> b3": {}, "b3 -> b1": {}}
    made.fault("f01", "isolate", "planned", "b1")
    made.fault("f01", "isolate", "applied", "b1")
    made.fault("f01", "isolate", "proven", "b1", **pairs)
    if opens:
        made.wait(1.0)
        made.tell("b1", "breaker", state=breaker.OPEN, cause=breaker.QUORUM, height=1)
    made.wait(for_s)
    made.fault("f01", "isolate", "healed", "b1")
    made.tell("b1", "breaker" if opens else "round", **({"state": 2, "cause": 1, "height": 1} if opens else {}))


def test_an_opening_in_time_is_valid_and_counted() -> None:
    made = world()
    outage(made, 12.0, opens=True)
    found = judged(made)
    assert found.verdict is Verdict.VALID, found.detail
    assert found.metrics["breaker_openings"] == {"loss of quorum": 1}
    assert found.metrics["outages_to_notice"] == 1


def test_a_board_without_a_majority_that_never_opens_is_invalid() -> None:
    made = world()
    outage(made, 12.0, opens=False)
    found = judged(made)
    assert found.verdict is Verdict.INVALID
    assert "b1 was without a majority for" in found.detail and found.evidence[0]["fault"] == "f01"


def test_nobody_has_to_notice_a_short_outage() -> None:
    made = world()
    outage(made, 0.3, opens=False)
    found = judged(made)
    assert (found.verdict, found.metrics["outages_to_notice"]) == (Verdict.VALID, 0)


@pytest.mark.parametrize(("state", "verdict"), [(breaker.OPEN, Verdict.INVALID), (breaker.HALF_OPEN, Verdict.VALID)])
def test_nothing_is_taken_while_open(state: int, verdict: Verdict) -> None:
    made = world()
    made.tell("b2", "breaker", state=state, cause=breaker.ERRORS, height=1)
    made.tell("b2", "submitted", client=1000, request=1, operation=schema.PUT)
    found = judged(made)
    assert found.verdict is verdict
    assert [entry["step"] for entry in found.evidence] == (
        ["breaker", "submitted"] if verdict is Verdict.INVALID else []
    )


def test_an_opening_without_a_cause_is_invalid() -> None:
    made = world()
    made.tell("b2", "breaker", state=breaker.OPEN, cause=0, height=1)
    assert judged(made).verdict is Verdict.INVALID


def test_two_probes_at_once_are_invalid() -> None:
    made = world()
    made.tell("b2", "breaker", state=breaker.HALF_OPEN, cause=breaker.ERRORS, height=1)
    made.tell("b2", "submitted", client=1000, request=1, operation=schema.PUT)
    made.tell("b2", "submitted", client=1001, request=1, operation=schema.PUT)
    found = judged(made)
    assert found.verdict is Verdict.INVALID
    assert "two operations at once" in found.detail


@pytest.mark.parametrize(("kept", "verdict"), [(True, Verdict.VALID), (False, Verdict.INVALID)])
def test_a_trip_has_to_outlive_a_reboot(kept: bool, verdict: Verdict) -> None:
    made = world()
    made.tell("b2", "breaker", state=breaker.OPEN, cause=breaker.OPERATOR, height=1)
    made.boot("b2")
    if kept:
        made.tell("b2", "breaker", state=breaker.OPEN, cause=breaker.OPERATOR, height=1)
    made.tell("b2", "round", height=1, round=1, proposer=1)
    made.tell("b2", "round", height=1, round=2, proposer=1)
    found = judged(made)
    assert found.verdict is verdict, found.detail


def test_a_reset_may_have_come_before_the_power_went() -> None:
    made = world()
    made.tell("b2", "breaker", state=breaker.OPEN, cause=breaker.OPERATOR, height=1)
    item = made.ask("reset", "k", board="b2")
    made.answer(item, "ok", None, 0)
    made.boot("b2")
    made.tell("b2", "round", height=1, round=1, proposer=1)
    assert judged(made).verdict is Verdict.VALID
