"""One replica without its input and output: bytes and `now_ms` in, effects out.

A Node owns what its protocols share (clock, randomness, numbers of messages and events, the effects of a step) and
hands each message to the protocol that takes its kind. It must not wait, read a clock, touch a socket or a flash: the
shell (or the simulator) feeds it and carries out what `take_ready` returns, in the order that `step.py` fixes.

A protocol is a class with:
    kinds, operations                            tuples: message kinds that it takes, client operations that it serves
    __init__(node, stored)                       stored.get(journal key) -> bytes or None: the state that was durable
    on_message(source, kind, fields)             fields as the schema lists them; already checked
    on_tick()                                    every config.tick_ms
    on_command(client, request, operation, key, value, expected)
    digest() -> 8 bytes                          the same on two boards if, and only if, their state is the same
and acts only through the node: now_ms, config, clock, random(name), persist, send, emit, reply. Its module may have
MESSAGES, EVENTS and OPERATIONS, rows as in schema.py; OPTIONS for config.options_of; KEYS = True where it needs keys.
"""

from . import codec, schema
from .clock import Clock
from .errors import MessageError
from .prng import Prng

REJECTED_EVENTS_PER_BOOT = 32  # after that they are only counted: a flood of rubbish must not crowd out other events


class Node:
    """config: a core.config.Config. stored: an opened journal. entropy: 24 random bits, used only without a journal.

    about: (implementation, version, firmware hash of 8 bytes, reset cause), which the boot event carries.
    """

    def __init__(self, config, stored, about, entropy=0):
        self.config = config
        self.cluster = config.cluster
        self.board = config.board
        self.now_ms = 0
        self.rejected = 0
        self.newer = 0  # messages with fields of a later release
        self._sequence = 0
        self._event_sequence = 1  # of the boot event, which comes first whatever protocols tell while they are loaded
        self._records = []
        self._messages = []
        self._events = []
        self._handlers = {}
        self._servers = {}
        self.condition = stored.condition
        self.boot = self._next_boot(stored, entropy)
        self.clock = Clock(self, stored)
        self.persist(schema.JOURNAL_BOOT, codec.pack("u", (self.boot,)))
        stamp = self.clock.now()
        self.protocols = []
        for name in config.protocols:
            self._load(name, stored)
        self._emit_boot(about, stamp)

    def _next_boot(self, stored, entropy):
        packed = stored.get(schema.JOURNAL_BOOT)
        if packed is not None:
            return codec.unpack("u", packed)[0] + 1
        if stored.get(schema.JOURNAL_GENESIS) is not None:
            return 1
        # The count is lost with the journal; start far above any count, so that no (boot, sequence) comes twice.
        return 0x10000000 + entropy * 16

    def _load(self, name, stored):
        module = __import__("brownout_node.core." + name, None, None, ("PROTOCOL",))
        codec.learn(module)
        protocol = module.PROTOCOL(self, stored)
        protocol.name = getattr(module, "NAME", name)
        self.protocols.append(protocol)
        for kind in protocol.kinds:
            self._handlers[kind] = protocol.on_message
        for operation in protocol.operations:
            self._servers[operation] = protocol

    def _emit_boot(self, about, stamp):
        implementation, version, firmware, cause = about
        state = [False, 0, 0, -1, None, -1, None, -1, None, 0, 0]
        for protocol in self.protocols:
            fill = getattr(protocol, "fill_boot", None)
            if fill is not None:
                fill(state)
        fields = (implementation, version, firmware, cause, self.condition) + tuple(state)
        self._events.insert(0, codec.encode_event(self.boot, 1, self.now_ms, stamp, schema.BOOT, fields))

    def protocol(self, name):
        """The loaded protocol of that name, or None."""
        for protocol in self.protocols:
            if protocol.name == name:
                return protocol
        return None

    def handle(self, kind, handler):
        """Let handler(source, kind, fields) take messages of `kind` (the shell's own: traps, telemetry)."""
        self._handlers[kind] = handler

    def random(self, name):
        """A stream of random numbers of its own for `name`, the same for the same seed, board and boot."""
        return Prng(self.config.seed, self.board, self.boot, name)

    # Inputs.

    def receive(self, source, data, now_ms):
        """Take one message from `source`, a board id, or HOST for clients and the controller. Bad bytes never raise."""
        self.now_ms = now_ms
        try:
            cluster, sender, _boot, _sequence, kind, fields = codec.decode_message(data)
            if cluster != self.cluster:
                raise MessageError("foreign cluster")
            if sender != source and not (source == schema.HOST and sender >= schema.FIRST_CLIENT):
                raise MessageError("forged source")
        except MessageError as error:
            self._reject(source, str(error))
            return
        if codec.more_fields(data, fields):
            self._note_newer(source, kind)
        if sender == self.board:
            return  # a group's topic gives a board its own messages back
        if kind == schema.COMMAND:
            self.command(sender, fields[0], fields[1], fields[2], fields[3], fields[4], now_ms)
            return
        handler = self._handlers.get(kind)
        if handler is None:
            self._reject(source, "no protocol takes kind %d" % kind)
        else:
            handler(sender, kind, fields)

    def command(self, client, request, operation, key, value, expected, now_ms):
        """Take a client's operation; the answer leaves as a REPLY to that client."""
        self.now_ms = now_ms
        server = self._servers.get(operation)
        if server is None:
            self.reply(client, request, schema.REFUSED, None, 0)
        else:
            server.on_command(client, request, operation, key, value, expected)

    def tick(self, now_ms):
        """Let time pass: `now_ms` counts from the boot and never falls."""
        self.now_ms = now_ms
        for protocol in self.protocols:
            protocol.on_tick()

    def _reject(self, source, reason):
        self.rejected += 1
        if self.rejected <= REJECTED_EVENTS_PER_BOOT:
            self.emit(schema.REJECTED, (source, reason[:64]))

    def _note_newer(self, source, kind):
        self.newer += 1
        if not self.newer & (self.newer - 1):  # told ever more seldom: the 1st, 2nd, 4th, 8th, ..
            self.emit(schema.NEWER, (source, kind, self.newer))

    # Effects, collected until take_ready.

    def persist(self, key, value):
        """Make `value` (bytes; None forgets it) durable under a journal key before anything of this step is sent."""
        self._records.append((key, value))

    def send(self, to, kind, fields):
        """Send one message to a board id, schema.ALL or schema.VOTERS. It may be lost, repeated or overtaken."""
        self._sequence += 1
        self._messages.append(
            (to, codec.encode_message(self.cluster, self.board, self.boot, self._sequence, kind, fields))
        )

    def reply(self, client, request, status, value, height):
        """Answer a client's request."""
        self.send(client, schema.REPLY, (client, request, status, value, height))

    def emit(self, kind, fields):
        """Report one event; it carries the boot, its number in this boot, and both clocks."""
        self._event_sequence += 1
        self._events.append(
            codec.encode_event(self.boot, self._event_sequence, self.now_ms, self.clock.now(), kind, fields)
        )

    def take_ready(self):
        """The effects since the last call, (records, messages, events), each a list in order; None without any."""
        if not (self._records or self._messages or self._events):
            return None
        ready = (self._records, self._messages, self._events)
        self._records = []
        self._messages = []
        self._events = []
        return ready
