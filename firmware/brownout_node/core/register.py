"""The replicated store behind vote.py, durable item by item, and the pool of commands that wait to be put to the vote.

Every board applies the same decided commands in the same order and comes to the same state: whatever is done here must
follow from that state and the command alone, never from time, board or chance. An absent register and one that holds
null are the same, so putting null removes it. Must not send anything.

Sessions make a retry harmless: (client, request) is applied once and the last answer of each client is kept. Of at most
MAX_SESSIONS the lowest client id is evicted; a client at or below that floor without a session is expired for good.

Two banks of journal keys hold the state. A copy fetched from a peer is written into the other bank page by page; the
JOURNAL_HEIGHT record then turns to that bank in one write, so that a cut leaves the old state or the new one. Records
carry the height that their bank was installed at, so that leftovers of an unfinished copy are not taken for state.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .errors import MessageError
from .schema import ADMIT, CAS, GET, MAX_KEYS, MAX_SESSIONS, OK

PAGE = "u[kv]2[uuuvu]1"  # floor, registers, sessions: at most 320 bytes
_HEIGHT = "uuuu"  # next_height, base, floor, bank
_REGISTER = "ukv"  # base, key, value
_SESSION = "uuuuvu"  # base, client, request, status, value, height

_MAX_OWN = const(32)  # pending commands of this board's clients; above it they are told that it is busy
_MAX_POOL = const(64)  # pending commands; above it those of other boards are dropped, and come again

# A pending command is a list: the command's six fields, then these.
_MINE = const(6)  # a client of this board waits for the answer
_SOURCE = const(7)  # the board that sent it
_RESEND_MS = const(8)  # when it is sent again
_INTERVAL_MS = const(9)


class Register:
    """next_height: first undecided height; base: where the last copy was installed, the log holds no entry below it."""

    operations = (schema.PUT, GET, CAS)  # of clients

    def __init__(self, node, stored):
        self._persist = node.persist
        packed = stored.get(schema.JOURNAL_HEIGHT)
        state = (1, 1, 0, 0) if packed is None else codec.unpack(_HEIGHT, packed)
        self.next_height, self.base, self.floor, self._bank = state
        self.values = {}  # key -> (slot, value)
        self.sessions = {}  # client -> (slot, request, status, value, height)
        self._dirty = {}  # journal key -> record, of the decision being applied
        self.copy = None  # [height, next page, values, sessions] of a state being fetched
        for slot in range(MAX_KEYS):
            packed = stored.get(self._register_key(self._bank, slot))
            if packed is not None:
                base, key, value = codec.unpack(_REGISTER, packed)
                if base == self.base:
                    self.values[key] = (slot, value)
        for slot in range(MAX_SESSIONS):
            packed = stored.get(self._session_key(self._bank, slot))
            if packed is not None:
                row = codec.unpack(_SESSION, packed)
                if row[0] == self.base:
                    self.sessions[row[1]] = (slot,) + row[2:]

    def _register_key(self, bank, slot):
        return schema.JOURNAL_REGISTER + bank * MAX_KEYS + slot

    def _session_key(self, bank, slot):
        return schema.JOURNAL_SESSION + bank * MAX_SESSIONS + slot

    @property
    def is_copy(self):
        # Whether the state is a peer's, as installed: then a session may have come and gone unseen.
        return self.base == self.next_height > 1

    def outcome(self, client, request):
        """(status, value, height) if that is settled, () if a later request replaced it, None if it is yet to come."""
        session = self.sessions.get(client)
        if session is None:
            return (schema.EXPIRED, None, 0) if client <= self.floor else None
        if request > session[1]:
            return None
        return session[2:] if request == session[1] else ()

    def apply(self, height, command):
        """Apply one decided command; (status, result), or None where it is a repetition or its session has expired."""
        client, request, operation, key, value, expected = command
        if self.outcome(client, request) is not None:
            return None
        session = self.sessions.get(client)
        slot = self._session_slot(height) if session is None else session[0]
        status, result = self._execute(operation, key, value, expected)
        self.sessions[client] = (slot, request, status, result, height)
        record = codec.pack(_SESSION, (self.base, client, request, status, result, height))
        self._dirty[self._session_key(self._bank, slot)] = record
        return status, result

    def _session_slot(self, height):
        if len(self.sessions) < MAX_SESSIONS:
            return self._free(self.sessions)
        # Not one of this very decision, whose clients still have to be answered.
        evicted = min([client for client in self.sessions if self.sessions[client][4] < height])
        self.floor = max(self.floor, evicted)
        return self.sessions.pop(evicted)[0]

    def _free(self, table):
        used = [row[0] for row in table.values()]
        slot = 0
        while slot in used:
            slot += 1
        return slot

    def _execute(self, operation, key, value, expected):
        row = self.values.get(key)
        current = None if row is None else row[1]
        if operation == GET:
            return OK, current
        if operation == CAS and current != expected:
            return schema.MISMATCH, current
        if row is not None:
            slot = row[0]
        elif value is None:
            return OK, None
        elif len(self.values) >= MAX_KEYS:
            return schema.FULL, None
        else:
            slot = self._free(self.values)
        record = None
        if value is None:
            del self.values[key]
        else:
            self.values[key] = (slot, value)
            record = codec.pack(_REGISTER, (self.base, key, value))
        self._dirty[self._register_key(self._bank, slot)] = record
        return OK, None

    def finish(self, height):
        """Every command of `height` is applied: make what changed durable, together with the next height."""
        self.next_height = height + 1
        for key in sorted(self._dirty):
            self._persist(key, self._dirty[key])
        self._dirty = {}
        self._save()

    def _save(self):
        state = (self.next_height, self.base, self.floor, self._bank)
        self._persist(schema.JOURNAL_HEIGHT, codec.pack(_HEIGHT, state))

    def freeze(self):
        """(next height, floor, registers, sessions): the whole state, in the same order on every board."""
        values = [(key, self.values[key][1]) for key in sorted(self.values)]
        sessions = [(client,) + self.sessions[client][1:] for client in sorted(self.sessions)]
        return self.next_height, self.floor, values, sessions

    def digest(self):
        """8 bytes, the same on two boards if, and only if, height and state are the same."""
        height, floor, values, sessions = self.freeze()
        state = sha256(codec.pack("uu", (height, floor)))
        for row in values:
            state.update(codec.pack("kv", row))
        for row in sessions:
            state.update(codec.pack("uuuvu", row))
        return state.digest()[:8]

    def take_page(self, height, page, pages, data):
        """Take one page of a peer's frozen state; the next page wanted, `pages` once it is installed, None if unfit."""
        copy = self.copy
        if copy is None or copy[0] != height:
            copy = [height, 0, {}, {}]
        if height <= self.next_height or page != copy[1]:
            return None
        self.copy = copy
        floor, values, sessions = codec.unpack(PAGE, data)
        bank = self._bank ^ 1
        for key, value in values:
            slot = len(copy[2])
            copy[2][key] = (slot, value)
            self._persist(self._register_key(bank, slot), codec.pack(_REGISTER, (height, key, value)))
        for row in sessions:
            slot = len(copy[3])
            copy[3][row[0]] = (slot,) + row[1:]
            self._persist(self._session_key(bank, slot), codec.pack(_SESSION, (height,) + row))
        copy[1] = page + 1
        if page + 1 >= pages:
            self.next_height = self.base = height
            self.floor = floor
            self._bank = bank
            self.values = copy[2]
            self.sessions = copy[3]
            self.copy = None
            self._save()
        return page + 1


def page_of(frozen, page):
    """(pages, data): one page of what freeze() returned."""
    _height, floor, values, sessions = frozen
    pages = max((len(values) + 1) // 2, len(sessions), 1)
    return pages, codec.pack(PAGE, (floor, values[2 * page : 2 * page + 2], sessions[page : page + 1]))


class Pool:
    """Commands that wait to be decided: `entries`, oldest first."""

    def __init__(self, node, register):
        self._node = node
        self._register = register
        self.entries = []

    def _find(self, command):
        for entry in self.entries:
            if entry[0] == command[0] and entry[1] == command[1]:
                return entry
        return None

    def submit(self, command):
        """Take a command of this board's own or of a client; False: too many wait, None: it waits already."""
        entry = self._find(command)
        if entry is None:
            entry = list(command) + [False, self._node.board, 0, 0]
        elif entry[_MINE]:
            return None
        if len([row for row in self.entries if row[_MINE]]) >= _MAX_OWN:
            return False
        if entry not in self.entries:
            self.entries.append(entry)
        entry[_MINE] = True
        entry[_INTERVAL_MS] = self._node.config.resend_ms
        entry[_RESEND_MS] = self._node.now_ms + entry[_INTERVAL_MS]
        self._node.send(schema.VOTERS, schema.REQUEST, command)
        return True

    def take(self, source, command):
        """Take a command that another board sent. Without room it is dropped: it will come again."""
        client, request, operation = command[:3]
        if operation == ADMIT:
            if client != source:
                raise MessageError("board %d asks for the admission of board %d" % (source, client))
        elif operation not in self._register.operations or client < schema.FIRST_CLIENT:
            raise MessageError("operation %d of client %d" % (operation, client))
        elif self._register.outcome(client, request) is not None:
            return
        if len(self.entries) < _MAX_POOL and self._find(command) is None:
            self.entries.append(list(command) + [False, source, 0, 0])

    def on_tick(self):
        """Send again what clients of this board wait for, ever more seldom."""
        now_ms = self._node.now_ms
        for entry in self.entries:
            if entry[_MINE] and now_ms >= entry[_RESEND_MS]:
                self._node.send(schema.VOTERS, schema.REQUEST, entry[:6])
                entry[_INTERVAL_MS] = min(2 * entry[_INTERVAL_MS], 8 * self._node.config.resend_ms)
                entry[_RESEND_MS] = now_ms + entry[_INTERVAL_MS]

    def batch(self):
        """The oldest commands, as many as a proposal holds."""
        commands = []
        room = schema.MAX_BATCH_BYTES - 2
        for entry in self.entries:
            command = tuple(entry[:6])
            room -= len(codec.pack("uuukvv", command))
            if room < 0 or len(commands) == 8:
                break
            commands.append(command)
        return commands

    def sources(self, commands):
        """The boards that sent any of these commands."""
        return sorted({entry[_SOURCE] for entry in self.entries if tuple(entry[:6]) in commands})

    def forget(self, command):
        self.entries = [entry for entry in self.entries if entry[0] != command[0] or entry[1] != command[1]]

    def settle(self):
        """Answer and forget what the state has settled."""
        rest = []
        for entry in self.entries:
            outcome = None if entry[2] == ADMIT else self._register.outcome(entry[0], entry[1])
            if outcome is None:
                rest.append(entry)
            elif not outcome or not entry[_MINE] or schema.FIRST_OWN <= entry[0] <= schema.LAST_OWN:
                pass  # nobody waits for it here
            elif outcome[0] != schema.EXPIRED or not self._register.is_copy:
                self._node.reply(entry[0], entry[1], *outcome)
        self.entries = rest
