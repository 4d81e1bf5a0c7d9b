"""A replicated key-value store that every board may write: rumours first, anti-entropy for whatever they missed.

State is merged, never ordered: of two updates of one key the higher (stamp, writer, number) stays, on every board and
in whatever order they arrive. A delete is an update to null, a tombstone, until every board is known to have it.
- Rumours: an update is pushed to a few random live boards at once, and again in each of the next gossip periods until
  it has been pushed often enough for the size of the roster.
- Anti-entropy: each sync period a board sends one other its version vector (SYNC) and gets back, page by page, what it
  has not seen (REPAIR); the other does the same where it lacks something. The vector moves on by rumours only in
  unbroken order, and by a repair only once that is complete; so what it covers is held here, or superseded here.
  Items behind a gap, which no vector covers, are sent along by fours while two boards' states differ.
- Tombstones are forgotten once the vector of each other board, heard from that board itself, covers them, and ours
  covers that board's own updates: then no older update of that key can still be new to us. The vector is stored with
  it, so that a message from the past is known for one, after reboots too.
- A board whose journal was lost counts its updates in a new lineage (the high bits of `number`), so that no number comes
  twice, and serves nothing until one complete repair. It may have taken up, from a board that was away, what the others
  have deleted and forgotten: where vectors agree and states do not, all items are compared and such leftovers dropped.
Must not tell a client that something was written before it is durable, and must not act on the age of anything.
"""

import hashlib

from . import codec, schema

try:
    from micropython import const
except ImportError:
    const = int

_ITEM = "kvuuu"
_ITEMS = const(4)  # in one message, as in the schema
_CLAIMS = const(12)
_ENTRIES = const(40)
_RUMOUR_BYTES = const(440)  # of items: what MAX_MESSAGE leaves beside the longest header
_REPAIR_BYTES = const(280)  # and beside 12 of the longest vector entries
_MERGED_KEYS = const(96)  # boards may together write more keys than schema.MAX_KEYS; a merge stops here
_MOST_ENTRIES = const(280)  # of the version vector
_VECTOR_PAGES = const(14)  # of 20 at least
_LINEAGE = const(24)  # bits of a number below its lineage
_COUNT = const(0xFFFFFF)
_TRIES = const(4)
_CLIENTS = const(16)  # whose last request is remembered, so that one that is delivered twice is done once

# A held item is a list: its wire form (key, value, stamp, writer, number), journal slot, pushes left, boards that have it.
_WIRE = const(0)
_SLOT = const(1)
_PUSHES = const(2)
_SEEN_BY = const(3)


class _Session:
    """One repair that this board pulls from `peer`. A full one collects in `keys` what the peer has; else that is None."""

    def __init__(self, peer, vector, reply, keys):
        self.peer = peer
        self.vector = vector  # what will be covered here, once all is well
        self.reply = reply  # the peer need not pull from us in turn
        self.keys = keys
        self.tries = 0
        self.exchange = 0
        self.due = 0


class Gossip:
    kinds = (schema.RUMOUR, schema.SYNC, schema.REPAIR)
    operations = (schema.WRITE, schema.DELETE, schema.READ)

    def __init__(self, node, stored):
        config = node.config
        self.node = node
        self._random = node.random("gossip")
        self._peers = [entry[0] for entry in config.roster if entry[0] != node.board]
        pushes = 3
        while len(self._peers) >> (pushes - 3):
            pushes += 1  # 3 + log2 n pushes by each board leave less than one board in 50 n without the rumour
        self._periods = -(-pushes // config.gossip_fanout)
        self._items = {}
        self._vector = {}  # lineage and writer, see _line -> number
        self._mix = 0  # exclusive or of the live items' hashes
        self._live = 0
        self._hot = []
        self._eager = True
        self._requests = []  # (client, request, status), latest last
        self._lap = []
        self._syncs = 0
        self._session = None
        self._exchange = self._random.below(1 << 28)  # an answer to an earlier boot must not count
        self._assembly = None  # [source, exchange, pages still missing, vector] of a vector that comes in pages
        self._doubts = 0
        self._reported = None
        self._load(stored)
        self._push_at = self._random.below(config.gossip_period_ms)
        self._sync_at = self._random.below(config.sync_period_ms)
        self._digest_at = self._random.below(config.digest_period_ms)
        self._due = 0

    def _load(self, stored):
        node = self.node
        packed = stored.get(schema.JOURNAL_GOSSIP_NUMBER)
        self._ready = packed is not None or stored.get(schema.JOURNAL_GENESIS) is not None
        if packed is not None:
            number = codec.unpack("u", packed)[0]
        else:
            number = 0 if self._ready else node.boot << _LINEAGE
        for page in range(_VECTOR_PAGES):
            packed = stored.get(schema.JOURNAL_GOSSIP_VECTOR + page)
            if packed is not None:
                self._advance(self._vector, codec.unpack("[uu]40", packed)[0])
        self._own = self._line(node.board, number)
        self._vector[self._own] = number
        for slot in range(_MERGED_KEYS):
            packed = stored.get(schema.JOURNAL_ITEM + slot)
            if packed is not None:
                wire = codec.unpack(_ITEM, packed)
                self._items[wire[0]] = [wire, slot, 0, 0]
                self._stir(wire, 1)
                node.clock.observe(wire[2])

    # What others ask.

    def digest(self):
        """Of the live items; tombstones do not count, since boards forget them at different times."""
        return self._mix.to_bytes(8, "big")

    def fill_boot(self, state):
        state[10] = self._vector[self._own]

    def on_command(self, client, request, operation, key, value, expected):
        if operation == schema.READ:
            held = self._items.get(key)
            self.node.reply(client, request, schema.OK, None if held is None else held[_WIRE][1], 0)
            return
        for done in self._requests:
            if done[0] == client and done[1] == request:
                self.node.reply(client, request, done[2], None, 0)
                return
        if operation == schema.DELETE:
            value = None
        elif value is None:
            operation = None
        if operation is None or not self._ready:
            status = schema.REFUSED
        elif key not in self._items and len(self._items) >= schema.MAX_KEYS:
            status = schema.FULL
        else:
            self._write(key, value)
            status = schema.OK
        self._requests = [done for done in self._requests if done[0] != client][1 - _CLIENTS :]
        self._requests.append((client, request, status))
        self.node.reply(client, request, status, None, 0)

    def _write(self, key, value):
        node = self.node
        number = self._vector[self._own] + 1
        self._vector[self._own] = number
        stamp = node.clock.now()
        node.persist(schema.JOURNAL_GOSSIP_NUMBER, codec.pack("u", (number,)))
        self._hold((key, value, stamp, node.board, number), self._periods)
        node.emit(schema.WRITTEN, (key, value, stamp, number))
        self._push_early(None)

    # Items.

    def _stir(self, wire, sign):
        if wire[1] is not None:
            self._mix ^= int.from_bytes(hashlib.sha256(codec.pack(_ITEM, wire)).digest()[:8], "big")
            self._live += sign

    def _hold(self, wire, pushes):
        key = wire[0]
        held = self._items.get(key)
        if held is None:
            taken = [other[_SLOT] for other in self._items.values()]
            slot = 0
            while slot in taken:
                slot += 1
        else:
            slot = held[_SLOT]
            self._stir(held[_WIRE], -1)
        self._items[key] = [wire, slot, pushes, 0]
        self._stir(wire, 1)
        if pushes and key not in self._hot:
            self._hot.append(key)
        self.node.persist(schema.JOURNAL_ITEM + slot, codec.pack(_ITEM, wire))

    def _forget(self, key):
        wire, slot, _pushes, _seen_by = self._items.pop(key)
        self._stir(wire, -1)
        self.node.persist(schema.JOURNAL_ITEM + slot, None)
        self.node.emit(schema.FORGOTTEN, (key, wire[2], wire[3]))

    def _merge(self, wire, repair):
        """Take one update into the state. False where there is no room for it, or no sense in it: it is not seen then."""
        key, value, stamp, writer, number = wire
        if writer not in self.node.config.names or not number & _COUNT or number >> 54:
            return False
        line = self._line(writer, number)
        held = self._items.get(key)
        if held is None:
            newer = self._vector.get(line, 0) < number  # or it was deleted and forgotten since
            if newer and (len(self._items) >= _MERGED_KEYS or not self._known(line)):
                return False
        else:
            newer = wire[2:] > held[_WIRE][2:]
        if newer:
            if not self.node.clock.observe(stamp):
                return False
            self._hold(wire, self._periods if self._ready else 0)
            self.node.emit(schema.MERGED, (key, value, stamp, writer, number, repair))
        if not repair and self._known(line) and number == self._vector.get(line, number & ~_COUNT) + 1:
            self._vector[line] = number
        return True

    # Time.

    def on_tick(self):
        now = self.node.now_ms
        if now < self._due:
            return
        config = self.node.config
        if now >= self._push_at:
            self._push_at = self._next(self._push_at, config.gossip_period_ms)
            self._eager = True
            if self._hot:
                self._push(None)
        if self._session is not None and now >= self._session.due:
            self._ask()
        if now >= self._sync_at:
            period = config.sync_period_ms if self._ready else config.gossip_period_ms
            self._sync_at = self._next(self._sync_at, period)
            if self._session is None:
                self._begin_sync()
        if now >= self._digest_at:
            self._digest_at = self._next(self._digest_at, config.digest_period_ms)
            if self._reported != self._mix:
                self._reported = self._mix
                self.node.emit(schema.DIGEST, ("gossip", 0, self.digest(), self._live))
        self._due = min(self._push_at, self._sync_at, self._digest_at)
        if self._session is not None:
            self._due = min(self._due, self._session.due)

    def _next(self, at, period):
        at += period
        return at if at > self.node.now_ms else self.node.now_ms + period  # late ticks are not made up for

    # Rumours.

    def on_message(self, source, kind, fields):
        if source not in self._peers:
            return
        if kind == schema.SYNC:
            self._on_sync(source, fields)
        elif kind == schema.REPAIR:
            self._on_repair(source, fields)
        elif self._ready:
            for wire in fields[0]:
                self._merge(wire, False)
            self._push_early(source)

    def _push_early(self, source):
        """Pass news on at once, but only once in a gossip period: a flood of news must not become a flood of messages."""
        if self._eager and self._hot:
            self._eager = False
            self._push(source)

    def _push(self, source):
        hot = [(-self._items[key][_PUSHES], key) for key in self._hot if key in self._items]
        hot.sort()
        batch = []
        size = 0
        for _pushes, key in hot[:_ITEMS]:
            held = self._items[key]
            size += len(codec.pack(_ITEM, held[_WIRE]))
            if size > _RUMOUR_BYTES:
                break
            batch.append(held[_WIRE])
            held[_PUSHES] -= 1
        self._hot = [key for _pushes, key in hot if self._items[key][_PUSHES] > 0]
        peers = [peer for peer in self._candidates() if peer != source]
        for peer in self._random.sample(peers, self.node.config.gossip_fanout):
            self.node.send(peer, schema.RUMOUR, (batch,))

    def _candidates(self):
        membership = self.node.protocol("membership")
        return (membership and membership.alive()) or self._peers

    # Anti-entropy: the side that pulls.

    def _begin_sync(self):
        alive = self._candidates()
        self._syncs += 1
        for _peer in self._peers:
            if not self._lap:
                self._lap = list(self._peers)
                self._random.shuffle(self._lap)
            peer = self._lap.pop()
            if peer in alive or not self._syncs & 3:  # now and then one that is held for dead: it may be a mistake
                self._pull(peer, False, None)
                break

    def _pull(self, peer, reply, keys):
        self._session = _Session(peer, dict(self._vector) if keys is None else {}, reply, keys)
        self._ask()

    def _ask(self):
        session = self._session
        session.tries += 1
        if session.tries > _TRIES:
            self._session = None
            return
        self._exchange += 1
        session.exchange = self._exchange
        session.due = self.node.now_ms + self.node.config.gossip_period_ms
        self._due = min(self._due, session.due)
        digest = None if session.reply else self.digest()
        pages = self._pages(session.vector)
        for page in range(len(pages)):
            self.node.send(
                session.peer, schema.SYNC, (self._exchange, page, len(pages), session.reply, pages[page], digest)
            )

    def _on_repair(self, source, fields):
        exchange, last, items, versions, stamp = fields
        session = self._session
        if session is None or session.peer != source or session.exchange != exchange:
            return
        self.node.clock.observe(stamp)  # so that what is written here later is above all that the peer has forgotten
        room = True
        for wire in items:
            room = self._merge(wire, True) and room
            if session.keys is not None:
                session.keys.add(wire[0])
        moved = self._advance(session.vector, versions)
        session.tries = 0
        session.reply = True
        if room and moved and not last:
            self._ask()
        else:
            self._session = None
            if room and last:
                self._complete(session)
        self._push_early(source)

    def _complete(self, session):
        store = not self._ready
        if session.keys is not None:
            for key in sorted(self._items):
                wire = self._items[key][_WIRE]
                if key not in session.keys and session.vector.get(self._line(wire[3], wire[4]), 0) >= wire[4]:
                    self._forget(key)  # the peer has seen this very update, and has it no more
                    store = True
        number = self._vector[self._own]
        self._advance(self._vector, self._entries(session.vector))
        if not self._ready or self._vector[self._own] != number:
            self._ready = True
            self.node.persist(schema.JOURNAL_GOSSIP_NUMBER, codec.pack("u", (self._vector[self._own],)))
        if store:
            self._store_vector()

    # Anti-entropy: the side that answers. It keeps nothing between messages but the pages of one vector.

    def _on_sync(self, source, fields):
        exchange, page, pages, reply, versions, digest = fields
        assembly = self._assembly
        if assembly is None or assembly[0] != source or assembly[1] != exchange:
            assembly = [source, exchange, (1 << min(pages, _VECTOR_PAGES)) - 1, {}]
        assembly[2] &= ~(1 << min(page, _VECTOR_PAGES))
        vector = assembly[3]
        self._advance(vector, versions)
        self._assembly = assembly if assembly[2] else None
        if assembly[2]:
            return
        differ = digest is not None and digest != self.digest()
        if self._ready:
            self._answer(source, exchange, vector, differ)
        if reply:
            return  # the vector of a repair under way says what will be covered, not what is
        self._note_seen(source, vector)
        session = self._session
        idle = session is None or (session.tries > 1 and not session.reply)
        mine = self._entries(self._vector)
        behind = [line for line in vector if vector[line] > self._vector.get(line, 0)]
        if behind:
            if idle:
                self._pull(source, True, None)
        elif mine == self._entries(vector):
            self._doubts = self._doubts + 1 if differ else 0
            if self._doubts > 1 and idle and self._ready:
                self._doubts = 0
                self._pull(source, True, set())

    def _answer(self, source, exchange, vector, differ):
        waiting = []
        loose = []
        for held in self._items.values():
            wire = held[_WIRE]
            line = self._line(wire[3], wire[4])
            if vector.get(line, 0) < wire[4]:
                (waiting if self._vector.get(line, 0) >= wire[4] else loose).append((line, wire[4], wire))
        waiting.sort()
        batch = []
        claims = []
        last = True
        for line in sorted(self._vector):
            claim = self._vector[line]
            known = vector.get(line, 0)
            if claim <= known or not claim & _COUNT:
                continue
            last = len(claims) < _CLAIMS
            while last and waiting and waiting[0][0] == line:
                if self._fits(batch, waiting[0][2]):
                    waiting.pop(0)
                else:
                    last = False
                    claim = waiting[0][1] - 1
            if len(claims) < _CLAIMS and claim > known:
                claims.append((line & 1023, claim))
            if not last:
                break
        if last and differ:
            loose.sort()
            for entry in self._random.sample(loose, _ITEMS):
                self._fits(batch, entry[2])
        self.node.send(source, schema.REPAIR, (exchange, last, batch, claims, self.node.clock.now()))

    def _fits(self, batch, wire):
        # Add it to a page of a repair if there is room.
        size = 0
        for other in batch:
            size += len(codec.pack(_ITEM, other))
        if len(batch) == _ITEMS or size + len(codec.pack(_ITEM, wire)) > _REPAIR_BYTES:
            return False
        batch.append(wire)
        return True

    def _note_seen(self, source, vector):
        """`source` said what it covers: mark the tombstones among that, and forget those that all boards have."""
        for line in vector:
            if line & 1023 == source and vector[line] > self._vector.get(line, 0):
                return
        forgotten = False
        for key in sorted([key for key in self._items if self._items[key][_WIRE][1] is None]):
            held = self._items[key]
            number = held[_WIRE][4]
            line = self._line(held[_WIRE][3], number)
            if vector.get(line, 0) >= number and self._vector.get(line, 0) >= number:
                held[_SEEN_BY] |= 1 << self._peers.index(source)
                if held[_SEEN_BY] == (1 << len(self._peers)) - 1:
                    self._forget(key)
                    forgotten = True
        if forgotten:
            self._store_vector()

    # The version vector.

    def _line(self, writer, number):
        return (number >> _LINEAGE) << 10 | writer

    def _known(self, line):
        return line in self._vector or len(self._vector) < _MOST_ENTRIES

    def _advance(self, vector, entries):
        """Move `vector` up to these entries; whether all of them found room and something moved."""
        moved = False
        for writer, number in entries:
            line = self._line(writer, number)
            if vector.get(line, 0) < number and writer in self.node.config.names:
                if line not in vector and len(vector) >= _MOST_ENTRIES:
                    return False
                vector[line] = number
                moved = True
        return moved

    def _entries(self, vector):
        return [(line & 1023, vector[line]) for line in sorted(vector) if vector[line] & _COUNT]

    def _pages(self, vector):
        # Pages of at most 40 entries; of 20 where lineages make entries long.
        entries = self._entries(vector)
        size = _ENTRIES
        for entry in entries:
            if entry[1] >> 32:
                size = _ENTRIES // 2
        return [entries[at : at + size] for at in range(0, len(entries), size)] or [[]]

    def _store_vector(self):
        page = 0
        for entries in self._pages(self._vector):
            self.node.persist(schema.JOURNAL_GOSSIP_VECTOR + page, codec.pack("[uu]40", (entries,)))
            page += 1


PROTOCOL = Gossip
