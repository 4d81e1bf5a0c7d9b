"""Proof of stake on the voted log: weights that clients move by commands of the log, turns in proportion to them.

A voter's weight is its stake. `bond` (key: the voter, value: how much) moves from the purse to its stake, `unbond` the
other way; what is moved counts from the next epoch on, on every board, and what was unbonded is free only then. Epochs
are `epoch` heights long. A board votes at a height only once it holds all decisions below, so that a height's stakes
are the same for all who vote there; a quorum is more than half of the stake in force, as in vote.py.
Whose turn a height is follows from priorities, as in Tendermint (spec/consensus/proposer-selection.md): each height
every voter gains its stake, the highest begins, and pays all stake for it. Further rounds of a height go on from there
through all who have a stake. A board without a stake follows, and its votes weigh nothing.

All of it stands in registers of the store, stake/<board> and stake/purse, so that journal, digest and copies have it
like any other; clients can read these and not write them. Must not let anything but decided commands and the height
move a stake or a turn: no clock, no chance, nothing that one board alone knows.
"""

from . import schema
from .errors import ConfigError
from .register import Register
from .vote import Vote

BOND = 176
UNBOND = 177
OPERATIONS = ((BOND, "bond"), (UNBOND, "unbond"))
EVENTS = (
    # of that board's stake from height `since` on; free, leaving: in the purse now, and from `since` on
    (176, "bonded", "height:u board:u amount:i stake:u free:u leaving:u since:u"),
    # told of each voter when the epoch at `height` begins, and at boot; coming: its stake from the next epoch on
    (177, "staked", "height:u board:u stake:u coming:u priority:i"),
    (178, "purse", "height:u free:u leaving:u"),  # comes before them
    (179, "turn", "height:u board:u"),  # whose turn the height that begins is
)
OPTIONS = "epoch:16:1:1024 unit:10:1:1000 purse:40:0:1000000"
NAME = "vote"  # what others ask for

_PREFIX = "stake/"
_PURSE = "stake/purse"
_MOST_VOTERS = schema.MAX_KEYS // 2


def amount_of(text):
    """A whole number above 0, of at most 9 digits; 0 for anything else."""
    if text is None or not 0 < len(text) <= 9:
        return 0
    for character in text:
        if character not in "0123456789":
            return 0
    return int(text)


class Stakes(Register):
    """stakes: board -> stake in force; coming: from the next epoch on; turn: who begins the next height."""

    operations = Register.operations + (BOND, UNBOND)

    def __init__(self, node, stored):
        super().__init__(node, stored)
        self._node = node
        options = node.config.options_of("stake", OPTIONS)
        self._epoch = options["epoch"]
        voters = node.config.voters
        if len(voters) > _MOST_VOTERS:
            raise ConfigError("roster: %d voters; allowed with stake: up to %d" % (len(voters), _MOST_VOTERS))
        self._boards = [board for board, _weight in voters]
        # What a cluster begins with is the same on every board, so it is written only once it changes.
        for board, weight in voters:
            stake = weight * options["unit"]
            self._begin(_PREFIX + str(board), "%d %d 0" % (stake, stake))
        self._begin(_PURSE, "%d 0" % options["purse"])
        self._load()

    def _begin(self, key, value):
        if key not in self.values:
            self.values[key] = (self._free(self.values), value)

    def _numbers(self, key):
        return [int(word) for word in self.values[key][1].split()]

    def _write(self, key, numbers):
        super()._execute(schema.PUT, key, " ".join([str(number) for number in numbers]), None)

    def _load(self):
        # Take up what the registers hold, and the turns of this epoch that are over.
        self.stakes = {}
        self.coming = {}
        self._priorities = {}
        for board in self._boards:
            self.stakes[board], self.coming[board], self._priorities[board] = self._numbers(_PREFIX + str(board))
        self.free, self.leaving = self._numbers(_PURSE)
        self.total = sum(self.stakes.values())
        self._tell()
        self.turn = self._pick()
        for _height in range((self.next_height - 1) % self._epoch):
            self.turn = self._pick()

    def _tell(self):
        height = self.next_height - (self.next_height - 1) % self._epoch
        self._node.emit(178, (height, self.free, self.leaving))
        for board in self._boards:
            row = (height, board, self.stakes[board], self.coming[board], self._priorities[board])
            self._node.emit(177, row)

    def _pick(self):
        # One height's turn: of two with the same priority the lower board.
        best = 0
        for board in self._boards:
            self._priorities[board] += self.stakes[board]
            if self.stakes[board] and (not best or self._priorities[board] > self._priorities[best]):
                best = board
        self._priorities[best] -= self.total
        return best

    def _execute(self, operation, key, value, expected):
        if operation == BOND or operation == UNBOND:
            return self._move(operation, key, value)
        if operation != schema.GET and key.startswith(_PREFIX):
            return schema.REFUSED, None
        return super()._execute(operation, key, value, expected)

    def _move(self, operation, key, value):
        amount = amount_of(value)
        board = amount_of(key)
        if not amount or board not in self.coming:
            return schema.REFUSED, None
        if operation == BOND:
            enough = amount <= self.free
        else:
            enough = amount <= self.coming[board] and amount < sum(self.coming.values())
        if not enough:
            return schema.MISMATCH, "%d %d" % (self.coming[board], self.free)
        if operation == BOND:
            self.free -= amount
        else:
            self.leaving += amount
            amount = -amount
        self.coming[board] += amount
        row = self._numbers(_PREFIX + str(board))
        row[1] = self.coming[board]
        self._write(_PREFIX + str(board), row)
        self._write(_PURSE, (self.free, self.leaving))
        height = self.next_height
        since = height + self._epoch - (height - 1) % self._epoch
        self._node.emit(176, (height, board, amount, self.coming[board], self.free, self.leaving, since))
        return schema.OK, "%d from %d" % (self.coming[board], since)

    def finish(self, height):
        begins = height % self._epoch == 0
        if begins:
            self._roll()
        super().finish(height)
        if begins:
            self._tell()
        self.turn = self._pick()

    def _roll(self):
        # A new epoch: what was moved counts from here on.
        for board in self._boards:
            self.stakes[board] = self.coming[board]
        self.total = sum(self.stakes.values())
        self.free += self.leaving
        self.leaving = 0
        self._narrow()
        for board in self._boards:
            stake = self.stakes[board]
            self._write(_PREFIX + str(board), (stake, stake, self._priorities[board]))
        self._write(_PURSE, (self.free, 0))

    def _narrow(self):
        # Priorities of much larger stakes of before would rule for long: they are kept within twice the total.
        spread = max(self._priorities.values()) - min(self._priorities.values())
        ratio = (spread + 2 * self.total - 1) // (2 * self.total)
        if ratio > 1:
            for board in self._boards:
                self._priorities[board] //= ratio
        middle = sum(self._priorities.values()) // len(self._boards)
        for board in self._boards:
            self._priorities[board] -= middle

    def take_page(self, height, page, pages, data):
        wanted = super().take_page(height, page, pages, data)
        if wanted is not None and wanted >= pages:
            self._load()
        return wanted


class Stake(Vote):
    operations = Stakes.operations

    def open_store(self, node, stored):
        return Stakes(node, stored)

    def _reset(self):
        super()._reset()
        register = self.register
        self.total_weight = register.total
        self.voters = [(board, register.stakes[board]) for board in sorted(register.stakes)]
        if self.voting:
            self.node.emit(179, (register.next_height, register.turn))

    def proposer(self, round):
        """Heights go by priority; the rounds of one height go on from there through every voter with a stake."""
        turn = self.register.turn
        if not round:
            return turn
        ring = [board for board, stake in self.voters if stake]
        return ring[(ring.index(turn) + round) % len(ring)]


PROTOCOL = Stake
