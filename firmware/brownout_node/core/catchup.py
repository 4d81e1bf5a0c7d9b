"""How a replica that was away learns what was decided: FETCH and ENTRIES, or a copy of the whole state in pages.

Entries come from the last LOG_ENTRIES decisions in a peer's journal; a board that is further behind fetches the peer's
frozen state. Learners, and voters that may not vote, poll all the time; voters poll at boot, when they hear of a later
height, and now and then, since a voter that was cut off while nobody proposed hears of nothing. Peers answer only when
they have news. A voter that lost its journal asks through the log to be admitted again, once it has caught up. Nothing
here decides: it hands decided values to vote.py.
"""

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .register import page_of
from .schema import ENTRIES, FETCH, LOG_ENTRIES, STATE_FETCH, STATE_PAGE

ENTRY = "ub"  # journal record of one decided value, with its height: the ring's slots are used again
_MAX_VALUES_BYTES = const(420)  # of one ENTRIES message: a value of 384 bytes fits, and the message stays within 512
_EAGER_POLLS = const(4)  # of a voter after boot
_IDLE_FACTOR = const(8)  # a voter that knows of nothing newer polls that much more seldom
_FROZEN_MS = const(5000)  # a frozen copy that nobody asks for is dropped
_STALE_HEIGHTS = const(32)  # an older frozen copy is replaced: what follows it must still be in the log


def has_standing(config, stored, next_height):
    """Whether the promises that this board has made so far are in its journal, so that it may make more."""
    if not config.is_voter:
        return False
    packed = stored.get(schema.JOURNAL_STANDING)
    if packed is not None:
        may_vote, height = codec.unpack("ou", packed)
        return may_vote and next_height >= height
    # A cluster that began with a saved state has no votes below it; see recovery.py.
    return next_height >= config.options.get("recovery", {}).get("from_height", 0) and is_own_genesis(config, stored)


def is_own_genesis(config, stored):
    """Whether the flasher wrote this journal's genesis: without it nobody knows what this board has promised."""
    packed = stored.get(schema.JOURNAL_GENESIS)
    return packed is not None and codec.unpack("uu", packed) == (config.cluster, config.board)


class CatchUp:
    """`vote` is the Vote that decides."""

    def __init__(self, vote, stored):
        self.vote = vote
        self.node = vote.node
        self.register = vote.register
        self._stored = stored
        self._random = vote.node.random("catchup")
        self.known = 0  # a next height that somebody has reached, and who
        self._known_by = 0
        self._polls = 0
        self._frozen = None
        self._frozen_ms = 0
        self._state_from = 0  # the peer whose state is being copied, 0: none
        self._state_height = 0
        self._state_page = 0
        self._state_tries = 0
        # Boards that boot together must not poll together.
        self._polled_ms = -self._random.below(vote.node.config.fetch_period_ms)

    def hint(self, height, source):
        """`source` has decided everything below `height`."""
        if height > self.known:
            self.known = height
            self._known_by = source

    def on_message(self, source, kind, fields):
        if kind == FETCH:
            self.hint(fields[0], source)
            self.offer(source, fields[0])
        elif kind == ENTRIES:
            self._take_entries(source, fields[0], fields[1], fields[2])
        elif kind == STATE_FETCH:
            self._serve_state(source, fields[0], fields[1])
        else:
            self._take_page(source, fields)

    def on_tick(self):
        now_ms = self.node.now_ms
        config = self.node.config
        if config.is_voter and not self.vote.voting:
            self._ask_admission()
        if self._frozen is not None and now_ms - self._frozen_ms > _FROZEN_MS:
            self._frozen = None
        behind = self.known > self.register.next_height
        period_ms = config.fetch_period_ms
        if behind or self._state_from:
            period_ms = config.resend_ms
        elif self.vote.voting and self._polls >= _EAGER_POLLS:
            period_ms *= _IDLE_FACTOR
        if now_ms - self._polled_ms < period_ms:
            return
        if self._state_from and self._state_tries < 8:
            self._state_tries += 1
            self._polled_ms = now_ms
            self.node.send(self._state_from, STATE_FETCH, (self._state_height, self._state_page))
            return
        self._state_from = 0
        # The one who is known to be ahead may be gone: ask somebody else every other time.
        peer = self._known_by if behind and self._polls & 1 else self._peer()
        if peer:
            self._fetch(peer)

    def _ask_admission(self):
        # Only once it has more or less caught up: then it is of use as soon as it is admitted.
        node = self.node
        if node.now_ms >= 2 * node.config.fetch_period_ms and self.known <= self.register.next_height + 8:
            command = (node.board, node.boot, schema.ADMIT, str(node.board), str(node.boot), None)
            self.vote.pool.submit(command)

    def _fetch(self, peer):
        self._polls += 1
        self._polled_ms = self.node.now_ms
        self.node.send(peer, FETCH, (self.register.next_height,))

    def _peer(self):
        # A voter mostly, anybody sometimes: cut off from every voter, a learner still has other learners.
        # 0 where the draw is of no use: the next tick draws again.
        config = self.node.config
        boards = config.voters if self._random.below(4) else config.roster
        board = boards[self._random.below(len(boards))][0]
        return 0 if board == self.node.board or self.vote.is_dead(board) else board

    def offer(self, peer, height):
        """Send the decided values from `height` on, if there are any."""
        next_height = self.register.next_height
        if height >= next_height:
            return
        values = []
        if height < max(self.register.base, next_height - LOG_ENTRIES):
            height = next_height  # too far behind for the log: an empty list from here says so
        else:
            room = _MAX_VALUES_BYTES
            while height + len(values) < next_height and len(values) < 8:
                value = self._entry(height + len(values))
                if value is None or len(value) + 4 > room:
                    break
                room -= len(value) + 4
                values.append((value,))
            if not values:
                return  # decided in this very step, not in the journal yet
        self.node.send(peer, ENTRIES, (height, next_height, values))

    def _entry(self, height):
        packed = self._stored.get(schema.JOURNAL_LOG + height % LOG_ENTRIES)
        if packed is None:
            return None
        found, value = codec.unpack(ENTRY, packed)
        return value if found == height else None

    def _take_entries(self, source, first, next_height, values):
        self.hint(next_height, source)
        before = self.register.next_height
        if not values:
            if first > before and not self._state_from:
                self.register.copy = None
                self._ask_state(source, 0, 0)
            return
        for index in range(len(values)):
            if first + index == self.register.next_height:
                self.vote.decide(values[index][0], 0, 0, True)
        after = self.register.next_height
        if after > before:
            self._polls = 0
            self.node.emit(schema.CAUGHT_UP, (before, after, source))
        if first > before or before < after < next_height:
            self._fetch(source)

    def _ask_state(self, source, height, page):
        self._state_from = source
        self._state_height = height
        self._state_page = page
        self._state_tries = 0
        self._polled_ms = self.node.now_ms
        self.node.send(source, STATE_FETCH, (height, page))

    def _serve_state(self, source, height, page):
        next_height = self.register.next_height
        frozen = self._frozen
        oldest = max(self.register.base, next_height - _STALE_HEIGHTS)
        if frozen is None or (frozen[0] != height and frozen[0] < oldest):
            frozen = self._frozen = self.register.freeze()
        if frozen[0] != height:
            page = 0
        self._frozen_ms = self.node.now_ms
        pages, data = page_of(frozen, page)
        self.node.send(source, STATE_PAGE, (frozen[0], page, pages, data))

    def _take_page(self, source, fields):
        height, page, pages, data = fields
        if source != self._state_from:
            return
        before = self.register.next_height
        if height <= before:
            self._state_from = 0
            return
        wanted = self.register.take_page(height, page, pages, data)
        if wanted is None:
            return
        if wanted < pages:
            self._ask_state(source, height, wanted)
            return
        self._state_from = 0
        self._polls = 0
        self.vote.superseded()
        self.node.emit(schema.CAUGHT_UP, (before, height, source))
        self._fetch(source)
