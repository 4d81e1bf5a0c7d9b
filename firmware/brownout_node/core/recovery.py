"""A board takes back a state that the host saved, page by page; beside vote.py, which serves such pages to whom asks.

Only a board that does not vote takes one: a saved state lacks what the board promised since, so nothing here lets it
vote. It is admitted through the log, as any board that lost its journal. The exception is a whole cluster that begins
anew from one saved state, under another cluster number, so that no old promise or message counts: `from_height` and
`from_check` name that state in every board's configuration, and a board with the genesis of the new cluster votes once
it has reached that height, not before. Must not touch the state of a board that votes.
"""

from hashlib import sha256

from . import schema
from .catchup import is_own_genesis
from .errors import ConfigError, MessageError

RESTORE = 168
RESTORE_ANSWER = 169
RESTORED = 168
RESTORE_REFUSED = 169

MESSAGES = (
    # check: the first 8 bytes of SHA-256 over the data of all pages, the same in each message.
    (RESTORE, "restore", "height:u page:u pages:u check:d data:b"),
    # next: the board's next undecided height; page: the one that it wants now. refused: it will not take that state.
    (RESTORE_ANSWER, "restore_answer", "next:u page:u refused:o reason:t"),
)
EVENTS = (
    (RESTORED, "restored", "height:u check:d digest:d votes:o"),  # votes: it may, since the whole cluster begins there
    (RESTORE_REFUSED, "restore_refused", "height:u reason:t"),
)
# Of the state that the whole cluster began with, 0: from nothing. from_check: its check's first 62 bits.
OPTIONS = "from_height:0:0:4611686018427387903 from_check:0:0:4611686018427387903"


def check_number(check):
    """`check` as the option names it."""
    return int.from_bytes(check, "big") >> 2


class Recovery:
    """Where a restore stands: `_page` is the next one of the state `_wanted` (height, check)."""

    kinds = (RESTORE,)
    operations = ()

    def __init__(self, node, stored):
        self.node = node
        self.vote = node.protocol("vote")
        if self.vote is None:
            raise ConfigError("protocols: recovery stands without vote; name vote before it")
        options = node.config.options_of("recovery", OPTIONS)
        self._from = (options["from_height"], options["from_check"])
        # Below that height it never voted in this cluster, so its vote is free once the height is reached.
        self._waits = (
            node.config.is_voter
            and self.vote.register.next_height < self._from[0]
            and stored.get(schema.JOURNAL_STANDING) is None
            and is_own_genesis(node.config, stored)
        )
        self._wanted = None
        self._page = 0
        self._seen = None

    def digest(self):
        return self.vote.digest()

    def on_tick(self):
        self._let_vote()

    def on_command(self, client, request, operation, key, value, expected):
        """No operation is served."""

    def on_message(self, source, kind, fields):
        if source < schema.FIRST_CLIENT:
            self.node._reject(source, "a board restores no other")
            return
        height, page, pages, check, data = fields
        register = self.vote.register
        reason = self._refusal(height, check)
        if reason is None and height > register.next_height:
            reason = self._take(height, page, pages, check, data)
        if reason is not None:
            self.node.emit(RESTORE_REFUSED, (height, reason))
        answer = (register.next_height, self._page, reason is not None, reason or "")
        self.node.send(source, RESTORE_ANSWER, answer)

    def _refusal(self, height, check):
        if self.vote.voting:
            return "it votes: a saved state lacks what it has promised since"
        if self.vote.register.next_height < self._from[0] and (height, check_number(check)) != self._from:
            return "not the state that this cluster begins with"
        return None

    def _take(self, height, page, pages, check, data):
        # The reason why the state is not taken, or None.
        register = self.vote.register
        if self._wanted != (height, check):
            self._begin((height, check))
        if page != self._page:
            return None  # a repetition: the answer says which page is wanted
        self._seen.update(data)
        if page + 1 >= pages and self._seen.digest()[:8] != check:
            self._begin(None)
            return "damaged: the pages are not those of the check"
        try:
            before = register.next_height
            wanted = register.take_page(height, page, pages, data)
        except MessageError as error:
            self._begin(None)
            return str(error)[:64]
        if wanted is None:
            self._begin(None)  # a copy from a peer came between
            return None
        self._page = wanted
        if wanted >= pages:
            self.vote.superseded()
            self._let_vote()
            self.node.emit(schema.CAUGHT_UP, (before, height, 0))  # from no board
            self.node.emit(RESTORED, (height, check, register.digest(), self.vote.voting))
        return None

    def _begin(self, wanted):
        self._wanted = wanted
        self._page = 0
        self._seen = sha256()
        self.vote.register.copy = None

    def _let_vote(self):
        if self._waits and self.vote.register.next_height >= self._from[0]:
            self._waits = False
            self.vote.voting = True


PROTOCOL = Recovery
