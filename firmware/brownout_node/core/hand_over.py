"""Planned hand-over of a voter's turns, so that its restart costs no time-out (as Raft's leadership transfer, Ongaro
2014, section 3.10, for a log whose heights go round).

Loaded last: after vote or stake, and whatever else serves the log's operations. Told to `hand_over`, a board proposes
nothing from a height on and tells the voters, who promise to begin its heights with the round after. It is done, and
says so, once a quorum has promised, the successor (who proposes in that round) has decided everything before that
height, and no client of this board waits any more; meanwhile it refuses new operations on the log. Votes go on as ever.

A round that its proposer has passed on may be left out whatever others do, as after any time-out, so nothing here can
endanger what vote.py promises and nothing has to be durable: who forgets a promise waits, or follows the votes of the
others. Must not pass on so many turns that those left are no quorum.
"""

try:
    from micropython import const
except ImportError:
    const = int

from . import schema
from .errors import ConfigError

MESSAGES = (
    # that board, in that boot, proposes nothing from from_height on; 0: it does again. number counts in the boot.
    (192, "pass", "board:u boot:u number:u from_height:u height:u"),  # height: the sender's next undecided one
    (193, "promise", "boot:u number:u height:u"),
)
EVENTS = (
    (192, "passing", "number:u from_height:u successor:u"),  # proposes nothing from that height on
    (193, "promised", "board:u boot:u number:u from_height:u height:u"),  # to begin its heights with the round after
    (194, "handed_over", "number:u from_height:u successor:u height:u weight:u"),  # height: promised by the successor
    (195, "resumed", "number:u handed_over:o"),  # proposes again: not done in time, or nobody took its power away
)
OPERATIONS = ((192, "hand_over"),)
OPTIONS = "patience_ms:3000:10:600000 hold_ms:10000:10:600000"

_PASS = const(192)
_PROMISE = const(193)
_HAND_OVER = const(192)
_MINE = const(6)  # of an entry of the pool: a client of this board waits for it
_REMIND = const(8)  # times resend_ms


class HandOver:
    """from_height: this board proposes nothing from there on, 0: it does."""

    kinds = (_PASS, _PROMISE)
    operations = (_HAND_OVER,)

    def __init__(self, node, stored):
        self.node = node
        self.vote = vote = node.protocol("vote")
        if vote is None:
            raise ConfigError("protocols: hand_over; allowed: after vote or stake, whose turns it hands over")
        options = node.config.options_of("hand_over", OPTIONS)
        self._patience_ms = options["patience_ms"]
        self._hold_ms = options["hold_ms"]
        self.operations = vote.operations + (_HAND_OVER,)
        self._servers = dict(node._servers)  # of the operations, but for this: the log, or what stands before it
        vote.skips = self.skips
        self._watch = vote.watch
        vote.watch = self._grown
        self.away = {}  # board -> (boot, number, from_height) that it passed last, this board's own too
        self.from_height = 0
        self.number = 0
        self.successor = 0
        self.done = False
        self._promises = {}  # board -> its next height
        self._operator = None  # (client, request) of who waits for the answer
        self._until_ms = 0  # when this board takes its turns back
        self._resend_ms = 0
        self._home = False  # whether this boot has said that its turns are its own, and was up to date by then
        self._greeted = False

    def digest(self):
        return b"\0" * 8  # nothing that boards could differ in

    # Whose turns are left out.

    def skips(self, round):
        """Whether the proposer of this round of the current height has passed it on; if this board has, it has."""
        proposer = self.vote.proposer(round)
        return self._has_passed(proposer) and (proposer == self.node.board or self._leaves_quorum(0))

    def _has_passed(self, board):
        row = self.away.get(board)
        return row is not None and 0 < row[2] <= self.vote.register.next_height

    def _leaves_quorum(self, more):
        # Whether those who propose are a quorum, without the board `more` as well.
        weight = 0
        for board, share in self.vote.voters:
            if board != more and not (board in self.away and self.away[board][2]):
                weight += share
        return self.vote.quorum(weight)

    def _next_in_turn(self, board):
        # Who proposes in the round after that board's; 0: nobody, or the board has no turns.
        ring = [other for other, weight in self.vote.voters if weight]
        if board not in ring:
            return 0
        at = ring.index(board)
        for other in ring[at + 1 :] + ring[:at]:
            if not (other in self.away and self.away[other][2]):
                return other
        return 0

    # The board that hands over.

    def on_command(self, client, request, operation, key, value, expected):
        if operation == _HAND_OVER:
            self._begin(client, request)
        elif self.from_height and not self._is_known(client, request):
            self.node.reply(client, request, schema.REFUSED, None, 0)
        else:
            self._servers[operation].on_command(client, request, operation, key, value, expected)

    def _is_known(self, client, request):
        # What was taken before is not refused when it is asked again: it may still happen.
        if self.vote.register.outcome(client, request) is not None:
            return True
        for entry in self.vote.pool.entries:
            if entry[0] == client and entry[1] == request:
                return True
        return False

    def _begin(self, client, request):
        node = self.node
        vote = self.vote
        if not self.from_height:
            self.successor = self._next_in_turn(node.board)
            if not vote.voting or not self.successor or not self._leaves_quorum(node.board):
                node.reply(client, request, schema.REFUSED, None, 0)
                return
            height = vote.register.next_height
            if vote.active and vote.proposal is not None and vote.proposer(vote.round) == node.board:
                height += 1  # what is proposed stays proposed
            self.number += 1
            self.from_height = height
            self.away[node.board] = (node.boot, self.number, height)
            self.done = False
            self._promises = {}
            self._until_ms = node.now_ms + self._patience_ms
            node.emit(192, (self.number, height, self.successor))
            self._pass(schema.VOTERS)
        self._operator = (client, request)
        self._check()

    def _pass(self, to):
        self._resend_ms = self.node.now_ms + self.node.config.resend_ms
        self._send(to, self.node.board, (self.node.boot, self.number, self.from_height))

    def _send(self, to, board, row):
        self.node.send(to, _PASS, (board,) + row + (self.vote.register.next_height,))

    def _check(self):
        # Whether all is as it has to be before this board may lose its power.
        vote = self.vote
        if not self.done:
            weight = 0
            for board, share in vote.voters:
                if board == self.node.board or board in self._promises:
                    weight += share
            height = self._promises.get(self.successor, 0)
            if not vote.quorum(weight) or min(height, vote.register.next_height) < self.from_height:
                return
            for entry in vote.pool.entries:
                if entry[_MINE] and entry[0] >= schema.FIRST_CLIENT:
                    return
            self.done = True
            self._until_ms = self.node.now_ms + self._hold_ms
            self.node.emit(194, (self.number, self.from_height, self.successor, height, weight))
        self._answer(schema.OK)

    def _answer(self, status):
        if self._operator is not None:
            client, request = self._operator
            self._operator = None
            self.node.reply(client, request, status, None, self.from_height)

    def _resume(self):
        self.node.emit(195, (self.number, self.done))
        self._answer(schema.REFUSED)
        self.number += 1
        self.from_height = 0
        del self.away[self.node.board]
        self._pass(schema.VOTERS)

    def _take_promise(self, source, boot, number, height):
        if boot != self.node.boot or number != self.number or not self.from_height:
            return
        self._promises[source] = max(height, self._promises.get(source, 0))
        if source == self.successor and height < self.from_height:
            self.vote.catchup.offer(source, height)
        self._check()

    # The others.

    def on_message(self, source, kind, fields):
        if kind == _PROMISE:
            self._take_promise(source, *fields)
            return
        board, boot, number, from_height, height = fields
        if board == self.node.board:
            if (boot, number) != (self.node.boot, self.number):
                self._pass(source)  # somebody goes by what is over
            return
        if board not in self.vote.weights:
            self.node._reject(source, "board %d has no turns to pass" % board)
            return
        known = self.away.get(board)
        if known is not None and known[2] and not from_height and height + 1 < self.vote.register.next_height:
            return  # it is back and does not know what it would propose; it will say so again
        if from_height and not self._leaves_quorum(board):
            return  # too many have passed on their turns already
        if known is None or (boot, number) > known[:2]:
            self.away[board] = (boot, number, from_height)
            if from_height:
                self.node.emit(193, (board, boot, number, from_height, self.vote.register.next_height))
        if source == board and self.away[board] == (boot, number, from_height) and from_height:
            self.node.send(board, _PROMISE, (boot, number, self.vote.register.next_height))
        self.vote.run()

    def _grown(self):
        # The log has grown: promises may have come true.
        if self._watch is not None:
            self._watch()
        height = self.vote.register.next_height
        for board in sorted(self.away):
            boot, number, from_height = self.away[board]
            if from_height == height and board != self.node.board:
                self.node.send(board, _PROMISE, (boot, number, height))
        if self.from_height:
            self._check()

    def on_tick(self):
        now_ms = self.node.now_ms
        self._greet()
        if self.from_height and now_ms >= self._until_ms:
            self._resume()
        if now_ms < self._resend_ms:
            return
        if self.from_height and not self.done:
            self._pass(schema.VOTERS)
            return
        # Whoever is back without being heard, and a successor that has forgotten, are reminded.
        self._resend_ms = now_ms + _REMIND * self.node.config.resend_ms
        for board in sorted(self.away):
            row = self.away[board]
            if row[2] and board != self.node.board:
                for to in (board, self._next_in_turn(board)):
                    if to and to != self.node.board:
                        self._send(to, board, row)

    def _greet(self):
        # Whatever an earlier boot has passed on is over: said at once, since nothing may have been decided meanwhile,
        # and again by a board that was behind and no longer is.
        known = self.vote.catchup.known
        if not self._home and (not self._greeted or 0 < known <= self.vote.register.next_height):
            self._home = self._greeted
            self._greeted = True
            self._pass(schema.VOTERS)


PROTOCOL = HandOver
