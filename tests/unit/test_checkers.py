"""Each checker passes the run in which all went right, and fails the one in which its own thing went wrong.

A test tells the story of one breach, asks the one checker that must find it, and looks for the boards and steps in the
evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from brownout import checkers
from brownout.checkers import (
    CHECKERS,
    agreement,
    durability,
    faults,
    gossip,
    judge,
    liveness,
    membership,
    promises,
    register,
    telemetry,
    validity,
    voting,
)
from brownout.checkers.run import Run
from brownout.history import Check, FaultStage, Gap, Outcome, Verdict
from brownout.store import RunFolder
from history_builder import SECOND, World, healthy, is_event


def found(checker: Callable[[Run], Check], world: World, **manifest: object) -> Check:
    return checker(Run(world.history(**manifest)))


def breach(checker: Callable[[Run], Check], world: World, *words: str, **manifest: object) -> Check:
    """The check is invalid, its text has these words, and its evidence is not empty."""
    check = found(checker, world, **manifest)
    assert check.verdict is Verdict.INVALID, check
    for word in words:
        assert word in check.detail
    assert check.evidence
    return check


def unsure(checker: Callable[[Run], Check], world: World, *words: str, **manifest: object) -> Check:
    check = found(checker, world, **manifest)
    assert check.verdict is Verdict.UNKNOWN, check
    for word in words:
        assert word in check.detail
    return check


def fine(checker: Callable[[Run], Check], world: World, **manifest: object) -> Check:
    check = found(checker, world, **manifest)
    assert check.verdict is Verdict.VALID, check
    return check


@pytest.mark.parametrize(("voters", "learners"), [(3, 0), (5, 2)])
def test_a_run_in_which_all_went_right_is_valid(voters: int, learners: int) -> None:
    document = judge(healthy(voters, learners).history())
    assert document["verdict"] == "valid", [check for check in document["checks"] if check["verdict"] != "valid"]
    assert [check["name"] for check in document["checks"]] == [
        "agreement",
        "promises",
        "voting",
        "validity",
        "durability",
        "linearizability",
        "gossip",
        "membership",
        "liveness",
        "majority",
        "recovery",
        "crashes",
        "faults",
        "telemetry",
    ]
    assert document["metrics"]["decision_ms_on_the_proposers_clock"]["count"] == 14
    assert document["coverage"]["faults"] == {"cut": {"applied": 1, "healed": 1, "planned": 1, "proven": 1}}


def test_an_empty_history_is_unknown_and_breaks_no_checker() -> None:
    world = World(3)
    assert judge(world.history())["verdict"] == "unknown"
    history = replace(world.history(), manifest={})
    assert judge(history)["verdict"] == "unknown"


def test_invalid_outranks_unknown() -> None:
    checks = [Check("a", Verdict.VALID, ""), Check("b", Verdict.UNKNOWN, ""), Check("c", Verdict.INVALID, "")]
    assert checkers.overall(checks) is Verdict.INVALID
    assert checkers.overall(checks[:2]) is Verdict.UNKNOWN
    assert checkers.overall(checks[:1]) is Verdict.VALID
    assert len(set(CHECKERS)) == len(CHECKERS)


def test_check_run_writes_the_verdict_into_the_folder(tmp_path: Path) -> None:
    history = healthy().history()
    folder = RunFolder.create(tmp_path, "hand-made", 1)
    folder.write_plan(history.plan)
    for operation in history.operations:
        folder.append_operation_invoke(operation)
        folder.append_operation_complete(operation)
    for record in history.faults:
        folder.append_fault(record)
    folder.append_events(history.events)
    folder.finish(history.manifest)
    document = checkers.check_run(folder.path)
    assert document == judge(history)
    assert (folder.path / "verdict.json").exists()


# Agreement.


def test_two_values_at_one_height() -> None:
    world = healthy()
    world.change(is_event("b2", "decided", height=4), value_id="ffffffffffffffff")
    check = breach(agreement.check, world, "height 4", "b1", "b2")
    assert {entry["board"] for entry in check.evidence} >= {"b1", "b2"}


def test_a_board_that_decides_anew_after_a_reboot() -> None:
    world = healthy()
    world.tell("b3", "decided", height=2, round=0, value_id="0" * 16, weight=2, caught_up=False)
    breach(agreement.check, world, "height 2")


def test_other_commands_at_one_height() -> None:
    world = healthy()
    world.change(is_event("b3", "applied", height=2), value="other")
    breach(agreement.check, world, "height 2", "b3")
    world = healthy()
    world.drop(is_event("b2", "applied", height=2))
    fine(agreement.check, world)  # nothing told is not another thing told


def test_states_that_differ_at_a_height() -> None:
    world = healthy()
    world.tell("b1", "digest", protocol="vote", height=9, digest="aa" * 8, count=2)
    world.tell("b2", "digest", protocol="vote", height=9, digest="bb" * 8, count=2)
    breach(agreement.check, world, "state at height 9")


# Promises.


def test_a_board_that_forgets_a_height() -> None:
    world = healthy()
    world.change(lambda event: event.board == "b3" and event.kind == "boot" and event.boot == 2, next_height=3)
    check = breach(promises.check, world, "b3 forgot height 9", "boot 2")
    assert [entry["step"] for entry in check.evidence] == ["decided", "boot"]


@pytest.mark.parametrize(
    ("vote", "lost", "words"),
    [
        ("prevote", {"prevote_round": -1, "prevoted": None}, "forgot its prevote"),
        ("precommit", {"precommit_round": -1, "precommitted": None}, "forgot its precommit"),
        ("precommit", {"locked_round": -1, "locked": None}, "forgot its lock"),
        ("precommit", {"locked": "dd" * 8}, "forgot its lock"),
    ],
)
def test_a_board_that_forgets_a_vote(vote: str, lost: dict[str, object], words: str) -> None:
    world = healthy()
    world.prevote("b3", "ab" * 8)
    if vote == "precommit":
        world.precommit("b3", "ab" * 8)
    world.cut("f02", "b3", **lost)
    check = breach(promises.check, world, "b3", words)
    assert check.evidence[-1]["boot"] == 3
    world = healthy()
    world.prevote("b3", "ab" * 8)
    world.precommit("b3", "ab" * 8)
    world.cut("f02", "b3")
    fine(promises.check, world)


@pytest.mark.parametrize(
    ("said", "words"),
    [({"incarnation": 0}, "incarnation"), ({"gossip_number": 0}, "forgot its own gossip update")],
)
def test_a_board_that_forgets_its_own_numbers(said: dict[str, object], words: str) -> None:
    world = healthy()
    world.cut("f02", "b3", **said)
    breach(promises.check, world, "b3", words)


def test_a_clock_that_runs_backwards_over_a_reboot() -> None:
    world = healthy()
    world.fault("f02", "cut", "applied", "b2")
    world.stamp = 5
    world.boot("b2")
    breach(promises.check, world, "clock of b2")


def test_a_journal_that_is_gone_without_a_fault_that_took_it() -> None:
    world = healthy()
    world.cut("f02", "b2", journal=2)
    breach(promises.check, world, "b2", "invalid journal")
    world = healthy()
    world.cut("f02", "b2", journal=1, kind="wipe")
    fine(promises.check, world)


def test_a_board_that_answered_and_then_does_not_know() -> None:
    world = healthy()
    world.operate("put", "k0", "answered", board="b2", boards=["b1", "b3"], voting=["b1", "b3"])
    world.cut("f02", "b2")
    check = breach(promises.check, world, "b2 had answered a put at height 15", "starts from height 15")
    assert check.evidence[0]["operation"] == "put"


def test_a_vote_at_a_height_that_is_decided() -> None:
    world = healthy()
    world.tell("b2", "prevoted", height=3, round=1, value_id=None, valid_round=-1)
    breach(promises.check, world, "b2 prevoted at height 3")


# Voting.


@pytest.mark.parametrize("kind", ["prevoted", "precommitted"])
def test_two_votes_in_one_round_over_a_wipe(kind: str) -> None:
    world = healthy()
    vote = world.prevote if kind == "prevoted" else world.precommit
    vote("b2", "ab" * 8)
    height = world.boards["b2"].next_height
    world.cut("f02", "b2", journal=1, kind="wipe")
    world.boards["b2"].next_height = height
    vote("b2", "cd" * 8)
    check = breach(voting.check, world, f"b2 {kind} twice at height {height}")
    assert [entry["boot"] for entry in check.evidence[:2]] == [1, 0x10000010]


def test_a_lock_that_is_not_kept() -> None:
    world = healthy()
    world.precommit("b1", "ab" * 8, round=1)
    world.prevote("b1", "cd" * 8, round=2)
    breach(voting.check, world, "b1 was locked on abab", "valid round -1")
    world = healthy()
    world.precommit("b1", "ab" * 8, round=1)
    world.prevote("b1", "cd" * 8, round=3, valid_round=2)
    fine(voting.check, world)


def test_a_lock_that_is_forgotten_over_a_reboot_that_hides_it() -> None:
    world = healthy()
    world.precommit("b1", "ab" * 8, round=1)
    world.cut("f02", "b1")
    world.prevote("b1", "cd" * 8, round=2)
    check = breach(voting.check, world, "b1 was locked")
    assert [entry["boot"] for entry in check.evidence] == [1, 2]


def test_a_wiped_board_that_votes() -> None:
    world = healthy()
    world.cut("f02", "b2", journal=1, kind="wipe")
    world.boards["b2"].next_height = world.height
    world.operate("put", "k0", "x")
    check = breach(voting.check, world, "b2 prevoted", "has not been admitted")
    assert check.evidence[0]["journal"] == 1


def test_a_wiped_board_that_says_it_may_vote() -> None:
    world = healthy()
    world.cut("f02", "b2", journal=1, kind="wipe", may_vote=True)
    breach(voting.check, world, "b2 has no valid journal", "may vote")
    world = healthy()
    world.cut("f02", "b2", journal=1, kind="wipe")
    world.cut("f03", "b2")
    breach(voting.check, world, "b2 lost its journal", "never admitted again")


def test_a_wiped_board_that_is_admitted_votes_from_then_on() -> None:
    world = healthy()
    world.cut("f02", "b2", journal=1, kind="wipe")
    boot = world.boards["b2"].boot
    world.decide([(2, boot, "admit", "2", str(boot), None)], voting=["b1", "b3"])
    world.tell("b2", "admitted", board=2, height=world.height)
    world.operate("put", "k0", "x")
    fine(voting.check, world)
    world.cut("f03", "b2")
    fine(voting.check, world)


def test_a_vote_before_the_height_of_the_admission() -> None:
    world = healthy()
    world.cut("f02", "b2", journal=1, kind="wipe")
    world.tell("b2", "admitted", board=2, height=world.height + 1)
    world.boards["b2"].next_height = world.height
    world.prevote("b2", "ab" * 8)
    breach(voting.check, world, f"admitted from {world.height + 1} on")


def test_a_quorum_one_short_by_its_own_word() -> None:
    world = healthy(5)
    world.operate("put", "k0", "x", voting=["b1", "b2"])
    check = breach(voting.check, world, "weight 2 of 5", "no majority")
    assert {entry["board"] for entry in check.evidence} >= {"b1", "b2"}


def test_a_quorum_that_was_counted_wrongly() -> None:
    world = healthy(5)
    world.operate("put", "k0", "x", voting=["b1", "b2"])
    world.change(is_event("b1", "decided", height=15, weight=2), weight=3)
    world.change(is_event("b2", "decided", height=15, weight=2), weight=3)
    world.operate("put", "k0", "y")
    breach(voting.check, world, "only ['b1', 'b2'] can have precommitted")


def test_votes_that_were_lost_with_the_power_may_have_been_cast() -> None:
    world = healthy(5)
    everybody = ["b1", "b2", "b3", "b4", "b5"]
    world.operate("put", "k0", "x", boards=["b1", "b2", "b4", "b5"])
    world.drop(lambda event: event.board == "b3" and event.fields.get("height") == 15)
    world.drop(
        lambda event: event.board in ("b4", "b5") and event.kind.startswith("pre") and event.fields["height"] == 15
    )
    for name in everybody:
        world.boards[name].next_height = 16
    world.cut("f02", "b3", "b4", "b5", kind="blackout")
    world.drop(lambda event: event.board in ("b4", "b5") and event.kind in ("decided", "applied") and event.boot == 1)
    fine(voting.check, world)


# Validity.


def test_a_command_that_nobody_asked_for() -> None:
    world = healthy()
    world.decide([(1000, 999, "put", "k0", "planted", None)])
    breach(validity.check, world, "no client asked for")


def test_a_command_with_another_content() -> None:
    world = healthy()
    world.change(is_event("b2", "applied", height=2), value="other")
    breach(validity.check, world, "b2", "another content")


def test_a_request_that_is_applied_twice() -> None:
    world = healthy()
    item = world.operations[0]
    world.decide([(item.client, item.request, "put", item.key, item.value, None)])
    breach(validity.check, world, "request 1 at height 1 and again at 15")


def test_a_client_that_is_told_another_value_than_was_applied() -> None:
    world = healthy()
    item = next(item for item in world.operations if item.operation == "get")
    item.result = "invented"
    breach(validity.check, world, "'invented'")


def test_a_merged_item_that_its_writer_never_wrote() -> None:
    world = healthy()
    world.change(is_event("b3", "merged", key="shape"), value="square")
    breach(validity.check, world, "b3", "shape")
    world = healthy()
    world.change(is_event("b3", "merged", key="shape"), writer=99)
    breach(validity.check, world, "not in the rig")


# Durability.


def test_an_acknowledged_write_that_vanishes_with_everybody() -> None:
    world = healthy()
    item = world.ask("put", "k0", "lost")
    world.answer(item, "ok", None, world.height)
    world.cut("f02", "b1", "b2", "b3", kind="blackout")
    world.wait(9.0)
    check = breach(durability.check, world, "acknowledged put", "vanished")
    assert check.evidence[0]["value"] == "lost" and {entry["board"] for entry in check.evidence[1:]} == {
        "b1",
        "b2",
        "b3",
    }


def test_an_acknowledged_write_that_is_not_in_the_log() -> None:
    world = healthy()
    item = world.ask("put", "k0", "lost")
    world.answer(item, "ok", None, 3)
    world.wait(9.0)
    breach(durability.check, world, "not among what", "height 3")


def test_a_write_acknowledged_in_the_last_moment_is_not_held_against_anybody() -> None:
    world = healthy()
    world.answer(world.ask("put", "k0", "late"), "ok", None, world.height)
    fine(durability.check, world)


def test_an_acknowledged_gossip_write_that_no_board_ever_had() -> None:
    world = healthy()
    world.answer(world.ask("write", "lost", "x", board="b2"), "ok", None, None)
    world.cut("f02", "b2")
    world.wait(9.0)
    breach(durability.check, world, "b2 acknowledged a write of 'lost'")


def test_a_gossip_write_whose_event_was_lost_is_found_by_its_number() -> None:
    world = healthy()
    world.answer(world.ask("write", "unheard", "x", board="b2"), "ok", None, None)
    world.boards["b2"].gossip_number += 1
    world.cut("f02", "b2")
    world.wait(9.0)
    fine(durability.check, world)


def test_a_gossip_write_may_be_among_the_events_that_are_missing() -> None:
    world = healthy()
    world.answer(world.ask("write", "overrun", "x", board="b2"), "ok", None, None)
    world.boards["b2"].sequence += 1  # its ring of events was full
    world.digests("b2")
    world.wait(9.0)
    unsure(durability.check, world, "1 events of the last life of b2 are missing")
    world.answer(world.ask("write", "lost", "x", board="b2"), "ok", None, None)
    world.wait(9.0)
    breach(durability.check, world, "b2 acknowledged a write of 'lost'", "2 such writes")


def test_a_gossip_write_that_one_board_never_gets() -> None:
    world = healthy()
    world.write("b1", "missing", "x", merged_by=["b2"])
    world.wait(9.0)
    check = breach(durability.check, world, "'missing'", "b3")
    assert check.evidence[0]["step"] == "written"


def test_a_write_that_only_a_wiped_board_had_is_lost_with_it() -> None:
    world = healthy()
    world.write("b2", "mine", "x", merged_by=[])
    world.cut("f02", "b2", journal=1, kind="wipe")
    world.wait(9.0)
    assert "mine" not in found(durability.check, world).detail


def test_a_wiped_board_need_not_have_what_is_deleted_and_forgotten() -> None:
    world = healthy()
    world.cut("f02", "b2", journal=1, kind="wipe")
    shape = next(event for event in world.events if event.kind == "written" and event.fields["key"] == "shape")
    world.merge("b2", shape, repair=True)
    world.wait(9.0)
    fine(durability.check, world)  # `colour` was deleted before; b2 has neither its value nor its tombstone


# Linearizability of a run.


def test_a_stale_get() -> None:
    world = healthy()
    world.operate("put", "k0", "new")
    item = world.operate("get", "k0")
    item.result = "after3"
    check = breach(register.check, world, "key 'k0'", "'after3'", "b1")
    assert check.evidence[-1]["note"] == "no order explains this one"


def test_an_unanswered_put_may_be_seen_later() -> None:
    world = healthy()
    world.ask("put", "k0", "unanswered")
    item = world.operate("get", "k0")
    item.result = "unanswered"
    fine(register.check, world)
    item.outcome, item.status, item.result = Outcome.OK, "ok", "never written"
    breach(register.check, world, "'never written'")


def test_a_mismatch_that_names_a_stale_value() -> None:
    world = healthy()
    world.operate("put", "k0", "new")
    item = world.operate("cas", "k0", "x", "nonsense")
    item.result = "after0"
    breach(register.check, world, "'mismatch'")


def test_a_search_that_is_given_up_is_unknown() -> None:
    check = register.check(Run(healthy().history()), steps=2)
    assert check.verdict is Verdict.UNKNOWN and "given up" in check.detail


# Gossip.


def test_a_deleted_key_that_comes_back() -> None:
    world = World(3)
    world.boot()
    old = world.write("b1", "colour", "red", merged_by=["b2"])
    world.write("b3", "colour", None, merged_by=["b1"])
    world.merge("b1", old)
    check = breach(gossip.check, world, "b1 brought back the deleted key 'colour'")
    assert [entry["note"] for entry in check.evidence] == ["the tombstone", "the older update"]


def test_a_deleted_key_that_comes_back_after_it_was_forgotten_and_over_a_reboot() -> None:
    world = World(3)
    world.boot()
    old = world.write("b1", "colour", "red", merged_by=["b2"])
    grave = world.write("b3", "colour", None)
    world.tell("b3", "forgotten", key="colour", stamp=grave.fields["stamp"], writer=3)
    world.cut("f01", "b3")
    world.merge("b3", old)
    breach(gossip.check, world, "b3 brought back")


def test_a_value_that_falls_back() -> None:
    world = World(3)
    world.boot()
    old = world.write("b1", "colour", "red")
    world.write("b1", "colour", "blue")
    world.merge("b2", old)
    breach(gossip.check, world, "b2 fell back at key 'colour'")


def test_boards_that_do_not_converge() -> None:
    world = healthy()
    world.write("b1", "late", "x", merged_by=["b2"])
    world.digests()
    world.wait(6.0)
    check = breach(gossip.check, world, "b3 hold another gossip store")
    assert any(entry.get("key") == "late" for entry in check.evidence)
    unsure(gossip.check, world, "ended before the bound", checks={"converge_within_s": 20.0})


def test_boards_that_converge_too_late() -> None:
    world = healthy()
    item = world.write("b1", "late", "x", merged_by=["b2"])
    world.digests()
    world.wait(6.0)
    world.merge("b3", item)
    world.digests("b3")
    breach(gossip.check, world, "b3 came to hold", "allowed are 5.0 s")


def test_a_board_that_never_tells_its_digest() -> None:
    world = healthy()
    world.drop(is_event("b2", "digest"))
    unsure(gossip.check, world, "b2 never told")


# Membership.


def test_a_live_board_that_is_left_for_dead() -> None:
    world = healthy()
    world.tell("b1", "member", channel="mqtt", board=3, state=2, incarnation=1)
    breach(membership.check, world, "b1 still holds b3 for dead")
    world.tell("b1", "member", channel="mqtt", board=3, state=0, incarnation=2)
    fine(membership.check, world)


def test_a_dead_board_that_nobody_misses() -> None:
    world = healthy()
    world.tell("b1", "member", channel="mqtt", board=2, state=1, incarnation=1)
    world.tell("b1", "member", channel="mqtt", board=2, state=0, incarnation=2)
    world.fault("f02", "cut", "applied", "b3")
    world.fault("f02", "cut", "proven", "b3")
    world.wait(4.0)
    world.tell("b1", "member", channel="mqtt", board=3, state=2, incarnation=2)
    world.wait(4.0)
    world.boot("b3")
    world.fault("f02", "cut", "healed", "b3")
    world.tell("b1", "member", channel="mqtt", board=3, state=0, incarnation=3)
    check = breach(membership.check, world, "b2 never held b3 for dead")
    assert check.metrics["outages_checked"] == 2


@pytest.mark.parametrize("kind", ["cut", "cut_mid_write"])
def test_a_cut_that_lied_or_never_sprang_is_no_outage(kind: str) -> None:
    world = healthy()
    world.tell("b1", "member", channel="mqtt", board=2, state=1, incarnation=1)
    world.tell("b1", "member", channel="mqtt", board=2, state=0, incarnation=2)
    world.fault("f02", kind, "applied", "b3")
    world.wait(8.0)
    world.fault("f02", kind, "unproven", "b3")
    world.fault("f02", kind, "healed", "b3")
    check = fine(membership.check, world)
    assert check.metrics["outages_checked"] == 0


def test_two_sides_of_a_split_hold_each_other_for_dead() -> None:
    def split(told: bool) -> World:
        world = healthy()
        pairs = {
            f"{one} -> {other}": {"matched": 5}
            for one, other in (("b1", "b3"), ("b3", "b1"), ("b2", "b3"), ("b3", "b2"))
        }
        world.fault("f02", "split", "applied", "b1", "b2", "b3")
        world.fault("f02", "split", "proven", "b1", "b2", "b3", **pairs)
        sides = [("b1", 3), ("b2", 3), ("b3", 1), ("b3", 2)]
        for observer, gone in sides:
            if told or observer != "b2":
                world.tell(observer, "member", channel="mqtt", board=gone, state=2, incarnation=2)
        world.wait(6.0)
        world.fault("f02", "split", "healed", "b1", "b2", "b3")
        for observer, gone in sides:
            world.tell(observer, "member", channel="mqtt", board=gone, state=0, incarnation=3)
        return world

    assert fine(membership.check, split(True)).metrics["outages_checked"] == 4
    breach(membership.check, split(False), "b2 never held b3 for dead")


# Liveness.


def test_operations_that_are_never_done_after_the_heal() -> None:
    world = healthy()
    world.cut("f02", "b1")
    for _ in range(3):
        world.ask("put", "k0", "x")
    world.wait(6.0)
    check = breach(liveness.check, world, "none of 3 operations")
    assert check.evidence[0]["operation"] == "put"
    unsure(liveness.check, world, "before the bound", checks={"progress_within_s": 60})


def test_no_operation_after_the_heal() -> None:
    world = healthy()
    world.cut("f02", "b1")
    unsure(liveness.check, world, "no operation was tried")


def test_a_voter_that_stays_behind() -> None:
    world = healthy()
    world.operate("put", "k0", "x", boards=["b1", "b2"], voting=["b1", "b2"])
    world.wait(6.0)
    breach(liveness.check, world, "b3 is at height 15", "16 had been reached")


def test_a_voter_that_does_not_come_back() -> None:
    world = healthy(5)
    world.fault("f02", "cut", "applied", "b5")
    world.fault("f02", "cut", "healed", "b5")
    others = ["b1", "b2", "b3", "b4"]
    world.operate("put", "k0", "x", boards=others, voting=others)
    world.wait(6.0)
    breach(liveness.check, world, "b5 is at height 15")


# Faults and telemetry: what makes a run unknown.


def test_a_fault_that_is_not_proven() -> None:
    world = healthy()
    world.faults = [record for record in world.faults if record.stage is not FaultStage.PROVEN]
    unsure(faults.check, world, "f01", "never proven")
    world.fault("f01", "cut", "unproven", "b3", on=True)
    check = unsure(faults.check, world, "f01", "could not be proven")
    assert check.evidence[0]["evidence"] == {"on": True}


def test_a_fault_that_is_not_applied_or_not_healed() -> None:
    world = healthy()
    world.plan.append({"id": "f09", "kind": "split"})
    unsure(faults.check, world, "f09", "never applied")
    world = healthy()
    world.faults = [record for record in world.faults if record.stage is not FaultStage.HEALED]
    unsure(faults.check, world, "f01", "never healed")


def test_gaps_make_a_run_unknown() -> None:
    world = healthy()
    world.gaps.append(Gap("b2", 1, 30, 32, "lost on the way"))
    unsure(telemetry.check, world, "events 30 to 32 of b2")
    world = healthy()
    world.drop(lambda event: event.board == "b2" and event.sequence == 30)
    unsure(telemetry.check, world, "events 30 to 30 of b2")
    world = healthy()
    world.tell("b2", "lost_events", first=3, last=9)
    unsure(telemetry.check, world, "b2 lost its events 3 to 9")


def test_the_tail_of_one_channel_is_no_gap() -> None:
    world = healthy()
    world.tell("b3", "metrics", channel="mqtt")
    lost = world.tell("b3", "metrics", channel="mqtt")
    world.tell("b3", "digest", protocol="vote", height=15, digest="aa", count=1)
    world.events.remove(lost)
    world.cut("f02", "b3")
    fine(telemetry.check, world)


def test_what_a_killed_broker_had_taken_is_no_gap_of_safety() -> None:
    world = healthy()
    world.gaps.append(Gap("b2", 1, 30, 32, "lost on the way by mqtt, none of them a safety event"))
    unsure(telemetry.check, world, "events 30 to 32")
    world.fault("f02", "broker_kill", "applied")
    assert fine(telemetry.check, world).metrics["events_lost_with_the_broker"] == 3


def test_a_missing_boot_event() -> None:
    world = healthy()
    world.drop(lambda event: event.board == "b2" and event.kind == "boot")
    unsure(telemetry.check, world, "boot 1 of b2 has no boot event")


def test_a_boot_that_was_never_heard() -> None:
    world = healthy()
    world.wait(20.0)
    world.boards["b2"].boot += 1
    world.boot("b2")
    unsure(telemetry.check, world, "boot 2 of b2 was never heard")


def test_a_boot_that_was_cut_before_it_could_speak_is_no_gap() -> None:
    world = healthy()
    world.boards["b2"].boot += 1
    world.cut("f02", "b2", kind="power_flap")
    world.gaps.append(Gap("b2", 2, 0, 0, "nothing of this boot arrived"))
    assert fine(telemetry.check, world).metrics["boots_cut_before_they_spoke"] == 1


def test_a_board_that_was_never_heard() -> None:
    world = World(3)
    world.boot("b1", "b2")
    for _ in range(12):
        world.operate("put", "k0", "x", boards=["b1", "b2"], voting=["b1", "b2"])
    unsure(telemetry.check, world, "b3 was never heard at all")


def test_a_run_that_was_interrupted_or_too_short() -> None:
    unsure(telemetry.check, healthy(), "interrupted", finished=False)
    world = World(3)
    world.boot()
    unsure(telemetry.check, world, "only 0 operations")
    unsure(telemetry.check, healthy(), "damaged", damage=["events.jsonl line 9 is torn: 17 bytes dropped"])


def test_an_interrupted_run_accuses_nobody_of_its_end_state() -> None:
    world = healthy()
    world.operate("put", "k0", "x", boards=["b1", "b2"], voting=["b1", "b2"])
    world.write("b1", "missing", "x", merged_by=["b2"])
    world.tell("b1", "member", channel="mqtt", board=3, state=2, incarnation=1)
    world.now_ns += 10 * SECOND
    document = judge(world.history(finished=False))
    assert document["verdict"] == "unknown", [c for c in document["checks"] if c["verdict"] == "invalid"]
