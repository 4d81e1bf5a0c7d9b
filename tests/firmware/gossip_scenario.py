"""Boards that gossip and probe, in one process of whatever interpreter runs this: prints digests of all that they did.

Runs under MicroPython and CPython alike and must print the same on both. Usage: gossip_scenario.py FIRMWARE SEED
"""

import hashlib
import sys

sys.path.insert(0, sys.argv[1])

from brownout_node.core import codec, schema  # noqa: E402
from brownout_node.core.config import Config  # noqa: E402
from brownout_node.core.node import Node  # noqa: E402
from brownout_node.core.prng import Prng  # noqa: E402
from brownout_node.core.step import step  # noqa: E402

SEED = int(sys.argv[2])
BOARDS = (1, 2, 3, 4, 5)
ROSTER = [[board, "b" + str(board), 1] for board in BOARDS]
ABOUT = ("scenario", "0", b"\0" * 8, "power")
TICKS = 800
CALM_TICKS = 300
WIPED = 3


class Journal:
    def __init__(self, board):
        self.condition = schema.JOURNAL_VALID
        self.records = {schema.JOURNAL_GENESIS: codec.pack("uu", (1, board))}

    def get(self, key):
        return self.records.get(key)

    def append(self, records):
        for key, value in records:
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value


class World:
    def __init__(self):
        self.random = Prng(SEED, 0, 0, "world")
        self.now_ms = 0
        self.calm = False
        self.queue = []  # (source, target, data), in order
        self.done = hashlib.sha256()
        self.replies = 0
        self.journals = {}
        self.nodes = {}
        self.booted_ms = {}
        for board in BOARDS:
            self.journals[board] = Journal(board)
            self.boot(board)

    def boot(self, board):
        document = {"cluster": 1, "board": board, "bed": "t", "seed": SEED, "roster": ROSTER}
        document["protocols"] = ["membership", "gossip"]
        self.booted_ms[board] = self.now_ms
        self.nodes[board] = Node(Config(document), self.journals[board], ABOUT, 5)
        self.carry_out(board)

    def carry_out(self, board):
        def send(to, data):
            self.done.update(data)
            if to >= schema.FIRST_CLIENT:
                self.replies += 1
            elif self.calm or not self.random.chance(1, 10):
                self.queue.append((board, to, data))

        step(self.nodes[board], self.journals[board], send, self.done.update)

    def deliver(self):
        # Everything of this tick, mostly in order.
        while self.queue:
            at = self.random.below(min(3, len(self.queue)))
            source, target, data = self.queue.pop(at)
            self.nodes[target].receive(source, data, self.now_ms - self.booted_ms[target])
            self.carry_out(target)

    def tick(self, number):
        self.now_ms += 50
        for board in BOARDS:
            self.nodes[board].tick(self.now_ms - self.booted_ms[board])
            self.carry_out(board)
            if not self.calm and self.random.chance(1, 6):
                self.command(board, number)
        self.deliver()
        if not self.calm and self.random.chance(1, 40):
            self.boot(BOARDS[self.random.below(5)])
        if number == TICKS // 2:
            self.journals[WIPED].records = {}
            self.journals[WIPED].condition = schema.JOURNAL_MISSING
            self.boot(WIPED)

    def command(self, board, number):
        key = "k" + str(self.random.below(40))
        operation = (schema.WRITE, schema.DELETE, schema.READ)[self.random.below(3)]
        value = "\u00fc" + str(number) if operation == schema.WRITE else None
        client = 1000 + self.random.below(40)
        self.nodes[board].command(client, number, operation, key, value, None, self.now_ms - self.booted_ms[board])
        self.carry_out(board)


def main():
    world = World()
    for number in range(1, TICKS + CALM_TICKS + 1):
        world.calm = number > TICKS
        world.tick(number)
        if number % 100 == 0:
            print(number, world.replies)
    for board in BOARDS:
        node = world.nodes[board]
        gossip = node.protocol("gossip")
        print("board", board, gossip.ready, node.protocol("membership").digest(), sorted(gossip.vector.values()))
        print("state", len(gossip.items), gossip.digest())
    print(world.done.digest())


main()
