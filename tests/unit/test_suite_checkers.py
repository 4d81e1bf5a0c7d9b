"""The checkers of the mirror, of work and of sampling: small true stories, and each with its own thing gone wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from brownout.checkers import mirror, sampling, work
from brownout.checkers.run import Run
from brownout.history import Check, Operation, Outcome, Verdict
from brownout_node.core import codec
from brownout_node.core.mirror import COUNTER, ELEMENT, REGISTER
from history_builder import World, is_event

Checker = Callable[[Run], Check]


def judged(checker: Checker, world: World, **options: dict[str, int]) -> Check:
    history = world.history()
    history.plan["options"] = options
    return checker(Run(history))


def fine(checker: Checker, world: World, **options: dict[str, int]) -> Check:
    check = judged(checker, world, **options)
    assert check.verdict is Verdict.VALID, check
    return check


def breach(checker: Checker, world: World, *words: str, **options: dict[str, int]) -> Check:
    check = judged(checker, world, **options)
    assert check.verdict is Verdict.INVALID, check
    for word in words:
        assert word in check.detail, check.detail
    assert check.evidence
    return check


# The mirror.


class Mirror(World):
    """Three boards; every update is merged by all others at once, unless a test says otherwise."""

    def __init__(self) -> None:
        super().__init__(3)
        self.rows: dict[tuple[int, int], tuple[Any, ...]] = {}
        self.numbers: dict[str, int] = {}
        self.boot()

    def dot(self, board: str) -> dict[str, int]:
        self.numbers[board] = self.numbers.get(board, 0) + 1
        return {"line": self.boards[board].number, "number": self.numbers[board]}

    def write(  # type: ignore[override]
        self, board: str, operation: str, key: str, value: str, to: Iterable[str] | None = None, told: bool = True
    ) -> Operation:
        item = self.ask(operation, key, value, board=board)
        request = {"client": item.client, "request": item.request, "key": key}
        dot = self.dot(board)
        at = (dot["line"], dot["number"])
        if operation == "increment":
            mine = [row for row in self.rows.values() if row[0] == at[0] and row[2] == COUNTER and row[3] == key]
            added, taken = mine[0][5:] if mine else (0, 0)
            added, taken = added + max(0, int(value)), taken + max(0, -int(value))
            self.rows = {name: row for name, row in self.rows.items() if row not in mine}
            self.rows[at] = (*at, COUNTER, key, None, added, taken)
            fields = {**dot, "amount": int(value), "added": added, "taken": taken}
            kind = "incremented"
        elif operation == "add":
            self.rows[at] = (*at, ELEMENT, key, value, 0, 0)
            kind, fields = "added", {**dot, "value": value}
        else:
            stamp = self.stamp + 1
            self.rows = {name: row for name, row in self.rows.items() if row[2] != REGISTER or row[3] != key}
            self.rows[at] = (*at, REGISTER, key, value, stamp, 0)
            kind, fields = "assigned", {**dot, "value": value, "stamp": stamp}
        if told:
            self.tell(board, kind, **request, **fields)
        row = self.rows[at]
        for other in self.names(to):
            if other != board:
                self.tell(other, "mirrored", **dot, type=row[2], key=row[3], value=row[4], a=row[5], b=row[6])
        self.answer(item, "ok", None, 0)
        return item

    def remove(self, board: str, key: str, value: str) -> None:
        item = self.ask("remove", key, value, board=board)
        for at in [at for at, row in self.rows.items() if row[2] == ELEMENT and row[3:5] == (key, value)]:
            del self.rows[at]
            dot = {"line": at[0], "number": at[1]}
            request = {"client": item.client, "request": item.request, "key": key, "value": value}
            self.tell(board, "removed", **request, **dot, replaced=False)
        self.answer(item, "ok", None, 0)

    def digest(self) -> str:
        mix = 0
        for row in self.rows.values():
            mix ^= int.from_bytes(hashlib.sha256(codec.pack("uuukvuu", row)).digest()[:8], "big")
        return mix.to_bytes(8, "big").hex()

    def settle(self, **different: str) -> None:
        """All tell the digest of the same rows, or another one where a test says so."""
        for board in self.boards:
            digest = different.get(board, self.digest())
            self.tell(board, "digest", protocol="mirror", height=0, digest=digest, count=len(self.rows))
        self.wait(6.0)

    def read(self, operation: str, key: str, result: str, height: int = 0) -> None:
        self.answer(self.ask(operation, key), "ok", result, height)


def story(**different: str) -> Mirror:
    world = Mirror()
    world.write("b1", "increment", "hits", "5")
    world.write("b2", "increment", "hits", "-2")
    world.write("b1", "increment", "hits", "3")
    world.write("b1", "add", "team", "ada")
    world.write("b2", "add", "team", "bob")
    world.write("b3", "assign", "mode", "day")
    world.write("b1", "assign", "mode", "night")
    world.remove("b3", "team", "ada")
    world.settle(**different)
    return world


def test_the_mirror_as_it_should_be() -> None:
    world = story()
    world.read("count", "hits", "6")
    world.read("members", "team", "bob", 1)
    check = fine(mirror.check, world)
    assert check.metrics["rows"] == 4
    assert check.metrics["updates_untold"] == 0


def test_boards_that_hold_something_else_have_not_converged() -> None:
    breach(mirror.check, story(b3="00" * 8), "b3 hold something else")


def test_boards_that_agree_on_what_the_updates_do_not_make() -> None:
    """An update that all have lost in the same way: nothing but the sum of the updates shows it."""
    same = "11" * 8
    breach(mirror.check, story(b1=same, b2=same, b3=same), "not the 4 rows")


@pytest.mark.parametrize("result", ["5", "7", "0"])
def test_a_counter_that_lost_an_increment_or_counted_one_twice(result: str) -> None:
    world = story()
    world.read("count", "hits", result)
    breach(mirror.check, world, f"is {result} at the end", "6 to 6")


def test_an_increment_in_doubt_may_count_or_not() -> None:
    for result, verdict in (("6", Verdict.VALID), ("16", Verdict.VALID), ("17", Verdict.INVALID)):
        world = story()
        item = world.ask("increment", "hits", "10")
        item.outcome = Outcome.INFO
        world.read("count", "hits", result)
        assert judged(mirror.check, world).verdict is verdict


def test_a_request_that_was_carried_out_twice() -> None:
    world = story()
    world.change(is_event("b1", "incremented", number=2), request=1)
    breach(mirror.check, world, "twice")


@pytest.mark.parametrize(("members", "words"), [("ada bob", "every add of it was removed"), ("", "nobody removed it")])
def test_sets_that_do_not_hold_what_was_added_and_removed(members: str, words: str) -> None:
    world = story()
    world.read("members", "team", members, len(members.split()))
    breach(mirror.check, world, words)


def test_what_only_a_wiped_board_had_is_not_held_against_anybody() -> None:
    world = Mirror()
    world.write("b1", "increment", "hits", "5")
    world.write("b2", "increment", "hits", "4", to=[])
    del world.rows[2, 1]
    world.cut("f01", "b2", kind="wipe", journal=1)
    world.settle()
    world.read("count", "hits", "5")
    assert fine(mirror.check, world).metrics["updates_lost_with_a_journal"] == 1
    world.read("count", "hits", "4")
    breach(mirror.check, world, "5 to 9")


def test_a_removal_that_only_a_wiped_board_knew_of_is_not_held_against_anybody() -> None:
    for wiped in ("b3", "b2"):
        world = Mirror()
        world.write("b1", "add", "team", "ada")
        row = world.rows[1, 1]
        world.remove("b3", "team", "ada")
        world.rows[1, 1] = row
        world.cut("f01", wiped, kind="wipe", journal=1)
        world.settle()
        world.read("members", "team", "ada", 1)
        if wiped == "b3":
            fine(mirror.check, world)
        else:
            breach(mirror.check, world, "not the 0 rows")


def test_an_update_that_was_not_told_does_not_accuse() -> None:
    world = Mirror()
    world.write("b1", "add", "team", "ada", to=[], told=False)
    world.settle()
    assert fine(mirror.check, world).detail == "nothing was written"


# Work.

TARGET = 1 << 20


def block(height: int, branch: str = "a", parent: str | None = None) -> dict[str, Any]:
    below = f"{branch * 12}{height - 1:04x}" if parent is None else parent
    return {
        "height": height,
        "id": f"{branch * 12}{height:04x}",
        "parent": below,
        "target": TARGET,
        "total": height * work.work_of(TARGET),
        "miner": 1,
        "elapsed_ms": 100,
    }


def chain(upto: int = 12, boards: int = 3) -> World:
    world = World(boards)
    world.boot()
    for height in range(1, upto + 1):
        for board in world.boards:
            world.tell(board, "adopted", **block(height))
    return world


def test_one_chain_is_fine() -> None:
    assert fine(work.check, chain()).metrics["final_height"] == 7
    assert fine(work.check, chain(), work={"confirmations": 3}).metrics["final_height"] == 10


def test_a_shallow_reorganisation_is_fine_and_a_deep_one_is_not() -> None:
    for depth in (2, 5):
        world = chain()
        world.tell("b1", "reorganised", depth=depth, height=12 - depth, old="", new="")
        for height in range(13 - depth, 13):
            lowest = height == 13 - depth
            world.tell("b1", "adopted", **block(height, "b", "a" * 12 + f"{height - 1:04x}" if lowest else None))
        if depth == 2:
            assert fine(work.check, world).metrics["deepest_reorganisation"] == 2
            breach(work.check, world, "b1 undid 2 blocks that were final", work={"confirmations": 1})
        else:
            fine(work.check, world)
            breach(work.check, world, "undid 2 blocks", work={"confirmations": 4})


def test_a_wiped_board_may_come_by_another_block_to_the_final_ones() -> None:
    for journal in (1, 0):
        world = chain()
        world.cut("f01", "b3", kind="wipe" if journal else "cut", journal=journal)
        if journal:
            for height in (1, 2, 3):
                world.tell("b3", "adopted", **block(height))
            world.tell("b3", "adopted", **block(4, "b", "a" * 12 + "0003"))
        world.tell("b3", "reorganised", depth=1, height=3, old="", new="")
        for height in range(4, 13):
            world.tell("b3", "adopted", **block(height))
        if journal:
            fine(work.check, world)
        else:
            breach(work.check, world, "b3 undid 4 blocks")


def test_boards_with_different_final_blocks() -> None:
    world = chain(4)
    for height in range(5, 13):
        odd = block(height, "c", "a" * 12 + "0004" if height == 5 else None)
        for board in world.boards:
            world.tell(board, "adopted", **(odd if board == "b2" else block(height)))
    breach(work.check, world, "b1 and b2 have different final blocks at height 5")


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"parent": "f" * 16}, "parent is not its block"), ({"total": 5}, "wrong total")],
)
def test_a_chain_that_is_none(changed: dict[str, Any], words: str) -> None:
    world = chain()
    world.change(is_event("b2", "adopted", height=8), **changed)
    breach(work.check, world, "b2", words)


def test_a_block_that_is_replaced_without_a_word() -> None:
    world = chain()
    world.tell("b3", "adopted", **{**block(12, "b"), "parent": block(11)["id"]})
    breach(work.check, world, "told of no reorganisation")


def test_who_adopts_has_to_adopt_what_was_mined() -> None:
    world = chain()
    fields = block(6)
    world.tell("b1", "mined", height=6, id=fields["id"], parent=fields["parent"], target=TARGET + 1, elapsed_ms=1)
    breach(work.check, world, "another target")


def posted(included: bool = True, value: str = "hello", again_at: int | None = None) -> World:
    world = World(3)
    world.boot()
    item = world.ask("post", "note", "hello")
    request = {"client": item.client, "request": item.request, "value": value}
    for height in range(1, 13):
        for board in world.boards:
            world.tell(board, "adopted", **block(height))
            if (included and height == 2) or height == again_at:
                world.tell(board, "included", height=height, id=block(height)["id"], **request)
    world.answer(item, "ok", None, 2)
    return world


def test_posts_that_were_answered_are_in_the_chain_once() -> None:
    assert fine(work.check, posted()).metrics["posts_answered"] == 1
    breach(work.check, posted(included=False), "not in the block")
    breach(work.check, posted(value="forged"), "never asked for")
    breach(work.check, posted(again_at=4), "at heights [2, 4]")


def test_a_board_that_stays_behind() -> None:
    world = chain(6)
    for height in range(7, 13):
        for board in ("b1", "b2"):
            world.tell(board, "adopted", **block(height))
    world.tell("b3", "fork_refused", height=12, id="e" * 16, source=1)
    world.wait(8.0)
    breach(work.check, world, "b3 is at height 6", "refused a deep fork")


# Sampling.


def chosen(values: dict[str, str] | None = None, told: str = "red", asked: str = "red", polls: int = 12) -> World:
    world = World(5)
    world.boot()
    item = world.ask("choose", "colour", asked)
    for board in world.boards:
        value = (values or {}).get(board, "red")
        if value:
            world.tell(board, "accepted", key="colour", value=value, polls=polls, unclear=2)
    world.answer(item, "ok" if told == asked else "mismatch", told, polls)
    world.wait(6.0)
    return world


def test_one_value_everywhere_is_fine_and_its_bound_is_told() -> None:
    options = {"k": 3, "alpha": 2, "beta": 4}
    check = fine(sampling.check, chosen(), sampling=options)
    # 60 polls of 3 among 4 others, of which 1 prefers something else: two of those cannot be drawn.
    assert check.metrics["error_bound"] == 0.0
    options = {"k": 1, "alpha": 1, "beta": 4}
    assert fine(sampling.check, chosen(), sampling=options).metrics["error_bound"] == pytest.approx(60 / 4**4)


def test_two_values_of_a_key() -> None:
    world = chosen({"b4": "blue"})
    world.answer(world.ask("choose", "colour", "blue"), "mismatch", "red", 3)
    breach(sampling.check, world, "b1 accepted 'red'", "b4 accepted 'blue'")


def test_a_value_that_nobody_asked_for() -> None:
    breach(sampling.check, chosen(asked="green", told="red"), "which nobody asked for")


def test_answers_that_no_board_accepted() -> None:
    world = chosen()
    world.answer(world.ask("chosen", "colour"), "ok", "blue", 0)
    breach(sampling.check, world, "which no board accepted")
    world = chosen()
    item = world.ask("choose", "colour", "blue")
    world.answer(item, "ok", "red", 0)
    breach(sampling.check, world, "was told ok with 'red'")


def test_a_board_that_never_accepts() -> None:
    breach(sampling.check, chosen({"b5": ""}), "b5 has not accepted 1 keys")


def test_a_wiped_board_has_to_accept_again() -> None:
    world = chosen()
    world.cut("f01", "b2", kind="wipe", journal=1)
    world.wait(8.0)
    breach(sampling.check, world, "b2 has not accepted")
    world.tell("b2", "digest", protocol="sampling", height=0, digest="ab" * 8, count=1)
    fine(sampling.check, world)
