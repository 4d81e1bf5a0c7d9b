# mypy: ignore-errors
"""Runs on MicroPython: three real boards with one protocol of the suite, whose clients never rest; one message in
twenty is lost.

All three are on one heap, so what any of them keeps shows. Their journals are in files, as on a board. With `mirror`
boards write counters, sets and registers of a few keys, and read them; before the heap is looked at all sets are
emptied everywhere, since it is not what clients put there that is asked. With `sampling` they ask for values of every
key at once, of which each takes 200 equal polls, and of keys for which there is no room. Usage: suite_messages.py
FIRMWARE COUNT EVERY PROTOCOL. Prints (heap, commands, counts, milliseconds): the heap in use after a collection at
every EVERY messages, when none is on its way; what clients asked; how many messages of each kind were received.
"""

import gc
import sys
import time

FIRMWARE, COUNT, EVERY, NAME = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
sys.path.insert(0, FIRMWARE)

from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.prng import Prng
from brownout_node.core.step import step
from brownout_node.storage.journal import Journal, format_genesis

BOARDS = (1, 2, 3)
CLUSTER = 7
BLOCK = 4096
BLOCKS = 32
LOST_OF = 20
COLLECT_MS = 500
KEYS = 40  # of sampling: fewer than clients may wait for, so that all are taken up at once
OPTIONS = {"sampling": {"sampling": {"keys": KEYS, "beta": 200}}, "mirror": {}}
ADD, REMOVE = 153, 154  # of mirror
CHOOSE = 144  # of sampling
ELEMENTS = 9
# Operations, from which number on, how many, and how many keys they go to.
ASKED = {"mirror": (152, 7, 6), "sampling": (144, 2, KEYS + 8)}


class FileRegion:
    """A journal's region in a file: what it takes is not on the heap, as on a board."""

    def __init__(self, name):
        self.file = open(name, "w+b")
        for _ in range(BLOCKS * 16):
            self.file.write(b"\xff" * 256)

    def readblocks(self, block, buf, offset=0):
        self.file.seek(block * BLOCK + offset)
        self.file.readinto(buf)

    def writeblocks(self, block, buf, offset=0):
        self.file.seek(block * BLOCK + offset)
        self.file.write(buf)

    def ioctl(self, operation, argument):
        if operation == 4:
            return BLOCKS
        if operation == 5:
            return BLOCK
        if operation == 6:
            for offset in range(0, BLOCK, 256):
                self.writeblocks(argument, b"\xff" * 256, offset)
        return 0


class Cluster:
    def __init__(self):
        self.random = Prng(1, 0, 0, "clients")
        self.now_ms = 0
        self.received = 0
        self.commands = 0
        self.calm = False
        self.counts = {}
        self.queue = []  # (source, target, data)
        self.journals = {}
        self.nodes = {}
        roster = [[board, "b%d" % board, 1] for board in BOARDS]
        for board in BOARDS:
            region = FileRegion("journal%d.bin" % board)
            format_genesis(region, CLUSTER, board)
            self.journals[board] = Journal(region)
            self.journals[board].open()
            document = {"cluster": CLUSTER, "board": board, "bed": "t", "seed": 1, "roster": roster}
            document["protocols"] = ["membership", NAME]
            document["options"] = OPTIONS[NAME]
            self.nodes[board] = Node(Config(document), self.journals[board], ("bench", "0", b"\0" * 8, "power"), 5)
            self.work(board)
        self.heap = [0] * (COUNT // EVERY)  # all at once, so that noting does not show in what is noted
        self.noted = 0
        self.fill()

    def fill(self):
        # As much as there is room for, at once: tables keep the size that they have once had.
        if NAME == "mirror":
            for number in range(120):  # the last 72 before anybody hears of them: more than one board would take
                self.command(BOARDS[number % 3], ADD, number % 6, number)
                if number < 48:
                    self.deliver()
        else:
            for key in range(KEYS):
                self.command(BOARDS[key % 3], CHOOSE, key, key % ELEMENTS)
        self.deliver()
        gc.collect()

    def work(self, board):
        def send(to, data):
            for target in BOARDS:
                if target != board and to in (target, schema.ALL, schema.VOTERS):
                    if self.calm or not self.random.chance(1, LOST_OF):
                        self.queue.append((board, target, data))

        step(self.nodes[board], self.journals[board], send, len)

    def deliver(self):
        while self.queue:
            source, target, data = self.queue.pop(0)
            kind = codec.decode_message(data)[4]
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.received += 1
            self.nodes[target].receive(source, data, self.now_ms)
            self.work(target)

    def ask(self, board):
        first, operations, keys = ASKED[NAME]
        self.command(board, first + self.random.below(operations), self.random.below(keys), self.random.below(ELEMENTS))

    def command(self, board, operation, key, value):
        self.commands += 1
        client = 1000 + self.random.below(24)
        self.nodes[board].command(client, self.commands, operation, "k%d" % key, str(value), None, self.now_ms)
        self.work(board)

    def tick(self):
        self.now_ms += 50
        for board in BOARDS:
            if not self.calm:
                self.ask(board)
            self.nodes[board].tick(self.now_ms)
            self.work(board)
            self.deliver()
            self.journals[board].maintain()

    def agree(self):
        return len({self.nodes[board].protocol(NAME).digest() for board in BOARDS}) == 1

    def settle(self):
        # Nothing is lost now, so all boards come to hold the same, and then nothing in their sets.
        self.calm = True
        for pass_ in range(2):
            for _ in range(400):
                if self.agree():
                    break
                self.tick()
            assert self.agree(), "boards do not come to hold the same"
            if pass_ == 0:
                for key in range(ASKED[NAME][2]):
                    for value in self.nodes[1].protocol(NAME).members("k%d" % key):
                        self.command(1, REMOVE, key, value)
                        self.deliver()
        self.calm = False

    def turn(self):
        self.tick()
        if self.now_ms % COLLECT_MS == 0:
            gc.collect()  # as boards do, before there is no room left
        if self.received >= (self.noted + 1) * EVERY:
            if NAME == "mirror":
                self.settle()
            self.queue = []  # it keeps the size that it once had
            gc.collect()
            heap = gc.mem_alloc()
            while self.noted < len(self.heap) and self.received >= (self.noted + 1) * EVERY:
                self.heap[self.noted] = heap
                self.noted += 1


def main():
    began = time.ticks_ms()
    cluster = Cluster()
    while cluster.received < COUNT:
        cluster.turn()
    kinds = sorted(cluster.counts.items())
    print((cluster.heap, cluster.commands, kinds, time.ticks_diff(time.ticks_ms(), began)))


main()
