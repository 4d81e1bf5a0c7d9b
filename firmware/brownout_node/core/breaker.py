"""A circuit breaker before the voted log: a board that cannot serve says so at once, and why (Nygard, Release It!).

Loaded after vote, whose client operations it takes. Closed, they pass. Open, writes are refused, so they definitely do
not happen, and reads are answered from the board's own state and marked stale. Half open, one operation at a time
passes as a probe: done, it closes the breaker; failed, it opens it again.

What opens it: too few voters alive by membership for `quorum_ms`; a voter whose state at the same height is another;
too many of the last operations failed or unanswered; an operator's `trip`; a register that leaves `least` to `most`.
The second and the last two hold until `reset`, over reboots too; the others until the cause is gone and `cooldown_ms`
is over. Must not change what the log decides.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .errors import ConfigError

MESSAGES = ((160, "breaker_digest", "height:u digest:d"),)
EVENTS = ((160, "breaker", "state:u cause:u height:u"),)  # CLOSED, OPEN, HALF_OPEN; why: 0 or one of the causes
OPERATIONS = ((160, "trip"), (161, "reset"))
OPTIONS = (
    "quorum_ms:600:10:60000 answer_ms:2500:10:600000 window:12:1:64 errors_percent:50:1:100 cooldown_ms:1000:10:600000"
    " least:1:-1000000000:1000000000 most:0:-1000000000:1000000000"  # of every register; least above most: anything
)

CLOSED = const(0)
OPEN = const(1)
HALF_OPEN = const(2)
QUORUM = const(1)
DIVERGENCE = const(2)
ERRORS = const(3)
OPERATOR = const(4)
RANGE = const(5)

_DIGEST = const(160)
_TRIP = const(160)
_RESET = const(161)
_JOURNAL = const(0x25000)  # cause:u ; of a breaker that stays open until it is reset
_COMPARED_EVERY = const(16)  # heights
_REMEMBERED = const(4)  # digests
_MOST_WAITING = const(32)


class Breaker:
    kinds = (_DIGEST,)
    operations = (schema.PUT, schema.GET, schema.CAS, _TRIP, _RESET)

    def __init__(self, node, stored):
        self.node = node
        self.guarded = node.protocol("vote")
        if self.guarded is None:
            raise ConfigError("protocols: breaker; allowed: after vote, which it guards")
        self.options = node.config.options_of("breaker", OPTIONS)
        packed = stored.get(_JOURNAL)
        self.cause = 0 if packed is None else codec.unpack("u", packed)[0]
        self.state = OPEN if self.cause else CLOSED
        self._since_ms = 0  # of the state
        self._short_ms = None  # since when voters have been too few
        self._waiting = {}  # (client, request) -> when it counts as unanswered
        self._failed = []  # of the last operations, whether they did
        self._digests = []  # (height, digest), newest last
        self._ranged = self.options["least"] <= self.options["most"]
        self._out = self._out_of_range()  # keys; those that were before it could be seen are nobody's news
        self._reply = node.reply
        node.reply = self._answered
        self._finish = self.guarded.register.finish
        self.guarded.register.finish = self._finished
        if self.cause:
            self._tell()

    def digest(self):
        return sha256(bytes((self.state, self.cause))).digest()[:8]

    # Operations.

    def on_command(self, client, request, operation, key, value, expected):
        if operation == _TRIP or operation == _RESET:
            self._operate(operation)
            self._reply(client, request, schema.OK, None, 0)
        elif self.state == CLOSED or (self.state == HALF_OPEN and not self._waiting):
            if len(self._waiting) < _MOST_WAITING:
                self._waiting[client, request] = self.node.now_ms + self.options["answer_ms"]
            self.guarded.on_command(client, request, operation, key, value, expected)
        else:
            self._refuse(client, request, operation, key)

    def _refuse(self, client, request, operation, key):
        register = self.guarded.register
        if operation == schema.GET:
            row = register.values.get(key)
            self._reply(client, request, schema.STALE, None if row is None else row[1], register.next_height - 1)
        else:
            self._reply(client, request, schema.REFUSED, None, 0)

    def _operate(self, operation):
        if operation == _TRIP:
            self._open(OPERATOR)
        elif self.state == OPEN:
            self.node.persist(_JOURNAL, None)
            self._enter(HALF_OPEN, 0)

    def _answered(self, client, request, status, value, height):
        if self._waiting.pop((client, request), None) is not None:
            self._note(status != schema.OK and status != schema.MISMATCH)
        self._reply(client, request, status, value, height)

    def _note(self, failed):
        # One more operation has ended, well or not.
        if self.state == HALF_OPEN:
            if failed:
                self._open(ERRORS)
            else:
                self._enter(CLOSED, 0)
        elif self.state == CLOSED:
            self._failed.append(failed)
            if len(self._failed) > self.options["window"]:
                self._failed.pop(0)
            if len(self._failed) == self.options["window"]:
                if sum(self._failed) * 100 >= self.options["errors_percent"] * len(self._failed):
                    self._open(ERRORS)

    # Time, and the other voters.

    def on_tick(self):
        now_ms = self.node.now_ms
        for operation in sorted(self._waiting):
            if now_ms >= self._waiting[operation]:
                del self._waiting[operation]
                self._note(True)
        if self._has_quorum():
            self._short_ms = None
        elif self._short_ms is None:
            self._short_ms = now_ms
        short = self._short_ms is not None
        if short and self.state != OPEN and now_ms - self._short_ms >= self.options["quorum_ms"]:
            self._open(QUORUM)
        elif self.state == OPEN and not short and self.cause in (QUORUM, ERRORS):
            if now_ms - self._since_ms >= self.options["cooldown_ms"]:
                self._enter(HALF_OPEN, self.cause)

    def _has_quorum(self):
        membership = self.node.protocol("membership")
        if membership is None:
            return True
        weight = 0
        for board, share in self.node.config.voters:
            if board == self.node.board or membership.state_of(board) == schema.ALIVE:
                weight += share
        return self.guarded.quorum(weight)

    def _finished(self, height):
        self._finish(height)
        if self._ranged:
            out = self._out_of_range()
            if out - self._out:
                self._open(RANGE)
            self._out = out
        if self.guarded.register.next_height % _COMPARED_EVERY == 0:
            digest = self.guarded.digest()
            self._digests.append((self.guarded.register.next_height, digest))
            if len(self._digests) > _REMEMBERED:
                self._digests.pop(0)
            self.node.send(schema.VOTERS, _DIGEST, self._digests[-1])

    def _out_of_range(self):
        if not self._ranged:
            return frozenset()
        values = self.guarded.register.values
        return frozenset([key for key in values if not self._is_allowed(values[key][1])])

    def _is_allowed(self, value):
        # What is no number is not within any range.
        if value is None:
            return True
        digits = value[1:] if value[:1] == "-" else value
        if not digits or len(digits) > 10:
            return False
        for digit in digits:
            if not "0" <= digit <= "9":
                return False
        return self.options["least"] <= int(value) <= self.options["most"]

    def on_message(self, source, kind, fields):
        for height, digest in self._digests:
            if height == fields[0] and digest != fields[1]:
                self._open(DIVERGENCE)

    # States.

    def _open(self, cause):
        lasting = cause in (DIVERGENCE, OPERATOR, RANGE)
        if self.state == OPEN and (self.cause == cause or not lasting):
            return
        if lasting:
            self.node.persist(_JOURNAL, codec.pack("u", (cause,)))
        self._enter(OPEN, cause)

    def _enter(self, state, cause):
        self.state = state
        self.cause = cause
        self._since_ms = self.node.now_ms
        self._failed = []
        self._waiting = {}
        self._tell()

    def _tell(self):
        self.node.emit(160, (self.state, self.cause, self.guarded.register.next_height))


PROTOCOL = Breaker
