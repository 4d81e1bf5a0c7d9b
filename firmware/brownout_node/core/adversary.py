"""A board that turns malicious when the controller says so: it changes what leaves the board, whoever sends it.

Named first in `protocols`, it stands between the node and the wire (node.take_ready) and there withholds, delays,
repeats or forges messages; replies to clients too. The protocols behind it stay as they are and notice nothing. Forged
messages are sealed anew, by the protocol's own seal: it can lie to everybody, but speak for nobody else. Several boards
told the same `split` act as one coalition, since all derive the same forgeries. It forgets all of it when it loses
power. Must not touch durable state or events.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .errors import MessageError

TURN = 112
TURNED = 112

HONEST = 0
SILENT = 1  # sends nothing
EQUIVOCATE = 2  # tells the boards in `split` another value than the others, as proposer and as voter
LIE = 3  # every digest, value's id and text of a client, and every decided value that it passes on is another one
REPLAY_OLD = 4  # sends what it sent before once more
DELAY_VOTES = 5  # every message that names a value leaves late
CORRUPT = 6  # bytes after the header are flipped

MESSAGES = ((TURN, "adversary_turn", "behaviour:u split:u"),)  # from the controller; split: a bit for each board id
EVENTS = ((TURNED, "adversary", "behaviour:u split:u"),)

OPTIONS = "delay_ms:400:10:60000"

FIELD_NAMES = "value value_id values origin mac"  # that it looks for in others' rows; the build leaves out all others

_MAX_KEPT = const(8)  # messages kept to be sent again
_MAX_HELD = const(24)  # messages held back; above it they are lost
_BATCHES = ("[uuuukv]8", schema.BATCH)  # how values of the known protocols are encoded


def variant(value):
    """Another value that is as well-formed: a batch that lacks a command or has one twice, or None."""
    for spec in _BATCHES:
        try:
            commands = codec.unpack(spec, value)[0]
        except MessageError:
            continue
        if len(commands) == 1 and len(value) <= 190:
            return codec.pack(spec, (commands + commands,))
        return codec.pack(spec, (commands[1:],)) if commands else None
    return None


class Adversary:
    """`behaviour`: what it does at present. `split`: whom it tells another story."""

    kinds = (TURN,)
    operations = ()

    def __init__(self, node, stored):
        self.node = node
        self.behaviour = HONEST
        self.split = 0
        self._delay_ms = node.config.options_of("adversary", OPTIONS)["delay_ms"]
        self._honest_take_ready = node.take_ready
        node.take_ready = self.take_ready
        self._random = node.random("adversary")
        self._kept = []
        self._held = []  # (when it leaves, to, data)

    def on_message(self, source, kind, fields):
        if source < schema.FIRST_CLIENT or fields[0] > CORRUPT:
            self.node._reject(source, "not the controller's to say")
            return
        self.behaviour, self.split = fields
        self._kept = []
        self.node.emit(TURNED, fields)

    def _fields_of(self, kind):
        # (names and types of the fields of that kind, the seal that it bears or None)
        for protocol in self.node.protocols:
            if kind in protocol.kinds:
                module = __import__("brownout_node.core." + protocol.name, None, None, ("PROTOCOL",))
                for row in getattr(module, "MESSAGES", schema.MESSAGES):
                    if row[0] == kind:
                        return [field.split(":") for field in row[2].split()], getattr(protocol, "seal", None)
        return [], None

    def on_tick(self):
        pass  # what is held back leaves with take_ready, which follows every tick

    def on_command(self, client, request, operation, key, value, expected):
        pass  # it serves no operation

    def digest(self):
        return bytes(8)

    # The wire.

    def take_ready(self):
        """What leaves the board instead of what its protocols have made ready."""
        ready = self._honest_take_ready()
        if self.behaviour == HONEST and not self._held:
            return ready
        records, messages, events = ready or ([], [], [])
        sent = []
        for to, data in messages:
            self._treat(to, data, sent)
        now_ms = self.node.now_ms
        if self.behaviour == REPLAY_OLD and messages:
            for _ in range(2):
                if self._kept:
                    sent.append(self._kept[self._random.below(len(self._kept))])
        if self._held:
            sent += [row[1:] for row in self._held if row[0] <= now_ms]
            self._held = [row for row in self._held if row[0] > now_ms]
        if not (records or sent or events):
            return None
        return records, sent, events

    def _treat(self, to, data, sent):
        behaviour = self.behaviour
        if behaviour == SILENT:
            return
        if behaviour == CORRUPT:
            place = len(data) - 1 - self._random.below(max(1, len(data) // 2))
            sent.append((to, data[:place] + bytes([data[place] ^ (1 + self._random.below(255))]) + data[place + 1 :]))
            return
        if behaviour == REPLAY_OLD and to < schema.FIRST_CLIENT:
            self._keep(to, data)
        if behaviour not in (EQUIVOCATE, LIE, DELAY_VOTES) or to >= schema.FIRST_CLIENT:
            sent.append((to, data))
            return
        header = codec.decode_message(data)
        names, seal = self._fields_of(header[4])
        if behaviour == DELAY_VOTES:
            if [name for name, _ in names if name in ("value", "value_id")]:
                if len(self._held) < _MAX_HELD:
                    self._held.append((self.node.now_ms + self._delay_ms, to, data))
            else:
                sent.append((to, data))
            return
        for board in self._recipients(to):
            sent.append((board, self._forge(board, header, names, seal, data)))

    def _keep(self, to, data):
        if len(self._kept) < _MAX_KEPT:
            self._kept.append((to, data))
        elif self._random.chance(1, 8):
            self._kept[self._random.below(_MAX_KEPT)] = (to, data)

    def _recipients(self, to):
        if to > 0:
            return (to,)
        boards = [row[0] for row in self.node.config.roster if to == schema.ALL or row[2]]
        return [board for board in boards if board != self.node.board]

    def _forge(self, to, header, names, seal, data):
        if self.behaviour == EQUIVOCATE and not self.split >> to & 1:
            return data
        fields = list(header[5])
        for index in range(len(names)):
            fields[index] = self._other(names[index][0], names[index][1], fields[index])
        if tuple(fields) == header[5]:
            return data
        kind = header[4]
        try:
            if seal is not None:
                fields = seal.close(to, kind, fields[:-1])
            return codec.encode_message(header[0], header[1], header[2], header[3], kind, fields)
        except MessageError:
            return data  # the lie is too long for a message

    def _other(self, name, letter, value):
        if self.behaviour == LIE:
            if value is None or name == "mac":
                return value
            if letter == "d" or (letter == "b" and len(value) == 32):
                return sha256(value).digest()[: len(value)]
            if letter == "v":
                return "lie"
            if name == "origin":
                return value % len(self.node.config.roster) + 1  # somebody else's client
            if name == "values":
                return [(variant(row[0]) or row[0],) for row in value]
        elif name == "value" and letter == "b":
            return variant(value) or value
        elif name == "value_id" and value is not None:
            whole = self._look_up(value)
            other = whole and variant(whole)
            return sha256(other).digest()[: len(value)] if other else value
        return value

    def _look_up(self, value_id):
        for protocol in self.node.protocols:
            values = getattr(protocol, "values", None)
            if values is not None and value_id in values:
                return values[value_id]
            if hasattr(protocol, "value_of"):
                return protocol.value_of(value_id)
        return None


PROTOCOL = Adversary
