"""The check of stakes: one true story of two epochs, and each way in which it can go wrong."""

from __future__ import annotations

from typing import Any

import pytest
from brownout.checkers import majority, recovery, stake, voting
from brownout.checkers.run import Run
from brownout.history import Check, Verdict
from history_builder import World

EPOCH = 4
OPTIONS = {"stake": {"epoch": EPOCH, "unit": 10, "purse": 30}}
TURNS = (1, 2, 3, 1, 2, 2, 1, 3, 2, 2, 1, 2)  # stakes 10 10 10, then 10 30 10


class Stakes(World):
    """Three voters with 10 each and 30 free; board 2 gets 20 more at height 2, board 3 gives 3 back at height 10."""

    def __init__(self, **changed: Any) -> None:
        super().__init__(3)
        self.changed = changed
        self.manifest["protocols"] = ["membership", "stake"]
        self.stakes = {1: 10, 2: 10, 3: 10}
        self.coming = dict(self.stakes)
        self.free, self.leaving = 30, 0
        self.turns = dict(enumerate(changed.get("turns", TURNS), 1))
        self.boot()

    def epoch(self, board: str, height: int) -> None:
        change = self.changed.get("epoch", {}).get((board, height), {})
        self.tell(board, "purse", height=height, free=self.free + change.get("free", 0), leaving=self.leaving)
        for number, own in self.stakes.items():
            told = own + change.get(number, 0)
            fields = {"height": height, "stake": told, "coming": self.coming[number] + change.get(number, 0)}
            self.tell(board, "staked", **fields, board=number, priority=change.get("priority", 0))

    def move(self, height: int, number: int, amount: int) -> None:
        self.coming[number] += amount
        self.free -= max(0, amount)
        self.leaving += max(0, -amount)
        for name in self.boards:
            fields = {"height": height, "board": number, "amount": amount, "stake": self.coming[number]}
            fields |= {"free": self.free, "leaving": self.leaving, "since": height + EPOCH - (height - 1) % EPOCH}
            fields |= self.changed.get("bonded", {}).get(name, {})
            self.tell(name, "bonded", **fields)

    def story(self) -> Stakes:
        for name in self.boards:
            self.epoch(name, 1)
        for height in range(1, 13):
            for name in self.boards:
                turn = self.changed.get("turn", {}).get((name, height), self.turns[height])
                self.tell(name, "turn", height=height, board=turn)
            began = self.changed.get("begins", {}).get(height, f"b{self.turns[height]}")
            self.vote(height, began)
            for at, number, amount in self.changed.get("moves", ((2, 2, 20), (10, 3, -3))):
                if at == height:
                    self.move(height, number, amount)
            if height % EPOCH == 0:
                if not self.changed.get("late"):
                    self.stakes = dict(self.coming)
                self.free, self.leaving = self.free + self.leaving, 0
                for name in self.boards:
                    self.epoch(name, height + 1)
        return self

    def vote(self, height: int, proposer: str) -> None:
        value_id = f"{height:016x}"
        voters = self.changed.get("voters", {}).get(height, ("b1", "b2", "b3"))
        weight = sum(self.stakes[int(name[1])] for name in voters)
        self.tell(proposer, "proposed", height=height, round=0, value_id=value_id, valid_round=-1)
        for name in voters:
            self.boards[name].next_height = height
            self.prevote(name, value_id)
            self.precommit(name, value_id)
        for name in self.boards:
            claimed = self.changed.get("weight", {}).get(height, weight)
            self.catch_up(name, height, 0, value_id, [], [], claimed)


def judged(world: World, checker: Any = stake.check) -> Check:
    history = world.history()
    history.plan["options"] = OPTIONS
    check: Check = checker(Run(history))
    return check


def test_a_story_in_which_everything_is_right_passes() -> None:
    check = judged(Stakes().story())
    assert check.verdict is Verdict.VALID, check
    assert check.metrics["stakes_moved"] == 2
    assert check.metrics["accounts_balanced"] == 12
    assert check.metrics["decisions_by_stake"] == 36
    assert check.metrics["turns"] == 12
    assert judged(Stakes().story(), voting.check).verdict is Verdict.VALID


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epoch": {("b2", 5): {1: 1}}}, "b1 and b2 have another stake of board 1 from height 5 on"),
        ({"epoch": {("b2", 5): {"priority": 7}}}, "another priority of board 1"),
        ({"epoch": {("b3", 5): {"free": 4}}}, "b3 has 64 of stakes and purse"),
        ({"epoch": {(name, 9): {"free": -11, 1: 11} for name in ("b1", "b2", "b3")}}, "b1 has -1 of something"),
        ({"bonded": {"b1": {"stake": 31}}}, "it should have 30, 10 and 0"),
        ({"bonded": {"b1": {"since": 3}}}, "the next epoch begins at 5"),
        ({"bonded": {"b1": {"free": -10}}}, "moved more stake than there was"),
        ({"late": True}, "begins the epoch of height 5 without what was moved before, of boards [2]"),
        ({"weight": {6: 25}}, "decided height 6 by a stake of 25; in force there are 50"),
        ({"weight": {6: 51}}, "decided height 6 by a stake of 51"),
        ({"turn": {("b2", 3): 1}}, "b1 and b2 differ on whose turn height 3 is"),
        ({"begins": {3: "b1"}}, "b1 began height 3, which is the turn of b3"),
        ({"turns": [1] * 12}, "b1 had 4 of 4 turns up to height 4"),
        ({"moves": ((1, 3, -10),)}, "height 8 is the turn of b3, which has no stake"),
    ],
    ids=str,
)
def test_each_thing_that_goes_wrong_is_found(changed: dict[str, Any], words: str) -> None:
    check = judged(Stakes(**changed).story())
    assert check.verdict is Verdict.INVALID, check
    assert words in check.detail
    assert check.evidence


def test_two_boards_of_three_are_no_majority_without_half_of_the_stake() -> None:
    """Boards 1 and 3 hold 20 of 50 from height 5 on; the same two carry height 3 rightly."""
    assert judged(Stakes(voters={3: ("b1", "b3")}).story(), voting.check).verdict is Verdict.VALID
    check = judged(Stakes(voters={6: ("b1", "b3")}, weight={6: 30}).story(), voting.check)
    assert check.verdict is Verdict.INVALID, check
    assert "weight 20 of 50" in check.detail


@pytest.mark.parametrize(("away", "verdict"), [("b2", Verdict.VALID), ("b1", Verdict.INVALID)])
def test_a_minority_that_is_away_is_one_of_the_stake(away: str, verdict: Verdict) -> None:
    """Board 2 has 30 of 47 in the end: without it nothing can be decided, while board 1 alone holds nobody up."""
    world = Stakes().story()
    other = "b3"
    last = {away: world.boards[away].boot}
    world.fault("f01", "cut", "planned", away)
    world.fault("f01", "cut", "applied", away, last_boots=last)
    world.fault("f01", "cut", "proven", away)
    world.ask("put", "k0", "x", board=other)
    world.wait(12.0)
    world.boot(away)
    world.fault("f01", "cut", "healed", away)
    check = judged(world, majority.check)
    assert check.verdict is verdict, check
    assert check.metrics["outages_of_a_minority_checked"] == (verdict is Verdict.INVALID)


@pytest.mark.parametrize(("lost", "verdict"), [("b1", Verdict.VALID), ("b2", Verdict.INVALID)])
def test_who_holds_most_of_the_stake_must_not_lose_its_journal(lost: str, verdict: Verdict) -> None:
    world = Stakes().story()
    world.boot(lost, journal=1)
    world.tell(lost, "digest", protocol="vote", height=13, digest="d" * 16, count=0)
    assert judged(world, recovery.check).verdict is verdict


def test_what_nobody_told_accuses_nobody() -> None:
    world = Stakes(weight={6: 25}).story()
    world.events = [event for event in world.events if event.kind not in ("staked", "purse", "bonded")]
    check = judged(world)
    assert check.verdict is Verdict.VALID, check
    assert check.metrics["decisions_by_stake"] == 0
