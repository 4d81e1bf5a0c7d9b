"""A replicated key-value store that every board may write: rumours first, anti-entropy for whatever they missed.

State is merged, never ordered: of two updates of one key the higher (stamp, writer, number) stays, on every board and
in whatever order they arrive. A delete is an update to null, a tombstone, until every board is known to have it.
- Rumours: an update is pushed to a few random live boards at once, and again in each of the next gossip periods until
  it has been pushed often enough for the size of the roster. Rumours move the version vector only in unbroken order.
  With feedback the count begins anew with every board to which it was news (Demers' counter).
- Anti-entropy (repair.py) completes the state and moves the vector past gaps.
- Tombstones are forgotten once the vector of each other board, heard from that board itself, covers them, and ours
  covers that board's own updates: then no older update of that key can still be new to us. The vector is stored with
  it, so that a message from the past is known for one, after reboots too.
- A board whose journal was lost counts its updates in a new lineage, so that no number comes twice, and serves nothing
  until one complete repair. It may have taken up, from a board that was away, what the others have deleted and
  forgotten: where vectors agree and states do not, all items are compared and such leftovers dropped.
- Bounds: a client's new key is refused at schema.MAX_KEYS, tombstones included; boards that write at the same time may
  together pass that, so merges stop a little later, and what finds no room is not counted as seen.
Must not tell a client that something was written before it is durable, and must not act on the age of anything.
"""

import hashlib

from . import codec, schema
from .repair import Repair, add_within, advance, entries_of, line_of, load_vector, store_vector

try:
    from micropython import const
except ImportError:
    const = int

_ITEM = "kvuuu"
_BYTES = const(440)  # of a rumour's items: what MAX_MESSAGE leaves beside the longest header
_MERGED_KEYS = const(96)
_MOST_LINES = const(280)
_LINEAGE = const(24)
_COUNT = const(0xFFFFFF)
_CLIENTS = const(16)  # whose last request is remembered, so that one that is delivered twice is done once

# A held item: [wire form (key, value, stamp, writer, number), journal slot, pushes left, mask of boards that have it].
_WIRE = const(0)
_SLOT = const(1)
_PUSHES = const(2)
_SEEN_BY = const(3)


class Gossip:
    kinds = (schema.RUMOUR, schema.SYNC, schema.REPAIR, schema.NEWS)
    operations = (schema.WRITE, schema.DELETE, schema.READ)

    def __init__(self, node, stored):
        config = node.config
        self.node = node
        self._random = node.random("gossip")
        self._peers = [entry[0] for entry in config.roster if entry[0] != node.board]
        pushes = 3  # and one for each doubling of the roster: less than one board in 50 misses all of so many
        while len(self._peers) >> (pushes - 3):
            pushes += 1
        self._periods = config.gossip_rounds or -(-pushes // config.gossip_fanout)
        self.items = {}
        self.vector = load_vector(stored, config.names)
        self._mix = 0  # exclusive or of the live items' hashes
        self._live = 0
        self._hot = []
        self._fresh = {}  # with feedback: what came in this period
        self._early = config.gossip_early
        self._requests = []  # (client, request, status), latest last
        self._reported = None
        self._load(stored)
        self._repair = Repair(self, self._random)
        self._push_at = self._random.below(config.gossip_period_ms)
        self._sync_at = self._random.below(config.sync_period_ms)
        self._digest_at = self._random.below(config.digest_period_ms)
        self._due = 0

    def _load(self, stored):
        node = self.node
        packed = stored.get(schema.JOURNAL_GOSSIP_NUMBER)
        self.ready = packed is not None or stored.get(schema.JOURNAL_GENESIS) is not None
        if packed is not None:
            number = codec.unpack("u", packed)[0]
        else:
            number = 0 if self.ready else node.boot << _LINEAGE
        self._own = line_of(node.board, number)
        self.vector[self._own] = number
        for slot in range(_MERGED_KEYS):
            packed = stored.get(schema.JOURNAL_ITEM + slot)
            if packed is not None:
                wire = codec.unpack(_ITEM, packed)
                self.items[wire[0]] = [wire, slot, 0, 0]
                self._stir(wire, 1)

    # What others ask.

    def digest(self):
        """Of the live items; tombstones do not count, since boards forget them at different times."""
        return self._mix.to_bytes(8, "big")

    def fill_boot(self, state):
        state[10] = self.vector[self._own]

    def on_command(self, client, request, operation, key, value, expected):
        held = self.items.get(key)
        if operation == schema.READ:
            self.node.reply(client, request, schema.OK, held and held[_WIRE][1], 0)
            return
        for done in self._requests:
            if done[0] == client and done[1] == request:
                self.node.reply(client, request, done[2], None, 0)
                return
        if operation == schema.DELETE:
            value = None
        if not self.ready or (value is None and operation == schema.WRITE):
            status = schema.REFUSED
        elif held is None and len(self.items) >= schema.MAX_KEYS:
            status = schema.FULL
        else:
            status = schema.OK
            self._write(key, value)
        self._requests = [done for done in self._requests if done[0] != client][1 - _CLIENTS :]
        self._requests.append((client, request, status))
        self.node.reply(client, request, status, None, 0)

    def _write(self, key, value):
        node = self.node
        number = self.vector[self._own] + 1
        self.vector[self._own] = number
        stamp = node.clock.now()
        self._persist_number()
        self._hold((key, value, stamp, node.board, number))
        node.emit(schema.WRITTEN, (key, value, stamp, number))
        self._push_early(None)

    # Time.

    def on_tick(self):
        now = self.node.now_ms
        if now < self._due:
            return
        config = self.node.config
        if now >= self._push_at:
            self._push_at = self._next(self._push_at, config.gossip_period_ms)
            self._early = config.gossip_early
            if self._fresh:
                self._fresh = {}
            if self._hot:
                self._push(None)
            self._repair.on_period()
        if now >= self._sync_at:
            period = config.sync_period_ms if self.ready else config.gossip_period_ms
            self._sync_at = self._next(self._sync_at, period)
            self._repair.begin(self._peers, self._candidates())
        if now >= self._digest_at:
            self._digest_at = self._next(self._digest_at, config.digest_period_ms)
            if self._reported != self._mix:
                self._reported = self._mix
                self.node.emit(schema.DIGEST, ("gossip", 0, self.digest(), self._live))
        self._due = min(self._push_at, self._sync_at, self._digest_at)

    def _next(self, at, period):
        at += period
        return at if at > self.node.now_ms else self.node.now_ms + period  # late ticks are not made up for

    # Messages.

    def on_message(self, source, kind, fields):
        if source not in self._peers:
            return
        if kind == schema.SYNC:
            self._repair.on_sync(source, fields)
        elif kind == schema.REPAIR:
            self._repair.on_repair(source, fields)
        elif kind == schema.NEWS:
            self._on_news(fields[0])
        elif self.ready:
            for wire in fields[0]:
                self.merge(wire, False)
            news = [(wire[0], wire[2]) for wire in fields[0] if self._fresh.get(wire[0]) == wire]
            if news:
                self.node.send(source, schema.NEWS, (news,))
        self._push_early(source)

    def _on_news(self, updates):
        for key, stamp in updates:
            held = self.items.get(key)
            if held is not None and held[_WIRE][2] == stamp:
                held[_PUSHES] = self._periods
                if key not in self._hot:
                    self._hot.append(key)

    def _push_early(self, source):
        """Pass news on at once, but only once in a gossip period: much news must not become many messages."""
        if self._early and self._hot:
            self._early = False
            self._push(source)

    def _push(self, source):
        hot = [(-self.items[key][_PUSHES], key) for key in self._hot if key in self.items]
        hot.sort()
        batch = []
        for _pushes, key in hot:
            held = self.items[key]
            if not add_within(batch, held[_WIRE], _BYTES):
                break
            held[_PUSHES] -= 1
        self._hot = [key for _pushes, key in hot if self.items[key][_PUSHES] > 0]
        peers = self._candidates()
        if source is not None:
            peers = [peer for peer in peers if peer != source]
        for peer in self._random.sample(peers, self.node.config.gossip_fanout):
            self.node.send(peer, schema.RUMOUR, (batch,))

    def _candidates(self):
        membership = self.node.protocol("membership")
        return (membership and membership.alive()) or self._peers

    # Items.

    def merge(self, wire, repair):
        """Take in one update. False where there is no room for it, or no sense in it: it does not count as seen."""
        key, value, stamp, writer, number = wire
        if writer not in self.node.config.names or not number & _COUNT or number >> 54:
            return False
        line = line_of(writer, number)
        held = self.items.get(key)
        if held is None:
            newer = self.vector.get(line, 0) < number  # otherwise it was deleted and forgotten since
            if newer and len(self.items) >= _MERGED_KEYS:
                return False
        else:
            newer = wire[2:] > held[_WIRE][2:]
        if newer:
            if not self.node.clock.observe(stamp):
                return False
            self._hold(wire)
            self.node.emit(schema.MERGED, (key, value, stamp, writer, number, repair))
        if not repair and number == self.vector.get(line, number & ~_COUNT) + 1 and len(self.vector) < _MOST_LINES:
            self.vector[line] = number
        return True

    def _hold(self, wire):
        key = wire[0]
        held = self.items.get(key)
        if held is None:
            taken = [other[_SLOT] for other in self.items.values()]
            slot = 0
            while slot in taken:
                slot += 1
        else:
            slot = held[_SLOT]
            self._stir(held[_WIRE], -1)
        self.items[key] = [wire, slot, 0, 0]
        if self.ready:  # not what fills a store that was lost
            self.items[key][_PUSHES] = self._periods
            if key not in self._hot:
                self._hot.append(key)
            if self.node.config.gossip_feedback:
                self._fresh[key] = wire
        self._stir(wire, 1)
        self.node.persist(schema.JOURNAL_ITEM + slot, codec.pack(_ITEM, wire))

    def _stir(self, wire, sign):
        if wire[1] is not None:
            self._mix ^= int.from_bytes(hashlib.sha256(codec.pack(_ITEM, wire)).digest()[:8], "big")
            self._live += sign

    def _forget(self, key):
        wire, slot, _pushes, _seen_by = self.items.pop(key)
        self._stir(wire, -1)
        self.node.persist(schema.JOURNAL_ITEM + slot, None)
        self.node.emit(schema.FORGOTTEN, (key, wire[2], wire[3]))

    def _persist_number(self):
        self.node.persist(schema.JOURNAL_GOSSIP_NUMBER, codec.pack("u", (self.vector[self._own],)))

    # What the repair reports.

    def complete(self, vector, keys):
        """All that `vector` covers is here now. A full repair lists in `keys` all that the other board has."""
        store = not self.ready
        for key in sorted(self.items) if keys is not None else ():
            wire = self.items[key][_WIRE]
            if key not in keys and vector.get(line_of(wire[3], wire[4]), 0) >= wire[4]:
                self._forget(key)  # the other board has seen this very update, and has it no more
                store = True
        number = self.vector[self._own]
        advance(self.vector, entries_of(vector), self.node.config.names)
        if not self.ready or self.vector[self._own] != number:
            self.ready = True
            self._persist_number()
        if store:
            store_vector(self.node, self.vector)

    def note_seen(self, source, vector):
        """`source` said what it covers: mark the tombstones among that, and forget those that all boards have."""
        for line in vector:
            if line & 1023 == source and vector[line] > self.vector.get(line, 0):
                return
        forgotten = False
        for key in sorted([key for key in self.items if self.items[key][_WIRE][1] is None]):
            held = self.items[key]
            number = held[_WIRE][4]
            line = line_of(held[_WIRE][3], number)
            if vector.get(line, 0) >= number and self.vector.get(line, 0) >= number:
                held[_SEEN_BY] |= 1 << self._peers.index(source)
                if held[_SEEN_BY] == (1 << len(self._peers)) - 1:
                    self._forget(key)
                    forgotten = True
        if forgotten:
            store_vector(self.node, self.vector)


PROTOCOL = Gossip
