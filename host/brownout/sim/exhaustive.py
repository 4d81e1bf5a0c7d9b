"""Every course of events of a tiny cluster up to a depth: orders of messages, losses, repetitions, cuts and time-outs.

    search(Scope(depth=8))  ->  Searched

Breadth first over distinct states. What was sent once can arrive at any later time, any number of times, or never: so
every order, loss and repetition is in the search, without bound and without steps of its own. A step is: a message
arrives; a client's command arrives; a board's next time-out comes; or power goes at a board, between steps or between
two effects of a step, and comes back. A state is one local state for each board and what is left of the scope's cuts,
time-outs and commands. The protocol is the firmware's own (exhaustive_board.py); only what boards say and what they
decide is judged. Must not draw anything: the same scope and firmware always give the same count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from brownout_node.core import schema

from .exhaustive_board import Board, Outcome
from .exhaustive_words import VOTES, Command, Messages, commands_of, name_of

MOST_STATES = 10_000_000  # a distinct state takes about 200 bytes
_LOOK_EVERY = 256  # states between two looks at the clock
_BITS = 24  # of a packed state, for each board's local state
_LOCAL = (1 << _BITS) - 1
_COUNT_BITS = 8  # for each of the three counts above them
_COUNT = (1 << _COUNT_BITS) - 1
VOTE_NAMES = {schema.PROPOSAL: "two proposals", schema.PREVOTE: "two prevotes", schema.PRECOMMIT: "two precommits"}


@dataclass(frozen=True)
class Scope:
    """commands: puts of as many clients, one to each board in turn. crashes, timeouts: of all boards. depth: steps."""

    boards: int = 3
    commands: int = 1
    crashes: int = 1
    timeouts: int = 2
    depth: int = 8

    def clients(self) -> list[Command]:
        return [
            Command(schema.FIRST_CLIENT + index, (index + 1) % self.boards + 1, "k", f"v{index + 1}")
            for index in range(self.commands)
        ]


@dataclass(frozen=True)
class Broken:
    """A promise that a course of events breaks. steps: the shortest such course, in words."""

    promise: str
    detail: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Searched:
    """levels: new distinct states at each depth that was completed, from 0 on. runs: inputs that firmware was given.

    ended: violation, exhausted (there are no further states at any depth), depth, time, states (too many), interrupted.
    """

    scope: Scope
    ended: str
    states: int
    transitions: int
    levels: tuple[int, ...]
    locals: tuple[int, ...]
    messages: int
    runs: int
    seconds: float
    broken: Broken | None = None

    @property
    def completed(self) -> int:
        """The depth down to which every state was seen and judged."""
        return len(self.levels) - 1


class Local(NamedTuple):
    """A board: the state of its firmware and journal, what it has sent so far, and what it broke on the way."""

    core: int
    sent: frozenset[int]
    wrong: str


class Member:
    """One board with what it has sent so far. Its local states have numbers."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.locals: list[Local] = []
        self._numbers: dict[Local, int] = {}
        self._offers: dict[tuple[int, int], tuple[int, ...]] = {}
        self._arrivals: dict[tuple[int, int, bool], tuple[int, ...]] = {}
        self.start = self._number(Local(board.start, frozenset(), ""))

    def _number(self, local: Local) -> int:
        number = self._numbers.setdefault(local, len(self.locals))
        if number == len(self.locals):
            self.locals.append(local)
        return number

    def core(self, local: int) -> int:
        return self.locals[local].core

    def log(self, local: int) -> dict[int, bytes]:
        return self.board.log(self.locals[local].core)

    def offers(self, local: int, target: int) -> tuple[int, ...]:
        """Messages that have left for the board `target` until this local state."""
        key = (local, target)
        if key not in self._offers:
            known = self.board.messages.all
            numbers = [number for number in self.locals[local].sent if known[number].to in (target, schema.VOTERS)]
            self._offers[key] = tuple(sorted(numbers))
        return self._offers[key]

    def arrivals(self, local: int, message: int, cuts: bool) -> tuple[int, ...]:
        """Local states behind a message: of the whole step, then of the cut ones; none where nothing changes."""
        key = (local, message, cuts)
        known = self._arrivals.get(key)
        if known is None:
            outcomes = self.board.deliver(self.core(local), message, cuts)
            known = tuple([self.after(local, outcome) for outcome in outcomes])
            self._arrivals[key] = known = () if known == (local,) else known
        return known

    def after(self, local: int, outcome: Outcome) -> int:
        """The local state that an outcome leads to."""
        before = self.locals[local]
        sent = before.sent
        if not sent.issuperset(outcome.sent):
            sent = sent.union(outcome.sent)
        elif outcome.core == before.core and not outcome.wrong:
            return local
        return self._number(Local(outcome.core, sent, outcome.wrong or self._contradicts(before.sent, outcome)))

    def _contradicts(self, before: frozenset[int], outcome: Outcome) -> str:
        """How what it says now contradicts what it said before, in this boot or an earlier one."""
        known = self.board.messages.all
        votes = [known[number] for number in before if known[number].kind in VOTES]
        for number in outcome.sent:
            message = known[number]
            if message.kind not in VOTES:
                continue
            for vote in votes:
                if vote.place == message.place and vote.value_id != message.value_id:
                    both = f"{name_of(vote.value_id)} and {name_of(message.value_id)}"
                    return f"voting: {VOTE_NAMES[vote.kind]} at h{vote.fields[0]} r{vote.fields[1]}, {both}"
            votes.append(message)
        for prevoted in outcome.prevoted:
            for vote in votes:
                if vote.kind == schema.PRECOMMIT and prevoted.forgets(vote):
                    return (
                        f"voting: it precommitted {name_of(vote.value_id)} at h{vote.fields[0]} r{vote.fields[1]} and "
                        f"prevotes {name_of(prevoted.value_id)} at r{prevoted.round}, which had no quorum since"
                    )
        return ""


class Search:
    """The states met so far, each with the one that it was first reached from."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.messages = Messages()
        self.commands = scope.clients()
        numbers = range(1, scope.boards + 1)
        self.members = [Member(Board(number, scope.boards, self.commands, self.messages)) for number in numbers]
        self.start = sum(member.start << _BITS * index for index, member in enumerate(self.members))
        self.parents: dict[int, int] = {self.start: -1}
        self.levels = [1]
        self.transitions = 0
        self._time_out = 1 << _BITS * scope.boards
        self._cut = self._time_out << _COUNT_BITS
        self._submitted = self._cut << _COUNT_BITS

    def locals_of(self, state: int) -> list[int]:
        """The numbers of its boards' local states."""
        return [state >> _BITS * index & _LOCAL for index in range(len(self.members))]

    # Steps.

    def next_states(self, state: int) -> Iterator[int]:
        """The state after every possible step, some of them more than once."""
        scope = self.scope
        locals_ = self.locals_of(state)
        counts = state >> _BITS * scope.boards
        may_crash = counts >> _COUNT_BITS & _COUNT < scope.crashes
        may_time_out = counts & _COUNT < scope.timeouts
        submitted = counts >> 2 * _COUNT_BITS
        for index, member in enumerate(self.members):
            local = locals_[index]
            core = member.core(local)
            shift = _BITS * index
            rest = state - (local << shift)
            for other, theirs in enumerate(locals_):
                if other == index:
                    continue
                for message in self.members[other].offers(theirs, index + 1):
                    spent = 0
                    for after in member.arrivals(local, message, may_crash):
                        yield rest + (after << shift) + spent
                        spent = self._cut
            if may_time_out:
                yield from self._behind(rest + self._time_out, index, local, member.board.time_out(core, may_crash))
            if may_crash:
                yield rest + (member.after(local, member.board.restart(core)) << shift) + self._cut
            for number, command in enumerate(self.commands):
                if command.board == index + 1 and not submitted >> number & 1:
                    taken = rest + (self._submitted << number)
                    yield from self._behind(taken, index, local, member.board.submit(core, number, may_crash))

    def _behind(self, rest: int, index: int, local: int, outcomes: Sequence[Outcome]) -> Iterator[int]:
        after = self.members[index].after
        for effects, outcome in enumerate(outcomes):
            yield rest + (after(local, outcome) << _BITS * index) + (self._cut if effects else 0)

    # Judging.

    def wrong(self, state: int, parent: int) -> str:
        """What is broken in a state that was whole before the last step: `promise: who and how`."""
        for index, member in enumerate(self.members):
            local = state >> _BITS * index & _LOCAL
            before = parent >> _BITS * index & _LOCAL
            if local == before:
                continue
            if member.locals[local].wrong:
                promise, _, detail = member.locals[local].wrong.partition(": ")
                return f"{promise}: b{index + 1}: {detail}"
            log = member.log(local)
            if log != member.log(before):
                return self._log_wrong(state, index, log)
        return ""

    def _log_wrong(self, state: int, index: int, log: dict[int, bytes]) -> str:
        submitted = state >> _BITS * self.scope.boards + 2 * _COUNT_BITS
        known = {(item.client, 1) for number, item in enumerate(self.commands) if submitted >> number & 1}
        for height, value in log.items():
            for command in commands_of(value):
                if command not in known:
                    return f"validity: b{index + 1} decides at h{height} what no client asked for: {command}"
        for other, member in enumerate(self.members):
            theirs = member.log(state >> _BITS * other & _LOCAL)
            for height in log.keys() & theirs.keys():
                if log[height] != theirs[height]:
                    both = f"{_clients(log[height])}, and b{other + 1} {_clients(theirs[height])}"
                    return f"agreement: at h{height} b{index + 1} decides {both}"
        return ""

    # In words.

    def path(self, state: int) -> tuple[str, ...]:
        """The shortest way there."""
        steps: list[str] = []
        while (parent := self.parents[state]) >= 0:
            steps.append(self._step(parent, state))
            state = parent
        return tuple(reversed(steps))

    def _step(self, parent: int, state: int) -> str:
        for index, member in enumerate(self.members):
            local = parent >> _BITS * index & _LOCAL
            for what, spent, outcomes in self._inputs(parent, index):
                for effects, outcome in enumerate(outcomes):
                    change = (member.after(local, outcome) - local << _BITS * index) + spent
                    if parent + change + (self._cut if effects else 0) == state:
                        said = ", ".join(dict.fromkeys(str(self.messages.all[number]) for number in outcome.sent))
                        cut = f"; power goes after effect {effects} of {outcomes[0].effects}, and comes back"
                        return what + (f"; b{index + 1} sends {said}" if said else "") + (cut if effects else "")
        raise AssertionError("no step leads from a state to the next one on its path")

    def _inputs(self, state: int, index: int) -> Iterator[tuple[str, int, Sequence[Outcome]]]:
        """Every input of one board in words, what it takes from the scope, and its outcomes."""
        member = self.members[index]
        name = f"b{index + 1}"
        core = member.core(state >> _BITS * index & _LOCAL)
        for other, sender in enumerate(self.members):
            if other != index:
                for message in sender.offers(state >> _BITS * other & _LOCAL, index + 1):
                    what = f"b{other + 1} -> {name} {self.messages.all[message]}"
                    yield what, 0, member.board.deliver(core, message, True)
        yield f"{name} times out", self._time_out, member.board.time_out(core, True)
        yield f"power goes at {name}, and comes back", self._cut, (member.board.restart(core),)
        for number, command in enumerate(self.commands):
            if command.board == index + 1:
                yield str(command), self._submitted << number, member.board.submit(core, number, True)

    # The search.

    def run(self, until: Callable[[], bool], most_states: int, tell: Callable[[int, int], None]) -> tuple[str, int]:
        """Level by level; (how it ended, the state that broke something or -1). `until` says when time is out."""
        frontier = [self.start]
        parents = self.parents
        for depth in range(1, self.scope.depth + 1):
            reached: list[int] = []
            for count, state in enumerate(frontier):
                if count % _LOOK_EVERY == 0:
                    tell(depth, len(parents))
                    if until():
                        return "time", -1
                    if len(parents) > most_states:
                        return "states", -1
                for after in self.next_states(state):
                    self.transitions += 1
                    if after not in parents:
                        parents[after] = state
                        if self.wrong(after, state):
                            return "violation", after
                        reached.append(after)
            if not reached:
                return "exhausted", -1
            self.levels.append(len(reached))
            frontier = reached
        return "depth", -1


def _clients(value: bytes) -> str:
    """A decided value in words."""
    clients = ", ".join(str(client) for client, _request in commands_of(value))
    return f"what clients {clients} asked for" if clients else "an empty batch"


def search(
    scope: Scope,
    *,
    time_limit_s: float | None = None,
    most_states: int = MOST_STATES,
    progress: Callable[[int, int], None] | None = None,
) -> Searched:
    """See the module. progress(depth, states) is called now and then; KeyboardInterrupt ends the search, no more."""
    began = time.monotonic()
    looking = Search(scope)

    def until() -> bool:
        return time_limit_s is not None and time.monotonic() - began > time_limit_s

    try:
        ended, state = looking.run(until, most_states, progress or (lambda _depth, _states: None))
    except KeyboardInterrupt:
        ended, state = "interrupted", -1
    broken = None
    if state >= 0:
        promise, _, detail = looking.wrong(state, looking.parents[state]).partition(": ")
        broken = Broken(promise, detail, looking.path(state))
    return Searched(
        scope,
        ended,
        len(looking.parents),
        looking.transitions,
        tuple(looking.levels),
        tuple(len(member.locals) for member in looking.members),
        len(looking.messages.all),
        sum(member.board.runs for member in looking.members),
        time.monotonic() - began,
        broken,
    )
