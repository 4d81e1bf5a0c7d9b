"""Fail-over figures from histories whose answer is known by hand, and from a simulated campaign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from brownout.analysis import summarise
from brownout.analysis.failover import failover_figures, failovers, longest_gap_ms, propose_timeout_ms
from brownout.checkers import judge
from brownout.history import History
from brownout.report import write_report
from brownout.store import VERDICT
from eventful_runs import save
from history_builder import MILLISECOND, World

PUT = (1000, 1, "put", "k", "v", None)


def aimed(world: World, select: str | None = "proposer", **manifest: Any) -> History:
    """The history of this world, with a plan that aims its faults."""
    history = world.history(**manifest)
    history.plan = {"faults": [{"id": record["id"], "kind": "cut", "select": select} for record in world.plan]}
    return history


def outage(rounds: tuple[int, ...] = (1,), waits_s: tuple[float, ...] = (0.6,), in_flight: bool = False) -> World:
    """b1 proposes and is cut; b2 and b3 decide heights in these rounds after these waits; then b1 is back."""
    world = World(3)
    world.boot()
    world.operate("put", "k", "before")
    world.fault("f01", "cut", "planned", "b1")
    if in_flight:
        world.tell("b1", "proposed", height=world.height, round=0, value_id="00" * 8, valid_round=-1)
    world.fault("f01", "cut", "applied", "b1", last_boots={"b1": 1})
    for round, wait_s in zip(rounds, waits_s, strict=True):
        world.wait(wait_s)
        world.operate("put", "k", f"v{round}", board="b2", boards=["b2", "b3"], voting=["b2", "b3"], round=round)
    world.boot("b1")
    world.fault("f01", "cut", "healed", "b1")
    return world


def decision_after(world: World, at_ns: int, count: int = 1) -> int:
    heights: dict[int, int] = {}
    for event in world.events:
        if event.kind == "decided" and event.received_ns >= at_ns:
            heights.setdefault(event.fields["height"], event.received_ns)
    return sorted(heights.values())[count - 1]


def test_the_next_decision_and_the_take_over_are_timed_from_the_cut() -> None:
    world = outage()
    (found,) = failovers(aimed(world))
    # 600 ms of wait, the command, a proposal, two prevotes, two precommits, the decision: a millisecond each.
    assert found.commit_ms == found.takeover_ms == pytest.approx(607, abs=1)
    assert found.commit_ms == (decision_after(world, found.cut_ns) - found.cut_ns) / MILLISECOND
    assert (found.board, found.in_flight, found.takeover_round) == ("b1", False, 1)


def test_a_height_of_another_proposer_is_a_decision_and_no_take_over() -> None:
    world = outage(rounds=(0, 2), waits_s=(0.005, 0.9))
    (found,) = failovers(aimed(world))
    first, second = (decision_after(world, found.cut_ns, count) for count in (1, 2))
    assert found.commit_ms == (first - found.cut_ns) / MILLISECOND < 20
    assert found.takeover_ms == (second - first) / MILLISECOND > 900
    assert found.takeover_round == 2


def test_a_later_round_after_the_board_is_back_is_no_take_over() -> None:
    world = outage(rounds=(0,), waits_s=(0.1,))
    world.operate("put", "k", "w")
    world.wait(0.5)
    world.operate("put", "k", "x", round=1)
    (found,) = failovers(aimed(world))
    assert found.takeover_ms is None and found.commit_ms is not None


def test_a_proposal_in_flight_is_told() -> None:
    (found,) = failovers(aimed(outage(in_flight=True)))
    assert found.in_flight


def test_only_power_cuts_aimed_at_the_proposer_count() -> None:
    assert failovers(aimed(outage(), select="one")) == []
    assert failover_figures(outage().history())["cuts"] == 0
    assert summarise(outage().history())["failover"]["commit_ms"] == {"count": 0}


def test_nothing_decided_any_more_is_counted_and_not_timed() -> None:
    figures = failover_figures(aimed(outage(rounds=(), waits_s=())))
    assert (figures["cuts"], figures["without_commit"], figures["commit_ms"]) == (1, 1, {"count": 0})


def test_figures_are_in_units_of_the_proposal_timeout_of_the_run() -> None:
    world = outage()
    figures = failover_figures(aimed(world, timing={"propose_timeout_ms": 200}))
    assert figures["propose_timeout_ms"] == 200
    assert figures["takeover_in_timeouts"]["p50"] == pytest.approx(figures["takeover_ms"]["p50"] / 200, abs=0.001)
    assert propose_timeout_ms({"timing": {}}) == 400


def test_the_gap_of_clients_is_the_longest_that_the_outage_has_a_part_in() -> None:
    answers = [0, 50 * MILLISECOND, 350 * MILLISECOND, 360 * MILLISECOND, 960 * MILLISECOND]
    assert longest_gap_ms(answers, 100 * MILLISECOND, 355 * MILLISECOND) == 300
    assert longest_gap_ms(answers, 100 * MILLISECOND, None) == 600
    assert longest_gap_ms(answers, 960 * MILLISECOND, None) is None
    assert longest_gap_ms([], 0, None) is None


def test_clients_wait_as_long_as_the_log_does() -> None:
    world = outage()
    (found,) = failovers(aimed(world))
    first, second = [item.finished_ns for item in world.operations]
    assert found.client_gap_ms == (second - first) / MILLISECOND


def test_clients_who_all_ask_the_board_that_is_off_leave_the_log_idle() -> None:
    world = World(3)
    world.boot()
    world.operate("put", "k", "before")
    world.fault("f01", "cut", "planned", "b1")
    world.fault("f01", "cut", "applied", "b1", last_boots={"b1": 1})
    cut_ns = world.now_ns
    item = world.ask("put", "k", "v", board="b1")
    world.wait(1.2)
    world.boot("b1")
    world.fault("f01", "cut", "healed", "b1")
    world.wait(0.3)
    taken = world.tell("b2", "submitted", client=1000, request=item.request, operation=1)
    world.decide([(1000, item.request, "put", "k", "v", None)], boards=["b2", "b3"], voting=["b2", "b3"])
    world.answer(item, "ok", None, world.height - 1)
    (found,) = failovers(aimed(world))
    assert found.takeover_ms is None
    assert found.asking_ms == (taken.received_ns - item.invoked_ns) / MILLISECOND > 1500
    assert found.log_wait_ms is None, "the log was asked nothing while the board was off"
    assert found.client_gap_ms is not None and found.client_gap_ms > found.asking_ms
    assert found.cut_ns == cut_ns
    figures = failover_figures(aimed(world))
    assert (figures["without_takeover"], figures["asking_ms"]["max"]) == (1, pytest.approx(found.asking_ms, abs=0.001))


def test_a_command_that_a_running_board_took_waits_for_the_log() -> None:
    world = outage(rounds=(), waits_s=())
    world.faults.pop()
    item = world.ask("put", "k", "v", board="b2")
    world.tell("b2", "submitted", client=1000, request=item.request, operation=1)
    world.wait(0.6)
    world.decide([(1000, item.request, "put", "k", "v", None)], ["b2", "b3"], ["b2", "b3"], round=1)
    world.answer(item, "ok", None, world.height - 1)
    (found,) = failovers(aimed(world))
    assert found.asking_ms == 1 and found.log_wait_ms is not None and found.log_wait_ms > 600


def test_the_report_has_the_figures_where_there_was_a_fail_over(tmp_path: Path) -> None:
    text = write_report(save(aimed(outage()), tmp_path)).read_text(encoding="utf-8")
    assert 'id="failover"' in text and "in proposal time-outs" in text
    text = write_report(save(aimed(outage(), select="one"), tmp_path)).read_text(encoding="utf-8")
    assert 'id="failover"' not in text


def test_a_verdict_of_an_earlier_release_has_no_such_figures_and_still_a_report(tmp_path: Path) -> None:
    history = aimed(outage())
    folder = save(history, tmp_path)
    verdict = judge(history)
    del verdict["metrics"]["failover"]
    (folder / VERDICT).write_text(json.dumps(verdict), encoding="utf-8")
    assert 'id="failover"' not in write_report(folder).read_text(encoding="utf-8")
