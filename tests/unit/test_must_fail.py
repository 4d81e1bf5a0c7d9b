"""Every checker that judges a run has a history that it must fail, beside one that differs in that alone and passes.

The table is compared to the registered checkers, so that one without such a pair cannot be added. What each checker
finds and shows in detail is tested where it is at home. Must not say anything of how a checker works.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from brownout.checkers import CHECKERS
from brownout.checkers.run import Run
from brownout.checkers.work import work_of
from brownout.history import Check, FaultStage, Gap, Verdict
from brownout_node.core import codec
from brownout_node.core.mirror import COUNTER
from history_builder import World, healthy, is_event

Story = Callable[[bool], World]  # with the breach, or without


def name_of(checker: Callable[[Run], Check]) -> str:
    return checker.__module__.rpartition(".")[2]


def agreement(breach: bool) -> World:
    world = healthy()
    if breach:
        world.change(is_event("b2", "decided", height=4), value_id="f" * 16)
    return world


def promises(breach: bool) -> World:
    world = healthy()
    world.prevote("b3", "ab" * 8)
    world.cut("f02", "b3", **({"prevote_round": -1, "prevoted": None} if breach else {}))
    return world


def voting(breach: bool) -> World:
    world = healthy(5)
    world.operate("put", "k0", "x", voting=["b1", "b2"] if breach else ["b1", "b2", "b3"])
    return world


def validity(breach: bool) -> World:
    world = healthy()
    if breach:
        world.decide([(1000, 999, "put", "k0", "planted", None)])
    else:
        world.operate("put", "k0", "asked for")
    return world


def durability(breach: bool) -> World:
    world = healthy()
    world.write("b1", "note", "x", merged_by=["b2"] if breach else ["b2", "b3"])
    world.wait(9.0)
    return world


def register(breach: bool) -> World:
    world = healthy()
    world.operate("put", "k0", "new")
    item = world.operate("get", "k0")
    if breach:
        item.result = "after3"
    return world


def gossip(breach: bool) -> World:
    world = World(3)
    world.boot()
    old = world.write("b1", "colour", "red", merged_by=["b2"])
    grave = world.write("b3", "colour", None, merged_by=["b1"])
    world.merge("b1", old if breach else grave)
    world.merge("b2", grave)
    world.boards["b1"].items = dict(world.boards["b3"].items)
    world.digests()
    return world


def membership(breach: bool) -> World:
    world = healthy()
    world.tell("b1", "member", channel="mqtt", board=3, state=2, incarnation=1)
    if not breach:
        world.tell("b1", "member", channel="mqtt", board=3, state=0, incarnation=2)
    return world


def byzantine(breach: bool) -> World:
    world = World(4)
    world.boot()
    for board in world.boards:
        world.tell(board, "byzantine_standing", may_vote=True, next_height=1)
    for board in world.boards:
        value_id = "bb" if breach and board == "b2" else "aa"
        world.tell(board, "byzantine_decided", height=1, view=0, value_id=value_id, weight=3, caught_up=False)
    return world


def breaker(breach: bool) -> World:
    world = healthy()
    world.tell("b1", "breaker", state=1, cause=1)
    if not breach:
        world.tell("b1", "breaker", state=0, cause=0)
    world.tell("b1", "submitted", client=1000, request=99, operation=1)
    return world


def mirror(breach: bool) -> World:
    """One increment; a board that lost it and holds the same as the others again counts one less."""
    world = World(3)
    world.boot()
    item = world.ask("increment", "clicks", "3")
    dot = {"line": 1, "number": 1}
    request = {"client": item.client, "request": item.request}
    world.tell("b1", "incremented", **dot, key="clicks", added=3, taken=0, **request)
    world.answer(item, "ok", None, 0)
    for board in ("b2", "b3"):
        world.tell(board, "mirrored", **dot, type=COUNTER, key="clicks", value=None, a=3, b=0)
    row = codec.pack("uuukvuu", (1, 1, COUNTER, "clicks", None, 3, 0))
    for board in world.boards:
        world.tell(board, "digest", protocol="mirror", height=0, digest=hashlib.sha256(row).digest()[:8].hex(), count=1)
    world.wait(9.0)
    read = world.ask("count", "clicks")
    world.answer(read, "ok", "2" if breach else "3", 0)
    return world


def work(breach: bool) -> World:
    world = World(3)
    world.boot()
    target = 1 << 20
    for height in (1, 2):
        parent = f"{height - 1:016x}"
        block = {"height": height, "id": f"{height:016x}", "parent": parent, "target": target}
        world.tell("b1", "mined", **block)
        for board in world.boards:
            odd = breach and height == 2 and board == "b3"
            changed = {"id": "e" * 16, "parent": "f" * 16} if odd else {}
            world.tell(board, "adopted", **{**block, **changed}, total=height * work_of(target))
    return world


def sampling(breach: bool) -> World:
    world = World(3)
    world.boot()
    for value in ("red", "blue"):
        item = world.ask("choose", "colour", value)
        world.answer(item, "ok" if value == "red" else "mismatch", "red", 0)
    for board in world.boards:
        world.tell(board, "accepted", key="colour", value="blue" if breach and board == "b2" else "red", polls=3)
    world.wait(9.0)
    return world


def hand_over(breach: bool) -> World:
    """b1 hands its turns over to b2, and goes on proposing, or does not."""
    world = World(3)
    world.boot()
    at = world.height
    world.tell("b1", "passing", number=1, from_height=at, successor=2)
    for board in ("b2", "b3"):
        world.tell(board, "promised", board=1, boot=1, number=1, from_height=at, height=at)
    world.tell("b1", "handed_over", number=1, from_height=at, successor=2, height=at, weight=3)
    world.tell("b1" if breach else "b2", "proposed", height=at, round=1, value_id="00" * 8, valid_round=-1)
    return world


def stake(breach: bool) -> World:
    """Stakes of 10 and 40 free, as the options' defaults have it; a board that makes 5 more out of nothing."""
    world = World(3)
    world.manifest["protocols"] = ["membership", "stake"]
    world.boot()
    for board in world.boards:
        world.tell(board, "purse", height=1, free=45 if breach and board == "b2" else 40, leaving=0)
        for number in (1, 2, 3):
            world.tell(board, "staked", height=1, board=number, stake=10, coming=10, priority=0)
    return world


def commit(breach: bool) -> World:
    world = World(3)
    world.boot()
    item = world.ask("transfer", "ada", "bob:30")
    request = {"client": item.client, "request": item.request, "version": 1}
    world.answer(item, "ok", None, 0)
    for board, key, change in (("b2", "ada", -30), ("b3", "bob", 30)):
        if board == "b3" and breach:
            world.tell(board, "commit_aborted", coordinator=1, number=1)
        else:
            fields = {"key": key, "change": change, "balance": 100 + change}
            world.tell(board, "commit_applied", coordinator=1, number=1, **request, **fields)
    for board, total in (("b1", 0), ("b2", 70), ("b3", 130)):
        world.tell(board, "commit_shard", total=total, accounts=total > 0, prepared=0)
    return world


def liveness(breach: bool) -> World:
    world = healthy()
    world.cut("f02", "b1")
    if breach:
        world.ask("put", "k0", "x")
    else:
        world.operate("put", "k0", "x")
    world.wait(6.0)
    return world


def majority(breach: bool) -> World:
    world = healthy()
    world.fault("f02", "cut", "planned", "b3")
    world.fault("f02", "cut", "applied", "b3", last_boots={"b3": world.boards["b3"].boot})
    world.fault("f02", "cut", "proven", "b3")
    if breach:
        world.ask("put", "k0", "x")
    else:
        world.operate("put", "k0", "x", boards=["b1", "b2"], voting=["b1", "b2"])
    world.wait(7.0)
    world.boot("b3")
    world.fault("f02", "cut", "healed", "b3")
    return world


def crashes(breach: bool) -> World:
    world = healthy()
    crash = {"board": "b2", "at_ns": 5_000_000_000, "error": "ValueError: x", "trace": "node.py, line 3"}
    world.manifest["crashes"] = [crash] if breach else []
    return world


def faults(breach: bool) -> World:
    world = healthy()
    if breach:
        world.faults = [record for record in world.faults if record.stage is not FaultStage.PROVEN]
    return world


def telemetry(breach: bool) -> World:
    world = healthy()
    if breach:
        world.gaps.append(Gap("b2", 1, 30, 32, "lost on the way"))
    return world


def recovery(breach: bool) -> World:
    """A board takes back a saved state: it may vote only once the log has admitted it."""
    world = healthy()
    world.tell("b3", "restored", height=2, check="c1", digest="d2", votes=breach)
    return world


STORIES: dict[str, Story] = {
    story.__name__: story
    for story in (
        agreement,
        promises,
        voting,
        validity,
        durability,
        register,
        gossip,
        membership,
        byzantine,
        breaker,
        mirror,
        work,
        sampling,
        commit,
        stake,
        hand_over,
        liveness,
        majority,
        recovery,
        crashes,
        faults,
        telemetry,
    )
}
# These say whether the record is whole, not whether boards did right: the worst that they find makes a run unknown.
OF_THE_RECORD = {"faults", "telemetry"}


def test_every_registered_checker_has_a_history_that_it_must_fail() -> None:
    assert {name_of(checker) for checker in CHECKERS} == set(STORIES)


@pytest.mark.parametrize("checker", CHECKERS, ids=name_of)
def test_a_checker_passes_the_story_without_the_breach_and_fails_the_one_with_it(
    checker: Callable[[Run], Check],
) -> None:
    story = STORIES[name_of(checker)]
    passed = checker(Run(story(False).history()))
    assert passed.verdict is Verdict.VALID, passed
    failed = checker(Run(story(True).history()))
    assert failed.verdict is (Verdict.UNKNOWN if name_of(checker) in OF_THE_RECORD else Verdict.INVALID), failed
    assert failed.detail != passed.detail
    if failed.verdict is Verdict.INVALID:
        assert failed.evidence
