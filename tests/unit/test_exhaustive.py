"""The exhaustive search of tiny clusters: it sees all that a naive one sees, and finds bugs by their shortest way."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brownout.cli import main
from brownout.sim.exhaustive import Scope, Search, search
from brownout.sim.exhaustive_board import CLUSTER, LAST_TICK, TICK_MS, TIMINGS, Board
from brownout.sim.exhaustive_words import Command, Messages
from brownout.sim.flash import PowerLost
from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.step import step
from cluster import MemoryJournal

ROOT = Path(__file__).resolve().parents[2]


class Live:
    """One board that just runs: never frozen, never taken for another one, on a journal in memory."""

    def __init__(self, number: int, boards: int, messages: Messages) -> None:
        roster = [[member, f"b{member}", 1] for member in range(1, boards + 1)]
        document = {"cluster": CLUSTER, "board": number, "bed": "small", "seed": 1, "roster": roster}
        self.number = number
        self.config = Config({**document, "protocols": ["vote"], **TIMINGS})
        self.messages = messages
        self.journal = MemoryJournal(number)
        self.journal.records = {schema.JOURNAL_GENESIS: codec.pack("uu", (CLUSTER, number))}
        self.sent: set[int] = set()
        self.effects_left = -1
        self.start()

    def start(self) -> None:
        self.effects_left = -1
        self.node = Node(self.config, self.journal, ("live", "", bytes(8), "power"), 0)
        self.carry_out()

    def carry_out(self) -> bool:
        return bool(step(self.node, self, self.send, lambda _data: None))

    def effect(self) -> None:
        if self.effects_left == 0:
            raise PowerLost
        self.effects_left -= 1

    def append(self, records: list[tuple[int, bytes | None]]) -> None:
        self.effect()
        self.journal.append(records)

    def send(self, to: int, data: bytes) -> None:
        self.effect()
        self.sent.add(self.messages.number_of(to, data))

    def act(self, kind: str, argument: int, commands: list[Command], cut: int = -1) -> int:
        """One input; power goes after `cut` effects, below zero it stays. How many effects there were."""
        self.effects_left = most = cut if cut >= 0 else 1000
        now_ms = self.node.now_ms
        try:
            if kind == "deliver":
                message = self.messages.all[argument]
                self.node.receive(message.source, message.data, now_ms)
            elif kind == "submit":
                client, _board, key, value = commands[argument]
                self.node.command(client, 1, schema.PUT, key, value, None, now_ms)
            elif kind == "restart":
                raise PowerLost
            else:
                for tick in range(1, LAST_TICK + 1):
                    self.node.tick(now_ms + tick * TICK_MS)
                    if self.carry_out():
                        break
            self.carry_out()
        except PowerLost:
            self.start()
        return most - self.effects_left

    @property
    def log(self) -> dict[int, bytes]:
        packed = [self.journal.get(key) for key in self.journal.keys(schema.JOURNAL_LOG, schema.JOURNAL_LOG + 64)]
        return dict(codec.unpack("ub", entry) for entry in packed)


Seen = tuple[tuple[frozenset[int], tuple[tuple[int, bytes], ...]], ...]


def naive(scope: Scope, messages: Messages) -> set[Seen]:
    """What boards have sent and decided behind every path of the scope, each walked on its own; no state is merged."""
    commands = scope.clients()
    seen: set[Seen] = set()

    def inputs(boards: list[Live], index: int, timeouts: int, done: frozenset[int]) -> Iterator[tuple[str, int]]:
        for other in boards:
            for number in sorted(other.sent) if other is not boards[index] else ():
                if messages.all[number].to in (index + 1, schema.VOTERS):
                    yield "deliver", number
        for number, command in enumerate(commands):
            if command.board == index + 1 and number not in done:
                yield "submit", number
        if timeouts:
            yield "time", 0

    def walk(boards: list[Live], depth: int, crashes: int, timeouts: int, done: frozenset[int]) -> None:
        seen.add(tuple((frozenset(board.sent), tuple(sorted(board.log.items()))) for board in boards))
        if depth == 0:
            return
        for index in range(len(boards)):
            for kind, argument in inputs(boards, index, timeouts, done):
                after = copy.deepcopy(boards, {id(messages): messages})
                effects = after[index].act(kind, argument, commands)
                left = (timeouts - (kind == "time"), done | {argument} if kind == "submit" else done)
                walk(after, depth - 1, crashes, *left)
                for cut in range(1, effects) if crashes else ():
                    after = copy.deepcopy(boards, {id(messages): messages})
                    after[index].act(kind, argument, commands, cut)
                    walk(after, depth - 1, crashes - 1, *left)
            if crashes:
                after = copy.deepcopy(boards, {id(messages): messages})
                after[index].act("restart", 0, commands)
                walk(after, depth - 1, crashes - 1, timeouts, done)

    walk(
        [Live(number, scope.boards, messages) for number in range(1, scope.boards + 1)], *scope_left(scope), frozenset()
    )
    return seen


def scope_left(scope: Scope) -> tuple[int, int, int]:
    return scope.depth, scope.crashes, scope.timeouts


@pytest.mark.parametrize("scope", [Scope(2, 1, 1, 1, depth=4), Scope(3, 2, 1, 1, depth=3), Scope(1, 2, 2, 1, depth=4)])
def test_it_sees_all_that_a_naive_walk_sees_and_nothing_else(scope: Scope) -> None:
    looking = Search(scope)
    ended, _ = looking.run(lambda: False, 10**6, lambda _depth, _states: None)
    assert ended in ("depth", "exhausted")
    seen = set()
    for state in looking.parents:
        boards = list(zip(looking.members, looking.locals_of(state), strict=True))
        seen.add(
            tuple((member.locals[local].sent, tuple(sorted(member.log(local).items()))) for member, local in boards)
        )
    assert len(seen) > 10
    assert seen == naive(scope, looking.messages)


def test_a_board_behaves_the_same_however_it_came_to_a_state() -> None:
    """Random inputs, to boards that just run and to the search's, which remembers what equal states did."""
    draw = random.Random(7)
    messages = Messages()
    commands = Scope(commands=3).clients()
    members = [Board(number, 3, commands, messages) for number in (1, 2, 3)]
    compared = decided = 0
    for _ in range(40):
        live = [Live(number, 3, messages) for number in (1, 2, 3)]
        cores = [member.start for member in members]
        for _ in range(40):
            index = draw.randrange(3)
            board, member = live[index], members[index]
            offered = [number for other in live if other is not board for number in other.sent]
            offered = [number for number in sorted(offered) if messages.all[number].to in (index + 1, schema.VOTERS)]
            kind = draw.choice(["deliver"] * 12 + ["submit", "time", "restart"])
            if kind == "deliver" and not offered:
                continue
            argument = draw.choice(offered) if kind == "deliver" else draw.randrange(3)
            said, board.sent = board.sent, set()
            board.act(kind, argument, commands)
            if kind == "deliver":
                outcome = member.deliver(cores[index], argument, False)[0]
            elif kind == "submit":
                outcome = member.submit(cores[index], argument, False)[0]
            elif kind == "restart":
                outcome = member.restart(cores[index])
            elif not (outcomes := member.time_out(cores[index], False)):
                assert not board.sent
                board.sent = said
                break
            else:
                outcome = outcomes[0]
            assert set(outcome.sent) == board.sent
            cores[index] = outcome.core
            assert member.log(outcome.core) == board.log
            assert outcome.wrong == ""
            board.sent |= said
            compared += 1
            decided += bool(board.log)
    assert compared > 800 and decided > 100


def test_the_firmware_keeps_its_promises_in_all_states_of_a_small_scope() -> None:
    found = search(Scope(commands=1, crashes=1, timeouts=0, depth=50))
    assert found.broken is None
    assert found.ended == "exhausted" and found.completed < 50
    assert found.states == sum(found.levels) > 10_000
    assert found.transitions > found.states
    assert found.runs < found.states / 2, "what equal states did is remembered"


def test_more_boards_crashes_timeouts_and_commands_are_more_states() -> None:
    least = search(Scope(2, 1, 0, 0, depth=5)).states
    more = (
        Scope(3, 1, 0, 0, 5),
        Scope(2, 2, 0, 0, 5),
        Scope(2, 1, 1, 0, 5),
        Scope(2, 1, 0, 1, 5),
        Scope(2, 1, 0, 0, 6),
    )
    for scope in more:
        assert search(scope).states > least
    assert search(Scope(2, 0, 0, 0, depth=5)).states == 1


def test_bounds_end_a_search() -> None:
    wide = Scope(3, 2, 3, 3, depth=100)
    found = search(wide, time_limit_s=0)
    assert (found.ended, found.states, found.completed) == ("time", 1, 0)
    found = search(wide, most_states=2000)
    assert found.ended == "states" and 2000 < found.states < 20_000 and 0 < found.completed < 10
    told = []

    def interrupt(depth: int, states: int) -> None:
        told.append((depth, states))
        if depth == 3:
            raise KeyboardInterrupt

    found = search(wide, progress=interrupt)
    assert (found.ended, found.completed, found.broken) == ("interrupted", 2, None)
    assert told[0] == (1, 1) and told[-1][1] == found.states


# What is wrong with a firmware comes out. Each changed one runs in a process of its own.


COMMAND = "import sys; from brownout.cli import main; sys.exit(main())"


def explore(firmware: Path | None, *arguments: str, hash_seed: str = "0") -> tuple[int, dict[str, Any]]:
    path = [str(firmware)] if firmware else []
    path += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "explore", "--exhaustive", "--json", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


Broken = Callable[[str, str, str], Path]


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    """broken(file, old, new): a copy of the firmware with one text replaced by another."""

    def make(file: str, old: str, new: str) -> Path:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "firmware" / "brownout_node", tmp_path / "brownout_node", ignore=ignored)
        source = (tmp_path / "brownout_node" / file).read_text(encoding="utf-8")
        assert source.count(old) == 1
        (tmp_path / "brownout_node" / file).write_text(source.replace(old, new), encoding="utf-8")
        return tmp_path

    return make


CAUGHT = [
    ("quorum-off-by-one", ("--timeouts", "3", "--depth", "6"), "agreement", 5, "b3 decides an empty batch"),
    ("persist-after-send", ("--depth", "6"), "voting", 4, "two prevotes at h1 r0"),
    ("prevote-twice-after-reboot", ("--depth", "6"), "voting", 5, "two prevotes at h1 r0"),
    ("height-saved-seldom", ("--depth", "6"), "durability", 5, "it starts from h1, which is decided in its journal"),
    ("answered-before-decided", ("--depth", "6"), "durability", 1, "which its journal does not hold"),
    ("lock-ignored", ("--timeouts", "3", "--crashes", "0", "--depth", "9"), "voting", 9, "which had no quorum since"),
]


@pytest.mark.parametrize(("name", "bounds", "promise", "steps", "detail"), CAUGHT, ids=[row[0] for row in CAUGHT])
def test_known_bugs_are_found_by_their_shortest_course(
    name: str, bounds: tuple[str, ...], promise: str, steps: int, detail: str, broken: Broken
) -> None:
    mutant = tomllib.loads((ROOT / "tests" / "mutants" / f"{name}.toml").read_text(encoding="utf-8"))
    code, found = explore(broken(mutant["file"], mutant["old"], mutant["new"]), *bounds)
    assert code == 1
    assert found["ended"] == "violation" and found["completed"] == steps - 1
    assert found["broken"]["promise"] == promise
    assert detail in found["broken"]["detail"]
    assert len(found["broken"]["steps"]) == steps
    assert found["broken"]["steps"][0].startswith("client 1000 asks b2 to put k = v1; b2 sends request of client 1000")


def test_what_no_client_asked_for_must_not_be_decided(broken: Broken) -> None:
    more = "commands = self.pool.batch() + [(1999, 1, schema.PUT, 'k', 'made up', None)]"
    code, found = explore(broken("core/vote.py", "commands = self.pool.batch()", more), "--crashes", "0")
    assert (code, found["broken"]["promise"]) == (1, "validity")
    assert "what no client asked for: (1999, 1)" in found["broken"]["detail"]


def test_a_decision_must_stay_in_the_journal(broken: Broken) -> None:
    # A boot that forgets the log: the last entry of each slot is overwritten by an empty one.
    old = "        self._reset()\n        self._restore(stored)\n"
    new = old + "        node.persist(schema.JOURNAL_LOG + 1, None)\n"
    code, found = explore(broken("core/vote.py", old, new), "--timeouts", "0", "--depth", "12")
    assert (code, found["broken"]["promise"]) == (1, "durability")
    assert "no longer holds what it decided at h1" in found["broken"]["detail"]
    assert "power goes" in found["broken"]["steps"][-1]


def test_firmware_that_ends_with_an_error_is_a_violation(broken: Broken) -> None:
    new = "if kind == PRECOMMIT:\n            raise ValueError('no such vote')\n        if height < next_height:"
    code, found = explore(broken("core/vote.py", "if height < next_height:", new), "--crashes", "0")
    assert (code, found["broken"]["promise"]) == (1, "crashes")
    assert "ValueError: no such vote" in found["broken"]["detail"]
    assert " precommit h1 r0 " in found["broken"]["steps"][-1]


def test_where_the_bugs_are_found_the_firmware_as_it_is_breaks_nothing() -> None:
    code, found = explore(None, "--timeouts", "3", "--depth", "6", hash_seed="1")
    assert (code, found["ended"], found["broken"], found["completed"]) == (0, "depth", None, 6)
    assert found["states"] > 20_000
    again = search(Scope(timeouts=3, depth=4))
    assert list(again.levels) == found["levels"][:5], "under any hash seed"


# The command.


def test_it_prints_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--exhaustive", "--depth", "30", "--crashes", "0", "--timeouts", "0"]) == 0
    said = capsys.readouterr().out
    assert "3 boards, 1 command, 0 crashes, 0 time-outs: " in said
    assert "distinct states, " in said and "states a second)" in said
    assert "was seen; there are no more states at any depth" in said


def test_a_time_limit_is_no_failure_and_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--exhaustive", "--depth", "90", "--commands", "3", "--time-limit", "0.2s"]) == 0
    said = capsys.readouterr().out
    assert "every state down to depth " in said and "ended by --time-limit" in said
    assert "down to depth 90" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exhaustive", "split-brain"], "--exhaustive takes no CAMPAIGN"),
        (["--exhaustive", "--jobs", "2"], "--exhaustive takes no CAMPAIGN, --seed, --jobs"),
        ([], "explore needs a CAMPAIGN, as split-brain, or --exhaustive"),
        (["split-brain", "--depth", "3"], "only with --exhaustive"),
        (["--exhaustive", "--boards", "6"], "6 is not in the range"),
    ],
)
def test_what_does_not_fit_together_is_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", *arguments]) == 2
    assert message in capsys.readouterr().err
