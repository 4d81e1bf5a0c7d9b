"""Boards with one protocol of the suite, in one process of any interpreter: prints digests of what they did.

Runs under MicroPython and CPython alike and must print the same on both. Usage: suite_scenario.py FIRMWARE NAME SEED
"""

import hashlib
import sys

sys.path.insert(0, sys.argv[1])

from brownout_node.core import codec, schema  # noqa: E402
from brownout_node.core.config import Config  # noqa: E402
from brownout_node.core.node import Node  # noqa: E402
from brownout_node.core.prng import Prng  # noqa: E402
from brownout_node.core.step import step  # noqa: E402

NAME = sys.argv[2]
SEED = int(sys.argv[3])
BOARDS = (1, 2, 3, 4, 5)
ROSTER = [[board, "b" + str(board), 1] for board in BOARDS]
ABOUT = ("scenario", "0", b"\0" * 8, "power")
TICKS = 500
CALM_TICKS = 300
WIPED = 3
OPTIONS = {
    "work": {"work": {"hashes": 2, "bits": 6, "interval_ms": 600}},
    "commit-non-blocking": {"commit": {"non_blocking": 1}},
    "stake": {"stake": {"epoch": 3}},
}
# What clients ask: (operation, values to draw from), of the protocol's own numbers.
ASKED = {
    "mirror": ((152, "7 -3 x"), (153, "a b \u00fc"), (154, "a b \u00fc"), (155, "day night"), (156, ""), (157, "")),
    "work": ((136, "p q r s t"),),
    "sampling": ((144, "red green blue"),),
    "byzantine": ((96, "a b \u00fc"), (97, "")),
    "stake": ((176, "1 3 8 x"), (177, "1 2 5"), (1, "a b \u00fc"), (2, "")),
    "commit": ((120, "k1:5 k2:20 k3:90 \u00fc:1 x"), (120, "k4:1 k5:30 k6:9"), (121, "")),
}
ASKED["commit-non-blocking"] = ASKED["commit"]
BEFORE = {"byzantine": ["adversary"]}  # what stands before a protocol
LOADED = {"commit-non-blocking": ["vote", "commit"]}.get(NAME, BEFORE.get(NAME, []) + [NAME])
PREFIX = {"stake": ""}.get(NAME, "k")  # of keys; stakes are named by boards
KEYS = ("byzantine",)  # protocols that seal what they send
TURN = 112  # of the adversary: every behaviour in turn, at one board


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
        document["protocols"] = LOADED
        if NAME in KEYS:
            pairs = [(other, 100 * min(board, other) + max(board, other)) for other in BOARDS if other != board]
            document["keys"] = [[other, str(10**63 + pair)] for other, pair in pairs]
        if NAME in OPTIONS:
            document["options"] = OPTIONS[NAME]
        self.booted_ms[board] = self.now_ms
        self.nodes[board] = Node(Config(document), self.journals[board], ABOUT, 5)
        self.carry_out(board)

    def carry_out(self, board):
        def send(to, data):
            self.done.update(data)
            if to >= schema.FIRST_CLIENT:
                self.replies += 1
                return
            for target in BOARDS:
                if (
                    target != board
                    and to in (target, schema.ALL, schema.VOTERS)
                    and (self.calm or not self.random.chance(1, 10))
                ):
                    self.queue.append((board, target, data))

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
        if NAME in BEFORE and number % 40 == 0:
            behaviour = 0 if self.calm else number // 40 % 7
            data = codec.encode_message(1, 900000, 0, number, TURN, (behaviour, 0b10100))
            self.nodes[2].receive(schema.HOST, data, self.now_ms - self.booted_ms[2])
            self.carry_out(2)
        if not self.calm and self.random.chance(1, 40):
            self.boot(BOARDS[self.random.below(5)])
        if number == TICKS // 2 and LOADED[-1] != "commit":
            self.journals[WIPED].records = {}
            self.journals[WIPED].condition = schema.JOURNAL_MISSING
            self.boot(WIPED)

    def command(self, board, number):
        operation, values = ASKED[NAME][self.random.below(len(ASKED[NAME]))]
        words = values.split()
        value = words[self.random.below(len(words))] if words else None
        key = PREFIX + str(self.random.below(8))
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
    if LOADED[-1] == "commit":
        # Each board holds something else; none is in doubt, and together they hold what they began with.
        banks = [world.nodes[board].protocol("commit").shard for board in BOARDS]
        totals = [bank.total() for bank in banks]
        money = sum([total[0] - 100 * total[1] for total in totals])
        print("state", money, sum([len(bank.prepared) for bank in banks]))
        print([bank.digest() for bank in banks], totals)
    else:
        for board in BOARDS:
            print("state", world.nodes[board].protocols[-1].digest())
    print(world.done.digest())


main()
