"""One board of an exhaustive search: its firmware as a function from (state, input) to (next state, what it said).

The firmware's own node, step and journal, with the vote alone, are run once for each distinct state and input; the
answer is kept. Two states are the same if all that the firmware can act on is: its objects field by field, times as the
distance from the board's own present, and the records of its journal wherever on the flash they lie. Left out is what
no protocol reads: the running numbers of messages and events, counts, and the clock that stamps telemetry. Must not
hold a copy of any protocol rule; what it judges is what every protocol of this kind promises (see `Board`).
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import cbor2
from brownout_node.core import codec, register, schema
from brownout_node.core.catchup import ENTRY
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.step import step
from brownout_node.storage.journal import Journal, format_genesis

from .exhaustive_words import Command, Messages, Prevoted, commands_of
from .flash import PowerLost, SimFlash

CLUSTER = 1
JOURNAL_BLOCKS = 8  # the fewest that the journal takes
TICK_MS = 1000
LAST_TICK = 600  # a board that does nothing for so many ticks has no time-out that counts
# Time-outs of the vote come before what is sent again, and that before polls, so that few of them reach a new round. In
# which order the time-outs of different boards come is the search's to choose: each board has its own time.
TIMINGS = {
    "tick_ms": TICK_MS,
    "propose_timeout_ms": TICK_MS,
    "vote_timeout_ms": TICK_MS,
    "timeout_step_ms": 0,
    "resend_ms": 10 * TICK_MS,
    "fetch_period_ms": 60 * TICK_MS,
    "digest_period_ms": 600 * TICK_MS,
}
_ATOMS = frozenset({type(None), bool, int, str, bytes})
_GIVEN = frozenset({Journal, Config, SimFlash})
_UNREAD = frozenset(
    {"config", "clock", "now_ms", "rejected", "newer", "_sequence", "_event_sequence", "_handlers", "_servers"}
)


@dataclass(frozen=True)
class Outcome:
    """What one input led to. core: the next state. wrong: what the board broke by it, if anything."""

    core: int
    sent: tuple[int, ...] = ()
    prevoted: tuple[Prevoted, ...] = ()
    effects: int = 0
    wrong: str = ""


@dataclass(frozen=True)
class Stored:
    """What a board's journal holds. log: height -> the value decided there. journal, flash: as they were first met."""

    log: dict[int, bytes]
    journal: bytes
    flash: bytes


class Board:
    """All states of one board that a search has met, by number. Each input answers with the outcome of the whole step.

    Where `cuts`, those in which power goes between two effects of the step follow it. Promised of every step: a decided
    entry stays as it is, and a boot goes on above it; an answer `ok` leaves only once the journal holds the decision
    that it tells of; and no input ends the firmware with an error.
    """

    def __init__(self, number: int, boards: int, commands: Sequence[Command], messages: Messages) -> None:
        self.number = number
        self.commands = commands
        self.messages = messages
        self.runs = 0  # inputs that the firmware was given, and boots
        roster = [[member, f"b{member}", 1] for member in range(1, boards + 1)]
        document = {"cluster": CLUSTER, "board": number, "bed": "small", "seed": 1, "roster": roster}
        self._config = Config({**document, "protocols": ["vote"], **TIMINGS})
        self._stored: list[Stored] = []
        self._states: list[tuple[int, bytes]] = []  # number of what is stored, and the frozen node
        self._stored_numbers: dict[bytes, int] = {}
        self._numbers: dict[bytes, int] = {}
        self._answers: dict[tuple[int, object], tuple[Outcome, ...]] = {}
        self._boots: dict[int, Outcome] = {}
        self._spare: tuple[int, _Run] | None = None  # a state that a run left as it was
        flash = SimFlash(blocks=JOURNAL_BLOCKS)
        format_genesis(flash, CLUSTER, number)
        journal = Journal(flash)
        journal.open()
        self.start = self._boot(self._store(_Run(messages, flash, journal))).core

    def log(self, core: int) -> dict[int, bytes]:
        """What is decided: height -> value."""
        return self._stored[self._states[core][0]].log

    # Inputs.

    def deliver(self, core: int, message: int, cuts: bool) -> tuple[Outcome, ...]:
        source, data = self.messages.all[message].source, self.messages.all[message].data
        return self._answer(core, message, cuts, lambda run: run.node.receive(source, data, run.node.now_ms))

    def submit(self, core: int, index: int, cuts: bool) -> tuple[Outcome, ...]:
        client, _board, key, value = self.commands[index]

        def act(run: _Run) -> None:
            run.node.command(client, 1, schema.PUT, key, value, None, run.node.now_ms)

        return self._answer(core, ("command", index), cuts, act)

    def time_out(self, core: int, cuts: bool) -> tuple[Outcome, ...]:
        """Let time pass until the board does something; no outcome where it never does."""

        def act(run: _Run) -> None:
            for _ in range(LAST_TICK):
                run.node.tick(run.node.now_ms + TICK_MS)
                if run.carry_out():
                    return

        outcomes = self._answer(core, "time", cuts, act)
        return outcomes if outcomes[0].effects or outcomes[0].wrong else ()

    def restart(self, core: int) -> Outcome:
        """Power goes while the board waits for its next input, and comes back."""
        return self._boot(self._states[core][0])

    def _answer(self, core: int, given: object, cuts: bool, act: Callable[[_Run], None]) -> tuple[Outcome, ...]:
        key = (core, (given, cuts))
        answer = self._answers.get(key)
        if answer is None:
            if cuts:
                whole = self._answer(core, given, False, act)[0]
                # Before the first effect a cut is a restart without this input; after the last, a restart after it.
                within = range(1, whole.effects) if not whole.wrong else ()
                answer = (whole, *[self._cut(core, act, effects) for effects in within])
            else:
                answer = (self._whole(core, act),)
            self._answers[key] = answer
        return answer

    def _whole(self, core: int, act: Callable[[_Run], None]) -> Outcome:
        run = self._thaw(core)
        began_ms = run.node.now_ms
        try:
            act(run)
            run.carry_out()
        except Exception as error:
            return Outcome(core, wrong=f"crashes: {type(error).__name__}: {error}")
        after = self._freeze(run)
        if after == core and not run.effects and run.node.now_ms == began_ms:
            self._spare = (core, run)
        return Outcome(after, run.sent(), tuple(run.prevoted), run.effects, self._wrong(run))

    def _cut(self, core: int, act: Callable[[_Run], None], effects: int) -> Outcome:
        run = self._thaw(core)
        run.effects_left = effects
        try:
            act(run)
            run.carry_out()
        except PowerLost:
            boot = self._boot(self._store(run) if run.appended else run.stored)
            return replace(boot, sent=(*run.sent(), *boot.sent), wrong=self._wrong(run) or boot.wrong)
        raise RuntimeError(f"b{self.number}: power was to go after {effects} effects, and there were no more")

    def _boot(self, stored: int) -> Outcome:
        """A start from what is stored. Power stays during it: nobody has heard of it yet."""
        if stored not in self._boots:
            self.runs += 1
            flash, _ = self._thaw_journal(stored)
            try:
                journal = Journal(flash)
                journal.open()
                run = _Run(self.messages, flash, journal, stored)
                run.node = Node(self._config, journal, ("small scope", "", bytes(8), "power"), 0)
                run.carry_out()
                outcome = Outcome(self._freeze(run), run.sent(), wrong=self._wrong(run))
            except Exception as error:
                outcome = Outcome(self.start, wrong=f"crashes: {type(error).__name__} at boot: {error}")
            self._boots[stored] = outcome
        return self._boots[stored]

    def _wrong(self, run: _Run) -> str:
        if run.early:
            return "durability: " + run.early
        if run.next_height is not None and run.next_height <= max(run.log(), default=0):
            return f"durability: it starts from h{run.next_height}, which is decided in its journal"
        if run.appended:
            log = run.log()
            for height, value in self._stored[run.stored].log.items():
                if log.get(height) != value:
                    return f"durability: its journal no longer holds what it decided at h{height}"
        return ""

    # States.

    def _thaw_journal(self, stored: int) -> tuple[SimFlash, Journal]:
        known = self._stored[stored]
        flash = SimFlash(blocks=JOURNAL_BLOCKS)
        flash.data[: len(known.flash)] = known.flash
        return flash, _Unpickler(known.journal, flash).load()

    def _thaw(self, core: int) -> _Run:
        self.runs += 1
        if self._spare is not None and self._spare[0] == core:
            run = self._spare[1]
            self._spare = None
            return run
        stored, node = self._states[core]
        flash, journal = self._thaw_journal(stored)
        run = _Run(self.messages, flash, journal, stored)
        run.node = _Unpickler(node, journal, self._config).load()
        return run

    def _store(self, run: _Run) -> int:
        records = [(key, run.journal.get(key)) for key in run.journal.keys(0, 1 << 30) if key != schema.JOURNAL_CLOCK]
        identity = hashlib.blake2b(repr(records).encode(), digest_size=16).digest()
        number = self._stored_numbers.setdefault(identity, len(self._stored))
        if number == len(self._stored):
            self._stored.append(Stored(run.log(), _pickled(run.journal), bytes(run.flash.data).rstrip(b"\xff")))
        return number

    def _freeze(self, run: _Run) -> int:
        stored = self._store(run) if run.appended else run.stored
        identity = hashlib.blake2b(b"%d " % stored, digest_size=16)
        identity.update(repr(_plain(run.node, run.node.now_ms, {})).encode())
        number = self._numbers.setdefault(identity.digest(), len(self._states))
        if number == len(self._states):
            self._states.append((stored, _pickled(run.node)))
        return number


class _Pickler(pickle.Pickler):
    """Leaves out what a thawed object is given anew: a node its journal and configuration, a journal its flash."""

    def __init__(self, file: io.BytesIO, top: object) -> None:
        super().__init__(file, -1)
        self._top = top

    def persistent_id(self, value: Any) -> str | None:
        kind = type(value)
        return kind.__name__ if kind in _GIVEN and value is not self._top else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, *given: object) -> None:
        super().__init__(io.BytesIO(data))
        self._given = {type(value).__name__: value for value in given}

    def persistent_load(self, name: str) -> object:
        return self._given[name]


def _pickled(value: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, value).dump(value)
    return file.getvalue()


class _Run:
    """One input being carried out. stored: number of what the journal held before. effects_left: then power goes."""

    node: Any

    def __init__(self, messages: Messages, flash: SimFlash, journal: Journal, stored: int = 0) -> None:
        self.flash = flash
        self.journal = journal
        self.stored = stored
        self.appended = False
        self.effects_left = -1  # below zero: power stays
        self.effects = 0
        self.prevoted: list[Prevoted] = []
        self.early = ""  # what was answered before it was durable
        self.next_height: int | None = None  # that a boot starts from
        self._sent: dict[int, None] = {}
        self._messages = messages

    def log(self) -> dict[int, bytes]:
        log = {}
        for key in self.journal.keys(schema.JOURNAL_LOG, schema.JOURNAL_LOG + schema.LOG_ENTRIES):
            height, value = codec.unpack(ENTRY, self.journal.get(key))
            log[height] = value
        return log

    def sent(self) -> tuple[int, ...]:
        return tuple(self._sent)

    def carry_out(self) -> bool:
        return bool(step(self.node, self, self._send, self._emit))

    # Effects. A run is its own journal to `step`, so that power can go between effects.

    def append(self, records: list[tuple[int, bytes | None]]) -> None:
        self._effect()
        self.appended = True
        self.journal.append(records)

    def _effect(self) -> None:
        if self.effects == self.effects_left:
            raise PowerLost
        self.effects += 1

    def _send(self, to: int, data: bytes) -> None:
        self._effect()
        number = self._messages.number_of(to, data)
        self._sent[number] = None
        message = self._messages.all[number]
        if message.kind == schema.REPLY and message.fields[2] == schema.OK:
            client, request, _status, _value, height = message.fields
            value = self.log().get(height)
            if value is None or (client, request) not in commands_of(value):
                self.early = f"it answers client {client} from h{height}, which its journal does not hold"

    def _emit(self, data: bytes) -> None:
        event = cbor2.loads(data)
        kind, fields = event[4], event[5:]
        if kind == schema.PREVOTED:
            self.prevoted.append(Prevoted(*fields))
        elif kind == schema.BOOT:
            self.next_height = fields[6]


def _plain(value: Any, now_ms: int, seen: dict[int, int]) -> Any:
    """An object of the firmware as nested tuples; the same for two that it cannot tell apart."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is tuple or kind is list:
        return tuple([part if type(part) in _ATOMS else _plain(part, now_ms, seen) for part in value])
    if kind is dict:
        # MicroPython keeps no order in them, so the firmware cannot rely on any.
        return ("dict", *sorted([(repr(key), _plain(value[key], now_ms, seen)) for key in value]))
    if kind is set:
        return ("set", *sorted(map(repr, value)))
    if kind is bytearray:
        return bytes(value)
    if kind is MethodType or kind is Journal:
        return kind.__name__  # a method's object is told elsewhere, and the journal by its records
    if id(value) in seen:
        return ("again", seen[id(value)])
    seen[id(value)] = len(seen)
    fields: list[Any] = [kind.__name__]
    for name, part in sorted(vars(value).items()):
        if name in _UNREAD:
            continue
        if name.endswith("_ms") and part is not None:
            part -= now_ms
        elif kind is register.Pool and name == "entries":
            part = [_waiting(entry, now_ms) for entry in part]
        fields.append((name, part if type(part) in _ATOMS else _plain(part, now_ms, seen)))
    return tuple(fields)


def _waiting(entry: list[Any], now_ms: int) -> list[Any]:
    """A command in the pool; the time at which it is sent again counts only where a client of the board waits."""
    due = register._RESEND_MS
    return [*entry[:due], entry[due] - now_ms if entry[due] else 0, *entry[due + 1 :]]
