"""Snowball: one value for each key, found by asking a few boards at random again and again (Team Rocket et al. 2019).

A board that is asked for a value, or hears of a key for the first time, prefers what it heard. Then it polls: it asks
`k` boards drawn at random what they prefer. Where at least `alpha` say the same, that value has one success more; the
value with the most successes is preferred, and after `beta` polls in a row with the same outcome it is accepted. A poll
without such an outcome breaks the row, and so does one whose answers do not come within `query_ms`, though asked for
again.
- Agreement is probable, not certain: how probable follows from k, alpha, beta and the number of boards.
- Preferences and what is accepted are durable before they are told; a reboot forgets the counts only.
- Bounds: `keys` keys, 4 values of each (others are answered, and never preferred), 16 clients that wait.
Must not change what it has accepted, and must not tell a client of a value before that.
"""

import hashlib

from . import codec, schema
from .errors import ConfigError

QUERY = 144
ANSWER = 145
KNOWN = 146
CHOOSE = 144
CHOSEN = 145

MESSAGES = (
    (QUERY, "sample_query", "poll:u key:k value:t"),  # value: what the asker prefers
    (ANSWER, "sample_answer", "poll:u key:k value:t"),
    (KNOWN, "sample_known", "preferred:[kt]40"),  # for boards that have not heard of these keys
)
EVENTS = (
    (144, "preferred", "key:k value:t polls:u"),
    (145, "accepted", "key:k value:t polls:u unclear:u"),  # unclear: how many of the polls had no outcome
)
OPERATIONS = (
    (CHOOSE, "choose"),  # ok: it was accepted; mismatch: another value was, which the answer holds
    (CHOSEN, "chosen"),
)
OPTIONS = "k:5:1:20 alpha:4:1:20 beta:8:1:200 query_ms:600:10:60000 keys:16:1:64"

_KEY = 0x23000  # + slot: (key, preferred, whether it is accepted)
_RECORD = "kto"
_VALUES = 4
_WAITERS = 16
_BYTES = 440  # of what is known: what MAX_MESSAGE leaves beside the longest header


class Decision:
    """One key. successes: value -> polls that it won."""

    def __init__(self, slot, value, accepted):
        self.slot = slot
        self.value = value
        self.accepted = accepted
        self.successes = {value: 0}
        self.last = None
        self.row = 0
        self.polls = 0
        self.unclear = 0
        self.poll = 0  # the number of the poll under way; 0: none
        self.asked = []  # who has yet to answer
        self.answers = {}
        self.until_ms = 0
        self.again_ms = 0


class Sampling:
    kinds = (QUERY, ANSWER, KNOWN)
    operations = (CHOOSE, CHOSEN)

    def __init__(self, node, stored):
        self.node = node
        self._random = node.random("sampling")
        options = node.config.options_of("sampling", OPTIONS)
        if not options["k"] < 2 * options["alpha"] <= 2 * options["k"]:
            raise ConfigError("options.sampling.alpha: %d; allowed: more than half of k, up to k" % options["alpha"])
        self._peers = [entry[0] for entry in node.config.roster if entry[0] != node.board]
        self.k = min(options["k"], len(self._peers))
        self.alpha = -(-options["alpha"] * self.k // options["k"])
        self._beta = options["beta"]
        self._query_ms = options["query_ms"]
        self._most = options["keys"]
        self.keys = {}
        self._waiting = []  # (client, request, key, value)
        self._number = self._random.below(1 << 28)  # an answer to an earlier boot must not count
        self._reported = None
        self._told = ""  # the last key that was told to somebody
        for slot in range(self._most):
            packed = stored.get(_KEY + slot)
            if packed is not None:
                key, value, accepted = codec.unpack(_RECORD, packed)
                self.keys[key] = Decision(slot, value, accepted)
        self._wake_at = self._random.below(node.config.sync_period_ms)
        self._digest_at = self._random.below(node.config.digest_period_ms)

    def digest(self):
        """Of what is accepted."""
        state = hashlib.sha256()
        for key in sorted(self.keys):
            if self.keys[key].accepted:
                state.update(codec.pack("kt", (key, self.keys[key].value)))
        return state.digest()[:8]

    # Clients.

    def on_command(self, client, request, operation, key, value, expected):
        decision = self.keys.get(key)
        if operation == CHOSEN:
            chosen = decision.value if decision is not None and decision.accepted else None
            self.node.reply(client, request, schema.OK, chosen, 0)
        elif value is None:
            self.node.reply(client, request, schema.REFUSED, None, 0)
        elif decision is None and len(self.keys) >= self._most:
            self.node.reply(client, request, schema.FULL, None, 0)
        elif decision is not None and decision.accepted:
            self._answer((client, request, key, value), decision)
        elif len(self._waiting) >= _WAITERS:
            self.node.reply(client, request, schema.BUSY, None, 0)
        else:
            if (client, request, key, value) not in self._waiting:
                self._waiting.append((client, request, key, value))
            if decision is None:
                self._begin(key, value)
                self.node.send(schema.ALL, KNOWN, ([(key, value)],))

    def _answer(self, waiter, decision):
        status = schema.OK if waiter[3] == decision.value else schema.MISMATCH
        self.node.reply(waiter[0], waiter[1], status, decision.value, decision.polls)

    # Time.

    def on_tick(self):
        now = self.node.now_ms
        for key in sorted(self.keys):
            decision = self.keys[key]
            if not decision.accepted:
                if decision.poll and now >= decision.until_ms:
                    self._end(key, decision, None)
                elif decision.poll and now >= decision.again_ms:
                    self._query(key, decision)
                if not decision.poll and not decision.accepted:
                    self._poll(key, decision)
        if now >= self._wake_at:
            self._wake_at = now + self.node.config.sync_period_ms
            for peer in self._random.sample(self._peers, 1):
                self._tell(peer)
        if now >= self._digest_at:
            self._digest_at = now + self.node.config.digest_period_ms
            digest = self.digest()
            if digest != self._reported:
                self._reported = digest
                count = len([key for key in self.keys if self.keys[key].accepted])
                self.node.emit(schema.DIGEST, ("sampling", 0, digest, count))

    def _tell(self, peer):
        """As many keys as fit, each time the next ones: a board may have been asked of none of them."""
        keys = sorted(self.keys)
        keys = [key for key in keys if key > self._told] + [key for key in keys if key <= self._told]
        batch = []
        size = 0
        for key in keys:
            entry = (key, self.keys[key].value)
            size += len(codec.pack("kt", entry))
            if size > _BYTES or len(batch) == 40:
                break
            batch.append(entry)
            self._told = key
        if batch:
            self.node.send(peer, KNOWN, (batch,))

    # Messages.

    def on_message(self, source, kind, fields):
        if source not in self._peers:
            return
        if kind == KNOWN:
            for key, value in fields[0]:
                if key not in self.keys and len(self.keys) < self._most:
                    self._begin(key, value)
            return
        poll, key, value = fields
        decision = self.keys.get(key)
        if kind == QUERY:
            if decision is None:
                if len(self.keys) >= self._most:
                    return
                decision = self._begin(key, value)
            self.node.send(source, ANSWER, (poll, key, decision.value))
        elif decision is not None and poll == decision.poll and source in decision.asked:
            decision.asked.remove(source)
            answers = decision.answers
            answers[value] = answers.get(value, 0) + 1
            if answers[value] >= self.alpha:
                self._end(key, decision, value)
            elif not decision.asked:
                self._end(key, decision, None)

    # Polls.

    def _begin(self, key, value):
        taken = [decision.slot for decision in self.keys.values()]
        slot = 0
        while slot in taken:
            slot += 1
        decision = self.keys[key] = Decision(slot, value, False)
        self._prefer(key, decision, value)
        if not self._peers:
            self._accept(key, decision, value)
        return decision

    def _poll(self, key, decision):
        self._number += 1
        decision.poll = self._number
        decision.asked = self._random.sample(self._peers, self.k)
        decision.answers = {}
        decision.until_ms = self.node.now_ms + self._query_ms
        self._query(key, decision)

    def _query(self, key, decision):
        decision.again_ms = self.node.now_ms + self.node.config.resend_ms
        for peer in decision.asked:
            self.node.send(peer, QUERY, (decision.poll, key, decision.value))

    def _end(self, key, decision, value):
        """A poll is over; `value`: what at least alpha prefer, or None."""
        decision.poll = 0
        decision.polls += 1
        successes = decision.successes
        if value is None or (value not in successes and len(successes) >= _VALUES):
            decision.row = 0
            decision.unclear += 1
            return
        successes[value] = successes.get(value, 0) + 1
        if value != decision.value and successes[value] > successes[decision.value]:
            self._prefer(key, decision, value)
        decision.row = decision.row + 1 if value == decision.last else 1
        decision.last = value
        if decision.row >= self._beta:
            self._accept(key, decision, value)

    def _prefer(self, key, decision, value):
        decision.value = value
        self.node.persist(_KEY + decision.slot, codec.pack(_RECORD, (key, value, False)))
        self.node.emit(144, (key, value, decision.polls))

    def _accept(self, key, decision, value):
        decision.value = value
        decision.accepted = True
        self.node.persist(_KEY + decision.slot, codec.pack(_RECORD, (key, value, True)))
        self.node.emit(145, (key, value, decision.polls, decision.unclear))
        for waiter in self._waiting:
            if waiter[2] == key:
                self._answer(waiter, decision)
        self._waiting = [waiter for waiter in self._waiting if waiter[2] != key]


PROTOCOL = Sampling
