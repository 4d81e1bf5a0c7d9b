# mypy: ignore-errors
"""What a two-phase commit costs without any logic: the bench flashes this beside the firmware's own protocols.

Three rounds between the board that is asked and the two boards that follow it, messages and durable records of the same
number and sizes as commit.py's for an undisturbed transfer, the answer after the second. It holds no accounts, checks
nothing, sends nothing again, tells nothing to the controller. Must not be used for anything but comparison.
"""

from . import codec, schema

PREPARE = 120  # commit.py's kinds and rows: whoever taps a link knows them
VOTE = 121
DECISION = 122
ACK = 123

MESSAGES = (
    (PREPARE, "commit_prepare", "number:u slot:u client:u request:u source:k target:k amount:u"),
    (VOTE, "commit_vote", "number:u yes:o status:u"),
    (DECISION, "commit_decision", "number:u commit:o"),
    (ACK, "commit_ack", "number:u"),
)
TRANSACTION = "uuuuukku"
_PREPARED = 0x30000  # then: account, session, marks
_COMMITTED = 0x30010


class NullCommit:
    kinds = (PREPARE, VOTE, DECISION, ACK)
    operations = (schema.PUT,)

    def __init__(self, node, stored):
        self.node = node
        boards = [row[0] for row in node.config.roster]
        place = boards.index(node.board)
        self.shards = (boards[(place + 1) % len(boards)], boards[(place + 2) % len(boards)])
        self.number = 0
        self.votes = 0
        self.transaction = None

    def on_tick(self):
        pass

    def digest(self):
        return bytes(8)

    def on_command(self, client, request, operation, key, value, expected):
        self.number += 1
        self.votes = 0
        self.transaction = (self.node.board, self.number, 0, client, request, key, value, 1)
        for shard in self.shards:
            self.node.send(shard, PREPARE, self.transaction[1:])

    def on_message(self, source, kind, fields):
        if kind == PREPARE:
            self.node.persist(_PREPARED, codec.pack(TRANSACTION, (source,) + tuple(fields)))
            self.node.send(source, VOTE, (fields[0], True, 0))
        elif kind == VOTE:
            self.votes += 1
            if self.votes == 2:
                self.node.persist(_COMMITTED, codec.pack(TRANSACTION, self.transaction))
                self.node.reply(self.transaction[3], self.transaction[4], schema.OK, None, 0)
                for shard in self.shards:
                    self.node.send(shard, DECISION, (fields[0], True))
        elif kind == DECISION:
            self.node.persist(_PREPARED + 1, codec.pack("kuu", ("account", 100, 1)))
            self.node.persist(_PREPARED + 2, codec.pack("uuu", (1000, 1, 0)))
            self.node.persist(_PREPARED + 3, codec.pack("[u]8", ([(fields[0],)] * 4,)))
            self.node.send(source, ACK, (fields[0],))


PROTOCOL = NullCommit
