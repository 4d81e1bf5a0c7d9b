"""The check of byzantine agreement passes a run with a malicious board, and fails each breach among honest ones."""

from __future__ import annotations

import pytest
from brownout.checkers import byzantine
from brownout.checkers.run import Run
from brownout.history import Check, Operation, Verdict
from history_builder import World, is_event

BPUT, BGET = 96, 97


class Boards(World):
    """Four voters that decide by byzantine.py; b4 may be malicious."""

    def __init__(self) -> None:
        super().__init__(4)
        self.boot()
        for name in self.boards:
            self.tell(name, "byzantine_standing", may_vote=True, next_height=1)

    def decide_one(self, item: Operation, *boards: str, value_id: str = "aa", result: str | None = None) -> None:
        """One height with one command, at these boards."""
        height = self.height
        self.tell("b1", "byzantine_proposed", height=height, view=0, value_id=value_id)
        for phase in (1, 2, 3, 4):
            for name in boards:
                self.tell(name, "byzantine_voted", height=height, view=0, phase=phase, value_id=value_id)
        for name in boards:
            self.tell(name, "byzantine_decided", height=height, view=0, value_id=value_id, weight=3, caught_up=False)
            self.apply(name, item, height, result)
        self.height += 1

    def apply(self, board: str, item: Operation, height: int, result: str | None = None, **changed) -> None:
        fields = {
            "height": height,
            "origin": self.boards[item.board].number,
            "client": item.client,
            "request": item.request,
            "operation": BPUT if item.operation == "bput" else BGET,
            "key": item.key,
            "value": item.value,
            "status": 0,
            "result": result,
        }
        self.tell(board, "byzantine_applied", **{**fields, **changed})

    def digest(self, board: str, digest: str) -> None:
        self.tell(board, "digest", protocol="byzantine", height=self.height, digest=digest, count=1)


ALL = ("b1", "b2", "b3", "b4")
HONEST = ALL[:3]


def peaceful() -> Boards:
    """The story without its malicious board."""
    world = story()
    world.drop(lambda event: event.kind in ("adversary", "byzantine_heard"))
    world.faults.clear()
    return world


def story() -> Boards:
    world = Boards()
    put = world.ask("bput", "k", "v")
    world.decide_one(put, *ALL)
    world.answer(put, "ok", None, 1)
    world.fault("f01", "equivocate", "planned", "b4")
    world.fault("f01", "equivocate", "applied", "b4")
    world.tell("b4", "adversary", behaviour=2, split=2)
    world.fault("f01", "equivocate", "proven", "b4")
    get = world.ask("bget", "k", None, board="b2")
    world.decide_one(get, *HONEST, result="v", value_id="bb")
    world.answer(get, "ok", "v", 2)
    world.tell("b4", "byzantine_voted", height=2, view=0, phase=1, value_id="bb")
    world.tell("b1", "byzantine_heard", board=4, height=2, view=0, phase=1, value_id="cc")
    world.tell("b4", "adversary", behaviour=0, split=0)
    world.fault("f01", "equivocate", "healed", "b4")
    world.tell("b4", "byzantine_caught_up", first=2, next=3, copied=False)
    for name in ALL:
        world.digest(name, "dd")
        world.tell(name, "metrics")
    return world


def judged(world: World) -> Check:
    return byzantine.check(Run(world.history(protocols=["adversary", "byzantine"])))


def breach(world: World, words: str) -> None:
    check = judged(world)
    assert check.verdict is Verdict.INVALID
    assert words in check.detail
    assert check.evidence


def test_a_run_with_a_malicious_board_is_valid_and_names_its_contradictions() -> None:
    check = judged(story())
    assert check.verdict is Verdict.VALID, check.detail
    assert check.metrics["malicious_boards"] == ["b4"]
    assert judged(peaceful()).metrics["answers_compared"] == 2
    (proof,) = check.evidence
    assert proof["contradiction"] == "b4 said two things for phase 1 of view 0 of height 2"
    assert {entry["value_id"] for entry in proof["told"]} == {"bb", "cc"}


def test_honest_boards_that_decide_differently() -> None:
    world = story()
    world.tell("b3", "byzantine_decided", height=2, view=1, value_id="ee", weight=3, caught_up=False)
    breach(world, "height 2 was decided differently by honest boards: b1 bb, b3 ee")


def test_what_a_malicious_board_decides_counts_for_nothing() -> None:
    world = story()
    world.tell("b4", "byzantine_decided", height=2, view=1, value_id="ee", weight=3, caught_up=False)
    assert judged(world).verdict is Verdict.VALID


def test_honest_boards_in_different_states() -> None:
    world = story()
    world.digest("b3", "ee")
    breach(world, "honest boards' state at height 3 differs")


def test_honest_boards_that_apply_different_commands() -> None:
    world = story()
    world.change(is_event("b2", "byzantine_applied", height=1), value="w")
    breach(world, "applied different commands")


def test_a_command_in_the_name_of_an_honest_boards_client_that_nobody_asked_for() -> None:
    world = story()
    forged = Operation(1, 1000, 99, "bput", "k", "forged", None, "b2", world.now_ns)
    for name in HONEST:
        world.apply(name, forged, 2)
        world.tell(name, "metrics")
    breach(world, "what no client asked of b2")


def test_a_malicious_board_may_invent_requests_of_its_own_clients() -> None:
    world = story()
    forged = Operation(1, 1000, 99, "bput", "k", "forged", None, "b4", world.now_ns)
    for name in HONEST:
        world.apply(name, forged, 2)
        world.tell(name, "metrics")
    check = judged(world)
    assert check.verdict is Verdict.VALID, check.detail
    assert check.metrics["commands_invented"] == 3


def test_a_command_that_is_applied_twice() -> None:
    world = story()
    for name in HONEST:
        world.apply(name, world.operations[0], 2)
        world.tell(name, "metrics")
    breach(world, "twice")


def test_an_honest_board_that_answers_something_else() -> None:
    world = peaceful()
    world.operations[1].result = "w"
    breach(world, "applied it otherwise")


def test_an_answer_of_a_malicious_board_counts_for_nothing() -> None:
    world = story()
    lied = world.ask("bget", "k", None, board="b4")
    world.decide_one(lied, *HONEST, result="v", value_id="ee")
    world.answer(lied, "ok", "lie", 3)
    assert judged(world).verdict is Verdict.VALID


def test_an_operation_that_is_applied_before_one_that_was_finished() -> None:
    world = peaceful()
    late = world.ask("bput", "k", "late")
    for name in HONEST:
        world.apply(name, late, 1)
        world.tell(name, "metrics")
    world.answer(late, "ok", None, 1)
    breach(world, "stands at height 2")


@pytest.mark.parametrize("reboot", [False, True])
def test_an_honest_board_that_votes_twice_in_a_phase(reboot: bool) -> None:
    world = story()
    if reboot:
        world.boot("b2")
    world.tell("b2", "byzantine_voted", height=2, view=0, phase=4, value_id="ee")
    breach(world, "b2 voted for two values in phase 4 of view 0 of height 2")


def test_an_honest_board_that_votes_in_a_view_that_it_left() -> None:
    world = story()
    world.tell("b2", "byzantine_view", height=3, view=2, leader=1)
    world.tell("b2", "byzantine_voted", height=3, view=1, phase=1, value_id="ee")
    breach(world, "which it had left")


def test_an_honest_board_that_others_heard_say_something_else() -> None:
    world = story()
    world.tell("b1", "byzantine_heard", board=3, height=2, view=0, phase=2, value_id="ff")
    breach(world, "b3 is honest, and said two things for phase 2 of view 0 of height 2")


def test_a_contradiction_that_one_board_heard() -> None:
    world = story()
    world.tell("b1", "contradiction", board=3, height=9, view=0, phase=0, first="ee", second="ff")
    breach(world, "b3 is honest, and said two things for the proposal of view 0 of height 9")


def test_an_honest_voter_that_stays_behind() -> None:
    world = story()
    for name in ("b1", "b2"):
        world.tell(name, "byzantine_decided", height=3, view=0, value_id="ee", weight=3, caught_up=False)
    world.wait(30)
    world.tell("b1", "metrics")
    breach(world, "b3 is at height 3 at the end, and 4 had been reached")
