"""The check of planned hand-overs: histories that it has to refuse, and those it must not; the fault, its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from brownout.analysis.failover import failover_figures, failovers
from brownout.campaign_file import parse_campaign
from brownout.checkers import hand_over as checker
from brownout.checkers.run import Run
from brownout.contracts import UsageError
from brownout.document import Table
from brownout.faults import plan
from brownout.history import BoardEvent, Verdict
from brownout.report import write_report
from brownout.rig import load_rig
from brownout.sim.runs import simulate
from eventful_runs import save
from history_builder import MILLISECOND, World

PROTOCOLS = ["membership", "vote", "hand_over"]


def judged(world: World) -> Any:
    return checker.check(Run(world.history(protocols=PROTOCOLS)))


def promise(world: World, board: str, boot: int = 1, height: int | None = None) -> BoardEvent:
    from_height = world.height
    fields = {"board": 1, "boot": boot, "number": 1, "from_height": from_height}
    return world.tell(board, "promised", **fields, height=from_height if height is None else height)


def handed_over(promised: str = "b2 b3", height: int = 0, weight: int = 3, boot: int = 1) -> World:
    """b1 hands over to b2 from the height on that comes next."""
    world = World(3)
    world.boot()
    world.operate("put", "k", "before")
    at = world.height
    world.tell("b1", "passing", number=1, from_height=at, successor=2)
    for board in promised.split():
        promise(world, board, boot)
    fields = {"number": 1, "from_height": at, "successor": 2, "height": height or at, "weight": weight}
    world.tell("b1", "handed_over", **fields)
    world.wait(3.0)
    world.digests()
    return world


def propose(world: World, board: str = "b1") -> None:
    world.tell(board, "proposed", height=world.height, round=0, value_id="00" * 8, valid_round=-1)


def test_a_hand_over_as_it_should_be_is_valid() -> None:
    world = handed_over()
    propose(world, "b2")
    found = judged(world)
    assert found.verdict is Verdict.VALID
    assert (found.metrics["hand_overs"], found.metrics["handed_over"]) == (1, 1)


def test_a_board_that_goes_on_proposing_is_found() -> None:
    world = handed_over()
    propose(world)
    found = judged(world)
    assert found.verdict is Verdict.INVALID and "proposed what it had passed on" in found.detail


def test_what_it_had_in_flight_and_what_it_proposes_afterwards_is_its_own() -> None:
    world = World(3)
    world.boot()
    world.tell("b1", "passing", number=1, from_height=world.height + 1, successor=2)
    propose(world)
    world.tell("b1", "resumed", number=1, handed_over=False)
    world.height += 1
    propose(world)
    assert judged(world).verdict is Verdict.VALID
    again = handed_over()
    again.boot("b1")
    propose(again)
    assert judged(again).verdict is Verdict.VALID, "another boot"


def test_a_successor_that_is_behind_is_found() -> None:
    found = judged(handed_over(height=1))
    assert found.verdict is Verdict.INVALID and "had decided only what is below 1" in found.detail


@pytest.mark.parametrize("world", [handed_over(promised=""), handed_over(boot=2)], ids=["nobody", "of another boot"])
def test_a_hand_over_without_a_quorum_is_found(world: World) -> None:
    found = judged(world)
    assert found.verdict is Verdict.INVALID and "no quorum had promised" in found.detail


def test_promises_that_may_have_been_lost_on_their_way_accuse_nobody() -> None:
    missing = handed_over()
    missing.drop(lambda event: event.kind == "promised")
    assert judged(missing).verdict is Verdict.VALID, "their numbers show that something is missing"
    dark = handed_over()
    cut_ns = next(event.received_ns for event in dark.events if event.kind == "promised")
    dark.drop(lambda event: event.board != "b1" and event.received_ns >= cut_ns)
    dark.boot("b2", "b3")
    dark.wait(3.0)
    dark.digests()
    assert judged(dark).verdict is Verdict.VALID, "they lost power, and what they had not told yet"


# The fault, and its figures.


def restarts(*firsts: str | None, protocols: list[str] | None = None) -> Table:
    faults = [
        {
            "kind": "cut",
            "select": ["b2"],
            "at_s": 1.0 + 2.5 * number,
            "for_s": 1.5,
            **({"first": first} if first else {}),
        }
        for number, first in enumerate(firsts)
    ]
    head = {"name": "restarts", "duration_s": 6.0, "voters": 4, "protocols": protocols or PROTOCOLS}
    workload = {"clients": 6, "operations_per_s": 40.0}
    return Table({"campaign": head, "workload": workload, "fault": faults}, "test")


def test_a_planned_restart_costs_less_than_a_crash(tmp_path: Path) -> None:
    rig = load_rig("sim")
    table = restarts(None, "hand over")
    for fault in table.values["fault"]:
        fault |= {"select": "proposer", "when": "proposal in flight"}
    done = simulate(plan(parse_campaign(table), rig, 3), rig)
    assert done.verdict == "valid", done.document["checks"]
    crash, planned = failovers(done.history)
    assert (crash.planned, planned.planned) == (False, True)
    assert crash.log_wait_ms is not None and planned.log_wait_ms is not None
    assert crash.log_wait_ms >= 400 and planned.log_wait_ms < 40
    figures = failover_figures(done.history)
    assert (figures["cuts"], figures["planned"]["cuts"]) == (1, 1)
    applied = next(record for record in done.history.faults if record.evidence.get("handed_over"))
    assert planned.cut_ns == applied.evidence["asked_ns"] < applied.at_ns - MILLISECOND
    done.history.manifest["campaign"] = "restarts"
    text = write_report(save(done.history, tmp_path)).read_text(encoding="utf-8")
    assert "From the power cut" in text and "From the request to hand over" in text


def test_a_board_that_cannot_hand_over_loses_its_power_anyway() -> None:
    rig = load_rig("sim")
    table = restarts("hand over")
    table.values["fault"].append(
        {"kind": "isolate", "select": ["b2"], "at_s": 0.5, "for_s": 5.5},
    )
    done = simulate(plan(parse_campaign(table), rig, 1), rig)
    applied = next(r for r in done.history.faults if r.kind == "cut" and "handed_over" in r.evidence)
    assert applied.evidence["handed_over"] == {"b2": None}


def test_a_campaign_without_the_protocol_is_refused() -> None:
    with pytest.raises(UsageError, match="first: 'hand over' needs boards that can"):
        plan(parse_campaign(restarts("hand over", protocols=["membership", "vote"])), load_rig("sim"), 1)
