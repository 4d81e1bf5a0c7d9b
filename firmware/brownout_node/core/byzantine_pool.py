"""Commands that wait to be decided by byzantine.py, and who says that a client asked for them.

A board votes for a command only if it knows it: its own client asked, the board whose client asked told it, or a
blocking set passed it on. So malicious boards can invent requests of their own clients, never of an honest board's.
Must not decide an order: any leader takes the oldest that it knows.
"""

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .errors import MessageError

REQUEST = 96  # a kind of message; see byzantine.py
BPUT = 96  # operations
BGET = 97
ADMIT = 98  # client: board id, request: its boot; made by boards, never by clients

BATCH = "[uuuukv]8"  # (origin, client, request, operation, key, value)
_COMMAND = "uuuukv"

_MAX_OWN = const(12)  # pending commands of this board's clients; above it they are told that it is busy
_MAX_ORIGIN = const(12)  # as many of another board's: what an honest one has pending finds room at every board
_MAX_RUMOURS = const(12)  # commands that only others than the origin told of, for each board that told of them
_STALE_MS = const(10000)  # a command that nobody has sent for so long is dropped
_MAX_RELAY = const(16)

# A pending command is a list: the command's six fields, then these.
_MINE = const(6)  # a client of this board waits for the answer
_VOUCHERS = const(7)  # the boards that sent it, this one included where it did
_RESEND_MS = const(8)  # when it is sent again
_INTERVAL_MS = const(9)
_SEEN_MS = const(10)
_TRIED = const(11)  # this board has proposed it


class Pool:
    """`entries`: oldest first."""

    def __init__(self, log):
        self._log = log
        self._node = log.node
        self.entries = []

    def _find(self, command):
        for entry in self.entries:
            if tuple(entry[:6]) == command:
                return entry
        return None

    def submit(self, command):
        """Take a command of this board's own or of a client; False: too many wait, None: it waits already."""
        if self._find(command) is not None:
            return None
        if len([row for row in self.entries if row[_MINE]]) >= _MAX_OWN:
            return False
        node = self._node
        interval_ms = node.config.resend_ms
        entry = list(command) + [True, [node.board], node.now_ms + interval_ms, interval_ms, node.now_ms, False]
        self.entries.append(entry)
        self._log.broadcast(REQUEST, command)
        return True

    def take(self, source, command):
        """Take a command that another board sent: its own client's, or one that it knows of and passes on."""
        origin, client, request, operation, _key, value = command
        if operation == ADMIT:
            if client != origin:
                raise MessageError("board %d asks for the admission of board %d" % (origin, client))
        elif operation not in (BPUT, BGET) or client < schema.FIRST_CLIENT or (operation == BGET and value is not None):
            raise MessageError("operation %d of client %d" % (operation, client))
        elif self._log.register.outcome(client, request) is not None:
            return
        if origin == self._node.board:
            return  # this board knows best what its clients asked
        entry = self._find(command)
        if entry is None:
            if source == origin:
                self._make_room(origin)
            elif (
                len([row for row in self.entries if source in row[_VOUCHERS] and not self._is_known(row)])
                >= _MAX_RUMOURS
            ):
                return
            entry = list(command) + [False, [], 0, 0, 0, False]
            self.entries.append(entry)
        if source not in entry[_VOUCHERS]:
            entry[_VOUCHERS].append(source)
        entry[_SEEN_MS] = self._node.now_ms

    def _make_room(self, origin):
        # What its origin has not sent for the longest time goes: it may have forgotten it with its power.
        rows = [row for row in self.entries if row[0] == origin and origin in row[_VOUCHERS]]
        if len(rows) >= _MAX_ORIGIN:
            oldest = min([row[_SEEN_MS] for row in rows])
            self.entries.remove([row for row in rows if row[_SEEN_MS] == oldest][0])

    def _is_known(self, entry):
        vouchers = entry[_VOUCHERS]
        return entry[_MINE] or entry[0] in vouchers or self._log.blocks(self._log.weight_of(vouchers))

    def knows(self, command):
        """Whether a client asked for it, as far as this board can tell; what is settled already changes nothing."""
        if command[3] != ADMIT and self._log.register.outcome(command[1], command[2]) is not None:
            return True
        entry = self._find(command)
        return entry is not None and self._is_known(entry)

    def has_known(self):
        for entry in self.entries:
            if self._is_known(entry):
                return True
        return False

    def batch(self, only_own):
        """The oldest commands that are known, as many as a proposal holds.

        One that was proposed before and not decided may be known here alone: it waits until others pass it on.
        """
        commands = []
        room = schema.MAX_BATCH_BYTES - 2
        for entry in self.entries:
            if not entry[_MINE] and (only_own or not self._is_known(entry)):
                continue
            if entry[_TRIED] and not entry[_MINE] and not self._log.blocks(self._log.weight_of(entry[_VOUCHERS])):
                continue
            command = tuple(entry[:6])
            room -= len(codec.pack(_COMMAND, command))
            if room < 0 or len(commands) == 8:
                break
            entry[_TRIED] = True
            commands.append(command)
        return commands

    def relay(self, commands):
        """Tell everybody which commands this board knows, of clients of other boards too, and those given."""
        known = [tuple(entry[:6]) for entry in self.entries if self._is_known(entry)]
        for command in commands:
            if command not in known:
                known.insert(0, command)
        for command in known[:_MAX_RELAY]:
            self._log.broadcast(REQUEST, command)

    def on_tick(self):
        """Send again what clients of this board wait for, ever more seldom; forget what nobody sends any more."""
        now_ms = self._node.now_ms
        stale = False
        for entry in self.entries:
            if not entry[_MINE]:
                stale = stale or now_ms - entry[_SEEN_MS] > _STALE_MS
            elif now_ms >= entry[_RESEND_MS]:
                self._log.broadcast(REQUEST, entry[:6])
                entry[_INTERVAL_MS] = min(2 * entry[_INTERVAL_MS], 8 * self._node.config.resend_ms)
                entry[_RESEND_MS] = now_ms + entry[_INTERVAL_MS]
        if stale:
            self.entries = [row for row in self.entries if row[_MINE] or now_ms - row[_SEEN_MS] <= _STALE_MS]

    def forget_admission(self, board, boot):
        self.entries = [row for row in self.entries if row[3] != ADMIT or row[1] != board or row[2] != boot]

    def settle(self):
        """Answer and forget what the state has settled."""
        rest = []
        register = self._log.register
        for entry in self.entries:
            outcome = None if entry[3] == ADMIT else register.outcome(entry[1], entry[2])
            if outcome is None:
                rest.append(entry)
            elif outcome and entry[_MINE] and (outcome[0] != schema.EXPIRED or not register.is_copy):
                self._node.reply(entry[1], entry[2], *outcome)
        self.entries = rest
