"""The check `recovery`: histories that must fail it, some that must not, and a simulated disaster that cannot heal."""

from __future__ import annotations

from pathlib import Path

from brownout.campaign_file import load_campaign
from brownout.checkers import judge, recovery
from brownout.checkers.run import Run
from brownout.faults import plan
from brownout.history import Check, Verdict
from brownout.rig import load_rig
from brownout.sim.runs import simulate
from history_builder import World

MAJORITY_LOST = """
[campaign]
name = "majority-lost"
description = "a majority of the journals is gone after a blackout"
duration_s = 8.0
voters = 5

[workload]
clients = 3
operations_per_s = 40.0

[[fault]]
kind = "split"
groups = [["b4", "b5"], ["b1", "b2", "b3"]]
at_s = 2.0
for_s = 5.9

[[fault]]
kind = "blackout"
at_s = 5.0
for_s = 1.0

[[fault]]
kind = "wipe"
select = ["b1", "b2", "b3"]
at_s = 5.3
for_s = 0.3

[checks]
progress_within_s = 4.0
converge_within_s = 4.0
"""


def judged(world: World) -> Check:
    return recovery.check(Run(world.history()))


def started(voters: int = 3) -> World:
    world = World(voters)
    world.boot()
    world.operate("put", "k", "a")
    return world


def give_back(world: World, board: str, height: int, digest: str = "d1", votes: bool = False) -> None:
    world.tell(board, "caught_up", first=1, next=height, source=0)
    world.tell(board, "restored", height=height, check="c1", digest=digest, votes=votes)
    world.boards[board].next_height = height


def admit(world: World, board: str) -> None:
    number, boot = world.boards[board].number, world.boards[board].boot
    others = [name for name in world.voters() if name != board]
    world.decide([(number, boot, "admit", str(number), str(boot), None)], voting=others)
    world.tell(board, "admitted", board=number, height=world.height)


def test_a_restored_board_that_waits_for_its_admission_is_fine() -> None:
    world = started()
    world.cut("f01", "b2", journal=1, kind="restore")
    give_back(world, "b2", world.height)
    admit(world, "b2")
    world.operate("put", "k", "b")
    check = judged(world)
    assert check.verdict == Verdict.VALID, check.detail
    assert check.metrics == {"journals_lost": 1, "states_restored": 1}


def test_a_restored_board_that_votes_at_once_is_found() -> None:
    world = started()
    world.cut("f01", "b2", journal=1, kind="restore")
    give_back(world, "b2", world.height)
    world.operate("put", "k", "b")
    check = judged(world)
    assert check.verdict == Verdict.INVALID
    assert "b2 was given back a saved state and votes at height 2 before the log has admitted it" in check.detail


def test_a_restored_board_that_votes_after_its_next_boot_is_found() -> None:
    world = started()
    world.cut("f01", "b2", journal=1, kind="restore")
    give_back(world, "b2", world.height)
    world.boot("b2")
    world.operate("put", "k", "b")
    assert "votes at height 2" in judged(world).detail


def test_a_restored_board_that_claims_a_vote_is_found() -> None:
    world = started()
    world.cut("f01", "b2", journal=1, kind="restore")
    give_back(world, "b2", world.height, votes=True)
    assert "says that it may vote with a state that was saved" in judged(world).detail


def test_another_state_than_the_logs_is_found() -> None:
    world = started()
    world.tell("b1", "digest", protocol="vote", height=world.height, digest="d1", count=1)
    world.cut("f01", "b2", journal=1, kind="restore")
    give_back(world, "b2", world.height, digest="d2")
    admit(world, "b2")
    assert "b2 was given back another state than b1 has at height 2" in judged(world).detail


def test_lost_operations_of_a_lost_majority_are_named() -> None:
    world = started()
    world.operate("put", "k", "b")
    world.operate("put", "other", "c", boards=["b1", "b2"], voting=["b1", "b2"])
    world.cut("f01", "b1", "b2", journal=1, kind="wipe")
    check = judged(world)
    assert check.verdict == Verdict.INVALID
    assert "b1, b2 lost their journals" in check.detail
    assert "b3 still know the log below height 3" in check.detail
    assert "1 acknowledged operations are lost, put other = 'c' at height 3 first" in check.detail
    assert [(entry["key"], entry["value"], entry["note"]) for entry in check.evidence] == [("other", "c", "lost")]
    assert check.metrics["operations_lost"] == 1


def test_a_lost_majority_is_never_valid_even_where_a_board_still_has_everything() -> None:
    world = started()
    world.cut("f01", "b1", "b2", journal=1, kind="wipe")
    check = judged(world)
    assert check.verdict == Verdict.INVALID
    assert "which is everything that was acknowledged" in check.detail


def test_a_lost_minority_is_no_disaster() -> None:
    world = started(5)
    world.cut("f01", "b1", "b2", journal=1, kind="wipe")
    assert judged(world).verdict == Verdict.VALID


def test_a_simulated_loss_of_a_majority_says_what_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "majority-lost.toml"
    file.write_text(MAJORITY_LOST)
    rig = load_rig("sim")
    history = simulate(plan(load_campaign(str(file)), rig, 1), rig).history
    document = judge(history)
    found = next(check for check in document["checks"] if check["name"] == "recovery")
    assert (document["verdict"], found["verdict"]) == ("invalid", "invalid")
    assert "b1, b2, b3 lost their journals" in found["detail"]
    below = found["metrics"]["recoverable_below_height"]
    lost = [
        item
        for item in history.operations
        if item.operation in ("put", "cas") and item.status == "ok" and item.height is not None and item.height >= below
    ]
    assert len(lost) == found["metrics"]["operations_lost"] > 1  # what the three decided while the others were cut off
    named = {(entry["client"], entry["request"]) for entry in found["evidence"]}
    assert named <= {(item.client, item.request) for item in lost}
    assert len(named) == min(len(lost), recovery.NAMED_AT_MOST)
