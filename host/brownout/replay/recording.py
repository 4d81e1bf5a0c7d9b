"""A run's folder -> what each board was given in each of its boots, and the contents of the messages.

Must not run a board.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brownout_node.core import codec, schema
from brownout_node.storage.journal import crc32

from ..board_events import SERIAL
from ..contracts import UsageError
from ..history import BoardEvent, History
from ..sim.explicit import read_plan
from ..store import load
from . import tap
from .stream import INPUTS, STORED, Entry, Stored, parse, parse_stored

FLIGHT = "flight"


@dataclass
class BootRecord:
    """One boot as it was recorded. offset_ns: nanoseconds of the run at this boot's time 0; None: not known."""

    number: int
    stream: bytes = b""
    stored: Stored | None = None
    steps: list[list[Entry]] = field(default_factory=list)
    events: dict[int, BoardEvent] = field(default_factory=dict)
    offset_ns: int | None = None
    hole: int | None = None  # bytes of the recording that arrived before a piece was missing
    last_ms: int = 0  # of the last event or entry that arrived

    @property
    def inputs(self) -> int:
        return sum(entry.kind in INPUTS for step in self.steps for entry in step)

    @property
    def recorded_ms(self) -> int:
        """The board's time at its last entry."""
        return self.steps[-1][-1].now_ms if self.steps else 0


@dataclass
class BoardRecord:
    """One board. document: its config.json."""

    name: str
    number: int
    document: dict[str, Any]
    boots: list[BootRecord] = field(default_factory=list)


class Contents:
    """Messages by (source, CRC-32). What a replayed board sends is added, for the tap may have missed it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bytes] = {}
        self.size = 0

    def add(self, source: int, data: bytes) -> None:
        self._known.setdefault((source, crc32(data)), data)
        self.size += len(data)

    def get(self, source: int, crc: int) -> bytes | None:
        return self._known.get((source, crc))


@dataclass
class Recording:
    """All of a run. source: the hash of the code that the boards ran."""

    folder: Path
    history: History
    boards: dict[str, BoardRecord]
    contents: Contents
    source: str
    by_events: bool


def read(folder: Path) -> Recording:
    """UsageError where the folder is not one of a run that was recorded."""
    document = tap.read_boards(folder)
    history = load(folder)
    read_plan(dict(history.plan))  # takes in protocols of one's own
    boards = {
        name: BoardRecord(name, int(configuration["board"]), configuration)
        for name, configuration in document["boards"].items()
    }
    by_number = {board.number: board for board in boards.values()}
    contents = Contents()
    pieces: dict[tuple[str, int], dict[int, bytes]] = defaultdict(dict)
    order: dict[str, list[int]] = {name: [] for name in boards}
    for record in tap.read_tap(folder):
        if record.kind == tap.MESSAGE:
            contents.add(record.board or schema.HOST, record.data)
        elif record.board in by_number:
            boot, at, data = tap.piece_of(record)
            name = by_number[record.board].name
            pieces[name, boot][at] = data
            if boot not in order[name]:
                order[name].append(boot)
    events = _events(history, pieces, order)
    for name, board in boards.items():
        board.boots = [_boot(boot, pieces[name, boot], events[name, boot]) for boot in order[name]]
    if not any(boot.stream for board in boards.values() for boot in board.boots):
        raise UsageError(f"{folder}: nothing of the boards' recordings arrived; there is nothing to replay")
    return Recording(folder, history, boards, contents, str(document["source"]), bool(document["by_events"]))


def _events(
    history: History, pieces: Mapping[tuple[str, int], dict[int, bytes]], order: Mapping[str, list[int]]
) -> dict[tuple[str, int], dict[int, BoardEvent]]:
    """The events of each boot by number; their FLIGHT pieces go to `pieces`. order: boots as they came."""
    events: dict[tuple[str, int], dict[int, BoardEvent]] = defaultdict(dict)
    for event in history.events:
        if event.board not in order:
            continue
        if event.boot not in order[event.board]:
            order[event.board].append(event.boot)
        events[event.board, event.boot][event.sequence] = event
        if event.kind == FLIGHT:
            pieces[event.board, event.boot][event.fields["at"]] = bytes.fromhex(event.fields["data"])
    return events


def _boot(number: int, pieces: Mapping[int, bytes], events: dict[int, BoardEvent]) -> BootRecord:
    boot = BootRecord(number, events=events)
    stream = bytearray()
    for at in sorted(pieces):
        if at != len(stream):
            boot.hole = len(stream)
            break
        stream += pieces[at]
    boot.stream = bytes(stream)
    boot.steps = parse(boot.stream)
    if boot.steps and boot.steps[0][0].kind == STORED:
        boot.stored = parse_stored(boot.steps[0][0].data)
    boot.last_ms = max([boot.recorded_ms, *(event.now_ms for event in events.values())])
    early = [event.received_ns - event.now_ms * 1_000_000 for event in events.values() if event.channel == SERIAL]
    early = early or [event.received_ns - event.now_ms * 1_000_000 for event in events.values()]
    boot.offset_ns = min(early, default=None)
    return boot


def genesis(document: Mapping[str, Any]) -> dict[int, bytes]:
    """What the flasher leaves in a journal."""
    return {schema.JOURNAL_GENESIS: codec.pack("uu", (document["cluster"], document["board"]))}
