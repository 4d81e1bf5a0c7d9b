"""A replicated log that f malicious boards of n >= 3f+1 (by weight) neither split nor stop: TetraBFT, height by height.

Heights follow each other; ballot.py decides one. The ballot of the height decided last goes on beside the current one,
since boards that have not decided may need this board's votes; it can go once the current one is decided, because then
a blocking set knows the decision and answers for it. Nothing happens at a height until a command is pending or more
boards than can be malicious speak of it. Every message between boards is sealed for its recipient (seal.py).

Must not take one board's word for anything but what that board's own clients asked, and must not answer a client before
the decision is in the effects of the same step.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .ballot import ASK, PROOF, PROPOSAL, SUGGESTION, VALUE_FETCH, VOTE, Ballot
from .byzantine_catchup import ENTRIES, FETCH, LOG_ENTRIES, STATE_FETCH, STATE_PAGE, CatchUp, has_standing
from .byzantine_pool import ADMIT, BATCH, BGET, BPUT, REQUEST, Pool
from .errors import MessageError
from .register import Register
from .seal import Seal

KEYS = True

VALUE = 103

_REPORT = (
    "height:u view:u highest_view:i highest:b other_view:i other:b late_view:i late:b mac:b"  # view -1: no such vote
)

# value is an encoded batch of commands (origin, client, request, operation, key, value), value_id its SHA-256, origin
# the board that the client asked. Every message is for one recipient and ends with its seal.
MESSAGES = (
    (REQUEST, "byzantine_request", "origin:u client:u request:u operation:u key:k value:v mac:b"),
    (PROPOSAL, "byzantine_proposal", "height:u view:u value:b mac:b"),
    (VOTE, "byzantine_vote", "height:u view:u phase:u value_id:b mac:b"),
    (ASK, "byzantine_ask", "height:u view:u mac:b"),  # "let us enter this view"
    (PROOF, "byzantine_proof", _REPORT),  # highest vote-1, highest vote-1 for another value, highest vote-4
    (SUGGESTION, "byzantine_suggestion", _REPORT),  # highest vote-2, highest vote-2 for another value, highest vote-3
    (VALUE_FETCH, "byzantine_value_fetch", "height:u value_id:b mac:b"),
    (VALUE, "byzantine_value", "height:u value:b mac:b"),
    (FETCH, "byzantine_fetch", "height:u mac:b"),  # "my next undecided height"
    (ENTRIES, "byzantine_entries", "first:u next:u values:[b]8 mac:b"),
    (STATE_FETCH, "byzantine_state_fetch", "height:u page:u mac:b"),
    (STATE_PAGE, "byzantine_state_page", "height:u digest:d page:u pages:u data:b mac:b"),
)

OPERATIONS = ((BPUT, "bput"), (BGET, "bget"))

_DECIDED = const(98)
_APPLIED = const(99)
_VIEW = const(100)
_CONTRADICTION = const(101)
_ADMITTED = const(103)
_SUBMITTED = const(104)
_STANDING = const(105)
_HEARD = const(106)

# value_id: the first 8 bytes of the value's SHA-256.
EVENTS = (
    (96, "byzantine_proposed", "height:u view:u value_id:d"),
    (97, "byzantine_voted", "height:u view:u phase:u value_id:d"),
    (_DECIDED, "byzantine_decided", "height:u view:u value_id:d weight:u caught_up:o"),
    (
        _APPLIED,
        "byzantine_applied",
        "height:u origin:u client:u request:u operation:u key:k value:v status:u result:v",
    ),
    (_VIEW, "byzantine_view", "height:u view:u leader:u"),  # entered a view above 0
    # Two messages of one board that exclude each other; phase 0: proposals, else votes.
    (_CONTRADICTION, "contradiction", "board:u height:u view:u phase:u first:d second:d"),
    # What a board said that was not for the value decided in that view; phase 0: as its leader.
    (_HEARD, "byzantine_heard", "board:u height:u view:u phase:u value_id:d"),
    (102, "byzantine_caught_up", "first:u next:u copied:o"),
    (_ADMITTED, "byzantine_admitted", "board:u height:u"),  # may vote from this height on
    (_SUBMITTED, "byzantine_submitted", "client:u request:u operation:u"),
    (_STANDING, "byzantine_standing", "may_vote:o next_height:u"),  # with the first tick of a boot
)

OPTIONS = "view_timeout_ms:1000:50:60000 view_step_ms:300:0:60000"

_JOURNAL = const(0x20000)  # the register's keys lie at the same distances as in schema.py
_LOG = const(0x20800)  # + height modulo LOG_ENTRIES
_ENTRY = "ub"
_MAX_HEARD = const(64)  # what others said wrong, told per boot
_DIGEST_HEIGHTS = const(16)


class Shelf:
    """The journal as register.py sees it: its own keys are another protocol's."""

    def __init__(self, node, stored):
        self._node = node
        self._stored = stored

    def get(self, key):
        return self._stored.get(_JOURNAL + key)

    def persist(self, key, value):
        self._node.persist(_JOURNAL + key, value)


class Byzantine:
    """`voting`: whether this board may vote. `ballots`: by height, from the one decided last to the one to come."""

    kinds = tuple([row[0] for row in MESSAGES])
    operations = (BPUT, BGET)

    def __init__(self, node, stored):
        self.node = node
        self.options = node.config.options_of("byzantine", OPTIONS)
        self.seal = Seal(node.config)
        self.weights = dict(node.config.voters)
        self.shelf = Shelf(node, stored)
        self.register = Register(self.shelf, self.shelf)
        self.stored = stored
        self.persist = node.persist
        self.voting = has_standing(node.config, stored, self.shelf, self.register.next_height)
        packed = self.shelf.get(schema.JOURNAL_STANDING)
        self.since = 1 if packed is None else codec.unpack("ou", packed)[1]  # below it, promises may be lost
        self.pool = Pool(self)
        self.catchup = CatchUp(self)
        self.ballots = {}
        for height in (self.register.next_height - 1, self.register.next_height):
            if height >= self.since:
                self.ballots[height] = Ballot(self, height, stored)
                self.ballots[height].decided = height < self.register.next_height
        self._heard = 0
        self._digested = 0
        self._digest_ms = 0
        self.decided_ms = 0
        self._stood = False  # the event that says where this boot starts from comes after the boot event

    def digest(self):
        return self.register.digest()

    def value_of(self, value_id):
        """The value of that id among the proposals at hand, or None."""
        for ballot in self.ballots.values():
            if value_id in ballot.values:
                return ballot.values[value_id]
        return None

    # Weight.

    def weight_of(self, boards):
        return sum([self.weights.get(board, 0) for board in boards])

    def is_quorum(self, weight):
        return 3 * weight > 2 * self.node.config.total_weight

    def blocks(self, weight):
        """Whether boards of that weight include an honest one, as long as the malicious ones are few enough."""
        return 3 * weight > self.node.config.total_weight

    def leader(self, height, view):
        """Heights go round by weight; the views of one height go through every voter."""
        voters = self.node.config.voters
        place = height % self.node.config.total_weight
        index = 0
        while place >= voters[index][1]:
            place -= voters[index][1]
            index += 1
        return voters[(index + view) % len(voters)][0]

    # Inputs.

    def on_message(self, source, kind, fields):
        height = self.register.next_height
        try:
            fields = self.seal.open(source, kind, fields)
            if kind == REQUEST:
                if self.voting:
                    self.pool.take(source, fields)
            elif kind <= VALUE:
                height = fields[0]
                self._take(source, kind, fields)
            else:
                self.catchup.on_message(source, kind, fields)
        except MessageError as error:
            self.node._reject(source, str(error))
            return
        self.run(height)

    def _take(self, source, kind, fields):
        height = fields[0]
        self.catchup.hint(source, height)
        next_height = self.register.next_height
        if height < next_height and kind != VALUE_FETCH:
            self.catchup.help(source, height)
        if not self.voting or source not in self.weights:
            return
        if not max(next_height - 1, self.since) <= height <= next_height + 1:
            return
        ballot = self.ballots.get(height)
        if ballot is None:
            ballot = self.ballots[height] = Ballot(self, height)
        if kind == PROPOSAL:
            codec.unpack(BATCH, fields[2])
            ballot.take_proposal(source, fields[1], fields[2])
        elif kind == VOTE:
            ballot.take_vote(source, fields[1], fields[2], fields[3])
        elif kind == ASK:
            ballot.take_ask(source, fields[1])
        elif kind == VALUE_FETCH:
            if fields[1] in ballot.values:
                self.send(source, VALUE, (height, ballot.values[fields[1]]))
        elif kind == VALUE:
            ballot.take_value(fields[1])
        else:
            ballot.take_report(source, kind == PROOF, fields[1:])

    def on_command(self, client, request, operation, key, value, expected):
        outcome = self.register.outcome(client, request)
        if outcome is not None:
            if outcome:
                self.node.reply(client, request, *outcome)
            return
        command = (self.node.board, client, request, operation, key, value if operation == BPUT else None)
        taken = self.pool.submit(command)
        if taken:
            self.node.emit(_SUBMITTED, (client, request, operation))
            self.run()
        elif taken is False:
            self.node.reply(client, request, schema.BUSY, None, 0)

    def on_tick(self):
        if not self._stood:
            self._stood = True
            self.node.emit(_STANDING, (self.voting, self.register.next_height))
        self.pool.on_tick()
        self.catchup.on_tick()
        if self.voting:
            for height in sorted(self.ballots):
                if height <= self.register.next_height:
                    self.ballots[height].on_tick()
        self.run()
        if self.node.now_ms - self._digest_ms >= self.node.config.digest_period_ms:
            self._digest_ms = self.node.now_ms
            self._emit_digest()

    def run(self, height=None):
        """Draw the conclusions of what came in about `height`; about every height that is kept where left out."""
        next_height = self.register.next_height
        if not self.voting or (height is not None and height > next_height):
            return
        if height != next_height and next_height - 1 in self.ballots:
            self.ballots[next_height - 1].run()
        before = 0
        while before != self.register.next_height:
            before = self.register.next_height
            if before not in self.ballots:
                self.ballots[before] = Ballot(self, before)
            self.ballots[before].run()

    def _emit_digest(self):
        height = self.register.next_height
        if height != self._digested:
            self._digested = height
            self.node.emit(schema.DIGEST, ("byzantine", height, self.digest(), len(self.register.values)))

    # What a ballot asks of its log.

    def has_pending(self, ballot):
        return ballot.height == self.register.next_height and self.pool.has_known()

    def fresh_value(self, view):
        """A new batch, or None where view 0 has nothing to propose.

        In later views it holds only this board's own commands, which every board comes to know from it: a command that
        a malicious board sent to this one alone would make nobody vote.
        """
        commands = self.pool.batch(view > 0)
        return codec.pack(BATCH, (commands,)) if commands or view else None

    def is_known(self, value, view):
        commands = codec.unpack(BATCH, value)[0]
        for command in commands:
            if not self.pool.knows(command):
                return False
        return bool(commands) or view > 0

    def entered(self, height, view):
        self.node.emit(_VIEW, (height, view, self.leader(height, view)))
        commands = []
        ballot = self.ballots[height]
        for value_id in sorted(ballot.values):
            if ballot.promised(value_id):
                commands += codec.unpack(BATCH, ballot.values[value_id])[0]
        self.pool.relay(commands)

    def heard(self, board, height, view, phase, value_id, before):
        """`board` said what most others did not hear, or, with `before`, two things."""
        self._heard += 1
        if self._heard > _MAX_HEARD:
            return
        if before is None:
            self.node.emit(_HEARD, (board, height, view, phase, value_id[:8]))
        else:
            self.node.emit(_CONTRADICTION, (board, height, view, phase, before[:8], value_id[:8]))

    def send(self, to, kind, fields):
        self.node.send(to, kind, self.seal.close(to, kind, fields))

    def broadcast(self, kind, fields):
        for board, _ in self.node.config.voters:
            if board != self.node.board:
                self.send(board, kind, fields)

    # Decisions.

    def decide(self, height, value, view, weight, caught_up):
        """`value` is the decision of the next height: apply it, make all of it durable at once, answer who waits."""
        node = self.node
        node.persist(_LOG + height % LOG_ENTRIES, codec.pack(_ENTRY, (height, value)))
        node.emit(_DECIDED, (height, view, sha256(value).digest()[:8], weight, caught_up))
        for origin, client, request, operation, key, put in codec.unpack(BATCH, value)[0]:
            if operation == ADMIT:
                self._admit(height, client, request)
                continue
            command = (client, request, schema.PUT if operation == BPUT else schema.GET, key, put, None)
            result = self.register.apply(height, command)
            if result is not None:
                node.emit(_APPLIED, (height, origin, client, request, operation, key, put) + result)
        self.register.finish(height)
        self.superseded()
        self.catchup.decided(self.register)
        if self.register.next_height % _DIGEST_HEIGHTS == 0:
            self._emit_digest()

    def entry(self, height):
        """The decided value of that height, or None where it is no longer or not yet in the journal."""
        packed = self.stored.get(_LOG + height % LOG_ENTRIES)
        if packed is None:
            return None
        found, value = codec.unpack(_ENTRY, packed)
        return value if found == height else None

    def _admit(self, height, board, boot):
        # Void unless it was asked for in this very boot: only then is it sure to be younger than the loss of the
        # journal, and this board to have voted at no height above it.
        node = self.node
        self.pool.forget_admission(board, boot)
        if board == node.board and boot == node.boot and not self.voting:
            self.voting = True
            self.since = height + 1
            self.ballots = {}
            self.shelf.persist(schema.JOURNAL_STANDING, codec.pack("ou", (True, height + 1)))
            node.emit(_ADMITTED, (board, height + 1))

    def lose_standing(self):
        """This board's promises are not all in its journal: it votes no more until the log admits it."""
        self.voting = False
        self.shelf.persist(schema.JOURNAL_STANDING, codec.pack("ou", (False, 0)))

    def superseded(self):
        """The next height is a new one: keep its ballot and the last one's."""
        next_height = self.register.next_height
        self.ballots = {height: self.ballots[height] for height in self.ballots if height >= next_height - 1}
        if next_height - 1 in self.ballots:
            self.ballots[next_height - 1].decided = True
        self.decided_ms = self.node.now_ms
        self.pool.settle()


PROTOCOL = Byzantine
