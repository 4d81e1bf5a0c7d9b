# mypy: ignore-errors
"""What a decision of TetraBFT costs without any logic: the bench flashes this beside the firmware's own protocols.

Five rounds in which every board sends to each other voter alone, messages and durable records of the same number and
sizes as byzantine.py's at an undisturbed height, an answer at the end. A message ends with 16 bytes that nobody makes
or checks: what seals cost is part of what is compared. It counts to more than two thirds and to nothing else: no views,
no safe values, no retries, nothing is told to the controller. Must not be used for anything but comparison.
"""

from . import codec, schema

REQUEST = 96  # byzantine.py's kinds and rows: whoever taps a link knows them
PROPOSAL = 97
VOTE = 98

MESSAGES = (
    (REQUEST, "byzantine_request", "origin:u client:u request:u operation:u key:k value:v mac:b"),
    (PROPOSAL, "byzantine_proposal", "height:u view:u value:b mac:b"),
    (VOTE, "byzantine_vote", "height:u view:u phase:u value_id:b mac:b"),
)
BATCH = "[uuuukv]8"
PHASES = 4
VALUE_ID = b"\x5a" * 32
MAC = b"\xa5" * 16
_BALLOT = 0x30000
_LOG = 0x30100
_REGISTER = 0x30200  # three keys: a register, a session, the height


class NullByzantine:
    kinds = (REQUEST, PROPOSAL, VOTE)
    operations = (schema.PUT,)

    def __init__(self, node, stored):
        self.node = node
        self.quorum = len(node.config.voters) * 2 // 3 + 1
        self.command = None
        self.begin(1)

    def begin(self, height):
        self.height = height
        self.value = None
        self.phase = 0  # of the last vote
        self.votes = [0] * (PHASES + 1)

    def on_tick(self):
        pass

    def digest(self):
        return bytes(8)

    def broadcast(self, kind, fields):
        for board, _ in self.node.config.voters:
            if board != self.node.board:
                self.node.send(board, kind, fields)

    def on_command(self, client, request, operation, key, value, expected):
        self.command = (self.node.board, client, request, operation, key, value)
        self.broadcast(REQUEST, self.command + (MAC,))
        self.value = codec.pack(BATCH, ([self.command],))
        self.node.persist(_BALLOT + 1, codec.pack("b", (self.value,)))
        self.node.persist(_BALLOT, codec.pack("uu[iu]7", (self.height, 0, [(0, 0)] * 7)))
        self.broadcast(PROPOSAL, (self.height, 0, self.value, MAC))
        self.advance()

    def on_message(self, source, kind, fields):
        if kind == REQUEST:
            return
        if fields[0] != self.height:
            if fields[0] < self.height:
                return
            self.begin(fields[0])
        if kind == PROPOSAL:
            self.value = fields[2]
        else:
            self.votes[fields[2]] += 1
        self.advance()

    def advance(self):
        if self.phase == 0 and self.value is not None:
            self.vote(1)
        while 0 < self.phase < PHASES and self.votes[self.phase] >= self.quorum:
            self.vote(self.phase + 1)
        if self.phase == PHASES and self.votes[PHASES] >= self.quorum:
            self.decide()

    def vote(self, phase):
        self.phase = phase
        self.votes[phase] += 1
        if phase == 1:
            self.node.persist(_BALLOT + 1, codec.pack("b", (self.value,)))
        self.node.persist(_BALLOT, codec.pack("uu[iu]7", (self.height, 0, [(0, 0)] * 7)))
        self.broadcast(VOTE, (self.height, 0, phase, VALUE_ID, MAC))

    def decide(self):
        height = self.height
        _, client, request, _, key, value = codec.unpack(BATCH, self.value)[0][0]
        self.node.persist(_LOG + height % schema.LOG_ENTRIES, codec.pack("ub", (height, self.value)))
        self.node.persist(_REGISTER, codec.pack("ukv", (1, key, value)))
        self.node.persist(_REGISTER + 1, codec.pack("uuuuvu", (1, client, request, 0, None, height)))
        self.node.persist(_REGISTER + 2, codec.pack("uuuu", (height + 1, 1, 0, 0)))
        mine = self.command
        self.begin(height + 1)
        if mine is not None and mine[1:3] == (client, request):
            self.command = None
            self.node.reply(client, request, schema.OK, None, height)


PROTOCOL = NullByzantine
