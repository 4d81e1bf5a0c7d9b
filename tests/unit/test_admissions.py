"""Admissions as the voting check judges them: only what was asked for in this very boot gives a board its vote back."""

from __future__ import annotations

import pytest
from brownout.checkers import voting
from brownout.checkers.run import Run
from brownout.history import Verdict
from history_builder import World


@pytest.mark.parametrize("stale", [False, True])
def test_an_admission_of_an_earlier_life_gives_no_vote(stale: bool) -> None:
    world = World(3)
    world.boot()
    world.operate("put", "k0", "x")
    world.cut("f01", "b2", journal=1, kind="wipe")
    boot = world.boards["b2"].boot
    world.decide([(2, boot, "admit", "2", str(boot), None)], voting=["b1", "b3"])
    height = world.height
    world.tell("b2", "admitted", board=2, height=height)
    world.operate("put", "k0", "y")
    world.wait(1.0)
    world.cut("f02", "b2", journal=1, kind="wipe")
    if not stale:
        boot = world.boards["b2"].boot
        world.decide([(2, boot, "admit", "2", str(boot), None)], voting=["b1", "b3"])
        height = world.height
    world.tell("b2", "admitted", board=2, height=height)
    check = voting.check(Run(world.history()))
    assert check.verdict == (Verdict.INVALID if stale else Verdict.VALID), check.detail
    if stale:
        assert "had been decided before that boot began" in check.detail
