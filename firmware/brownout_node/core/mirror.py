"""Active-active: every board writes counters, sets and registers at any time, without a vote; all come to be the same.

The types are convergent (Shapiro, Preguica, Baquero, Zawirski 2011) and rest on one store of dots. A dot (line, number)
names one update of one writer, and a row is what that update left behind:
- a counter has one row for each writer, with all that it ever added and took away; a later row replaces an earlier one;
- a set has a row for each add. An add replaces the rows of its element that it saw, a remove drops them: so an add wins
  over a remove that did not see it. There are no tombstones (Bieniusa et al. 2012): a dot that a version vector covers
  and that has no row is gone;
- a register has one row; of two the one with the higher (stamp, line) stays.
Updates are sent to all at once, and taken in unbroken order of each writer. Whatever was missed is pulled: each sync
period a board asks another one, with its vector, and is answered in pages of spans: (line, up to where, the numbers
that have rows), with the rows that are new to it. A row of ours within a span that is not listed there is dropped, once
the exchange is over, so that what replaces it is here before it goes.
A board that lost its journal writes under a new line, so that no dot comes twice, and refuses writes until it has read
a whole store once. Bounds: a client's new row is refused at `rows`; writes at the same time may pass that, so merges
stop at twice as many, and what finds no room does not count as seen.
Must not answer a client before the write is durable, and must not order updates of different boards.
"""

import hashlib

from . import codec, schema

try:
    from micropython import const
except ImportError:
    const = int

SYNC = 152
PAGE = 153
UPDATE = 154
INCREMENT = 152
ADD = 153
REMOVE = 154
ASSIGN = 155
COUNT = 156
MEMBERS = 157
RECALL = 158

# A row is (line, number, kind, key, value, a, b): a counter's added and taken sums, an element, a value and its stamp.
# A line is a writer and, in the bits above 10, the boot in which it began to count anew. stamp is the sender's clock.
MESSAGES = (
    # "after this position, up to that line: my lines are these"; digest: of all that is held, null in a return visit
    (SYNC, "mirror_sync", "exchange:u line:u number:u until:u lines:[uu]40 digest:d"),
    # covers all up to line `reach`; where that is 0, up to the end of the last span
    (PAGE, "mirror_page", "exchange:u reach:u ready:o stamp:u rows:[uuukvuu]8 spans:[uu[u]64]16"),
    (UPDATE, "mirror_update", "rows:[uuukvuu]1 dropped:[uu]16"),
)
EVENTS = (
    (152, "incremented", "client:u request:u key:k amount:i line:u number:u added:u taken:u"),
    (153, "added", "client:u request:u key:k value:v line:u number:u"),
    # one row of a set that was seen and dropped, by a remove or, replaced, by an add of the same element
    (154, "removed", "client:u request:u key:k value:v line:u number:u replaced:o"),
    (155, "assigned", "client:u request:u key:k value:v stamp:u line:u number:u"),
    (156, "mirrored", "type:u key:k value:v line:u number:u a:u b:u"),  # another board's update is held here
)
OPERATIONS = (
    (INCREMENT, "increment"),  # value: decimal, may be negative; answered with the sum known here
    (ADD, "add"),
    (REMOVE, "remove"),
    (ASSIGN, "assign"),
    (COUNT, "count"),
    (MEMBERS, "members"),  # those that fit into the answer; height: how many there are
    (RECALL, "recall"),
)
OPTIONS = "rows:64:4:96"

COUNTER = 0
ELEMENT = 1
REGISTER = 2

_KEY = 0x24000  # own line, and whether a whole store was read since the journal was lost
_LINES = 0x24100  # + slot: (line, number up to which all is seen)
_ROWS = 0x24200  # + slot: a row
_ROW = "uuukvuu"
_MOST_LINES = const(128)
_BYTES = const(400)  # of what a message lists; MAX_MESSAGE leaves more beside the longest header
_END = 1 << 60
_LARGEST = 1 << 60  # of a sum
_TRIES = const(4)
_CLIENTS = const(16)  # whose last request is remembered, so that one that is delivered twice is done once
_KINDS = {INCREMENT: COUNTER, ADD: ELEMENT, ASSIGN: REGISTER}


def amount_of(text):
    """The integer that a client means, of at most 9 digits; None where it is none."""
    digits = text[1:] if text is not None and text[:1] == "-" else text
    if not digits or len(digits) > 9:
        return None
    for character in digits:
        if character not in "0123456789":
            return None
    return int(text)


class Mirror:
    kinds = (SYNC, PAGE, UPDATE)
    operations = (INCREMENT, ADD, REMOVE, ASSIGN, COUNT, MEMBERS, RECALL)

    def __init__(self, node, stored):
        self.node = node
        self._most = node.config.options_of("mirror", OPTIONS)["rows"]
        self._random = node.random("mirror")
        self._peers = [entry[0] for entry in node.config.roster if entry[0] != node.board]
        self.rows = {}  # (line, number) -> [row, journal slot]
        self.vector = {}  # line -> [number, journal slot]
        self._mix = 0  # exclusive or of the rows' hashes
        self._requests = []  # (client, request, status, value, height), latest last
        self._reported = None
        self._load(stored)
        # The exchange that this board pulls, one at a time.
        self._exchange = self._random.below(1 << 28)  # an answer to an earlier boot must not count
        self._peer = None
        self._after = (0, 0)
        self._until = _END
        self._dead = []
        self._returns = False
        self._tries = 0
        self._fresh = False
        self._lap = []
        self._laps = 0
        config = node.config
        self._ask_at = self._random.below(config.gossip_period_ms)
        self._sync_at = self._random.below(config.sync_period_ms)
        self._digest_at = self._random.below(config.digest_period_ms)

    def _load(self, stored):
        packed = stored.get(_KEY)
        self.ready = not self._peers
        if packed is not None:
            self._own, self.ready = codec.unpack("uo", packed)
        elif stored.get(schema.JOURNAL_GENESIS) is not None:
            self._own, self.ready = self.node.board, True
        else:
            self._own = self.node.boot << 10 | self.node.board
            self.node.persist(_KEY, codec.pack("uo", (self._own, self.ready)))
        for slot in range(_MOST_LINES):
            packed = stored.get(_LINES + slot)
            if packed is not None:
                line, number = codec.unpack("uu", packed)
                self.vector[line] = [number, slot]
        for slot in range(2 * self._most):
            packed = stored.get(_ROWS + slot)
            if packed is not None:
                row = codec.unpack(_ROW, packed)
                self.rows[row[:2]] = [row, slot]
                self._mix ^= _hash(row)

    # What others ask.

    def digest(self):
        return self._mix.to_bytes(8, "big")

    def seen(self, line):
        entry = self.vector.get(line)
        return 0 if entry is None else entry[0]

    def total(self, key):
        """The counter's value, as far as it is known here."""
        return sum([row[5] - row[6] for row in self._of(COUNTER, key)])

    def members(self, key):
        """The elements of the set, sorted."""
        return sorted({row[4] for row in self._of(ELEMENT, key)})

    def recall(self, key):
        """The register's value; None where it was never assigned."""
        rows = self._of(REGISTER, key)
        return rows[0][4] if rows else None

    def _of(self, kind, key):
        return sorted([held[0] for held in self.rows.values() if held[0][3] == key and held[0][2] == kind])

    # Clients.

    def on_command(self, client, request, operation, key, value, expected):
        if operation >= COUNT:
            self.node.reply(client, request, schema.OK, *self._read(operation, key))
            return
        for done in self._requests:
            if done[0] == client and done[1] == request:
                self.node.reply(*done)
                return
        status, result, height = schema.REFUSED, None, 0
        if self.ready and value is not None and (operation != INCREMENT or amount_of(value) is not None):
            status, result, height = self._write(client, request, operation, key, value)
        done = (client, request, status, result, height)
        self._requests = [other for other in self._requests if other[0] != client][1 - _CLIENTS :]
        self._requests.append(done)
        self.node.reply(*done)

    def _read(self, operation, key):
        if operation == COUNT:
            return str(self.total(key)), 0
        if operation == RECALL:
            return self.recall(key), 0
        members = self.members(key)
        text = ""
        for member in members:
            longer = text + " " + member if text else member
            if len(longer.encode()) > 64:
                break
            text = longer
        return text, len(members)

    def _write(self, client, request, operation, key, value):
        node = self.node
        own = self._own
        seen = self._of(_KINDS.get(operation, ELEMENT), key)
        if operation == INCREMENT:
            seen = [row for row in seen if row[0] == own]
        elif operation != ASSIGN:
            seen = [row for row in seen if row[4] == value]
        if operation != REMOVE:
            if not seen and len(self.rows) >= self._most:
                return schema.FULL, None, 0
            added, taken = seen[0][5:] if operation == INCREMENT and seen else (0, 0)
            if added >= _LARGEST or taken >= _LARGEST:
                return schema.FULL, None, 0
            number = self.seen(own) + 1
            if not self._advance(own, number):
                return schema.FULL, None, 0
        row = None
        if operation == INCREMENT:
            amount = amount_of(value)
            added, taken = (added + amount, taken) if amount >= 0 else (added, taken - amount)
            row = (own, number, COUNTER, key, None, added, taken)
            node.emit(152, (client, request, key, amount, own, number, added, taken))
        elif operation == ADD:
            row = (own, number, ELEMENT, key, value, 0, 0)
            node.emit(153, (client, request, key, value, own, number))
        elif operation == ASSIGN:
            stamp = node.clock.now()
            row = (own, number, REGISTER, key, value, stamp, 0)
            node.emit(155, (client, request, key, value, stamp, own, number))
        if operation in (ADD, REMOVE):
            for old in seen:
                node.emit(154, (client, request, key, value, old[0], old[1], operation == ADD))
        dots = [old[:2] for old in seen]
        self._replace(dots, row)
        if row is not None or dots:
            self.node.send(schema.ALL, UPDATE, ([] if row is None else [row], dots[:16]))
        return schema.OK, str(self.total(key)) if operation == INCREMENT else None, 0 if row is None else row[1]

    # Time.

    def on_tick(self):
        now = self.node.now_ms
        config = self.node.config
        if now >= self._ask_at:
            self._ask_at = now + config.gossip_period_ms
            if self._peer is not None:
                if self._fresh:
                    self._fresh = False
                elif self._tries < _TRIES:
                    self._ask()
                else:
                    self._finish()
        if now >= self._sync_at:
            self._sync_at = now + (config.sync_period_ms if self.ready else config.gossip_period_ms)
            if self._peer is None:
                self._begin()
        if now >= self._digest_at:
            self._digest_at = now + config.digest_period_ms
            if self._reported != self._mix:
                self._reported = self._mix
                self.node.emit(schema.DIGEST, ("mirror", 0, self.digest(), len(self.rows)))

    # Messages.

    def on_message(self, source, kind, fields):
        if source not in self._peers:
            return
        if kind == SYNC:
            self._on_sync(source, fields)
        elif kind == PAGE:
            self._on_page(source, fields)
        else:
            self._on_update(fields[0], fields[1])

    def _on_update(self, rows, dropped):
        for row in rows:
            if row[1] != self.seen(row[0]) + 1 or not self._take(row) or not self._advance(row[0], row[1]):
                return  # what it replaces has to stay, too
        self._replace([dot for dot in dropped if dot in self.rows], None)

    # The side that pulls.

    def _begin(self):
        membership = self.node.protocol("membership")
        alive = (membership and membership.alive()) or self._peers
        for _peer in self._peers:
            if not self._lap:
                self._lap = list(self._peers)
                self._random.shuffle(self._lap)
                self._laps += 1
            peer = self._lap.pop()
            if peer in alive or not self._laps & 3:  # now and then also who is held for dead: that may be a mistake
                self._pull(peer, False)
                return

    def _pull(self, peer, returns):
        self._peer = peer
        self._returns = returns
        self._after = (0, 0)
        self._dead = []
        self._tries = 0
        self._ask()

    def _ask(self):
        self._tries += 1
        self._fresh = True
        self._exchange += 1
        self._until = _END
        lines = []
        size = 0
        for line in sorted(self.vector):
            if line >= self._after[0]:
                entry = (line, self.vector[line][0])
                size += len(codec.pack("uu", entry))
                if size > _BYTES - 20 or len(lines) == 40:
                    self._until = lines[-1][0]
                    break
                lines.append(entry)
        digest = self._summary() if self._after == (0, 0) and not self._returns else None
        fields = (self._exchange, self._after[0], self._after[1], self._until, lines, digest)
        self.node.send(self._peer, SYNC, fields)

    def _on_page(self, source, fields):
        exchange, reach, ready, stamp, rows, spans = fields
        if source != self._peer or exchange != self._exchange:
            return
        self.node.clock.observe(stamp)
        self._tries = 0
        for line, covered, live in spans:
            start = self._after[1] if line == self._after[0] else 0
            if not self._cover(line, start, covered, [entry[0] for entry in live], rows):
                self._finish()
                return
        if reach:
            self._after = (reach + 1, 0)
        elif spans:
            self._after = spans[-1][:2]
        if reach < _END and (reach or spans):
            self._ask()
            return
        self._finish()
        if not self.ready and (ready or self._laps > 3):  # none of the others may have one to read
            self.ready = True
            self.node.persist(_KEY, codec.pack("uo", (self._own, True)))

    def _cover(self, line, start, covered, live, rows):
        """Take what one span says of a line's numbers above `start`; whether there was room for it, and sense in it."""
        seen = self.seen(line)
        for dot in sorted(self.rows):
            if dot[0] == line and start < dot[1] <= min(covered, seen) and dot[1] not in live:
                self._dead.append(dot)
        if covered <= seen:
            return True
        if start > seen:
            return False
        for row in rows:
            if row[0] == line and seen < row[1] <= covered:
                if not self._take(row):
                    self._advance(line, row[1] - 1)
                    return False
                live.remove(row[1])
        for number in live:
            if number > seen:
                return False
        return self._advance(line, covered)

    def _finish(self):
        self._replace([dot for dot in self._dead if dot in self.rows], None)
        self._dead = []
        self._peer = None

    # The side that answers.

    def _summary(self):
        packed = [codec.pack("uu", (line, self.vector[line][0])) for line in sorted(self.vector)]
        return hashlib.sha256(self.digest() + b"".join(packed)).digest()[:8]

    def _on_sync(self, source, fields):
        exchange, after, number, until, lines, digest = fields
        rows = []
        spans = []
        if digest is not None and digest == self._summary():
            reach = _END
        else:
            reach = until if self._fill(rows, spans, (after, number), until, lines) else 0
        self.node.send(source, PAGE, (exchange, reach, self.ready, self.node.clock.now(), rows, spans))
        if digest is not None and self._peer is None and digest != self._summary():
            self._pull(source, True)

    def _fill(self, rows, spans, after, until, lines):
        """Put what follows the position into a page; whether all did fit."""
        theirs = dict(lines)
        numbers = {}
        for dot in self.rows:
            numbers.setdefault(dot[0], []).append(dot[1])
        size = 0
        for line in sorted(self.vector):
            if not after[0] <= line <= until:
                continue
            start = after[1] if line == after[0] else 0
            live = []
            size += 20
            if size > _BYTES or len(spans) == 16:
                return False
            for number in sorted(numbers.get(line, ())):
                if number <= start:
                    continue
                row = self.rows[line, number][0]
                new = number > theirs.get(line, 0)
                size += 6 + (len(codec.pack(_ROW, row)) if new else 0)
                if size > _BYTES or len(live) == 64 or (new and len(rows) == 8):
                    if live:
                        spans.append((line, live[-1][0], live))
                    return False
                live.append((number,))
                if new:
                    rows.append(row)
            spans.append((line, max(start, self.vector[line][0]), live))
        return True

    # Rows.

    def _take(self, row):
        """Hold another board's row. False where there is no room for it, or no sense in it."""
        line, number, kind, key, value, a, b = row
        if row[:2] in self.rows:
            return True
        if kind > REGISTER or line & 1023 not in self.node.config.names or not number or (kind and value is None):
            return False
        if line not in self.vector and len(self.vector) >= _MOST_LINES:
            return False
        old = [] if kind == ELEMENT else self._of(kind, key)
        if kind == COUNTER:
            old = [other for other in old if other[0] == line]
        if not old and len(self.rows) >= 2 * self._most:
            return False
        if kind == REGISTER:
            if not self.node.clock.observe(a):
                return False
            if old and (old[0][5], old[0][0]) > (a, line):
                return True
        self._replace([other[:2] for other in old], row)
        self.node.emit(156, (kind, key, value, line, number, a, b))
        return True

    def _replace(self, dots, row):
        """Drop those rows and hold `row`, where one is given, in the place of the first of them."""
        slots = []
        for dot in dots:
            old, slot = self.rows.pop(dot)
            self._mix ^= _hash(old)
            slots.append(slot)
        if row is not None:
            slot = slots.pop(0) if slots else self._free_slot([held[1] for held in self.rows.values()])
            self.rows[row[:2]] = [row, slot]
            self._mix ^= _hash(row)
            self.node.persist(_ROWS + slot, codec.pack(_ROW, row))
        for slot in slots:
            self.node.persist(_ROWS + slot, None)

    def _advance(self, line, number):
        """All of that line up to `number` is seen. False where there is no room for the line."""
        entry = self.vector.get(line)
        if entry is None:
            if len(self.vector) >= _MOST_LINES:
                return False
            entry = self.vector[line] = [0, self._free_slot([held[1] for held in self.vector.values()])]
        if number > entry[0]:
            entry[0] = number
            self.node.persist(_LINES + entry[1], codec.pack("uu", (line, number)))
        return True

    def _free_slot(self, taken):
        slot = 0
        while slot in taken:
            slot += 1
        return slot


def _hash(row):
    return int.from_bytes(hashlib.sha256(codec.pack(_ROW, row)).digest()[:8], "big")


PROTOCOL = Mirror
