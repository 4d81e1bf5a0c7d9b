"""One board's accounts, as commit.py uses them: balances, locks, prepared transactions, answers; all durable.

A transaction is the tuple (coordinator, number, slot, client, request, source, target, amount): `amount` goes from the
account `source` to `target`. What this board said yes to is in the journal, and its account stays locked, until the
outcome is known; balance, answer to the client and end of the transaction then become durable in one append. An abort
is not written by itself (it is presumed): its record goes with the next append.

Sessions make a retry harmless: the shard of the source account keeps the last answer to each client. Of at most
MAX_SESSIONS the lowest client id is evicted; a client at or below that floor without a session has expired. In a slot
of a coordinator numbers ascend, and `marks` has the last that was committed here: what comes later of it is stale.

Must not send anything, and must not create an account on a board whose journal is lost: that would make money.
"""

try:
    from micropython import const
except ImportError:
    const = int

from hashlib import sha256

from . import codec, schema

MAX_ACCOUNTS = 64
MAX_SLOTS = 8  # transactions of one coordinator at a time
MAX_PREPARED = const(16)
MAX_SESSIONS = const(32)

_ACCOUNT_KEY = const(0x21000)  # + slot: key, balance, version
_SESSION_KEY = const(0x21100)  # + slot: client, request, status
_FLOOR_KEY = const(0x21180)
_PREPARED_KEY = const(0x21200)  # + place: a transaction
_MARKS_KEY = const(0x21400)  # + coordinator: the last number committed here, by slot
_ACCOUNT = "kuu"
_SESSION = "uuu"
_MARKS = "[u]8"
TRANSACTION = "uuuuukku"

# Events, see commit.py.
_PREPARED = const(120)
_APPLIED = const(121)
_ABORTED = const(122)

# A prepared transaction is a list.
TXN = 0
PLACE = 1
SINCE_MS = 2  # in doubt since then, in this life
ASK_MS = 3  # when the outcome is asked for
BLOCKED = 4  # whether that was told

_NEVER = (0,) * MAX_SLOTS


def _free(rows, field):
    """The lowest number that none of the rows has there."""
    used = [row[field] for row in rows]
    number = 0
    while number in used:
        number += 1
    return number


class Shard:
    """accounts: key -> (slot, balance, version); version counts the changes. lost: the journal is gone."""

    def __init__(self, node, stored, initial, patience_ms):
        self.node = node
        self._patience_ms = patience_ms  # how long the coordinator is waited for before it is asked
        self.initial = initial
        self.lost = stored.get(schema.JOURNAL_GENESIS) is None
        self.accounts = {}
        self.sessions = {}  # client -> (slot, request, status)
        self.prepared = {}  # (coordinator, number) -> list as above
        self.locks = {}  # key -> (coordinator, number)
        self._lazy = []  # journal keys of what is over; deleted with the next append
        self._marks = {}  # coordinator -> list
        packed = stored.get(_FLOOR_KEY)
        self._floor = 0 if packed is None else codec.unpack("u", packed)[0]
        self._boards = [entry[0] for entry in node.config.roster]
        for slot in range(MAX_ACCOUNTS):
            packed = stored.get(_ACCOUNT_KEY + slot)
            if packed is not None:
                key, balance, version = codec.unpack(_ACCOUNT, packed)
                self.accounts[key] = (slot, balance, version)
        for slot in range(MAX_SESSIONS):
            packed = stored.get(_SESSION_KEY + slot)
            if packed is not None:
                row = codec.unpack(_SESSION, packed)
                self.sessions[row[0]] = (slot,) + row[1:]
        for board in self._boards:
            packed = stored.get(_MARKS_KEY + board)
            if packed is not None:
                self._marks[board] = [row[0] for row in codec.unpack(_MARKS, packed)[0]]
        for place in range(MAX_PREPARED):
            packed = stored.get(_PREPARED_KEY + place)
            if packed is not None:
                self._hold(codec.unpack(TRANSACTION, packed), place, 0)

    def owner(self, key):
        """The board that has an account: the same on every board, whoever is asked."""
        return self._boards[int.from_bytes(sha256(key.encode()).digest()[:4], "big") % len(self._boards)]

    def persist(self, key, value):
        """Durable before anything of this step is sent; what is over goes with it."""
        for old in self._lazy:
            self.node.persist(old, None)
        self._lazy = []
        self.node.persist(key, value)

    def forget(self, key):
        """Delete a record that says nothing any more, without an append of its own."""
        self._lazy.append(key)

    # Answers.

    def outcome(self, client, request):
        """The status that was given for good; None if it is yet to come, BUSY if a later request replaced it."""
        session = self.sessions.get(client)
        if session is None:
            return schema.EXPIRED if client <= self._floor else None
        if request > session[1]:
            return None
        return session[2] if request == session[1] else schema.BUSY

    def _remember(self, client, request, status):
        session = self.sessions.get(client)
        if session is not None:
            slot = session[0]
        elif len(self.sessions) < MAX_SESSIONS:
            slot = _free(self.sessions.values(), 0)
        else:
            evicted = min(self.sessions)
            slot = self.sessions.pop(evicted)[0]
            self._floor = max(self._floor, evicted)
            self.persist(_FLOOR_KEY, codec.pack("u", (self._floor,)))
        self.sessions[client] = (slot, request, status)
        self.persist(_SESSION_KEY + slot, codec.pack(_SESSION, (client, request, status)))

    # Accounts.

    def balance(self, key):
        """(status, balance as text, version); busy while a transaction holds the account."""
        if self.lost:
            return schema.REFUSED, None, 0
        if key in self.locks:
            return schema.BUSY, None, 0
        row = self.accounts.get(key, (0, self.initial, 0))
        return schema.OK, str(row[1]), row[2]

    def _change(self, txn, key, change):
        row = self.accounts.get(key)
        if row is None:
            row = (_free(self.accounts.values(), 0), self.initial, 0)
        row = (row[0], row[1] + change, row[2] + 1)
        self.accounts[key] = row
        self.persist(_ACCOUNT_KEY + row[0], codec.pack(_ACCOUNT, (key, row[1], row[2])))
        self.node.emit(_APPLIED, (txn[0], txn[1], txn[3], txn[4], key, change, row[1], row[2]))

    def _refusal(self, txn, keys):
        """The status with which a transaction on these accounts of ours cannot be done; OK if it can."""
        if self.lost:
            return schema.REFUSED
        source, amount = txn[5], txn[7]
        if source in keys:
            for other in self.prepared.values():
                if other[TXN][3] == txn[3] and other[TXN][4] == txn[4]:
                    return schema.BUSY  # under another number, by another board
        for key in keys:
            if key in self.locks:
                return schema.BUSY
        # Room is needed for what is prepared as well, whatever becomes of it.
        new = [key for key in list(self.locks) + list(keys) if key not in self.accounts]
        if len(self.accounts) + len(new) > MAX_ACCOUNTS:
            return schema.FULL
        if source in keys and self.accounts.get(source, (0, self.initial))[1] < amount:
            # For good: another board may be asked the same, and must not be told otherwise.
            self._remember(txn[3], txn[4], schema.MISMATCH)
            return schema.MISMATCH
        return schema.OK

    def move(self, txn):
        """A transfer between two accounts of this board, at once: its status, or None where nobody waits for it."""
        settled = self.outcome(txn[3], txn[4])
        if settled is not None:
            return settled
        status = self._refusal(txn, txn[5:7])
        if status == schema.OK:
            self._change(txn, txn[5], -txn[7])
            self._change(txn, txn[6], txn[7])
            self._remember(txn[3], txn[4], schema.OK)
        return status

    # Transactions of several boards.

    def key_of(self, txn):
        """The account of a transaction that is on this board."""
        return txn[5] if self.owner(txn[5]) == self.node.board else txn[6]

    def prepare(self, txn):
        """This board's vote, (yes, status); None where the transaction was committed here. A yes is durable."""
        if txn[:2] in self.prepared:
            return True, schema.OK
        if txn[1] <= self._marks.get(txn[0], _NEVER)[txn[2]]:
            return None
        key = self.key_of(txn)
        if key == txn[5]:
            settled = self.outcome(txn[3], txn[4])
            if settled is not None:
                return False, settled  # OK: another board has done it
        status = schema.BUSY if len(self.prepared) >= MAX_PREPARED else self._refusal(txn, (key,))
        if status != schema.OK:
            return False, status
        place = _free(self.prepared.values(), PLACE)
        self._hold(txn, place, self._patience_ms)
        self.persist(_PREPARED_KEY + place, codec.pack(TRANSACTION, txn))
        self.node.emit(_PREPARED, txn[:2] + txn[3:])
        return True, schema.OK

    def _hold(self, txn, place, patience_ms):
        now_ms = self.node.now_ms
        self.prepared[txn[:2]] = [txn, place, now_ms, now_ms + patience_ms, False]
        self.locks[self.key_of(txn)] = txn[:2]

    def finish(self, name, commit):
        """The outcome of a transaction: done at once, durable; nothing where it is not prepared here."""
        row = self.prepared.pop(name, None)
        if row is None:
            return
        txn = row[TXN]
        key = self.key_of(txn)
        del self.locks[key]
        self.forget(_PREPARED_KEY + row[PLACE])
        if not commit:
            self.node.emit(_ABORTED, name)
            return
        self._change(txn, key, -txn[7] if key == txn[5] else txn[7])
        if key == txn[5]:
            self._remember(txn[3], txn[4], schema.OK)
        marks = list(self._marks.get(txn[0], _NEVER))
        marks[txn[2]] = txn[1]
        self._marks[txn[0]] = marks
        self.persist(_MARKS_KEY + txn[0], codec.pack(_MARKS, ([(number,) for number in marks],)))

    def total(self):
        """(sum of all balances, accounts)"""
        return sum([row[1] for row in self.accounts.values()]), len(self.accounts)

    def digest(self):
        state = sha256()
        for key in sorted(self.accounts):
            state.update(codec.pack(_ACCOUNT, (key,) + self.accounts[key][1:]))
        for name in sorted(self.prepared):
            state.update(codec.pack("uu", name))
        return state.digest()[:8]
