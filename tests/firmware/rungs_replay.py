"""Gives the recorded inputs of simulated boards to the firmware of whatever interpreter runs this, and compares.

Usage: rungs_replay.py FIRMWARE TRANSCRIPT ..   Each file holds one board's items, as host/brownout/sim/transcript.py
says. Prints a line for each board: what was the same, or the first item that differs; the exit code is then 1. Runs
under MicroPython and CPython alike.
"""

import hashlib
import json
import struct
import sys

sys.path.insert(0, sys.argv[1])

from brownout_node.core.config import Config  # noqa: E402
from brownout_node.core.node import Node  # noqa: E402
from brownout_node.core.step import step  # noqa: E402
from brownout_node.storage.journal import Journal, format_genesis  # noqa: E402

BLOCK_BYTES = 4096
BLOCKS = 32
DONE, FAILED, CUT = 0, 1, 2


class PowerLost(Exception):
    pass


class Differs(Exception):
    pass


class Items:
    """The items of a file, one after the other; `number` counts them from 1, `steps` the steps among them."""

    def __init__(self, file):
        self._file = file
        self._ahead = None
        self.number = 0
        self.steps = 0
        self.given = "its start"

    def peek(self):
        if self._ahead is None:
            head = self._file.read(5)
            self._ahead = ("", b"")
            if head:
                size = struct.unpack_from("<I", head, 1)[0]
                self._ahead = (chr(head[0]), self._file.read(size))
        return self._ahead

    def take(self):
        item = self.peek()
        self._ahead = None
        self.number += 1
        return item

    def differ(self, what):
        raise Differs(f"item {self.number}, step {self.steps}, after {self.given}: {what}")


class Flash:
    """What the simulated flash did: programs clear bits, erases set them, unless the recording has it otherwise."""

    def __init__(self, items):
        self.items = items
        self.cells = bytearray(b"\xff" * (BLOCKS * BLOCK_BYTES))

    def readblocks(self, block, buffer, offset=0):
        at = block * BLOCK_BYTES + offset
        buffer[:] = memoryview(self.cells)[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=0):
        at = block * BLOCK_BYTES + offset
        new = bytes(buffer)
        answer = self._answer("P", block, offset, new)
        if answer[0] == DONE:
            for index in range(len(new)):
                self.cells[at + index] &= new[index]
        self._end(at, answer)

    def ioctl(self, operation, argument):
        if operation == 6:
            at = argument * BLOCK_BYTES
            answer = self._answer("Z", argument, 0, b"")
            if answer[0] == DONE:
                self.cells[at : at + BLOCK_BYTES] = b"\xff" * BLOCK_BYTES
            self._end(at, answer)
        return BLOCKS if operation == 4 else BLOCK_BYTES

    def _answer(self, tag, block, offset, data):
        asked = struct.pack("<III", block, offset, len(data)) + hashlib.sha256(data).digest()[:8]
        found, payload = self.items.take()
        if found != tag or payload[:20] != asked:
            what = f"a program of {len(data)} bytes" if tag == "P" else "an erase"
            self.items.differ(f"{what} at block {block} + {offset} is not what was recorded ({found})")
        return payload[20:]

    def _end(self, at, answer):
        for index in range(1, len(answer)):
            self.cells[at + index - 1] = answer[index]
        if answer[0] == FAILED:
            raise OSError(5)
        if answer[0] == CUT:
            raise PowerLost


class ReplayedNode(Node):
    def take_ready(self):
        ready = super().take_ready()
        self.hash = output_hash(ready, self.protocols)
        return ready


def output_hash(ready, protocols):
    # The same as in transcript.py.
    digest = hashlib.sha256()
    records, messages, events = ready or ((), (), ())
    for letter, rows in (("r", records), ("m", messages), ("e", [(0, event) for event in events])):
        for number, data in rows:
            size = -1 if data is None else len(data)
            digest.update(f"{letter}{number} {size} ".encode() + (data or b""))
    for protocol in protocols:
        digest.update(protocol.digest())
    return digest.digest()[:8]


class Board:
    def __init__(self, items):
        self.items = items
        tag, payload = items.take()
        assert tag == "C", tag
        self.config = Config(json.loads(payload.decode()))
        self.flash = Flash(items)
        self.journal = self.node = None
        self.outputs = self.appends = 0
        format_genesis(self.flash, self.config.cluster, self.config.board)

    def append(self, records):
        # The board's journal, to `step`: where the recording has no append, power went before it.
        if self.items.peek()[0] != "A":
            raise PowerLost
        self.items.take()
        self.appends += 1
        self.journal.append(records)

    def replay(self):
        items = self.items
        while items.peek()[0]:
            tag, payload = items.take()
            try:
                self.give(tag, payload)
            except (PowerLost, Differs) as error:
                if isinstance(error, Differs):
                    raise
            except Exception as error:
                if items.peek() != ("X", type(error).__name__.encode()):
                    items.differ(f"{type(error).__name__}: {error}, which was not recorded")
                items.take()

    def give(self, tag, payload):
        if tag == "Y":
            self.take_step(payload)
        elif tag == "R":
            now_ms, source = struct.unpack_from("<qi", payload, 0)
            self.items.given = f"a message of {len(payload) - 12} bytes from {source} at {now_ms} ms"
            self.node.receive(source, payload[12:], now_ms)
        elif tag == "T":
            now_ms = struct.unpack("<q", payload)[0]
            self.items.given = f"a tick at {now_ms} ms"
            self.node.tick(now_ms)
        elif tag == "M":
            self.journal.maintain()
        elif tag == "E":
            kind, fields = json.loads(payload.decode())
            self.node.emit(kind, tuple(fields))
        elif tag == "H":
            self.node.handle(struct.unpack("<q", payload)[0], lambda source, kind, fields: None)
        elif tag == "O":
            self.items.given = "its journal was opened"
            self.journal = Journal(self.flash)
            self.journal.open()
        elif tag == "B":
            about, entropy = json.loads(payload.decode())
            implementation, version, firmware, cause = about
            about = (implementation, version, bytes.fromhex(firmware), cause)
            self.items.given = "its boot"
            self.node = ReplayedNode(self.config, self.journal, about, entropy)
        elif tag == "W":
            self.flash.cells[:] = b"\xff" * len(self.flash.cells)
        elif tag == "F":
            position, bit = struct.unpack("<II", payload)
            self.flash.cells[position] ^= 1 << bit
        else:
            self.items.differ(f"the recording has {tag}, which did not happen")

    def take_step(self, expected):
        self.items.steps += 1
        self.node.hash = None
        try:
            self.outputs += step(self.node, self, self.ignore, self.ignore)
        finally:
            if self.node.hash != expected:
                self.items.differ("the output differs")

    def ignore(self, *effect):
        pass


def main():
    failed = 0
    for path in sys.argv[2:]:
        name = path.split("/")[-1]
        with open(path, "rb") as file:  # noqa: PTH123
            items = Items(file)
            try:
                board = Board(items)
                board.replay()
                print(
                    f"{name} same: {items.number} items, {items.steps} steps, {board.outputs} outputs, "
                    f"{board.appends} appends"
                )
            except Differs as error:
                failed = 1
                print(f"{name} differs: {error}")
    sys.exit(failed)


main()
