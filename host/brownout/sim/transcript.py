"""What the firmware of a simulated board was given, and what it made of it: for asking another interpreter too.

    recorder = Recorder()
    simulate(plan, rig, parts=recorder.parts)
    recorder.transcripts["b1"].items  ->  bytes

A board is simulated with a node, a journal and a flash that note every call from outside, every answer of the flash and
a hash of every output; nothing else changes. Items are tag (1 byte), size (4 bytes, little endian), payload:
    C  configuration, as JSON; the journal's genesis is written right after it
    O  the journal is opened    A  it appends what the step before made ready    M  it is maintained
    B  boot: about and entropy, as JSON              H  the shell handles a kind of message itself (8 bytes)
    R  receive: now_ms (8), source (4), message      T  tick: now_ms (8)         E  emit: kind and fields, as JSON
    Y  a step takes what is ready: `output_hash`     X  the call before ended with an error: its type's name
    P  flash program, Z  erase: what was asked (`asked`), then how it ended (1); if not as asked, what lay there then
    F  a bit of the flash turns over: position (4), bit (4)                      W  the flash is wiped
Must not change what a board does, and must not judge.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.storage.journal import Journal

from .flash import BLOCK_BYTES, PowerLost, SimFlash

HASH_BYTES = 8
RECEIVED_HEAD = 12  # bytes of an R before its message
DONE, FAILED, CUT, OTHERWISE = b"\0", b"\1", b"\2", b"\3"  # how a program or an erase ended


@dataclass(frozen=True)
class Parts:
    """What a simulated board is made of: the models and the firmware's own, or what listens in on them."""

    flash: Callable[[int, int], SimFlash] = SimFlash
    journal: Callable[[SimFlash], Journal] = Journal
    node: Callable[[Config, Journal, tuple[Any, ...], int], Node] = Node


def output_hash(ready: Any, protocols: list[Any]) -> bytes:
    """Over every byte that is ready to be stored, sent and reported, and the digest of every protocol's state."""
    digest = hashlib.sha256()
    records, messages, events = ready or ((), (), ())
    for letter, rows in (("r", records), ("m", messages), ("e", [(0, event) for event in events])):
        for number, data in rows:
            size = -1 if data is None else len(data)
            digest.update(f"{letter}{number} {size} ".encode() + (data or b""))
    for protocol in protocols:
        digest.update(protocol.digest())
    return digest.digest()[:HASH_BYTES]


def asked(block: int, offset: int, data: bytes) -> bytes:
    return struct.pack("<III", block, offset, len(data)) + hashlib.sha256(data).digest()[:HASH_BYTES]


class Transcript:
    """One board's items so far."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.items = bytearray()
        self._inside = False
        self.note(b"C", json.dumps(document).encode())

    def note(self, tag: bytes, payload: bytes = b"") -> None:
        self.items += tag + struct.pack("<I", len(payload)) + payload

    def given(self, tag: bytes, payload: Callable[[], bytes], call: Callable[[], Any]) -> Any:
        """A call from outside; those that the firmware makes of its own within it are not noted."""
        if self._inside:
            return call()
        self.note(tag, payload())
        self._inside = True
        try:
            return call()
        except PowerLost:
            raise
        except Exception as error:
            self.note(b"X", type(error).__name__.encode())
            raise
        finally:
            self._inside = False

    def parts(self) -> Parts:
        """What a board is to be made of."""
        return Parts(
            flash=lambda program_ns, erase_ns: RecordedFlash(self, program_ns, erase_ns),
            journal=lambda flash: RecordedJournal(self, flash),
            node=lambda config, journal, about, entropy: RecordedNode(self, config, journal, about, entropy),
        )


class Recorder:
    """transcripts: those of all boards, by name. parts: for the boards of a simulated bed."""

    def __init__(self) -> None:
        self.transcripts: dict[str, Transcript] = {}

    def parts(self, document: Mapping[str, Any]) -> Parts:
        transcript = self.transcripts[document["name"]] = Transcript(document)
        return transcript.parts()


def messages_of(items: bytes | bytearray) -> Iterator[bytes]:
    """The messages that a board received, from its transcript."""
    at = 0
    while at < len(items):
        (size,) = struct.unpack_from("<I", items, at + 1)
        if items[at : at + 1] == b"R":
            yield bytes(items[at + 5 + RECEIVED_HEAD : at + 5 + size])
        at += 5 + size


class RecordedNode(Node):
    def __init__(self, transcript: Transcript, config: Config, journal: Journal, about: Any, entropy: int) -> None:
        self._transcript = transcript
        told = json.dumps([[part.hex() if isinstance(part, bytes) else part for part in about], entropy])
        make = super().__init__
        transcript.given(b"B", told.encode, lambda: make(config, journal, about, entropy))

    def handle(self, kind: int, handler: Any) -> None:
        handle = super().handle
        self._transcript.given(b"H", lambda: struct.pack("<q", kind), lambda: handle(kind, handler))

    def receive(self, source: int, data: bytes, now_ms: int) -> None:
        receive = super().receive
        told = struct.pack("<qi", now_ms, source)
        self._transcript.given(b"R", lambda: told + data, lambda: receive(source, data, now_ms))

    def tick(self, now_ms: int) -> None:
        tick = super().tick
        self._transcript.given(b"T", lambda: struct.pack("<q", now_ms), lambda: tick(now_ms))

    def emit(self, kind: int, fields: tuple[Any, ...]) -> None:
        emit = super().emit
        self._transcript.given(b"E", lambda: json.dumps([kind, fields]).encode(), lambda: emit(kind, fields))

    def take_ready(self) -> Any:
        ready = super().take_ready()
        self._transcript.note(b"Y", output_hash(ready, self.protocols))
        return ready


class RecordedJournal(Journal):
    def __init__(self, transcript: Transcript, flash: SimFlash) -> None:
        self._transcript = transcript
        super().__init__(flash)

    def open(self) -> None:
        self._transcript.given(b"O", bytes, super().open)

    def append(self, records: Any) -> None:
        append = super().append
        self._transcript.given(b"A", bytes, lambda: append(records))

    def maintain(self) -> Any:
        return self._transcript.given(b"M", bytes, super().maintain)


class RecordedFlash(SimFlash):
    def __init__(self, transcript: Transcript, program_ns: int, erase_ns: int) -> None:
        self._transcript = transcript
        super().__init__(program_ns, erase_ns)

    def writeblocks(self, block: int, buffer: bytes | bytearray | memoryview, offset: int = 0) -> None:
        at = block * BLOCK_BYTES + offset
        new = bytes(buffer)
        expected = bytes(old & byte for old, byte in zip(self.data[at : at + len(new)], new, strict=True))
        write = super().writeblocks
        self._answered(b"P" + asked(block, offset, new), at, expected, lambda: write(block, buffer, offset))

    def _erase(self, block: int) -> None:
        erase = super()._erase
        blank = b"\xff" * BLOCK_BYTES
        self._answered(b"Z" + asked(block, 0, b""), block * BLOCK_BYTES, blank, lambda: erase(block))

    def _answered(self, told: bytes, at: int, expected: bytes, call: Callable[[], None]) -> None:
        ended = DONE
        try:
            call()
        except PowerLost:
            ended = CUT
            raise
        except OSError:
            ended = FAILED
            raise
        finally:
            found = bytes(self.data[at : at + len(expected)])
            if ended == DONE and found != expected:
                ended = OTHERWISE
            self._transcript.note(told[:1], told[1:] + ended + (b"" if ended == DONE else found))

    def flip(self, position: int, bit: int) -> None:
        self._transcript.note(b"F", struct.pack("<II", position, bit))
        super().flip(position, bit)

    def wipe(self) -> None:
        self._transcript.note(b"W")
        super().wipe()
