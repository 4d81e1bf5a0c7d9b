# mypy: ignore-errors
"""What a decision of the vote costs without any logic: the bench flashes this beside the firmware's own protocols.

Three rounds in which every board broadcasts at once, messages and durable records of the same number and sizes as
vote.py's at an undisturbed height, an answer at the end. It counts to a majority and to nothing else: no locks, no
rounds, no retries, nothing is checked, nothing is told to the controller. Must not be used for anything but comparison.
"""

from . import codec, schema

VALUE_ID = b"\x5a" * 8


class NullVote:
    kinds = (schema.PROPOSAL, schema.PREVOTE, schema.PRECOMMIT)
    operations = (schema.PUT,)

    def __init__(self, node, stored):
        self.node = node
        self.majority = len(node.config.voters) // 2 + 1
        self.height = 0
        self.command = None
        self.begin(1)

    def begin(self, height):
        self.height = height
        self.value = None
        self.step = self.prevotes = self.precommits = 0

    def on_tick(self):
        pass

    def digest(self):
        return bytes(8)

    def on_command(self, client, request, operation, key, value, expected):
        self.command = (client, request, operation, key, value, expected)
        self.value = codec.pack(schema.BATCH, ([self.command],))
        self.node.send(schema.VOTERS, schema.PROPOSAL, (self.height, 0, -1, self.value))
        self.advance()

    def on_message(self, source, kind, fields):
        if fields[0] != self.height:
            if fields[0] < self.height:
                return
            self.begin(fields[0])
        if kind == schema.PROPOSAL:
            self.value = fields[3]
        elif kind == schema.PREVOTE:
            self.prevotes += 1
        else:
            self.precommits += 1
        self.advance()

    def advance(self):
        if self.step == 0 and self.value is not None:
            self.step = 1
            self.prevotes += 1
            self.persist(schema.JOURNAL_PROPOSED, "ib", (-1, self.value))
            self.persist(schema.JOURNAL_VOTE, "uuidid", (self.height, 0, 0, VALUE_ID, -1, None))
            self.node.send(schema.VOTERS, schema.PREVOTE, (self.height, 0, VALUE_ID))
        if self.step == 1 and self.prevotes >= self.majority:
            self.step = 2
            self.precommits += 1
            self.persist(schema.JOURNAL_LOCK, "uidid", (self.height, 0, VALUE_ID, 0, VALUE_ID))
            self.persist(schema.JOURNAL_VOTE, "uuidid", (self.height, 0, 0, VALUE_ID, 0, VALUE_ID))
            self.node.send(schema.VOTERS, schema.PRECOMMIT, (self.height, 0, VALUE_ID))
        if self.step == 2 and self.precommits >= self.majority:
            self.decide()

    def decide(self):
        height = self.height
        command = codec.unpack(schema.BATCH, self.value)[0][0]
        self.persist(schema.JOURNAL_LOG + height % schema.LOG_ENTRIES, "ub", (height, self.value))
        self.persist(schema.JOURNAL_REGISTER, "ukv", (1, command[3], command[4]))
        self.persist(schema.JOURNAL_SESSION, "uuuuvu", (1, command[0], command[1], 0, None, height))
        self.persist(schema.JOURNAL_HEIGHT, "uuuu", (height + 1, 1, 0, 0))
        self.begin(height + 1)
        if self.command is not None and self.command[:2] == command[:2]:
            self.command = None
            self.node.reply(command[0], command[1], schema.OK, None, height)

    def persist(self, key, spec, fields):
        self.node.persist(key, codec.pack(spec, fields))


PROTOCOL = NullVote
