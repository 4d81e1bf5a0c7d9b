"""A replicated log decided by weighted votes in heights and rounds: propose, prevote, precommit, with locks.

Tendermint's rules (arXiv 1807.04938) for crash faults: a quorum is more than half of all weight, and a proposal's
valid_round is trusted. Safety rests on promises that are durable before they are sent: at most one prevote and one
precommit a round, and the lock. Nothing happens at a height until a command is pending or somebody votes; from then on
the proposal and votes of the round are sent again until the height is decided, since any message may be lost. Commands
reach every voter's pool and are proposed in batches, so that any proposer can go on with what another one began.

Must not answer a client before the decision is in the effects of the same step, and must not decide anything by time.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec, schema
from .catchup import ENTRY, CatchUp, has_standing
from .errors import MessageError
from .register import Pool, Register
from .schema import BATCH, PRECOMMIT, PREVOTE, PROPOSAL, VOTERS

# Steps of a round.
_PROPOSING = const(0)  # waits for the proposal, or makes it
_PREVOTING = const(1)  # has prevoted, waits for a quorum of prevotes
_PRECOMMITTING = const(2)  # has precommitted, waits for a quorum of precommits

_MAX_LATER = const(16)  # votes of the next height, kept until it begins; above it they are dropped, and come again
_MAX_VALUES = const(8)  # proposals of one height that are kept
_MAX_TIMEOUT_STEPS = const(10)  # time-outs stop growing there
_SLOTS = const(3)  # stored proposals: locked, valid, prevoted
_DIGEST_HEIGHTS = const(16)
_VOTE = "uuidid"  # height, round, prevote_round, prevoted, precommit_round, precommitted
_LOCK = "uidid"  # height, locked_round, locked, valid_round, valid
_PROPOSED = "ib"  # valid_round, value


class Vote:
    """`voting`: whether this board may vote, `active`: whether the current height has begun."""

    kinds = (
        schema.REQUEST,
        PROPOSAL,
        PREVOTE,
        PRECOMMIT,
        schema.FETCH,
        schema.ENTRIES,
        schema.STATE_FETCH,
        schema.STATE_PAGE,
    )
    operations = Register.operations

    def __init__(self, node, stored):
        self.node = node
        self.register = self.open_store(node, stored)
        self.voters = node.config.voters  # (board, weight) at the current height
        self.total_weight = node.config.total_weight
        self.weights = dict(node.config.voters)
        self.voting = has_standing(node.config, stored, self.register.next_height)
        self.catchup = CatchUp(self, stored)
        self.pool = Pool(node, self.register)
        self.watch = None  # called when the log has grown; it may submit to the pool or send, and nothing else
        self.skips = None  # whether a round's proposer has passed it on; see hand_over.py
        self._later = []
        self._slots = [None] * _SLOTS
        self._resend_ms = 0
        self._decided_ms = 0
        self._digested = 0  # next height of the last digest sent
        self._digest_ms = 0
        self._reset()
        self._restore(stored)

    def open_store(self, node, stored):
        """What the log's commands are applied to."""
        return Register(node, stored)

    def _reset(self):
        # Nothing is known of the current height.
        self.active = False
        self.round = 0
        self.step = _PROPOSING
        self.locked_round = self.valid_round = self.prevote_round = self.precommit_round = -1
        self.locked = self.valid = self.prevoted = self.precommitted = None
        self.proposal = None  # (valid_round, value_id) of the round
        self.values = {}  # value_id -> value
        self.prevotes = {}  # board -> (round, value_id) of its latest
        self.precommits = {}
        self._tally_round = 0  # an earlier round whose precommits may have come to a quorum
        self._deadline_ms = None

    def _restore(self, stored):
        # Take up the promises of the current height where the last boot left them.
        height = self.register.next_height
        packed = stored.get(schema.JOURNAL_LOCK)
        if packed is not None:
            row = codec.unpack(_LOCK, packed)
            if row[0] == height:
                _, self.locked_round, self.locked, self.valid_round, self.valid = row
        packed = stored.get(schema.JOURNAL_VOTE)
        if packed is None:
            return
        row = codec.unpack(_VOTE, packed)
        if row[0] != height:
            return
        _, self.round, self.prevote_round, self.prevoted, self.precommit_round, self.precommitted = row
        for slot in range(_SLOTS):
            packed = stored.get(schema.JOURNAL_PROPOSED + slot)
            if packed is not None:
                valid_round, value = codec.unpack(_PROPOSED, packed)
                value_id = self._remember(value)
                self._slots[slot] = value_id
                if value_id == self.prevoted and self.prevote_round == self.round:
                    self.proposal = (valid_round, value_id)
        board = self.node.board
        self.prevotes[board] = (self.prevote_round, self.prevoted)
        self.precommits[board] = (self.precommit_round, self.precommitted)
        self.active = True
        self.step = _PRECOMMITTING if self.precommit_round == self.round else _PREVOTING

    def fill_boot(self, state):
        """The durable state that this boot starts from, for the boot event."""
        state[0:4] = (self.voting, self.register.next_height, self.round, self.locked_round)
        state[4:9] = (self.locked, self.prevote_round, self.prevoted, self.precommit_round, self.precommitted)

    def digest(self):
        return self.register.digest()

    def is_dead(self, board):
        """Whether membership thinks so; only ever used to wait less."""
        membership = self.node.protocol("membership")
        return membership is not None and membership.state_of(board) == schema.DEAD

    # Inputs.

    def on_message(self, source, kind, fields):
        try:
            if kind == schema.REQUEST:
                if self.voting:
                    self.pool.take(source, fields)
            elif kind <= PRECOMMIT:
                self._take_vote(source, kind, fields)
            else:
                self.catchup.on_message(source, kind, fields)
        except MessageError as error:
            self.node._reject(source, str(error))
        self.run()

    def on_command(self, client, request, operation, key, value, expected):
        outcome = self.register.outcome(client, request)
        if outcome is not None:
            if outcome:
                self.node.reply(client, request, *outcome)
            return
        command = (client, request, operation, key, value, expected)
        taken = self.pool.submit(command)
        if taken:
            self.node.emit(schema.SUBMITTED, command[:3])
            self.run()
        elif taken is False:
            self.node.reply(client, request, schema.BUSY, None, 0)

    def propose(self, command):
        """Put a command of this board's own to the log; False: no room. `register.outcome` tells what became of it."""
        taken = self.pool.submit(command)
        self.run()
        return taken

    def on_tick(self):
        now_ms = self.node.now_ms
        self.pool.on_tick()
        if self.active and self.voting and now_ms >= self._resend_ms:
            self._resend()
        self.run()
        self.catchup.on_tick()
        if now_ms - self._digest_ms >= self.node.config.digest_period_ms:
            self._digest_ms = now_ms
            self._emit_digest()

    def _emit_digest(self):
        height = self.register.next_height
        if height != self._digested:
            self._digested = height
            self.node.emit(schema.DIGEST, ("vote", height, self.digest(), len(self.register.values)))

    # Votes.

    def quorum(self, weight):
        return 2 * weight > self.total_weight

    def proposer(self, round):
        """Heights go round by weight; the rounds of one height go through every voter."""
        voters = self.voters
        height = self.register.next_height
        place = height % self.total_weight
        index = 0
        while place >= voters[index][1]:
            place -= voters[index][1]
            index += 1
        return voters[(index + round) % len(voters)][0]

    def _take_vote(self, source, kind, fields):
        height = fields[0]
        round = fields[1]
        next_height = self.register.next_height
        if height < next_height:
            # Votes that cross the decision on their way are no sign that somebody is behind; those sent again are.
            if height + 1 < next_height or self.node.now_ms - self._decided_ms >= self.node.config.resend_ms:
                self.catchup.offer(source, height)
            return
        if height > next_height:
            self.catchup.hint(height, source)
            if height == next_height + 1 and self.voting and len(self._later) < _MAX_LATER:
                self._later.append((source, kind, fields))
            return
        if not self.voting:
            return
        if source not in self.weights or (kind == PROPOSAL and not self._is_sound(source, fields)):
            self.node._reject(source, "vote of kind %d out of turn" % kind)
            return
        if not self.active or round > self.round:
            self._enter(round)
        if kind == PROPOSAL:
            value_id = self._remember(fields[3])
            if round == self.round and self.proposal is None:
                self.proposal = (fields[2], value_id)
        else:
            votes = self.prevotes if kind == PREVOTE else self.precommits
            if source not in votes or votes[source][0] < round:
                votes[source] = (round, fields[2])
        if kind != PREVOTE:
            self._tally_round = round

    def _is_sound(self, source, proposal):
        _height, round, valid_round, value = proposal
        try:
            codec.unpack(BATCH, value)
        except MessageError:
            return False
        return source == self.proposer(round) and -1 <= valid_round < round

    def _remember(self, value):
        value_id = sha256(value).digest()[:8]
        if value_id not in self.values:
            if len(self.values) >= _MAX_VALUES:
                keep = (self.locked, self.valid, self.prevoted, self.proposal and self.proposal[1])
                self.values = {key: self.values[key] for key in self.values if key in keep}
            self.values[value_id] = value
        return value_id

    def _tally(self, votes, round):
        # (value, its weight, weight of all votes of the round): a round has one value, its proposer's.
        value_id = None
        weight = total = 0
        for board, own in self.voters:
            vote = votes.get(board)
            if vote is not None and vote[0] == round:
                total += own
                if vote[1] is not None and (value_id is None or value_id == vote[1]):
                    value_id = vote[1]
                    weight += own
        return value_id, weight, total

    # The state machine of one height. Each function makes one transition, or returns False where there is none to make.

    def run(self):
        while self.voting and self._transition():
            pass

    def _transition(self):
        if not self.active:
            if not self.pool.entries:
                return False
            self._enter(0)
        if self._try_decide(self.round) or (self._tally_round < self.round and self._try_decide(self._tally_round)):
            return True
        if self.step == _PROPOSING:
            return self._on_proposing()
        if self.step == _PREVOTING:
            return self._on_prevoting()
        return self._on_precommitting()

    def _enter(self, round):
        config = self.node.config
        self.active = True
        self.round = round
        self.step = _PROPOSING
        self.proposal = None
        proposer = self.proposer(round)
        self._resend_ms = self.node.now_ms + config.resend_ms
        self._set_deadline(config.propose_timeout_ms // (4 if self.is_dead(proposer) else 1))
        if round:
            self.node.emit(schema.ROUND, (self.register.next_height, round, proposer))

    def _set_deadline(self, timeout_ms):
        steps = min(self.round, _MAX_TIMEOUT_STEPS)
        self._deadline_ms = self.node.now_ms + timeout_ms + steps * self.node.config.timeout_step_ms

    def _expired(self, total):
        # The wait for more votes begins when a quorum has voted for whatever, and ends at the deadline.
        if self._deadline_ms is None:
            if self.quorum(total):
                self._set_deadline(self.node.config.vote_timeout_ms)
            return False
        return self.node.now_ms >= self._deadline_ms

    def _on_proposing(self):
        if self.proposal is None:
            if self.skips is not None and self.skips(self.round):
                self._enter(self.round + 1)
                return True
            if self.proposer(self.round) == self.node.board:
                self._propose()
        if self.proposal is not None:
            valid_round, value_id = self.proposal
            if self.locked is None or self.locked == value_id or valid_round >= self.locked_round:
                self._prevote(value_id, valid_round)
            else:
                self._prevote(None, -1)
        elif self.node.now_ms >= self._deadline_ms:
            self._prevote(None, -1)
        else:
            return False
        return True

    def _on_prevoting(self):
        value_id, weight, total = self._tally(self.prevotes, self.round)
        if self.quorum(weight):
            if value_id in self.values:
                self.locked = value_id
                self.locked_round = self.round
                self._set_valid(value_id)
                self._precommit(value_id)
                return True
        elif not self.quorum(weight + self.total_weight - total):
            self._precommit(None)  # whoever is still to vote, no value can win this round
            return True
        if self._expired(total):
            self._precommit(None)
            return True
        return False

    def _on_precommitting(self):
        if self.valid_round < self.round:
            value_id, weight, total = self._tally(self.prevotes, self.round)
            if self.quorum(weight) and value_id in self.values:
                self._set_valid(value_id)
        value_id, weight, total = self._tally(self.precommits, self.round)
        if self._expired(total) or not self.quorum(weight + self.total_weight - total):
            self._enter(self.round + 1)
            return True
        return False

    def _propose(self):
        value = self.values.get(self.valid)
        valid_round = -1 if value is None else self.valid_round
        if value is None:
            commands = self.pool.batch()
            if not commands and not self.round:
                return  # somebody else began this height: they first get the time to send what they began it for
            value = codec.pack(BATCH, (commands,))
        value_id = self._remember(value)
        self.proposal = (valid_round, value_id)
        height = self.register.next_height
        self.node.send(VOTERS, PROPOSAL, (height, self.round, valid_round, value))
        self.node.emit(schema.PROPOSED, (height, self.round, value_id, valid_round))

    def _prevote(self, value_id, valid_round):
        self.step = _PREVOTING
        self._deadline_ms = None
        self.prevote_round = self.round
        self.prevoted = value_id
        if value_id is not None:
            self._store_value(value_id, valid_round)
        self._save_votes()
        self.prevotes[self.node.board] = (self.round, value_id)
        self._send_vote(PREVOTE, value_id)
        self.node.emit(schema.PREVOTED, (self.register.next_height, self.round, value_id, valid_round))

    def _precommit(self, value_id):
        self.step = _PRECOMMITTING
        self._deadline_ms = None
        self.precommit_round = self.round
        self.precommitted = value_id
        self._save_votes()
        self.precommits[self.node.board] = (self.round, value_id)
        self._send_vote(PRECOMMIT, value_id)
        self.node.emit(schema.PRECOMMITTED, (self.register.next_height, self.round, value_id))

    def _set_valid(self, value_id):
        self.valid = value_id
        self.valid_round = self.round
        if value_id not in self._slots:
            self._store_value(value_id, -1)
        row = (self.register.next_height, self.locked_round, self.locked, self.valid_round, self.valid)
        self.node.persist(schema.JOURNAL_LOCK, codec.pack(_LOCK, row))

    def _save_votes(self):
        row = (self.register.next_height, self.round, self.prevote_round, self.prevoted)
        row += (self.precommit_round, self.precommitted)
        self.node.persist(schema.JOURNAL_VOTE, codec.pack(_VOTE, row))

    def _store_value(self, value_id, valid_round):
        # In its old slot, or in one that no promise needs.
        keep = (self.locked, self.valid, self.prevoted)
        slot = 0
        if value_id in self._slots:
            slot = self._slots.index(value_id)
        else:
            while self._slots[slot] is not None and self._slots[slot] in keep:
                slot += 1
            self._slots[slot] = value_id
        record = codec.pack(_PROPOSED, (valid_round, self.values[value_id]))
        self.node.persist(schema.JOURNAL_PROPOSED + slot, record)

    def _send_vote(self, kind, value_id):
        self.node.send(VOTERS, kind, (self.register.next_height, self.round, value_id))

    def _resend(self):
        self._resend_ms = self.node.now_ms + self.node.config.resend_ms
        if self.proposal is not None and self.proposer(self.round) == self.node.board:
            valid_round, value_id = self.proposal
            fields = (self.register.next_height, self.round, valid_round, self.values[value_id])
            self.node.send(VOTERS, PROPOSAL, fields)
        if self.prevote_round == self.round:
            self._send_vote(PREVOTE, self.prevoted)
        if self.precommit_round == self.round:
            self._send_vote(PRECOMMIT, self.precommitted)

    # Decisions.

    def _try_decide(self, round):
        value_id, weight, _ = self._tally(self.precommits, round)
        if value_id is None or not self.quorum(weight) or value_id not in self.values:
            return False
        self.decide(self.values[value_id], round, weight, False)
        return True

    def decide(self, value, round, weight, caught_up):
        """`value` is the decision of the next height: apply it, make all of it durable at once, answer who waits."""
        node = self.node
        height = self.register.next_height
        commands = codec.unpack(BATCH, value)[0]
        node.persist(schema.JOURNAL_LOG + height % schema.LOG_ENTRIES, codec.pack(ENTRY, (height, value)))
        node.emit(schema.DECIDED, (height, round, sha256(value).digest()[:8], weight, caught_up))
        if not caught_up and self.proposer(round) == node.board:
            # Learners hear no votes: one whose client waits should not have to wait for its next poll.
            for source in self.pool.sources(commands):
                if source not in self.weights and source != node.board:
                    node.send(source, schema.ENTRIES, (height, height + 1, [(value,)]))
        for command in commands:
            if command[2] == schema.ADMIT:
                self._admit(height, command)
            else:
                result = self.register.apply(height, command)
                if result is not None:
                    node.emit(schema.APPLIED, (height,) + command + result)
        self.register.finish(height)
        self.superseded()
        if self.register.next_height % _DIGEST_HEIGHTS == 0:
            self._emit_digest()

    def _admit(self, height, command):
        # Void unless it was asked for in this very boot: only then is it sure to be younger than the loss of the
        # journal, and this board to have voted at no height above it.
        node = self.node
        self.pool.forget(command)
        if command[3] == str(node.board) and command[4] == str(node.boot) and not self.voting:
            self.voting = True
            node.persist(schema.JOURNAL_STANDING, codec.pack("ou", (True, height + 1)))
            node.emit(schema.ADMITTED, (node.board, height + 1))

    def superseded(self):
        """The next height is a new one: forget the old one's votes, answer who waits, take what came early."""
        self._reset()
        self._decided_ms = self.node.now_ms
        self.pool.settle()
        later = self._later
        self._later = []
        for source, kind, fields in later:
            if fields[0] == self.register.next_height:
                self._take_vote(source, kind, fields)
        if self.watch is not None:
            self.watch()


PROTOCOL = Vote
