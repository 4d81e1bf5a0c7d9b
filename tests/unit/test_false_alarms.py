"""Sound firmware that was once accused, or taken down by the testbed itself: each course of events that did it."""

from __future__ import annotations

from pathlib import Path

import pytest
from brownout import campaign_file, faults, rig
from brownout.checkers import durability, majority, membership
from brownout.checkers.run import Run
from brownout.history import Verdict
from brownout.session import Session
from brownout.sim.bed import SimBed
from brownout.sim.runs import MemoryRecord
from history_builder import World

OVERLAP = """
[campaign]
name = "overlap"
duration_s = 4.0
voters = 3

[[fault]]
kind = "cycle"
select = ["b1"]
at_s = 1.0
for_s = 1.0

[[fault]]
kind = "cut_mid_write"
select = ["b1"]
operation = 20
byte = 9
at_s = 1.5
for_s = 0.2
"""


def test_a_cut_that_was_armed_while_another_fault_kept_the_board_dark_does_not_outlive_its_own_fault(
    tmp_path: Path,
) -> None:
    file = tmp_path / "overlap.toml"
    file.write_text(OVERLAP, encoding="utf-8")
    simulated = rig.load_rig("sim")
    plan = faults.plan(campaign_file.read_campaign(file), simulated, 1)
    record = MemoryRecord(plan)
    assert simulated.simulated is not None
    bed = SimBed(simulated.simulated, plan, simulated)
    Session(plan, simulated, record, bed).run()
    board = bed.world.boards["b1"]
    assert not board.flash.armed
    assert board.starts == 2, "it was cut by the cycle alone"


@pytest.mark.parametrize("same", [True, False])
def test_what_a_board_merged_in_its_last_moments_is_known_by_its_digest(same: bool) -> None:
    world = World(3)
    world.boot()
    world.write("b1", "key", "x", merged_by=["b2"])
    if same:  # b3 had merged it, and power took the event along
        world.boards["b3"].items["key"] = world.boards["b1"].items["key"]
    world.cut("f01", "b3")
    world.wait(3.0)
    world.digests()
    world.wait(9.0)
    check = durability.check(Run(world.history()))
    assert check.verdict == (Verdict.VALID if same else Verdict.INVALID), check.detail


def test_a_delete_that_was_forgotten_before_the_key_was_written_anew_is_no_loss() -> None:
    world = World(3)
    world.boot()
    world.write("b1", "key", "old", merged_by=["b2", "b3"])
    grave = world.write("b3", "key", None, merged_by=["b1", "b2"])
    world.wait(3.0)
    for board in ("b1", "b2", "b3"):
        world.tell(board, "forgotten", key="key", stamp=grave.fields["stamp"], writer=3)
    world.wait(9.0)
    world.write("b2", "key", "new", merged_by=[])  # in the last moment, so nobody else has it yet
    world.wait(0.5)
    check = durability.check(Run(world.history()))
    assert check.verdict == Verdict.VALID, check.detail


@pytest.mark.parametrize("same", [True, False])
def test_what_others_of_the_same_digest_have_forgotten_is_forgotten(same: bool) -> None:
    world = World(3)
    world.boot()
    world.write("b1", "key", None, merged_by=["b2", "b3"])
    grave = world.write("b1", "key", None, merged_by=["b2"])
    world.boards["b3"].items["key"] = world.boards["b1"].items["key"]  # merged; power took the event along
    world.cut("f01", "b3")
    for board in ("b1", "b2"):
        world.tell(board, "forgotten", key="key", stamp=grave.fields["stamp"], writer=1)
    for board in ("b1", "b2", "b3"):
        if same or board != "b3":
            world.boards[board].items.pop("key")
    world.wait(3.0)
    world.digests()
    world.wait(9.0)
    check = durability.check(Run(world.history()))
    assert check.verdict == (Verdict.VALID if same else Verdict.INVALID), check.detail


@pytest.mark.parametrize("all_forget", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_what_was_forgotten_after_the_last_digest_was_there(same: bool, all_forget: bool) -> None:
    """b3 told of an older delete alone: power took along that it had merged the newer one."""
    world = World(3)
    world.boot()
    world.write("b1", "key", None, merged_by=["b2", "b3"])
    grave = world.write("b1", "key", None, merged_by=["b2"])
    if same:
        world.boards["b3"].items["key"] = world.boards["b1"].items["key"]
    world.cut("f01", "b3")
    world.wait(3.0)
    world.digests()
    for board in ("b1", "b2", "b3") if all_forget and same else ("b1", "b2"):
        world.tell(board, "forgotten", key="key", stamp=grave.fields["stamp"], writer=1)
    world.wait(9.0)
    check = durability.check(Run(world.history()))
    assert check.verdict == (Verdict.VALID if same else Verdict.INVALID), check.detail


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_written_and_forgotten_after_the_last_digest_leaves_nothing_older_behind(lost: bool) -> None:
    world = World(3)
    world.boot()
    world.write("b1", "key", None, merged_by=["b2", "b3"])
    world.wait(3.0)
    world.digests()
    grave = world.write("b1", "key", None, merged_by=["b2"] if lost else ["b2", "b3"])
    world.tell("b2", "forgotten", key="key", stamp=grave.fields["stamp"], writer=1)
    world.wait(9.0)
    check = durability.check(Run(world.history()))
    assert check.verdict == (Verdict.INVALID if lost else Verdict.VALID), check.detail
    assert not lost or "not on b3" in check.detail


def wiped_and_another_away(admitted: bool) -> World:
    """b2 loses its journal; b3 is cut; operations are tried and nothing is decided until b3 is back.

    admitted: b2 has its standing back before the cut, so that b1 and b2 are a majority that may vote.
    """
    world = World(3)
    world.boot()
    world.operate("put", "k0", "first")
    world.cut("f01", "b2", journal=1, kind="wipe")
    if admitted:
        world.operate("put", "k0", "second", voting=["b1", "b3"])
        world.tell("b2", "admitted", board=2, height=world.height)
        world.operate("put", "k0", "third")
    world.wait(1.0)
    for stage in ("planned", "applied", "proven"):
        world.fault("f02", "cut", stage, "b3")
    world.wait(0.5)
    for number in range(3):
        world.ask("put", "k1", f"tried{number}")
    world.wait(8.0)
    world.boot("b3")
    world.fault("f02", "cut", "healed", "b3")
    return world


def test_a_wiped_board_that_waits_for_its_admission_makes_no_majority() -> None:
    check = majority.check(Run(wiped_and_another_away(admitted=False).history()))
    assert check.verdict == Verdict.VALID, check.detail
    assert check.metrics["outages_of_a_minority_checked"] == 0


def test_a_wiped_board_that_is_admitted_makes_a_majority_again() -> None:
    check = majority.check(Run(wiped_and_another_away(admitted=True).history()))
    assert check.verdict == Verdict.INVALID, check.detail
    assert "while b3 alone, a minority, was away" in check.detail


@pytest.mark.parametrize("asked", ["b3", "b1"])
def test_with_a_majority_left_a_wiped_board_excuses_nothing(asked: str) -> None:
    """The others are asked for progress, and not for what only the isolated board heard of."""
    world = World(5)
    world.boot()
    world.operate("put", "k0", "first")
    world.cut("f01", "b2", journal=1, kind="wipe")
    for stage in ("planned", "applied"):
        world.fault("f02", "isolate", stage, "b3")
    pairs = {f"{other} -> b3": {"matched": 9, "passed": 0} for other in ("b1", "b2", "b4", "b5")}
    world.fault("f02", "isolate", "proven", "b3", **pairs)
    world.ask("put", "k1", "tried", board=asked)
    world.wait(8.0)
    world.fault("f02", "isolate", "healed", "b3")
    check = majority.check(Run(world.history()))
    assert check.verdict == (Verdict.VALID if asked == "b3" else Verdict.INVALID), check.detail


@pytest.mark.parametrize(("waited_s", "verdict"), [(11.0, Verdict.UNKNOWN), (23.0, Verdict.INVALID)])
def test_among_many_boards_a_wrong_death_may_stand_until_the_probes_come_round(
    waited_s: float, verdict: Verdict
) -> None:
    world = World(12)
    world.boot()
    world.cut("f01", "b3")
    world.tell("b3", "member", board=1, state=2, incarnation=0)
    world.wait(waited_s)
    world.operate("get", "k0")
    check = membership.check(Run(world.history(timing={"probe_period_ms": 1000, "suspicion_ms": 3000})))
    assert check.verdict == verdict, check.detail
