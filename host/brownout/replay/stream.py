"""The recording of one boot as bytes -> what the board was given, step by step. See core/recorder.py for the bytes.

Must not run anything.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from brownout_node.core import recorder

NAMES = {recorder.TICK: "tick", recorder.HEARD: "message"}
OTHERS = {
    recorder.REFUSED: "refused message",
    recorder.EMITTED: "event of the shell",
    recorder.STATE: "state",
    recorder.OUTPUT: "output",
    recorder.STORED: "stored state",
    recorder.BACK: "clock set back",
}
TICK, HEARD, REFUSED, EMITTED, STATE, OUTPUT, STORED = "THREDOS"
INPUTS = frozenset((TICK, HEARD, REFUSED, EMITTED))
_LONGEST = 31


class Entry(NamedTuple):
    """kind: one of the letters above. end: where in the stream it ends. crc: of a message, a state or the outputs."""

    kind: str
    now_ms: int
    end: int
    source: int = 0
    crc: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Stored:
    """What a board said it starts from. recent: the values that it told; the other keys are only named."""

    condition: int
    entropy: int
    crc: int
    keys: tuple[int, ...]
    recent: dict[int, bytes]


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def crc(self) -> int:
        self.at += 4
        return int(struct.unpack_from(">I", self.data, self.at - 4)[0])

    def bytes(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise IndexError
        self.at += size
        return self.data[self.at - size : self.at]


def parse(data: bytes) -> list[list[Entry]]:
    """The entries of each step; an entry whose end is missing is left out."""
    steps: list[list[Entry]] = []
    reader = _Bytes(data)
    now_ms = 0
    while reader.at < len(data):
        try:
            entry, first, now_ms = _entry(reader, now_ms)
        except (IndexError, struct.error):
            break
        if entry is None:
            continue
        if first or not steps:
            steps.append([])
        steps[-1].append(entry)
    return steps


def _entry(reader: _Bytes, now_ms: int) -> tuple[Entry | None, bool, int]:
    head = reader.byte()
    kind, first = head & 3, bool(head & recorder.FIRST)
    if kind == recorder.OTHER and reader.data[reader.at] == recorder.BACK and head == recorder.OTHER:
        reader.at += 1
        return None, False, now_ms - reader.number()
    now_ms += head >> 3 if head >> 3 < _LONGEST else _LONGEST + reader.number()
    if kind == recorder.TICK:
        return Entry(TICK, now_ms, reader.at), first, now_ms
    if kind == recorder.HEARD:
        source, crc = reader.number() - 2, reader.crc()
        return Entry(HEARD, now_ms, reader.at, source, crc), first, now_ms
    other = reader.byte()
    source = crc = 0
    content = b""
    if other == recorder.REFUSED:
        source = reader.number() - 2
        content = reader.bytes(reader.number())
    elif other in (recorder.STATE, recorder.OUTPUT):
        crc = reader.crc()
    elif other == recorder.STORED:
        content = reader.bytes(reader.number())
    letter = {
        recorder.REFUSED: REFUSED,
        recorder.EMITTED: EMITTED,
        recorder.STATE: STATE,
        recorder.OUTPUT: OUTPUT,
        recorder.STORED: STORED,
    }.get(other)
    if letter is None:
        raise IndexError  # no entry begins so: what follows cannot be read
    return Entry(letter, now_ms, reader.at, source, crc, content), first, now_ms


def parse_stored(data: bytes) -> Stored:
    """The content of a STORED entry."""
    reader = _Bytes(data)
    condition, entropy, crc = reader.number(), reader.number(), reader.crc()
    keys = []
    before = 0
    for _ in range(reader.number()):
        before += reader.number()
        keys.append(before)
    recent = {}
    for _ in range(reader.number()):
        index = reader.number()
        recent[keys[index]] = reader.bytes(reader.number())
    return Stored(condition, entropy, crc, tuple(keys), recent)
