# mypy: ignore-errors
"""Runs on MicroPython: one real replica of five with three protocols; hand-made peers keep it busy with messages.

Peers propose, vote, gossip (one rumour in ten gets lost, so that repairs are needed), delete, ping and answer pings.
Usage: messages.py FIRMWARE COUNT EVERY [LOG], the protocol of the log: vote, or stake, and then stakes move. Prints
(heap, heights, counts, milliseconds): the heap in use after a collection at every EVERY messages, heights decided, and
how many messages of each kind were received.
"""

import gc
import sys
import time

FIRMWARE, COUNT, EVERY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
LOG = sys.argv[4] if len(sys.argv) > 4 else "vote"
sys.path.insert(0, FIRMWARE)

from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.step import step
from brownout_node.storage.journal import Journal, format_genesis

PEERS = (2, 3, 4, 5)
CLUSTER = 7
BLOCK = 4096
BLOCKS = 32
TURN_MS = 25
GOSSIP_KEYS = 24
LOG_KEYS = 32
CLIENTS = 24
BOND = 176  # of stake; the next number unbonds


class FileRegion:
    """The journal's region in a file: what it takes is not on the heap, as on a board."""

    def __init__(self):
        self.file = open("journal.bin", "w+b")
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


class Replica:
    def __init__(self):
        region = FileRegion()
        format_genesis(region, CLUSTER, 1)
        self.journal = Journal(region)
        self.journal.open()
        roster = [[board, "b%d" % board, 1] for board in (1,) + PEERS]
        document = {"cluster": CLUSTER, "board": 1, "bed": "t", "seed": 1, "roster": roster}
        document["protocols"] = ["membership", "gossip", LOG]
        self.node = Node(Config(document), self.journal, ("bench", "0", b"\0" * 8, "power"), 5)
        self.vote = self.node.protocol("vote")
        self.now_ms = 0
        self.received = 0
        self.counts = {}
        self.sequence = 0
        self.answers = []
        self.numbers = {peer: 0 for peer in PEERS}
        self.missed = {}  # lost rumours by key, latest only
        self.heap = [0] * (COUNT // EVERY)  # all at once, so that noting does not show in what is noted
        self.work()

    def receive(self, source, kind, fields, sender=None):
        self.sequence += 1
        boot = 0 if source == schema.HOST else 1
        data = codec.encode_message(CLUSTER, sender or source, boot, self.sequence, kind, fields)
        self.node.receive(source, data, self.now_ms)
        self.received += 1
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.work()
        if self.received % EVERY == 0:
            gc.collect()
            place = self.received // EVERY - 1
            if place < len(self.heap):
                self.heap[place] = gc.mem_alloc()

    def work(self):
        step(self.node, self.journal, self.send, len)

    def send(self, to, data):
        if to not in PEERS:
            return
        kind, fields = codec.decode_message(data)[4:]
        if kind == schema.PING:
            self.answers.append((to, schema.ACK, (fields[0], to, [])))
        elif kind == schema.SYNC:
            items = [self.missed[key] for key in sorted(self.missed)[:4]]
            versions = self.versions() if len(self.missed) <= 4 else []
            for item in items:
                del self.missed[item[0]]
            self.answers.append((to, schema.REPAIR, (fields[0], True, items, versions, self.stamp())))

    def versions(self):
        return [(peer, self.numbers[peer]) for peer in PEERS]

    def stamp(self):
        return self.now_ms << 16

    def answer(self):
        while self.answers:
            to, kind, fields = self.answers.pop(0)
            self.receive(to, kind, fields)

    # One turn each.

    def decide(self, number):
        height = self.vote.register.next_height
        proposer = self.vote.proposer(0)
        operation = (schema.PUT, schema.GET, schema.CAS)[number % 3]
        value = None if operation == schema.GET else "value %06d" % number
        key = "key %d" % (number % LOG_KEYS)
        if LOG == "stake" and number % 3 == 0:
            operation, key, value = BOND + number % 2, str(1 + number // 6 % 5), str(1 + number % 4)
        command = (1001 + number % CLIENTS, number, operation, key, value, None)
        if number % 4 == 0:  # one of this board's own clients
            self.receive(schema.HOST, schema.COMMAND, command[1:], command[0])
        else:
            self.receive(PEERS[number % 4], schema.REQUEST, command)
        if proposer != 1:
            batch = codec.pack(schema.BATCH, ([command],))
            self.receive(proposer, schema.PROPOSAL, (height, 0, -1, batch))
        value_id = self.vote.proposal[1]
        for kind in (schema.PREVOTE, schema.PRECOMMIT):
            for peer in PEERS:
                self.receive(peer, kind, (height, 0, value_id))
        assert self.vote.register.next_height == height + 1, "height %d was not decided" % height

    def gossip(self, number):
        peer = PEERS[number % 4]
        self.numbers[peer] += 1
        key = "rumour %d" % (number % GOSSIP_KEYS)
        value = None if number % 7 == 0 else "value %06d" % number
        item = (key, value, self.stamp(), peer, self.numbers[peer])
        self.missed.pop(key, None)
        if number % 10 == 0:
            self.missed[key] = item
        else:
            self.receive(peer, schema.RUMOUR, ([item],))

    def turn(self, number):
        self.now_ms += TURN_MS
        self.decide(number)
        if number % 2:
            self.gossip(number)
        peer = PEERS[number // 4 % 4]
        if number % 5 == 0:
            self.receive(peer, schema.SYNC, (number, 0, 1, False, self.versions(), None))
        if number % 5 == 1:
            self.receive(peer, schema.PING, (number, [(peer, 0, 1)]))
        if number % 2 == 0:
            self.node.tick(self.now_ms)
            self.work()
        self.answer()
        self.journal.maintain()


def main():
    began = time.ticks_ms()
    replica = Replica()
    number = 0
    while replica.received < COUNT:
        number += 1
        replica.turn(number)
    kinds = sorted(replica.counts.items())
    print((replica.heap, replica.vote.register.next_height - 1, kinds, time.ticks_diff(time.ticks_ms(), began)))


main()
