# mypy: ignore-errors
"""Runs on MicroPython: one board's recorded inputs, given to a Node and to a RecordedNode in turns.

Usage: recorded.py FIRMWARE INPUTS TURNS. INPUTS: first the configuration as JSON, its size before it (4 bytes), then
for each input first-of-step (1), kind (1: 0 tick, 1 message), now_ms (4), source (4, signed), size (2), message. Prints
(ticks, inputs, microseconds of each turn with Node, with RecordedNode, heap of RecordedNode less that of Node).
"""

import gc
import json
import struct
import sys
import time

FIRMWARE, INPUTS, TURNS = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, FIRMWARE)

from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.step import step
from brownout_node.storage.journal import Journal, format_genesis

BLOCK = 4096
BLOCKS = 32


class Region:
    """A journal's region in memory."""

    def __init__(self):
        self.blocks = [bytearray(b"\xff" * BLOCK) for _ in range(BLOCKS)]

    def readblocks(self, block, buf, offset=0):
        buf[:] = memoryview(self.blocks[block])[offset : offset + len(buf)]

    def writeblocks(self, block, buf, offset=0):
        self.blocks[block][offset : offset + len(buf)] = buf

    def ioctl(self, operation, argument):
        if operation == 6:
            self.blocks[argument][:] = b"\xff" * BLOCK
        return BLOCKS if operation == 4 else BLOCK


def inputs(file):
    while True:
        head = file.read(12)
        if len(head) < 12:
            return
        first, kind, now_ms, source, size = struct.unpack("<BBiiH", head)
        yield first, kind, now_ms, source, file.read(size)


def ignore(*_effect):
    pass


def turn(make):
    """(ticks, inputs, microseconds, heap) of one run; what is read from the file does not count."""
    with open(INPUTS, "rb") as file:
        document = json.loads(file.read(struct.unpack("<I", file.read(4))[0]))
        region = Region()
        config = Config(document)
        format_genesis(region, config.cluster, config.board)
        journal = Journal(region)
        journal.open()
        node = make(config, journal, ("", "", bytes(8), ""), 0)
        gc.collect()
        heap = gc.mem_alloc()
        ticks = count = spent = 0
        for first, kind, now_ms, source, data in inputs(file):
            begin = time.ticks_us()
            if first:
                step(node, journal, ignore, ignore)
            if kind == 0:
                node.tick(now_ms)
                ticks += 1
            else:
                node.receive(source, data, now_ms)
            spent += time.ticks_diff(time.ticks_us(), begin)
            count += 1
        return ticks, count, spent, heap


def main():
    gc.collect()
    before = gc.mem_alloc()
    from brownout_node.core.recorder import RecordedNode

    gc.collect()
    code = gc.mem_alloc() - before
    bare, recorded = [], []
    heap = 0
    for _ in range(TURNS):
        ticks, count, spent, less = turn(Node)
        bare.append(spent)
        ticks, count, spent, more = turn(RecordedNode)
        recorded.append(spent)
        heap = more - less
    print((ticks, count, bare, recorded, code + heap))


main()
