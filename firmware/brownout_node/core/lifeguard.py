"""Membership with local health: Lifeguard (Dadgar, Phillips, Currey, arXiv 1707.00788, 2018) on top of membership.py.

A board that is slow misses answers that came in time, and plain SWIM then suspects the healthy. Here a board doubts
itself first. Named in `protocols` in place of membership, on all boards.
- Local health: each probe without an answer, each helper that keeps silent although the target did not answer, and each
  suspicion of itself makes a board's periods and time-outs longer, up to nine times; each answer makes them shorter.
- Suspicion begins with `suspicion_most` times the suspicion time and falls to that time as other boards, by probes of
  their own, come to suspect the same one: three of them are enough.
- That whoever is suspected hears of it at the first contact is membership.py's own rule.
Helpers that get no answer say so (NACK), which tells a board that hears them that it is not itself to blame.
"""

try:
    from micropython import const
except ImportError:
    const = int

from . import schema
from .membership import Membership

NAME = "membership"  # what others ask for
MESSAGES = ((184, "nack", "probe:u target:u updates:[uuu]8"),)
OPTIONS = "suspicion_most:6:1:20 health_most:8:1:16"

_NACK = const(184)
_SUSPECT = const(1)
_SUSPECTED_BY_ME = const(3)  # as a state in an update: the sender's own probe found nobody
_CONFIRMATIONS = const(3)
_SHARE = (0, 500, 792, 1000)  # log(c + 1) / log(4) in thousandths: how far c confirmations bring the time-out down
_MOST_NACKS = const(8)  # owed to others; the oldest gives way


class Lifeguard(Membership):
    kinds = Membership.kinds + (_NACK,)

    def __init__(self, node, stored):
        options = node.config.options_of("lifeguard", OPTIONS)
        self._suspicion_most = options["suspicion_most"]
        self._health_most = options["health_most"]
        self._own = {}  # suspected board's index -> [since when, boards that confirmed it, whether our own probe did]
        self._owed = []  # (when, who asked, its number, target, our ping): helpers' NACKs
        self._asked = 0  # helpers of the probe that is going on
        self._nacks = 0
        super().__init__(node, stored)

    # Local health.

    def _feel(self, change):
        self.health = max(0, min(self._health_most, self.health + change))

    def _end_period(self):
        if self._target is not None:
            if self._answered:
                self._feel(-1)
            elif self._asked:
                self._feel(self._asked - self._nacks)  # whoever could say that it is not us
            else:
                self._feel(1)
        before = self._states[self._target] if self._target is not None else None
        super()._end_period()
        if before == 0 and self._states[self._target] == _SUSPECT:
            self._own[self._target][2] = True
        self._asked = self._nacks = 0

    def _ask_helpers(self):
        target = self._boards[self._target]
        self._asked = min(3, len([board for board in self.alive() if board != target]))
        super()._ask_helpers()

    def _incarnate(self, incarnation):
        if self._incarnations[self._me]:
            self._feel(1)  # somebody suspects us, and we refute it
        super()._incarnate(incarnation)

    # Suspicion.

    def _suspicion_ms(self, index):
        confirmed = self._own[index][1] if index in self._own else ()
        enough = min(_CONFIRMATIONS, max(0, len(self._boards) - 2))
        least = self.node.config.suspicion_ms
        if not enough:
            return least
        share = _SHARE[min(len(confirmed), enough) + _CONFIRMATIONS - enough]
        return self._suspicion_most * least - (self._suspicion_most - 1) * least * share // 1000

    def _change(self, index, state, incarnation):
        if state == _SUSPECT:
            self._own[index] = [self.node.now_ms, [], False]
        elif index in self._own:
            del self._own[index]
        super()._change(index, state, incarnation)

    def _records(self, chosen):
        mine = [index for index in self._own if self._own[index][2]]
        return [
            (self._boards[i], _SUSPECTED_BY_ME if i in mine else self._states[i], self._incarnations[i]) for i in chosen
        ]

    def _hear_from(self, peer, updates):
        suspects = [(board, incarnation) for board, state, incarnation in updates if state == _SUSPECTED_BY_ME]
        plain = [(board, _SUSPECT if state == _SUSPECTED_BY_ME else state, age) for board, state, age in updates]
        self._hear(plain)
        for board, incarnation in suspects:
            index = self._index.get(board)
            if index in self._own and self._incarnations[index] == incarnation:
                self._confirm(index, peer)

    def _confirm(self, index, peer):
        since, confirmed, _ = self._own[index]
        if peer in confirmed or len(confirmed) >= _CONFIRMATIONS:
            return
        confirmed.append(peer)
        self._left[index] = self._copies  # worth passing on again
        self._deadlines[index] = since + self._suspicion_ms(index)
        self._due = min(self._due, self._deadlines[index])

    # Messages.

    def on_message(self, source, kind, fields):
        peer = self._index.get(source)
        if peer is None:
            return
        if kind == _NACK:
            self._hear_from(peer, fields[-1])
            if fields[0] == self._probe and self._index.get(fields[1]) == self._target:
                self._nacks += 1
            return
        super().on_message(source, kind, fields)
        if kind == schema.PING_REQUEST and self._relays and self._relays[-1][1:3] == (peer, fields[0]):
            when = self.node.now_ms + self.node.config.probe_timeout_ms * 4 // 5
            self._owed = self._owed[1 - _MOST_NACKS :]
            self._owed.append((when, peer, fields[0], fields[1], self._relays[-1][0]))
            self._due = min(self._due, when)

    def on_tick(self):
        now = self.node.now_ms
        for owed in [owed for owed in self._owed if now >= owed[0]]:
            self._owed.remove(owed)
            if [relay for relay in self._relays if relay[0] == owed[4]]:  # its answer has not come
                self._send(owed[1], _NACK, (owed[2], owed[3]))
        super().on_tick()
        for owed in self._owed:
            self._due = min(self._due, owed[0])


PROTOCOL = Lifeguard
