"""How a replica of byzantine.py that was away learns what was decided, believing nobody alone.

It asks every voter for the decided values from its next height on (FETCH, ENTRIES) and takes those that a blocking set
answers alike. Values come from the last LOG_ENTRIES decisions; a board that is further behind copies a state whose
digest a blocking set names alike, page by page from any of them, and installs it only if it has that digest. Voters
freeze a state at every height that _FREEZE_HEIGHTS divides, so that they name the same one. A voter that lost its
journal asks through the log to be admitted again. Nothing here decides: it hands decided values to byzantine.py.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .byzantine_pool import ADMIT
from .register import PAGE, page_of

FETCH = 104
ENTRIES = 105
STATE_FETCH = 106
STATE_PAGE = 107
_CAUGHT_UP = const(102)  # a kind of event

LOG_ENTRIES = 64

_MAX_VALUES_BYTES = const(400)  # of one ENTRIES message: a value of 384 bytes fits, and the message stays within 512
_FREEZE_HEIGHTS = const(32)
_EAGER_POLLS = const(4)  # of a voter after boot
_IDLE_FACTOR = const(8)  # a voter that knows of nothing newer polls that much more seldom
_MAX_TRIES = const(8)  # for the pages of one state, before another one is asked for


def has_standing(config, stored, shelf, next_height):
    """Whether the promises that this board has made so far are in its journal, so that it may make more."""
    if not config.is_voter:
        return False
    packed = shelf.get(schema.JOURNAL_STANDING)
    if packed is not None:
        may_vote, height = codec.unpack("ou", packed)
        return may_vote and next_height >= height
    # Without the genesis that the flasher wrote nobody knows what this board has promised.
    packed = stored.get(schema.JOURNAL_GENESIS)
    return packed is not None and codec.unpack("uu", packed) == (config.cluster, config.board)


def digest_of(frozen):
    """As Register.digest(), of what freeze() returned."""
    height, floor, values, sessions = frozen
    state = sha256(codec.pack("uu", (height, floor)))
    for row in values:
        state.update(codec.pack("kv", row))
    for row in sessions:
        state.update(codec.pack("uuuvu", row))
    return state.digest()[:8]


class CatchUp:
    """`log` is the Byzantine that decides."""

    def __init__(self, log):
        self.log = log
        self.node = log.node
        self.register = log.register
        self._random = log.node.random("byzantine")
        self._heights = {}  # board -> a next height that it has reached, as it says itself
        self._answers = {}  # board -> (first, values) of its last ENTRIES
        self._helped = {}  # board -> when it was last sent decided values unasked
        self._behind = {}  # board -> first height that its log can still answer, where that is above ours
        self._states = {}  # board -> (height, digest) of the state that it offers
        self._copy = None  # (height, digest, next page)
        self._tries = 0
        self._frozen = None
        self._polls = 0
        # Boards that boot together must not poll together.
        self._polled_ms = -self._random.below(self.node.config.fetch_period_ms)

    def hint(self, source, height):
        """`source` says that it has decided everything below `height`."""
        if height > self._heights.get(source, 0):
            self._heights[source] = height

    def _reached(self):
        # The highest next height that an honest board is sure to have reached.
        best = 0
        heights = self._heights
        for height in heights.values():
            if height > best:
                boards = [board for board in heights if heights[board] >= height]
                if self.log.blocks(self.log.weight_of(boards)):
                    best = height
        return best

    def help(self, source, height):
        """`source` works on `height`, which is decided here: tell it so, and go on voting where it may need that."""
        if self._heights.get(source, 0) > height:
            return
        now_ms = self.node.now_ms
        resend_ms = self.node.config.resend_ms
        # Messages that cross the decision on their way are no sign that somebody is behind; those sent again are.
        if height + 1 == self.register.next_height and now_ms - self.log.decided_ms < resend_ms:
            return
        ballot = self.log.ballots.get(height)
        if ballot is not None:
            ballot.assist_ms = now_ms + 2 * resend_ms
        if now_ms - self._helped.get(source, -resend_ms) >= resend_ms:
            self._helped[source] = now_ms
            self._offer(source, height)

    def on_message(self, source, kind, fields):
        if kind == FETCH:
            self.hint(source, fields[0])
            self._offer(source, fields[0])
        elif source not in self.log.weights and kind != STATE_FETCH:
            return
        elif kind == ENTRIES:
            self._take_entries(source, fields[0], fields[1], fields[2])
        elif kind == STATE_FETCH:
            self._serve_state(source, fields[0], fields[1])
        else:
            self._take_page(source, fields)

    def on_tick(self):
        now_ms = self.node.now_ms
        config = self.node.config
        next_height = self.register.next_height
        behind = self._reached() > next_height
        if config.is_voter and not self.log.voting and not behind and now_ms >= 2 * config.fetch_period_ms:
            self.log.pool.submit((self.node.board, self.node.board, self.node.boot, ADMIT, str(self.node.board), None))
        period_ms = config.fetch_period_ms
        if behind or self._copy is not None:
            period_ms = config.resend_ms
        elif self.log.voting and self._polls >= _EAGER_POLLS:
            period_ms *= _IDLE_FACTOR
        if now_ms - self._polled_ms < period_ms:
            return
        self._polled_ms = now_ms
        self._polls += 1
        if self._copy is not None and self._tries < _MAX_TRIES:
            self._tries += 1
            self._ask_page()
        elif self.log.blocks(self.log.weight_of(self._behind)):
            self._copy = None
            self._states = {}
            self.log.broadcast(STATE_FETCH, (0, 0))
        else:
            self._copy = None
            self._fetch()

    def _fetch(self):
        self._polled_ms = self.node.now_ms
        self.log.broadcast(FETCH, (self.register.next_height,))

    def _offer(self, peer, height):
        # The decided values from `height` on, if there are any.
        next_height = self.register.next_height
        if height >= next_height or not height:
            return
        values = []
        if height < max(self.register.base, next_height - LOG_ENTRIES):
            height = next_height  # too far behind for the log: an empty list from here says so
        else:
            room = _MAX_VALUES_BYTES
            while height + len(values) < next_height and len(values) < 8:
                value = self.log.entry(height + len(values))
                if value is None or len(value) + 4 > room:
                    break
                room -= len(value) + 4
                values.append((value,))
            if not values:
                return  # decided in this very step, not in the journal yet
        self.log.send(peer, ENTRIES, (height, next_height, values))

    def _take_entries(self, source, first, next_height, values):
        self.hint(source, next_height)
        before = self.register.next_height
        if first + len(values) > before or not values:
            if values:
                self._answers[source] = (first, values)
                self._behind.pop(source, None)
            elif first > before:
                self._behind[source] = first
        self._apply_answers()
        after = self.register.next_height
        if after > before:
            self._polls = 0
            self.node.emit(_CAUGHT_UP, (before, after, False))
            if self._reached() > after:
                self._fetch()

    def _apply_answers(self):
        while True:
            height = self.register.next_height
            tally = {}
            for board in sorted(self._answers):
                first, values = self._answers[board]
                if first <= height < first + len(values):
                    value = values[height - first][0]
                    tally[value] = tally.get(value, 0) + self.log.weights[board]
            agreed = [value for value in tally if self.log.blocks(tally[value])]
            if not agreed:
                return
            self.log.decide(height, agreed[0], 0, tally[agreed[0]], True)

    def decided(self, register):
        """The next height has grown: forget what was answered about lower ones, freeze a state where one is due."""
        height = register.next_height
        for board in sorted(self._answers):
            first, values = self._answers[board]
            if first + len(values) <= height:
                del self._answers[board]
        for board in sorted(self._behind):
            if self._behind[board] <= height:
                del self._behind[board]
        if height % _FREEZE_HEIGHTS == 0:
            self._freeze()

    # Copies of the state.

    def _freeze(self):
        frozen = self.register.freeze()
        self._frozen = (frozen, digest_of(frozen))

    def _serve_state(self, source, height, page):
        if self._frozen is None:
            self._freeze()
        frozen, digest = self._frozen
        if not height:
            pages = 0  # only asks which state there is
            data = b""
        elif frozen[0] != height:
            return
        else:
            pages, data = page_of(frozen, page)
        self.log.send(source, STATE_PAGE, (frozen[0], digest, page, pages, data))

    def _ask_page(self):
        height, digest, page = self._copy
        boards = [board for board in sorted(self._states) if self._states[board] == (height, digest)]
        self.log.send(boards[self._random.below(len(boards))], STATE_FETCH, (height, page))

    def _take_page(self, source, fields):
        height, digest, page, pages, data = fields
        if height <= self.register.next_height:
            return
        self._states[source] = (height, digest)
        offered = [board for board in self._states if self._states[board] == (height, digest)]
        if self._copy is None:
            if self.log.blocks(self.log.weight_of(offered)):
                self.register.copy = None
                self._copy = (height, digest, 0)
                self._tries = 0
                self._polled_ms = self.node.now_ms
                self._ask_page()
            return
        if not pages or self._copy != (height, digest, page):
            return
        before = self.register.next_height
        if page + 1 >= pages and not self._is_whole(height, digest, data):
            self._copy = self.register.copy = None  # somebody's page was wrong: begin again
            return
        wanted = self.register.take_page(height, page, pages, data)
        if wanted is None:
            return
        if wanted < pages:
            self._copy = (height, digest, wanted)
            self._tries = 0
            self._polled_ms = self.node.now_ms
            self._ask_page()
            return
        self._copy = None
        self._states = {}
        self._polls = 0
        self.log.superseded()
        self.decided(self.register)
        self.node.emit(_CAUGHT_UP, (before, height, True))
        self._fetch()

    def _is_whole(self, height, digest, data):
        # Whether the pages so far and this last one make the state that was named.
        floor, values, sessions = codec.unpack(PAGE, data)
        copy = self.register.copy
        if copy is not None:
            values = values + [(key, copy[2][key][1]) for key in copy[2]]
            sessions = sessions + [(client,) + copy[3][client][1:] for client in copy[3]]
        return digest_of((height, floor, sorted(values), sorted(sessions))) == digest
