"""A cluster that votes, in one process of whatever interpreter runs this: prints digests of what was sent and decided.

Runs under MicroPython and CPython alike and must print the same on both. Usage: vote_scenario.py FIRMWARE SEED
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
ROSTER = [[1, "b1", 1], [2, "b2", 2], [3, "b3", 1], [4, "b4", 0]]
ABOUT = ("scenario", "0", b"\0" * 8, "power")
TICKS = 600


class Journal:
    condition = schema.JOURNAL_VALID

    def __init__(self, board):
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
        self.queue = []  # (source, target, data), in order
        self.sent = hashlib.sha256()
        self.replies = 0
        self.journals = {}
        self.nodes = {}
        self.booted_ms = {}
        for board in (1, 2, 3, 4):
            self.journals[board] = Journal(board)
            self.boot(board)

    def boot(self, board):
        document = {"cluster": 1, "board": board, "bed": "t", "seed": SEED, "roster": ROSTER, "protocols": ["vote"]}
        self.booted_ms[board] = self.now_ms
        self.nodes[board] = Node(Config(document), self.journals[board], ABOUT, 5)
        self.carry_out(board)

    def carry_out(self, board):
        def send(to, data):
            self.sent.update(data)
            if to >= schema.FIRST_CLIENT:
                self.replies += 1
            for target in (1, 2, 3, 4):
                heard = target != board and (to == target or (to == schema.VOTERS and target != 4))
                if heard and not self.random.chance(1, 10):
                    self.queue.append((board, target, data))

        step(self.nodes[board], self.journals[board], send, self.sent.update)

    def deliver(self):
        # Everything of this tick, mostly in order.
        while self.queue:
            at = self.random.below(min(3, len(self.queue)))
            source, target, data = self.queue.pop(at)
            self.nodes[target].receive(source, data, self.now_ms - self.booted_ms[target])
            self.carry_out(target)

    def tick(self, number):
        self.now_ms += 50
        for board in (1, 2, 3, 4):
            self.nodes[board].tick(self.now_ms - self.booted_ms[board])
            self.carry_out(board)
            if self.random.chance(1, 3):
                client = 1000 + self.random.below(40)
                key = "k" + str(self.random.below(70))
                operation = (schema.PUT, schema.GET, schema.CAS)[self.random.below(3)]
                value = None if operation == schema.GET else "v" + str(number)
                self.nodes[board].command(
                    client, number, operation, key, value, None, self.now_ms - self.booted_ms[board]
                )
                self.carry_out(board)
        self.deliver()
        if self.random.chance(1, 40):
            self.boot(1 + self.random.below(4))
        if number == TICKS // 2:
            self.journals[3].records = {}
            self.journals[3].condition = schema.JOURNAL_MISSING
            self.boot(3)


def main():
    world = World()
    for number in range(1, TICKS + 1):
        world.tick(number)
        if number % 100 == 0:
            print(number, world.replies)
    for board in (1, 2, 3, 4):
        vote = world.nodes[board].protocol("vote")
        print(board, vote.voting, vote.register.next_height, vote.digest())
    print(world.sent.digest())


main()
