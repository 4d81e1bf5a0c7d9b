"""Who is alive: SWIM (Das, Gupta, Motivala 2002) over the roster, which is fixed.

Each probe period a board pings the next target of a shuffled lap over the whole roster; without an answer in time it
asks three others to ping for it; without any by the end of the period it suspects the target, and after the suspicion
time holds it for dead. What changed travels on the messages of probing. Refinements, each for a reason:
- every message carries the sender's own record and what the sender holds about the receiver, so that whoever is
  suspected or was forgotten hears of it at the first contact, and refutes by a higher incarnation;
- while somebody is suspected, one suspect a period is pinged besides, so that it hears in time to refute;
- hearsay of a death only makes a board suspected, and our own suspicion decides: after a partition, the deaths that
  one side believed in do not spread over the other;
- the dead stay in the lap, so that whoever comes back, or is on the other side of a healed partition, is found.
At boot every board counts as alive until found otherwise. Incarnations are durable before use and never fall; a board
that lost its journal learns its old one from others. Must not decide anything for the other protocols.
"""

import hashlib

from . import codec, schema

try:
    from micropython import const
except ImportError:
    const = int

_ALIVE = const(0)
_SUSPECT = const(1)
_DEAD = const(2)
_HELPERS = const(3)
_UPDATES = const(8)  # in one message, as in the schema
_RELAYS = const(8)  # pings for others whose answers are awaited; the oldest gives way
_MOST = const(0x3FFFFFFF)  # no board boots or refutes that often: a higher incarnation is rubbish


class Membership:
    kinds = (schema.PING, schema.PING_REQUEST, schema.ACK)
    operations = ()
    health = 0  # lifeguard.py's: how many times longer everything takes

    def __init__(self, node, stored):
        self.node = node
        self._random = node.random("membership")
        self._boards = [entry[0] for entry in node.config.roster]
        count = len(self._boards)
        self._index = {}
        for index in range(count):
            self._index[self._boards[index]] = index
        self._me = self._index[node.board]
        self._others = [index for index in range(count) if index != self._me]
        self._states = bytearray(count)
        self._incarnations = [0] * count
        self._left = bytearray(count)  # how often the record of a board is still to be passed on
        self._copies = 0  # the least c with 2**c >= (n + 1)**3, which is 3 log2(n + 1) rounded up
        while 1 << self._copies < (count + 1) ** 3:
            self._copies += 1
        self._deadlines = {}  # suspected board's index -> when it will be held for dead
        self._lap = []
        self._relays = []  # (number of our ping, who asked, its number, target)
        self._alive = None
        self._number = self._random.below(1 << 20)  # an answer to an earlier boot's ping must not count
        self._target = None
        self._probe = 0
        self._answered = True
        self._period_at = self._due = self._helpers_at = self._random.below(node.config.probe_period_ms)
        packed = stored.get(schema.JOURNAL_INCARNATION)
        self._incarnate(1 if packed is None else codec.unpack("u", packed)[0] + 1)

    # What others ask.

    def state_of(self, board):
        """schema.ALIVE, SUSPECT or DEAD; a board that is not of the roster is dead."""
        index = self._index.get(board)
        return _DEAD if index is None else self._states[index]

    def alive(self):
        """The other boards that are not held for dead, sorted. Not to be changed by the caller."""
        if self._alive is None:
            self._alive = [self._boards[index] for index in self._others if self._states[index] != _DEAD]
        return self._alive

    def digest(self):
        view = [(self._boards[i], self._states[i], self._incarnations[i]) for i in range(len(self._boards))]
        return hashlib.sha256(str(view).encode()).digest()[:8]

    def fill_boot(self, state):
        state[9] = self._incarnations[self._me]

    # Time.

    def on_tick(self):
        now = self.node.now_ms
        if now < self._due:
            return
        for index in sorted(self._deadlines):
            if now >= self._deadlines[index]:
                self._change(index, _DEAD, self._incarnations[index])
        if now >= self._period_at:
            self._end_period()
            self._begin_period(now)
        elif now >= self._helpers_at:
            self._helpers_at = self._period_at
            if not self._answered and self._states[self._target] != _DEAD:
                self._ask_helpers()
        self._due = min(self._helpers_at, self._period_at)
        for index in self._deadlines:
            self._due = min(self._due, self._deadlines[index])

    def _end_period(self):
        if not self._answered and self._states[self._target] == _ALIVE:
            self._change(self._target, _SUSPECT, self._incarnations[self._target])

    def _begin_period(self, now):
        config = self.node.config
        period_ms = config.probe_period_ms * (self.health + 1)
        self._period_at += period_ms
        if self._period_at <= now:  # ticks came late: periods are skipped, not made up for
            self._period_at = now + period_ms
        self._helpers_at = now + config.probe_timeout_ms * (self.health + 1)
        self._target = self.next_target()
        self._answered = self._target is None
        if self._target is not None:
            self._probe = self._ping(self._target)
        suspects = [index for index in sorted(self._deadlines) if index != self._target]
        if suspects:
            self._ping(suspects[self._random.below(len(suspects))])

    def next_target(self):
        """The index of the next board to probe, or None. Shuffled laps: nobody waits longer than 2n - 1 periods."""
        if self.node.config.random_order:
            self._lap = self._random.sample(self._others, 1)
        elif not self._lap:
            self._lap = list(self._others)
            self._random.shuffle(self._lap)
        return self._lap.pop() if self._lap else None

    def _ask_helpers(self):
        target = self._boards[self._target]
        for board in self._random.sample([board for board in self.alive() if board != target], _HELPERS):
            self._send(self._index[board], schema.PING_REQUEST, (self._probe, target))

    # Messages.

    def on_message(self, source, kind, fields):
        peer = self._index.get(source)
        if peer is None:
            return
        self._hear_from(peer, fields[-1])
        number = fields[0]
        if kind == schema.PING:
            self._send(peer, schema.ACK, (number, self.node.board))
        elif kind == schema.PING_REQUEST:
            target = self._index.get(fields[1])
            if target is not None and target != self._me:
                self._relays = self._relays[1 - _RELAYS :]
                self._relays.append((self._ping(target), peer, number, target))
        else:
            if number == self._probe and self._index.get(fields[1]) == self._target:
                self._answered = True
            for relay in self._relays:
                if relay[0] == number and relay[3] == peer:
                    self._relays.remove(relay)
                    self._send(relay[1], schema.ACK, (relay[2], source))
                    break

    def _ping(self, index):
        self._number += 1
        self._send(index, schema.PING, (self._number,))
        return self._number

    def _send(self, peer, kind, fields):
        chosen = [self._me, peer]
        if any(self._left):
            # What was passed on least often goes first; 1023 - index breaks ties alike on every interpreter.
            left = self._left
            waiting = [left[i] << 10 | (1023 - i) for i in self._others if left[i] and i != peer]
            waiting.sort(reverse=True)
            for entry in waiting[: _UPDATES - 2]:
                chosen.append(1023 - (entry & 1023))
                left[chosen[-1]] -= 1
        self.node.send(self._boards[peer], kind, fields + (self._records(chosen),))

    # What lifeguard.py does otherwise.

    def _records(self, chosen):
        return [(self._boards[i], self._states[i], self._incarnations[i]) for i in chosen]

    def _suspicion_ms(self, index):
        return self.node.config.suspicion_ms

    def _hear_from(self, peer, updates):
        self._hear(updates)

    def _hear(self, updates):
        for board, state, incarnation in updates:
            index = self._index.get(board)
            if index is None or state > _DEAD or incarnation > _MOST:
                continue
            known = self._incarnations[index]
            current = self._states[index]
            if state == _DEAD and current != _DEAD:
                state = _SUSPECT
            if incarnation < known or (incarnation == known and state <= current):
                continue
            if index == self._me:
                self._incarnate(incarnation + 1)
                self.node.emit(schema.MEMBER, (board, _ALIVE, incarnation + 1))
                continue
            self._change(index, state, incarnation)

    def _incarnate(self, incarnation):
        self._incarnations[self._me] = incarnation
        self.node.persist(schema.JOURNAL_INCARNATION, codec.pack("u", (incarnation,)))

    def _change(self, index, state, incarnation):
        before = self._states[index]
        self._states[index] = state
        self._incarnations[index] = incarnation
        self._left[index] = self._copies
        if state == _SUSPECT:
            self._deadlines[index] = self.node.now_ms + self._suspicion_ms(index)
            self._due = min(self._due, self._deadlines[index])
        elif index in self._deadlines:
            del self._deadlines[index]
        if state != before:
            self._alive = None
            self.node.emit(schema.MEMBER, (self._boards[index], state, incarnation))


PROTOCOL = Membership
