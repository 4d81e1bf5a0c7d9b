# mypy: ignore-errors
"""Runs on MicroPython: five real replicas in lockstep over real journals; every message takes exactly one delay.

Usage: replicas.py FIRMWARE COMMANDS. Prints (delays, writes, baseline):
  delays    for each decision that nothing disturbed: message delays from its proposal to its first decision
  writes    for each board: (durable writes, page programs, erases, bytes of records, cost of each write in programs)
  baseline  (writes, programs, erases): the first board's writes again, appended to a LittleFS file and flushed
"""

import sys

FIRMWARE, COMMANDS = sys.argv[1], int(sys.argv[2])
sys.path.insert(0, FIRMWARE)

from brownout_node.core import schema
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.prng import Prng
from brownout_node.core.step import step
from brownout_node.storage.journal import Journal, format_genesis

BOARDS = (1, 2, 3, 4, 5)
ROSTER = [[board, "b%d" % board, 1] for board in BOARDS]
CLUSTER = 7
BLOCK = 4096
PAGE = 256
DELAY_MS = 5
MAINTAIN_MS = 400  # as the shell does at the least
BASELINE = 400  # writes
KEYS = 8


class Flash:
    """NOR flash in memory that counts page programs and erases; a program only clears bits."""

    def __init__(self, blocks):
        self.blocks = blocks
        self.cells = bytearray(b"\xff" * (blocks * BLOCK))
        self.programs = 0
        self.erases = 0

    def readblocks(self, block, buf, offset=0):
        at = block * BLOCK + offset
        buf[:] = self.cells[at : at + len(buf)]

    def writeblocks(self, block, buf, offset=0):
        at = block * BLOCK + offset
        self.programs += (offset + len(buf) - 1) // PAGE - offset // PAGE + 1
        for index in range(len(buf)):
            assert self.cells[at + index] & buf[index] == buf[index], "a bit was to rise without an erase"
        self.cells[at : at + len(buf)] = buf

    def ioctl(self, operation, argument):
        if operation == 4:
            return self.blocks
        if operation == 5:
            return BLOCK
        if operation == 6:
            self.erases += 1
            self.cells[argument * BLOCK : argument * BLOCK + BLOCK] = b"\xff" * BLOCK
        return 0


class Counting:
    """The journal as step() sees it; notes what each write cost."""

    def __init__(self, board):
        self.flash = Flash(32)
        format_genesis(self.flash, CLUSTER, board)
        self.journal = Journal(self.flash)
        self.journal.open()
        self.condition = self.journal.condition
        self.get = self.journal.get
        self.costs = [0] * 8
        self.bytes = 0
        self.writes = []
        self.start()

    def start(self):
        self.flash.programs = self.flash.erases = 0
        self.appends = 0

    def append(self, records):
        before = self.flash.programs
        self.journal.append(records)
        self.appends += 1
        self.costs[min(self.flash.programs - before, 7)] += 1
        size = 0
        for _key, value in records:
            size += 2 + len(value or b"")
        self.bytes += size
        if len(self.writes) < BASELINE:
            self.writes.append(size)


class World:
    def __init__(self):
        self.now_ms = 0
        self.queue = []
        self.random = Prng(1, 0, 0, "bench")
        self.journals = {board: Counting(board) for board in BOARDS}
        self.nodes = {}
        self.replies = 0
        self.proposed = {}  # height -> when it was proposed, None where a later round was needed
        self.delays = []
        for board in BOARDS:
            document = {"cluster": CLUSTER, "board": board, "bed": "t", "seed": 1, "roster": ROSTER}
            self.nodes[board] = Node(Config(document), self.journals[board], ("bench", "0", b"\0" * 8, "power"), 5)
            self.carry_out(board)

    def carry_out(self, board):
        def send(to, data):
            if to >= schema.FIRST_CLIENT:
                self.replies += 1
            for target in BOARDS:
                if target != board and (to == target or to in (schema.VOTERS, schema.ALL)):
                    self.queue.append((board, target, data))

        step(self.nodes[board], self.journals[board], send, self.note)

    def note(self, data):
        # The events that frame a decision, told apart by decoding their heads only.
        kind, height = head_of(data)
        if kind == schema.PROPOSED:
            self.proposed[height] = self.now_ms if height not in self.proposed else None
        elif kind == schema.ROUND:
            self.proposed[height] = None
        elif kind == schema.DECIDED and self.proposed.get(height) is not None:
            self.delays.append((self.now_ms - self.proposed[height]) // DELAY_MS)
            self.proposed[height] = None

    def advance(self):
        """One message delay: everything that is under way arrives, at every board at once."""
        self.now_ms += DELAY_MS
        arriving = self.queue
        self.queue = []
        for board in BOARDS:
            node = self.nodes[board]
            for source, target, data in arriving:
                if target == board:
                    node.receive(source, data, self.now_ms)
                    self.carry_out(board)
            if self.now_ms % 50 == 0:
                node.tick(self.now_ms)
                self.carry_out(board)
            if self.now_ms % MAINTAIN_MS == 0:
                self.journals[board].journal.maintain()

    def command(self, number):
        board = BOARDS[self.random.below(5)]
        client = 1001 + self.random.below(4)
        operation = (schema.PUT, schema.PUT, schema.GET, schema.CAS)[self.random.below(4)]
        key = "k%d" % self.random.below(KEYS)
        value = None if operation == schema.GET else "c%d-%d" % (client, number)
        if number % 8 == 0:
            client, operation, key, value = 1009, schema.WRITE, "g%d" % self.random.below(KEYS), "r%d" % number
        self.nodes[board].command(client, number, operation, key, value, None, self.now_ms)
        self.carry_out(board)


def head_of(data):
    """(kind, first field) of an event."""
    place = 1
    values = []
    for _ in range(6):
        first = data[place]
        size = (0, 1, 2, 4, 8)[(first & 31) - 23] if first & 31 > 23 else 0
        values.append(int.from_bytes(data[place + 1 : place + 1 + size], "big") if size else first & 31)
        place += 1 + size
        if len(values) == 5 and not place < len(data):
            return values[4], 0
    return values[4], values[5]


def baseline(writes):
    """What the same writes cost where each is appended to a file of LittleFS, and flushed."""
    import vfs

    flash = Flash(32)
    vfs.VfsLfs2.mkfs(flash, progsize=PAGE, readsize=PAGE)
    system = vfs.VfsLfs2(flash, progsize=PAGE, readsize=PAGE)
    vfs.mount(system, "/bench")
    flash.programs = flash.erases = 0
    with open("/bench/log", "ab") as file:
        for size in writes:
            file.write(bytes(size))
            file.flush()
            if file.tell() > 16384:
                file.seek(0)
                file = open("/bench/log", "wb")  # noqa: SIM115
    vfs.umount("/bench")
    return len(writes), flash.programs, flash.erases


def main():
    world = World()
    for number in range(1, COMMANDS // 5):  # warm-up: the log goes around its ring, the stores fill
        world.command(number)
        for _ in range(12):
            world.advance()
    for journal in world.journals.values():
        journal.start()
    world.delays = []
    for number in range(COMMANDS // 5, COMMANDS + 1):
        world.command(number)
        for _ in range(8 + world.random.below(12)):
            world.advance()
    rows = []
    for board in BOARDS:
        journal = world.journals[board]
        rows.append((journal.appends, journal.flash.programs, journal.flash.erases, journal.bytes, journal.costs))
    print((world.replies, world.delays, rows, baseline(world.journals[1].writes)))


main()
