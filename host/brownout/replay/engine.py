"""Gives boards what they were given, with the firmware's own node, step and journal, and compares what they make of it.

A replayed board keeps a record as the real one did, so the two streams have to be the same, byte by byte: inputs, and
the checksums of state and outputs between them. Where they part, the step, the protocol and the last step that agreed
are known. Boards run side by side: what one sends is there for the others, should the tap have missed it. Must not
know what a protocol promises.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from brownout_node.core import schema
from brownout_node.core.config import Config
from brownout_node.core.recorder import RecordedNode
from brownout_node.core.step import step
from brownout_node.storage.journal import crc32

from ..board_events import decode_events
from ..contracts import UsageError
from .recording import FLIGHT, BoardRecord, BootRecord, Contents, Recording, genesis
from .stream import EMITTED, HEARD, OUTPUT, STATE, STORED, TICK, Entry, Stored

SILENT_MS = 600  # a boot that ended sooner may have told nothing
MOST_DIFFERENT_KEYS = 6  # that are named
LOCAL = ("?",)  # stands for what the shell reported
ABOUT = ("", "", bytes(8), "")


@dataclass(frozen=True)
class Difference:
    """The first step of a board that is not as it was. since: the last step known to be the same.

    recorded, replayed: checksums or contents on both sides. state: the replayed board's, by protocol.
    """

    board: str
    boot: int
    step: int
    since: int
    now_ms: int
    what: str
    recorded: str
    replayed: str
    after: str
    state: dict[str, Any] = field(default_factory=dict)
    found: str | None = None  # what would explain it


@dataclass
class BootResult:
    """How far one boot was replayed. why: it ends before its recording does, or cannot begin; None: it does not."""

    board: str
    boot: int
    steps: int
    replayed: int
    inputs: int
    recorded_ms: int
    last_ms: int
    why: str | None = None
    difference: Difference | None = None


class Missing(Exception):
    """The content of a message is not there (yet)."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.entry = entry


class ReplayedNode(RecordedNode):
    """Keeps its stream; numbers events as the board did, which has its pieces among them, or has not."""

    def __init__(self, by_events: bool, snapshot: bytes, config: Config, stored: MemoryJournal, entropy: int) -> None:
        self._by_events = by_events
        self._snapshot = snapshot
        self.stream = bytearray()
        super().__init__(config, stored, ABOUT, entropy)

    def snapshot(self, _stored: MemoryJournal, _entropy: int) -> bytes:
        """As the board told it: where values lie in its journal is no matter of inputs."""
        return self._snapshot

    def leave(self, at: int, piece: bytes) -> None:
        self.stream += piece
        self._event_sequence += self._by_events


class MemoryJournal:
    """What the core asks of a journal. Where values lie on a flash is no matter of inputs, so there is none here."""

    def __init__(self, content: dict[int, bytes], condition: int) -> None:
        self.content = dict(content)
        self.condition = condition

    def get(self, key: int) -> bytes | None:
        return self.content.get(key)

    def keys(self, low: int, high: int) -> list[int]:
        return sorted(key for key in self.content if low <= key < high)

    def append(self, records: list[tuple[int, bytes | None]]) -> None:
        for key, value in records:
            if value is None:
                self.content.pop(key, None)
            else:
                self.content[key] = bytes(value)


def stored_crc(content: dict[int, bytes]) -> int:
    crc = 0
    for key in sorted(content):
        crc = crc32(content[key], crc32(struct.pack(">I", key), crc))
    return crc


def ignore(_source: int, _kind: int, _fields: Any) -> None:
    """The shell's own messages change nothing in the core."""


class BoardReplay:
    """One board. `advance` carries out one step; `node` and `boot` are those of now, `step` counts over all boots."""

    def __init__(self, record: BoardRecord, contents: Contents, by_events: bool) -> None:
        self.record = record
        self.contents = contents
        self.config = Config(dict(record.document))
        self.results: list[BootResult] = []
        self.step = 0
        self.node: ReplayedNode | None = None
        self.boot: BootRecord | None = None
        self.entries: list[Entry] = []  # of the step that was carried out last
        self.events: list[bytes] = []  # that it made
        self.sent: list[tuple[int, bytes]] = []
        self.on_boot: Callable[[BoardReplay], None] | None = None
        self.before_inputs: Callable[[BoardReplay], None] | None = None
        self._by_events = by_events
        self._boots = iter(record.boots)
        self._content = genesis(record.document)
        self._journal = MemoryJournal({}, 0)
        self._compared = 0
        self._at = 0
        self._agreed = 0
        self._state_agreed: dict[int, int] = {}
        self.made: dict[int, list[bytes]] = {}  # boot -> events, all

    # From boot to boot.

    @property
    def result(self) -> BootResult:
        return self.results[-1]

    def advance(self) -> bool:
        """Carry out the next step; False where the recording has ended. Missing: nothing was carried out."""
        while self.node is None or self.boot is None or self._at >= len(self.boot.steps):
            self._end_boot()
            boot = next(self._boots, None)
            if boot is None:
                return False
            self._begin_boot(boot)
        self._one_step(self.node, self.boot)
        return True

    def give_up(self, why: str) -> None:
        """Leave the rest of this boot."""
        self.result.why = why
        self._end_boot()

    def _end_boot(self) -> None:
        if self.node is not None and self.boot is not None:
            self._compare_events(self.boot)
            self._content = self._journal.content
        self.node = None

    def _begin_boot(self, boot: BootRecord) -> None:
        self.boot, self._at, self._compared = boot, 0, 0
        steps = len(boot.steps)
        result = BootResult(self.record.name, boot.number, steps, 0, boot.inputs, boot.recorded_ms, boot.last_ms)
        self.results.append(result)
        if boot.hole is not None:
            result.why = f"pieces of its recording are missing after {boot.recorded_ms} ms"
        if boot.stored is None:
            if boot.last_ms > SILENT_MS:
                result.why = result.why or "nothing of its recording arrived"
            return
        content = self._stored_content(boot.stored)
        if stored_crc(content) != boot.stored.crc:
            self._lie(boot, boot.stored, content)
            return
        self._journal = MemoryJournal(content, boot.stored.condition)
        snapshot = boot.steps[0][0].data
        self.node = ReplayedNode(self._by_events, snapshot, self.config, self._journal, boot.stored.entropy)
        for kind in (schema.TRAP, schema.DESCRIBE, schema.TELEMETRY_ACK):
            self.node.handle(kind, ignore)
        self._agreed = self.step
        self._state_agreed = {}
        self.made[boot.number] = []
        if self.on_boot is not None:
            self.on_boot(self)

    def _stored_content(self, stored: Stored) -> dict[int, bytes]:
        """What the board told of its journal, and for the rest what the life before left."""
        return {key: stored.recent.get(key, self._content.get(key, b"")) for key in stored.keys}

    def _lie(self, boot: BootRecord, stored: Stored, content: dict[int, bytes]) -> None:
        """What the board found in its journal is not what its life before had made durable."""
        lost = [key for key in stored.keys if key not in stored.recent and key not in self._content]
        keys = ", ".join(f"{key:#x}" for key in lost[:MOST_DIFFERENT_KEYS])
        self.result.why = (
            f"its stored state at boot is neither what the life before left nor told: keys {keys}"
            if lost
            else "its stored state at boot is not what the life before left: an older value was lost, or changed"
        )
        self._content = content

    # Steps.

    def _one_step(self, node: ReplayedNode, boot: BootRecord) -> None:
        entries = boot.steps[self._at]
        found = [
            self._content_of(entry) if entry.kind == HEARD else entry.data for entry in entries
        ]  # before any is given
        self._at += 1
        self.step += 1
        self.entries = entries
        self.events, self.sent = [], []
        if self.before_inputs is not None:
            self.before_inputs(self)
        for entry, data in zip(entries, found, strict=True):
            kind = entry.kind
            if kind == TICK:
                node.tick(entry.now_ms)
            elif kind in (STATE, OUTPUT, STORED):
                continue
            elif kind == EMITTED:
                node.emit(schema.CONNECTED, LOCAL)
            else:
                node.receive(entry.source, data, entry.now_ms)
        step(node, self._journal, self._send, self._emit)
        self.result.replayed += 1
        if len(node.stream) > self._compared:
            self._compare(node, boot)

    def _content_of(self, entry: Entry) -> bytes:
        data = self.contents.get(entry.source, entry.crc)
        if data is None:
            raise Missing(entry)
        return data

    def _send(self, to: int, data: bytes) -> None:
        self.sent.append((to, data))
        self.contents.add(self.config.board, data)

    def _emit(self, data: bytes) -> None:
        assert self.boot is not None
        self.events.append(data)
        self.made[self.boot.number].append(data)

    # Comparing.

    def _compare(self, node: ReplayedNode, boot: BootRecord) -> None:
        """What has left the recorder since the last time, against what left the board's."""
        begin, end = self._compared, min(len(node.stream), len(boot.stream))
        self._compared = len(node.stream)
        if node.stream[begin:end] == boot.stream[begin:end]:
            self._agreed = self.step
            return
        at = next(index for index in range(begin, end) if node.stream[index] != boot.stream[index])
        first = self.step - self._at + 1  # the step with which the boot begins
        for number, entries in enumerate(boot.steps):
            for entry in entries:
                if entry.end > at:
                    self._differ(node, boot, entry, first + number)
                    return

    def _differ(self, node: ReplayedNode, boot: BootRecord, entry: Entry, step_number: int) -> None:
        size = 4
        ours = bytes(node.stream[entry.end - size : entry.end]).hex()
        theirs = boot.stream[entry.end - size : entry.end].hex()
        what, since = "an input was taken in another way", self._agreed
        if entry.kind == STATE:
            target, since = self._looked_at(node, boot, entry)
            what = f"the state of {target}"
        elif entry.kind == OUTPUT:
            what, since = "what was stored and sent", max(1, self._agreed - 1)
        if self.result.difference is None:
            self.result.difference = Difference(
                self.record.name,
                boot.number,
                step_number,
                since,
                entry.now_ms,
                what,
                theirs,
                ours,
                _described(entry),
                state_of(node),
            )

    def _looked_at(self, node: ReplayedNode, boot: BootRecord, entry: Entry) -> tuple[str, int]:
        """The name of the target of a look, and the step of the look before at the same, or of the boot."""
        names = [target_name(target) for target in node.targets()]
        first = self.step - self._at + 1
        looks = [
            (first + number, other)
            for number, entries in enumerate(boot.steps)
            for other in entries
            if other.kind == STATE and other.end <= entry.end
        ]
        index = len(looks) - 1
        before = index - len(names)
        return names[index % len(names)], looks[before][0] if before >= 0 else first

    def _compare_events(self, boot: BootRecord) -> None:
        """Every event that arrived, but those of the shell, against the one that was made."""
        if self.result.difference is not None:
            return
        for _number, sequence, now_ms, _stamp, kind, fields in decode_events(b"".join(self.made[boot.number])):
            told = boot.events.get(sequence)
            if told is None or told.kind in (FLIGHT, "boot", "trapped") or fields.get("transport") == LOCAL[0]:
                continue
            if (told.kind, dict(told.fields), told.now_ms) != (kind, fields, now_ms):
                first = self.step - self._at + 1
                index = next(
                    (at for at, entries in enumerate(boot.steps) if entries[-1].now_ms >= now_ms), len(boot.steps) - 1
                )
                self.result.difference = Difference(
                    self.record.name,
                    boot.number,
                    first + index,
                    first + index - 1,
                    now_ms,
                    f"event {sequence}",
                    f"{told.kind} {dict(told.fields)}",
                    f"{kind} {fields}",
                    _described(boot.steps[index][-1]),
                )
                return


def _described(entry: Entry) -> str:
    words = {
        TICK: "a tick",
        HEARD: f"a message of {'the host' if entry.source == schema.HOST else f'board {entry.source}'}",
        STATE: "a look at the state",
        OUTPUT: "a look at the outputs",
        EMITTED: "an event of the shell",
        STORED: "the boot",
    }
    return f"{words.get(entry.kind, 'a message that was refused')} at {entry.now_ms} ms"


def target_name(target: Any) -> str:
    return str(getattr(target, "name", "clock"))


def state_of(node: RecordedNode) -> dict[str, Any]:
    """The fields of all protocols and of the clock, as far as they are plain; those of their parts by their path."""
    targets = node.targets()
    return {target_name(target): _fields(target, "", [node, node.config, node._stored, *targets]) for target in targets}


def _fields(part: Any, path: str, seen: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted(vars(part)):
        value = vars(part)[name]
        if callable(value) or any(other is value for other in seen):
            continue
        if hasattr(value, "__dict__"):
            seen.append(value)
            found |= _fields(value, f"{path}{name}.", seen)
        else:
            found[path + name] = frozen(value)
    return found


def frozen(value: Any) -> Any:
    """As it is now, for what may change in place."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return [frozen(item) for item in value]
    if isinstance(value, set):
        return set(value)
    return bytes(value) if isinstance(value, bytearray) else value


class Replay:
    """All boards of a recording."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.boards = {
            name: BoardReplay(record, recording.contents, recording.by_events)
            for name, record in recording.boards.items()
        }

    def board(self, name: str) -> BoardReplay:
        if name not in self.boards:
            raise UsageError(f"--board {name}: the run had {', '.join(self.boards)}")
        return self.boards[name]

    def run(self, progress: Callable[[int], None] = lambda _steps: None) -> list[BootResult]:
        """Replay everything."""
        waiting = list(self.boards.values())
        while waiting:
            moved = False
            for board in list(waiting):
                before = board.step
                if self.follow(board):
                    waiting.remove(board)
                    moved = True
                moved = moved or board.step > before
                progress(sum(other.step for other in self.boards.values()))
            if not moved:
                self.skip(waiting)
        return self.results()

    def follow(self, board: BoardReplay) -> bool:
        """Run a board as far as contents are known; whether to its end."""
        try:
            while board.advance():
                pass
        except Missing:
            return False
        return True

    @staticmethod
    def skip(waiting: list[BoardReplay]) -> None:
        """Nobody can go on: the contents that they wait for are nowhere."""
        for board in waiting:
            try:
                board.advance()
            except Missing as missing:
                source = missing.entry.source
                sender = "the host" if source == schema.HOST else f"board {source}"
                board.give_up(
                    f"the content of a message of {sender} at {missing.entry.now_ms} ms did not pass the tap, "
                    "and its sender's recording ends before it"
                )

    def results(self) -> list[BootResult]:
        return [result for board in self.boards.values() for result in board.results]
