"""Anti-entropy of the gossip store: version vectors, and the repair of whatever rumours missed.

A version vector says up to which number a board has seen each line of updates: a writer's numbers since its journal was
made (a lost journal begins a new lineage, in the high bits of the number). What a vector covers is held on that board,
or superseded there. Each sync period a board sends its vector, in pages, to one other (SYNC), which answers with one
page of what is missing (REPAIR): items, and up to where they complete each line. The board that pulls asks on, with the
vector as it would become, until the last page; only then it takes that vector for its own. The other board pulls in
turn where it lacks something. Who answers keeps nothing between messages but the pages of one vector. Items behind a
gap, which no vector covers, are sent along by fours while two boards' states differ.

Must not decide what an update does to the state: that is gossip.py.
"""

from . import codec, schema

try:
    from micropython import const
except ImportError:
    const = int

_ITEM = "kvuuu"
_ITEMS = const(4)  # in one message, as in the schema
_CLAIMS = const(12)
_ENTRIES = const(40)
_BYTES = const(280)  # of items: what MAX_MESSAGE leaves beside the longest header and 12 of the longest entries
_MOST_ENTRIES = const(280)  # of a vector: one for each writer and each journal that it lost
_MOST_PAGES = const(14)
_TRIES = const(4)
_LINEAGE = const(24)  # bits of a number below its lineage
_COUNT = const(0xFFFFFF)


def line_of(writer, number):
    """The key of a vector: writer and lineage."""
    return (number >> _LINEAGE) << 10 | writer


def entries_of(vector):
    return [(line & 1023, vector[line]) for line in sorted(vector) if vector[line] & _COUNT]


def advance(vector, entries, names):
    """Move `vector` up to `entries`, of writers in `names`; whether all found room and something moved."""
    moved = False
    for writer, number in entries:
        line = line_of(writer, number)
        if vector.get(line, 0) < number and writer in names:
            if line not in vector and len(vector) >= _MOST_ENTRIES:
                return False
            vector[line] = number
            moved = True
    return moved


def pages_of(vector):
    """Its entries in pages of at most 40; of 20 where lineages make entries long."""
    entries = entries_of(vector)
    size = _ENTRIES
    for entry in entries:
        if entry[1] >> 32:
            size = _ENTRIES // 2
    return [entries[at : at + size] for at in range(0, len(entries), size)] or [[]]


def load_vector(stored, names):
    vector = {}
    for page in range(_MOST_PAGES):
        packed = stored.get(schema.JOURNAL_GOSSIP_VECTOR + page)
        if packed is not None:
            advance(vector, codec.unpack("[uu]40", packed)[0], names)
    return vector


def store_vector(node, vector):
    page = 0
    for entries in pages_of(vector):
        node.persist(schema.JOURNAL_GOSSIP_VECTOR + page, codec.pack("[uu]40", (entries,)))
        page += 1


def add_within(batch, wire, most):
    """Append an item to the batch of a message if there is room; whether there was."""
    size = 0
    for other in batch:
        size += len(codec.pack(_ITEM, other))
    if len(batch) == _ITEMS or size + len(codec.pack(_ITEM, wire)) > most:
        return False
    batch.append(wire)
    return True


class Repair:
    """One board's anti-entropy. `gossip` has items, vector, ready, digest(), merge(), complete() and note_seen()."""

    def __init__(self, gossip, random):
        self._gossip = gossip
        self._node = gossip.node
        self._names = gossip.node.config.names
        self._random = random
        self._lap = []
        self._laps = 0
        self._exchange = random.below(1 << 28)  # an answer to an earlier boot must not count
        self._assembly = None  # [source, exchange, pages still missing, vector]
        self._doubts = 0
        # The repair that this board pulls, one at a time.
        self._peer = None
        self._vector = None  # what will be covered here once it is complete
        self._keys = None  # in a full one: the keys that the peer has
        self._reply = False  # the peer need not pull from us in turn
        self._tries = 0
        self._fresh = False

    # The side that pulls.

    def begin(self, peers, alive):
        """Start a repair with the next of a shuffled lap over `peers`."""
        if not self._idle():
            return
        for _peer in peers:
            if self._node.config.random_order:
                self._lap = self._random.sample(peers, 1)
            elif not self._lap:
                self._lap = list(peers)
                self._random.shuffle(self._lap)
                self._laps += 1
            peer = self._lap.pop()
            if peer in alive or not self._laps & 3:  # now and then also who is held for dead: that may be a mistake
                self._pull(peer, False, None)
                break

    def on_period(self):
        """Once a gossip period: ask again if the answer is late."""
        if self._peer is not None:
            if self._fresh:
                self._fresh = False
            elif self._tries < _TRIES:
                self._ask()
            else:
                self._peer = None

    def _idle(self):
        # Whether there is no repair under way, or only one whose peer does not seem to answer.
        return self._peer is None or (self._tries > 1 and not self._reply)

    def _pull(self, peer, reply, keys):
        self._peer = peer
        self._vector = dict(self._gossip.vector) if keys is None else {}
        self._keys = keys
        self._reply = reply
        self._tries = 0
        self._ask()

    def _ask(self):
        self._tries += 1
        self._fresh = True
        self._exchange += 1
        digest = None if self._reply else self._gossip.digest()
        pages = pages_of(self._vector)
        for page in range(len(pages)):
            fields = (self._exchange, page, len(pages), self._reply, pages[page], digest)
            self._node.send(self._peer, schema.SYNC, fields)

    def on_repair(self, source, fields):
        exchange, last, items, versions, stamp = fields
        if source != self._peer or exchange != self._exchange:
            return
        self._node.clock.observe(stamp)  # so that what is written here later is above all that the peer has forgotten
        room = True
        for wire in items:
            room = self._gossip.merge(wire, True) and room
            if self._keys is not None:
                self._keys.add(wire[0])
        moved = advance(self._vector, versions, self._names)
        self._tries = 0
        self._reply = True
        if room and moved and not last:
            self._ask()
        else:
            self._peer = None
            if room and last:
                self._gossip.complete(self._vector, self._keys)

    # The side that answers.

    def on_sync(self, source, fields):
        exchange, page, pages, reply, versions, digest = fields
        assembly = self._assembly
        if assembly is None or assembly[0] != source or assembly[1] != exchange:
            assembly = [source, exchange, (1 << min(pages, _MOST_PAGES)) - 1, {}]
        assembly[2] &= ~(1 << min(page, _MOST_PAGES))
        vector = assembly[3]
        advance(vector, versions, self._names)
        self._assembly = assembly if assembly[2] else None
        if assembly[2]:
            return
        gossip = self._gossip
        differ = digest is not None and digest != gossip.digest()
        if gossip.ready:
            self._answer(source, exchange, vector, differ)
        if reply:
            return  # the vector of a repair under way says what will be covered, not what is
        if gossip.ready:
            gossip.note_seen(source, vector)
        idle = self._idle()
        behind = [line for line in vector if vector[line] > gossip.vector.get(line, 0)]
        if behind:
            if idle:
                self._pull(source, True, None)
        elif entries_of(vector) == entries_of(gossip.vector):
            self._doubts = self._doubts + 1 if differ else 0
            if self._doubts > 1 and idle and gossip.ready:
                self._doubts = 0
                self._pull(source, True, set())

    def _answer(self, source, exchange, vector, differ):
        mine = self._gossip.vector
        waiting = []
        loose = []
        for held in self._gossip.items.values():
            wire = held[0]
            line = line_of(wire[3], wire[4])
            if vector.get(line, 0) < wire[4]:
                (waiting if mine.get(line, 0) >= wire[4] else loose).append((line, wire[4], wire))
        waiting.sort()
        batch = []
        claims = []
        last = True
        for line in sorted(mine):
            claim = mine[line]
            known = vector.get(line, 0)
            if claim <= known or not claim & _COUNT:
                continue
            last = len(claims) < _CLAIMS
            while last and waiting and waiting[0][0] == line:
                if add_within(batch, waiting[0][2], _BYTES):
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
                add_within(batch, entry[2], _BYTES)
        self._node.send(source, schema.REPAIR, (exchange, last, batch, claims, self._node.clock.now()))
