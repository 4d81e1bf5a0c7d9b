"""Atomic commit: transfers between accounts on different boards, done on both or on none.

Every account belongs to one board, its shard, by a hash of its key. The board that a client asks coordinates: it asks
both shards to prepare, and commits once both have said yes; a shard that said yes holds its account until it knows.
- Two-phase commit with presumed abort (Mohan, Lindsay, Obermarck 1986): the coordinator writes down a commit before it
  tells anybody, and nothing else; a coordinator that knows nothing of a transaction says that it was aborted. A shard
  in doubt is blocked while its coordinator is away.
- `non_blocking`: the coordinator writes nothing; the first decision in the voted log counts (commit_log.py), and a
  shard in doubt asks the log for an abort after `doubt_timeout_ms`. A majority of voters unblocks it (the shape of
  Paxos Commit, Gray and Lamport 2006).
An account that is held is not waited for: whoever comes second is told busy, so that there are no deadlocks.
Must not answer ok before the outcome is durable, and must not let go of an account that it said yes for by time.
"""

from . import codec, schema
from .commit_shard import ASK_MS, BLOCKED, MAX_SLOTS, SINCE_MS, TRANSACTION, TXN, Shard
from .errors import MessageError

try:
    from micropython import const
except ImportError:
    const = int

PREPARE = 120
VOTE = 121
DECISION = 122
ACK = 123
INQUIRE = 124
FORWARD = 125
TRANSFER = 120  # operations
BALANCE = 121

MESSAGES = (
    (PREPARE, "commit_prepare", "number:u slot:u client:u request:u source:k target:k amount:u"),
    (VOTE, "commit_vote", "number:u yes:o status:u"),  # status: why not; ok where another board has done it
    (DECISION, "commit_decision", "number:u commit:o"),
    (ACK, "commit_ack", "number:u"),  # the shard has done what was committed, and needs the coordinator no more
    (INQUIRE, "commit_inquire", "number:u"),
    (FORWARD, "commit_forward", "client:u request:u operation:u key:k value:v"),  # for one shard alone: it answers
)
EVENTS = (
    (120, "commit_prepared", "coordinator:u number:u client:u request:u source:k target:k amount:u"),
    # durable on its shard: change of an account, its balance after that, and how often it has changed by now
    (
        121,
        "commit_applied",
        "coordinator:u number:u client:u request:u key:k change:i balance:u version:u",
    ),
    (122, "commit_aborted", "coordinator:u number:u"),  # on a shard that was prepared
    (123, "commit_decided", "number:u commit:o client:u request:u"),  # by the coordinator; client 0: not known any more
    (124, "commit_blocked", "coordinator:u number:u blocked_ms:u"),  # in doubt for longer than the time-out
    (125, "commit_resolved", "coordinator:u number:u commit:o blocked_ms:u"),  # it was blocked, in this life so long
    (126, "commit_shard", "total:u accounts:u prepared:u"),  # what this board holds
)
OPERATIONS = ((TRANSFER, "transfer"), (BALANCE, "balance"))
OPTIONS = (
    "initial:100:0:1000000000 slots:4:1:8 vote_timeout_ms:400:10:60000 doubt_timeout_ms:800:10:60000 non_blocking:0:0:1"
)

_DECIDED = const(123)
_BLOCKED = const(124)
_RESOLVED = const(125)
_SHARD = const(126)
_COMMITTED_KEY = const(0x21240)  # + slot: a transaction that this board has committed, until both shards have done it

# What this board coordinates is a list, by slot.
_NUMBER = const(0)
_TRANSACTION = const(1)  # None: committed in an earlier life, and only the log knows of it
_WAITING = const(2)  # shards whose vote, then whose acknowledgement, is awaited
_STATE = const(3)
_DEADLINE_MS = const(4)
_RESEND_MS = const(5)
_INTERVAL_MS = const(6)

_COLLECTING = const(0)
_DECIDING = const(1)  # the log has been asked
_COMMITTED = const(2)


def parsed(value):
    """(account, amount) of "account:amount"; None where it is something else."""
    target, _, amount = (value or "").rpartition(":")
    if not 0 < len(target.encode()) <= 32 or not 0 < len(amount) <= 9:
        return None
    for character in amount:
        if character not in "0123456789":
            return None
    return (target, int(amount)) if int(amount) else None


class Commit:
    kinds = (PREPARE, VOTE, DECISION, ACK, INQUIRE, FORWARD)
    operations = (TRANSFER, BALANCE)

    def __init__(self, node, stored):
        self.node = node
        options = node.config.options_of("commit", OPTIONS)
        self._slots = options["slots"]
        self._vote_timeout_ms = options["vote_timeout_ms"]
        self._doubt_timeout_ms = options["doubt_timeout_ms"]
        self._boards = [entry[0] for entry in node.config.roster]
        self._number = node.boot << 24  # ascends, over lives too
        self.shard = Shard(node, stored, options["initial"], self._doubt_timeout_ms)
        self.active = {}  # slot -> list
        self.log = None
        self._recovered = False
        self._told = None  # what was emitted last of what this board holds
        self._digest_ms = 0
        if options["non_blocking"]:
            from .commit_log import Decisions

            self.log = Decisions(node, self._slots, self._on_log)
        else:
            self._restore(stored)

    def _restore(self, stored):
        """Go on with what was committed; what this board prepared for itself and did not commit is aborted."""
        for slot in range(MAX_SLOTS):
            packed = stored.get(_COMMITTED_KEY + slot)
            if packed is not None:
                txn = codec.unpack(TRANSACTION, packed)
                self._spread(slot, txn[1], txn, self._shards_of(txn))
        for name in sorted(self.shard.prepared):
            if name[0] == self.node.board:
                self.shard.finish(name, False)

    def digest(self):
        return self.shard.digest()

    def _shards_of(self, txn):
        return [self.shard.owner(txn[5]), self.shard.owner(txn[6])]

    # Clients.

    def on_command(self, client, request, operation, key, value, expected):
        target = None
        if operation == TRANSFER:
            target = parsed(value)
            if target is None or target[0] == key:
                self.node.reply(client, request, schema.REFUSED, None, 0)
                return
        shard = self.shard.owner(key)
        if operation == BALANCE or self.shard.owner(target[0]) == shard:
            if shard == self.node.board:
                self._serve(client, request, key, target)
            else:
                self.node.send(shard, FORWARD, (client, request, operation, key, value))
        else:
            self._begin(client, request, key, target)

    def _serve(self, client, request, key, target):
        """What concerns this shard alone."""
        if target is None:
            self.node.reply(client, request, *self.shard.balance(key))
            return
        self._number += 1
        txn = (self.node.board, self._number, 0, client, request, key) + target
        self.node.reply(client, request, self.shard.move(txn), None, 0)

    # The coordinator.

    def _begin(self, client, request, source, target):
        slot = None
        for other in range(self._slots - 1, -1, -1):
            row = self.active.get(other)
            if row is None:
                slot = other
            elif row[_TRANSACTION] is not None and row[_TRANSACTION][3:5] == (client, request):
                if row[_STATE] == _COMMITTED:
                    self.node.reply(client, request, schema.OK, None, 0)
                return
        if slot is None or self.shard.lost or (self.log is not None and not self.log.ready):
            self.node.reply(client, request, schema.BUSY, None, 0)
            return
        self._number += 1
        txn = (self.node.board, self._number, slot, client, request, source) + target
        now_ms = self.node.now_ms
        interval_ms = self.node.config.resend_ms
        row = [txn[1], txn, self._shards_of(txn), _COLLECTING]
        row += [now_ms + self._vote_timeout_ms, now_ms + interval_ms, interval_ms]
        self.active[slot] = row
        if self.node.board not in row[_WAITING] or self._take_vote(slot, self.node.board, *self.shard.prepare(txn)):
            self._ask(row)

    def _ask(self, row):
        """Ask the shards whose vote is missing to prepare."""
        for shard in row[_WAITING]:
            self.node.send(shard, PREPARE, row[_TRANSACTION][1:])

    def _take_vote(self, slot, shard, yes, status):
        """Whether the transaction is still open."""
        row = self.active[slot]
        if row[_STATE] != _COLLECTING or shard not in row[_WAITING]:
            return False
        if not yes:
            self._abort(slot, status)
            return False
        row[_WAITING].remove(shard)
        if row[_WAITING]:
            return True
        txn = row[_TRANSACTION]
        if self.log is None:
            self.shard.persist(_COMMITTED_KEY + slot, codec.pack(TRANSACTION, txn))
            self._commit(slot, self._shards_of(txn))
        else:
            row[_STATE] = _DECIDING
            self.log.propose(self.node.board, slot, row[_NUMBER], self._shards_of(txn))
        return False

    def _commit(self, slot, shards):
        """It is committed, durably: answer, and tell the shards."""
        number, txn = self.active[slot][:2]
        client, request = txn[3:5] if txn is not None else (0, 0)
        self.node.emit(_DECIDED, (number, True, client, request))
        if txn is not None:
            self.node.reply(client, request, schema.OK, None, 0)
        self._spread(slot, number, txn, shards)

    def _spread(self, slot, number, txn, shards):
        interval_ms = self.node.config.resend_ms
        row = [number, txn, shards, _COMMITTED, 0, self.node.now_ms + interval_ms, interval_ms]
        self.active[slot] = row
        self._tell(row, True)
        if self.node.board in shards:
            self._finish((self.node.board, number), True)
            self._take_ack(slot, self.node.board)

    def _tell(self, row, commit):
        for shard in row[_WAITING]:
            if shard != self.node.board:
                self.node.send(shard, DECISION, (row[_NUMBER], commit))

    def _take_ack(self, slot, shard):
        row = self.active[slot]
        if row[_STATE] == _COMMITTED and shard in row[_WAITING]:
            row[_WAITING].remove(shard)
            if not row[_WAITING]:
                del self.active[slot]
                if self.log is None:
                    self.shard.forget(_COMMITTED_KEY + slot)

    def _abort(self, slot, status):
        """Nobody writes that down. Shards that do not hear of it ask, or ask the log."""
        row = self.active.pop(slot)
        number, txn = row[:2]
        row[_WAITING] = self._shards_of(txn)
        self._tell(row, False)
        self._finish((self.node.board, number), False)
        self.node.emit(_DECIDED, (number, False, txn[3], txn[4]))
        self.node.reply(txn[3], txn[4], status, None, 0)

    # Messages.

    def on_message(self, source, kind, fields):
        try:
            if source not in self._boards:
                raise MessageError("board %d is not in the roster" % source)
            if kind == PREPARE:
                self._on_prepare(source, fields)
            elif kind == DECISION:
                name = (source, fields[0])
                self._finish(name, fields[1])
                if fields[1]:
                    self.node.send(source, ACK, (fields[0],))
            elif kind == FORWARD:
                self._on_forward(*fields)
            else:
                self._on_shard(source, kind, fields)
        except MessageError as error:
            self.node._reject(source, str(error))

    def _on_prepare(self, source, fields):
        txn = (source,) + tuple(fields)
        if txn[2] >= MAX_SLOTS or txn[3] < schema.FIRST_CLIENT or not txn[7] or txn[5] == txn[6]:
            raise MessageError("a transaction that is none")
        if self._shards_of(txn).count(self.node.board) != 1:
            raise MessageError("accounts of other shards")
        vote = self.shard.prepare(txn)
        if vote is not None:
            self.node.send(source, VOTE, (txn[1],) + vote)

    def _on_forward(self, client, request, operation, key, value):
        target = parsed(value) if operation == TRANSFER else None
        keys = [key] if target is None else [key, target[0]]
        foreign = [other for other in keys if self.shard.owner(other) != self.node.board]
        if client < schema.FIRST_CLIENT or foreign or (operation == TRANSFER and (target is None or target[0] == key)):
            raise MessageError("nothing for this shard")
        self._serve(client, request, key, target)

    def _on_shard(self, source, kind, fields):
        """A shard answers its coordinator, or asks."""
        slot = None
        for other in self.active:
            if self.active[other][_NUMBER] == fields[0]:
                slot = other
        if kind == INQUIRE:
            # Presumed abort: what is not known was not committed, or both shards have done it. Whoever lost its
            # journal does not know what it has committed.
            if slot is None and self.log is None and not self.shard.lost:
                self.node.send(source, DECISION, (fields[0], False))
            elif slot is not None and self.active[slot][_STATE] == _COMMITTED:
                self.node.send(source, DECISION, (fields[0], True))
        elif slot is not None and kind == VOTE:
            self._take_vote(slot, source, fields[1], fields[2])
        elif slot is not None:
            self._take_ack(slot, source)

    # The shard.

    def _finish(self, name, commit):
        row = self.shard.prepared.get(name)
        if row is None:
            return
        self.shard.finish(name, commit)
        if row[BLOCKED]:
            self.node.emit(_RESOLVED, name + (commit, self.node.now_ms - row[SINCE_MS]))

    def _coordinates(self, name):
        """Whether this board still coordinates that transaction, in this life."""
        for row in self.active.values():
            if name == (self.node.board, row[_NUMBER]):
                return True
        return False

    def _on_log(self):
        """Whatever the log has decided is done."""
        look = self.log.look
        for name in sorted(self.shard.prepared):
            if not self._coordinates(name):
                number, shards = look(name[0], self.shard.prepared[name][TXN][2])
                if number >= name[1]:  # above it: no commit, or this shard would have been waited for
                    self._finish(name, number == name[1] and shards is not None)
        if not self.log.ready:
            return
        if not self._recovered:
            self._recovered = True
            for slot in range(self._slots):
                number, shards = look(self.node.board, slot)
                if shards is not None:
                    self.active[slot] = [number, None]
                    self._commit(slot, shards)
        for slot in range(self._slots):
            row = self.active.get(slot)
            if row is not None and row[_STATE] != _COMMITTED:
                number, shards = look(self.node.board, slot)
                if number == row[_NUMBER]:
                    if shards is None:
                        self._abort(slot, schema.BUSY)
                    else:
                        self._commit(slot, shards)

    # Time.

    def on_tick(self):
        now_ms = self.node.now_ms
        resend_ms = self.node.config.resend_ms
        for slot in range(MAX_SLOTS):
            row = self.active.get(slot)
            if row is None or row[_STATE] == _DECIDING:
                continue
            if row[_STATE] == _COLLECTING and now_ms >= row[_DEADLINE_MS]:
                self._abort(slot, schema.BUSY)
            elif now_ms >= row[_RESEND_MS]:
                row[_INTERVAL_MS] = min(2 * row[_INTERVAL_MS], 8 * resend_ms)
                row[_RESEND_MS] = now_ms + row[_INTERVAL_MS]
                if row[_STATE] == _COLLECTING:
                    self._ask(row)
                else:
                    self._tell(row, True)
        if self.log is not None:
            self._on_log()  # it may have decided before a shard that a message reached late said yes
            self.log.on_tick()
        for name in sorted(self.shard.prepared):
            self._doubt(name, now_ms)
        if now_ms - self._digest_ms >= self.node.config.digest_period_ms:
            self._digest_ms = now_ms
            self._emit_shard()

    def _doubt(self, name, now_ms):
        """What this shard has said yes to, and knows no outcome of."""
        row = self.shard.prepared[name]
        waited_ms = now_ms - row[SINCE_MS]
        if waited_ms >= self._doubt_timeout_ms and not row[BLOCKED]:
            row[BLOCKED] = True
            self.node.emit(_BLOCKED, name + (waited_ms,))
        if self._coordinates(name) or now_ms < row[ASK_MS]:
            return
        row[ASK_MS] = now_ms + self.node.config.resend_ms
        if self.log is None:
            self.node.send(name[0], INQUIRE, (name[1],))
        elif name[0] == self.node.board or waited_ms >= self._doubt_timeout_ms:
            self.log.propose(name[0], row[TXN][2], name[1], None)

    def _emit_shard(self):
        held = self.shard.total() + (len(self.shard.prepared),)
        if held != self._told:
            self._told = held
            self.node.emit(_SHARD, held)


PROTOCOL = Commit
