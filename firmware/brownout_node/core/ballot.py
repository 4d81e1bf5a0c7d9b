"""One height of TetraBFT (Yu, Losa, Wang, arXiv 2405.02615): views, four phases of votes, and which values are safe.

A view has a leader, who proposes; a quorum (more than 2/3 of all weight) of votes in one phase lets a board vote in the
next, and a quorum of phase 4 decides. Entering a later view, a board reports its highest votes to everybody (proof) and
to the leader (suggestion); from those, the rules below tell which values no earlier view can have contradicted. The
rules are those of the specification nano-o/tetrabft-tla (ShowsSafeAt, ClaimsSafeAt). Nobody's word counts alone: what
is believed comes from a blocking set, more than 1/3 of all weight, so from one honest board at least.

Votes are for the SHA-256 of a value, and a board votes for no value that it does not hold; it asks for one it lacks.
Whatever a vote says is durable before it is sent. Must not apply values, and must not decide anything by time but when
to ask for the next view.
"""

from hashlib import sha256

try:
    from micropython import const
except ImportError:
    const = int

from . import codec
from .errors import MessageError

PROPOSAL = 97  # kinds of messages; see byzantine.py
VOTE = 98
ASK = 99
PROOF = 100
SUGGESTION = 101
VALUE_FETCH = 102
_PROPOSED_EVENT = const(96)  # kinds of events
_VOTED_EVENT = const(97)

_NONE = (-1, b"")  # no vote: the view is below every view
_SLOTS = const(8)  # stored values: at most seven are referred to
_BALLOT = const(0x20400)  # + 16 for odd heights
_RECORD = "uu[iu]7"  # height, view, (view, slot) of each of `marks`
_MAX_VALUES = const(12)  # values in memory; above it those that nothing refers to are forgotten
_MAX_WANTED = const(32)  # of one view; malicious boards can name three values each that do not exist
_MAX_TIMEOUT_STEPS = const(10)  # time-outs stop growing there
_MAX_VIEW = const(1 << 24)

# Places in `marks`: the highest vote of each phase; the highest of phases 1 and 2 for any other value; own proposal.
_HIGHEST = const(0)  # + phase - 1
_OTHER = const(4)  # + phase - 1
_PROPOSED = const(6)


class Ballot:
    """owner: the Byzantine whose height this is. `decided` ballots go on, for boards that have not decided yet."""

    def __init__(self, owner, height, stored=None):
        self.owner = owner
        self.node = owner.node
        self.height = height
        self._bank = _BALLOT + height % 2 * 16  # the journal key of its promises; its values follow
        self.view = 0
        self.asked = 0  # the highest view that this board has asked for
        self.marks = [_NONE] * 7
        self.decided = False
        self.values = {}  # value id -> value
        self.wanted = []  # ids of values to ask for
        self.assist_ms = 0  # until when a decided ballot sends again
        self._votes = ({}, {}, {}, {})  # by phase: board -> (view, value id) of its latest
        self._quorums = [None] * 4  # the latest quorum of each phase; None: votes have come since it was counted
        self._asks = {}  # board -> highest view that it asked for
        self._proposals = {}  # board -> (view, value id) of its latest
        self._suggestions = {}  # leader only: board -> (view, highest vote-2, other vote-2, highest vote-3)
        self._proofs = {}  # board -> (view, highest vote-1, other vote-1, highest vote-4)
        self._slots = [b""] * _SLOTS
        self._deadline_ms = None
        self._resend_ms = 0
        if stored is not None:
            self._restore(stored)

    def _restore(self, stored):
        bank = self._bank
        packed = stored.get(bank)
        if packed is None:
            return
        height, view, marks = codec.unpack(_RECORD, packed)
        if height != self.height:
            return
        self.view = self.asked = view
        for place in range(7):
            if marks[place][0] >= 0:
                slot = marks[place][1]
                packed = stored.get(bank + 1 + slot)
                if packed is None:
                    self.owner.lose_standing()  # it no longer knows what it has promised
                    continue
                value_id = self._hold(codec.unpack("b", packed)[0])
                self._slots[slot] = value_id
                self.marks[place] = (marks[place][0], value_id)
        board = self.node.board
        for phase in range(4):
            self._votes[phase][board] = self.marks[phase]
        if self.marks[_PROPOSED][0] >= 0:
            self._proposals[board] = self.marks[_PROPOSED]
        if view and max([mark[0] for mark in self.marks[:_PROPOSED]]) < view:
            self._take_own_reports()  # else they were sent before, and what they said is no longer known

    @property
    def begun(self):
        """Whether this board has promised anything, or more than the malicious boards alone speak of this height."""
        if self.view or self.asked or self.marks[0][0] >= 0 or self.marks[_PROPOSED][0] >= 0:
            return True
        heard = set(self._proposals) | set(self._asks)
        for votes in self._votes:
            heard |= set(votes)
        return self.owner.blocks(self.owner.weight_of(heard))

    def promised(self, value_id):
        """Whether one of this board's own votes is for that value: it was found valid then."""
        for view, marked in self.marks:
            if view >= 0 and marked == value_id:
                return True
        return False

    # Messages. Each only takes note; run() draws the conclusions.

    def take_proposal(self, source, view, value):
        if source != self.owner.leader(self.height, view) or view > _MAX_VIEW:
            raise MessageError("proposal of view %d is not board %d's to make" % (view, source))
        before = self._proposals.get(source, _NONE)
        value_id = sha256(value).digest()
        if before[0] < view >= self.view:
            self._hold(value)
            self._proposals[source] = (view, value_id)
        elif before[0] == view and before[1] != value_id:
            self.owner.heard(source, self.height, view, 0, value_id, before[1])
        elif value_id in self.wanted:
            self._hold(value)

    def take_vote(self, source, view, phase, value_id):
        if not 1 <= phase <= 4 or len(value_id) != 32:
            raise MessageError("vote of phase %d" % phase)
        votes = self._votes[phase - 1]
        before = votes.get(source, _NONE)
        if before[0] < view:
            votes[source] = (view, value_id)
            self._quorums[phase - 1] = None
        elif before[0] == view and before[1] != value_id:
            self.owner.heard(source, self.height, view, phase, value_id, before[1])

    def take_ask(self, source, view):
        if view > self._asks.get(source, 0):
            self._asks[source] = view

    def take_report(self, source, is_proof, fields):
        view = fields[0]
        report = (view, (fields[1], fields[2]), (fields[3], fields[4]), (fields[5], fields[6]))
        for vote in report[1:]:
            if not -1 <= vote[0] < view or len(vote[1]) != (0 if vote[0] < 0 else 32):
                raise MessageError("report of votes that view %d has not seen" % view)
        if report[2][0] >= 0 and (report[2][0] >= report[1][0] or report[2][1] == report[1][1]):
            raise MessageError("report of another vote that is none")
        reports = self._proofs if is_proof else self._suggestions
        if source not in reports or reports[source][0] < view:
            reports[source] = report

    def take_value(self, value):
        value_id = sha256(value).digest()
        if value_id in self.wanted:
            self._hold(value)

    def _hold(self, value):
        value_id = sha256(value).digest()
        if value_id in self.wanted:
            self.wanted.remove(value_id)
        if value_id not in self.values:
            if len(self.values) >= _MAX_VALUES + len(self.owner.weights):
                keep = [mark[1] for mark in self.marks] + [row[1] for row in self._proposals.values()]
                self.values = {key: self.values[key] for key in self.values if key in keep}
            self.values[value_id] = value
        return value_id

    def _has(self, value_id):
        # What a quorum voted for, at least one honest board holds.
        if value_id in self.values:
            return True
        if value_id not in self.wanted and len(self.wanted) < _MAX_WANTED:
            self.wanted.append(value_id)
            self.owner.broadcast(VALUE_FETCH, (self.height, value_id))
        return False

    # The state machine. Each transition is made as soon as what was heard allows it.

    def run(self):
        """Make transitions until there is none to make, or the ballot is replaced."""
        while self.owner.ballots.get(self.height) is self and self._transition():
            pass

    def _transition(self):
        if not self.decided:
            view, value_id, weight = self._quorum(4, 0)
            if view >= 0 and self._has(value_id):
                self._tell_strays(view, value_id)
                self.owner.decide(self.height, self.values[value_id], view, weight, False)
                return True
        for phase in (3, 2, 1):
            view, value_id, _ = self._quorum(phase, self.view)
            if view > self.marks[phase][0] and self._has(value_id):
                if view > self.view:
                    self._enter(view)
                self._vote(phase + 1, value_id)
                return True
        if self._change_view():
            return True
        if not self.decided and self._deadline_ms is None and self.asked <= self.view and self.begun_or_pending():
            self._set_deadline()
        if self.owner.leader(self.height, self.view) == self.node.board and self._try_propose():
            return True
        return self._try_first_vote()

    def _tell_strays(self, view, decided):
        # Whoever said something else to this board than to most others shows here.
        tables = (self._proposals,) + self._votes
        for phase in range(5):
            for board in sorted(tables[phase]):
                at, value_id = tables[phase][board]
                if at == view and value_id != decided:
                    self.owner.heard(board, self.height, view, phase, value_id, None)

    def begun_or_pending(self):
        return self.begun or self.owner.has_pending(self)

    def _quorum(self, phase, least):
        # (view, value, weight) of the latest quorum of votes in a phase, at `least` or later; view -1: there is none.
        best = self._quorums[phase - 1]
        if best is None:
            best = (-1, b"", 0)
            votes = self._votes[phase - 1]
            for vote in set(votes.values()):
                weight = self.owner.weight_of([board for board in votes if votes[board] == vote])
                if vote[0] > best[0] and self.owner.is_quorum(weight):
                    best = vote + (weight,)
            self._quorums[phase - 1] = best
        return best if best[0] >= least else (-1, b"", 0)

    def _change_view(self):
        # A blocking set that asks for a later view has an honest board in it: join. A quorum that asks: enter.
        asks = self._asks
        joined = entered = 0
        for view in set(asks.values()):
            weight = self.owner.weight_of([board for board in asks if asks[board] >= view])
            if view > joined and self.owner.blocks(weight):
                joined = view
            if view > entered and self.owner.is_quorum(weight):
                entered = view
        if joined > self.asked:
            self._ask(joined)
            return True
        if entered > self.view:
            self._enter(entered)
            return True
        return False

    def _ask(self, view):
        self.asked = view
        self._deadline_ms = None
        self._asks[self.node.board] = view
        self.owner.broadcast(ASK, (self.height, view))

    def _enter(self, view):
        self.view = view
        self.wanted = []
        self.asked = max(self.asked, view)
        self._asks[self.node.board] = self.asked
        self._set_deadline()
        self._save()  # votes reported now must stay the last ones of the views before
        self._take_own_reports()
        self.owner.entered(self.height, view)
        self._send_reports()

    def _set_deadline(self):
        steps = min(self.view, _MAX_TIMEOUT_STEPS)
        options = self.owner.options
        self._deadline_ms = self.node.now_ms + options["view_timeout_ms"] + steps * options["view_step_ms"]
        self._resend_ms = self.node.now_ms + self.node.config.resend_ms

    def _take_own_reports(self):
        marks = self.marks
        self._proofs[self.node.board] = (self.view, marks[0], marks[4], marks[3])
        self._suggestions[self.node.board] = (self.view, marks[1], marks[5], marks[2])

    def _send_reports(self):
        # What was reported on entering: votes of this view are no part of it.
        proof = self._proofs.get(self.node.board)
        if proof is not None and proof[0] == self.view:
            self.owner.broadcast(PROOF, (self.height, self.view) + proof[1] + proof[2] + proof[3])
            leader = self.owner.leader(self.height, self.view)
            report = self._suggestions[self.node.board]
            if leader != self.node.board:
                self.owner.send(leader, SUGGESTION, (self.height, self.view) + report[1] + report[2] + report[3])

    def _try_propose(self):
        if self.marks[_PROPOSED][0] >= self.view or self._proposals.get(self.node.board, _NONE)[0] >= self.view:
            return False
        value_id = None
        if self.view == 0:
            value = self.owner.fresh_value(0)
            value_id = value and self._hold(value)
        elif self.owner.is_quorum(self._weight_of_reports(self._suggestions)):
            value_id = self._choose()
        if value_id is None:
            return False
        self._proposals[self.node.board] = self.marks[_PROPOSED] = (self.view, value_id)
        self._save()
        self.owner.broadcast(PROPOSAL, (self.height, self.view, self.values[value_id]))
        self.node.emit(_PROPOSED_EVENT, (self.height, self.view, value_id[:8]))
        return True

    def _choose(self):
        # The value of somebody's late vote where that is safe, a new one where any is.
        for board in sorted(self._suggestions):
            report = self._suggestions[board]
            if report[0] != self.view:
                continue
            for vote in (report[3], report[1], report[2]):
                if vote[0] >= 0 and self.is_safe(vote[1], self._suggestions) and self._has(vote[1]):
                    if self._is_valid(vote[1]):
                        return vote[1]
        value = self.owner.fresh_value(self.view)
        value_id = sha256(value).digest()
        return self._hold(value) if self.is_safe(value_id, self._suggestions) else None

    def _try_first_vote(self):
        if self.marks[0][0] >= self.view:
            return False
        view, value_id = self._proposals.get(self.owner.leader(self.height, self.view), _NONE)
        if view != self.view or value_id not in self.values:
            return False
        if (view and not self.is_safe(value_id, self._proofs)) or not self._is_valid(value_id):
            return False
        self._vote(1, value_id)
        return True

    def _is_valid(self, value_id):
        # Known to come from those whom it names; or voted for by an honest board, which found it so.
        claims = [
            board
            for board in self._proofs
            if value_id in (self._proofs[board][1][1], self._proofs[board][2][1], self._proofs[board][3][1])
        ]
        if self.promised(value_id) or self.owner.blocks(self.owner.weight_of(claims)):
            return True
        return self.owner.is_known(self.values[value_id], self.view)

    def _weight_of_reports(self, reports):
        return self.owner.weight_of([board for board in reports if reports[board][0] == self.view])

    def is_safe(self, value_id, reports):
        """Whether no view before this one can decide another value, by suggestions (rule 1) or by proofs (rule 3).

        There must be an earlier view r such that a quorum cast no late vote (phase 3 or 4) after r, and in r for this
        value only, and that a blocking set claims the value safe at r: by an early vote (phase 2 or 1) for it at r or
        later, or by two for different values, since of those at least the later one was safe whatever came before.
        """
        rows = [(board, reports[board]) for board in reports if reports[board][0] == self.view]
        weight_of = self.owner.weight_of
        candidates = {0}
        for _, report in rows:
            if report[3][0] >= 0:
                candidates.add(report[3][0])
                candidates.add(report[3][0] + 1)
        for r in candidates:
            if r >= self.view:
                continue
            silent = []
            claims = []
            for board, (_, highest, other, late) in rows:
                if late[0] < r or (late[0] == r and late[1] == value_id):
                    silent.append(board)
                if (highest[0] >= r and highest[1] == value_id) or other[0] >= r:
                    claims.append(board)
            if self.owner.is_quorum(weight_of(silent)) and (r == 0 or self.owner.blocks(weight_of(claims))):
                return True
        return self.owner.is_quorum(weight_of([board for board, report in rows if report[3][0] < 0]))

    def _vote(self, phase, value_id):
        before = self.marks[phase - 1]
        if phase <= 2 and before[0] >= 0 and before[1] != value_id:
            self.marks[_OTHER + phase - 1] = before
        self.marks[phase - 1] = (self.view, value_id)
        self._save()
        self._votes[phase - 1][self.node.board] = (self.view, value_id)
        self._quorums[phase - 1] = None
        self.owner.broadcast(VOTE, (self.height, self.view, phase, value_id))
        self.node.emit(_VOTED_EVENT, (self.height, self.view, phase, value_id[:8]))

    def _save(self):
        # Values that a mark refers to keep their slots; the record says which slot each mark means.
        bank = self._bank
        used = [mark[1] for mark in self.marks if mark[0] >= 0]
        for value_id in used:
            if value_id not in self._slots:
                slot = 0
                while self._slots[slot] in used:
                    slot += 1
                self._slots[slot] = value_id
                self.owner.persist(bank + 1 + slot, codec.pack("b", (self.values[value_id],)))
        marks = [(mark[0], self._slots.index(mark[1]) if mark[0] >= 0 else 0) for mark in self.marks]
        self.owner.persist(bank, codec.pack(_RECORD, (self.height, self.view, marks)))

    # Time.

    def on_tick(self):
        now_ms = self.node.now_ms
        if self._deadline_ms is not None and now_ms >= self._deadline_ms and not self.decided:
            if self.begun_or_pending():
                self._ask(self.view + 1)
            else:
                self._deadline_ms = None  # what was pending came to nothing, and nobody has begun
        if now_ms >= self._resend_ms and (now_ms < self.assist_ms if self.decided else self.begun_or_pending()):
            self._resend_ms = now_ms + self.node.config.resend_ms
            self._resend()

    def _resend(self):
        # Everything of the current view, until something later takes its place.
        if self.asked:
            self.owner.broadcast(ASK, (self.height, self.asked))
        if self.view:
            self._send_reports()
        view, value_id = self.marks[_PROPOSED]
        if view == self.view:
            self.owner.broadcast(PROPOSAL, (self.height, view, self.values[value_id]))
        for phase in (1, 2, 3, 4):
            view, value_id = self.marks[phase - 1]
            if view == self.view:
                self.owner.broadcast(VOTE, (self.height, view, phase, value_id))
        for value_id in self.wanted:
            self.owner.broadcast(VALUE_FETCH, (self.height, value_id))
