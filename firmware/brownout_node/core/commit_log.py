"""Decisions of commit.py as entries of the voted log: the first that the log has for a transaction is its outcome.

A coordinator has `slots` registers of the vote's store, txn/<coordinator>/<slot>; a decision is a compare-and-set of
one from what it held before to "<number> commit <shards>" or "<number> abort". Numbers ascend in a slot, and no
coordinator uses a slot again before all shards have done what was committed there. So a compare-and-set that comes
late finds another value and changes nothing; who finds a higher number than its own knows that its was not committed.

A board has one session of the log, FIRST_OWN + board, and asks for one thing at a time: what is decided later can never
be an older request of an earlier life. Its first one is a read; the board's registers are up to date once that is done.
Must not decide anything itself, and must not say an outcome that this board's copy of the log does not hold.
"""

from . import schema
from .errors import ConfigError


class Decisions:
    """changed(): called when the log has grown. ready: this board's registers hold all that it asked for before."""

    def __init__(self, node, slots, changed):
        self.node = node
        self.vote = node.protocol("vote")
        if self.vote is None:
            raise ConfigError("options.commit.non_blocking: 1; vote has to stand before commit in the protocols")
        boards = len(node.config.roster)
        if boards * slots > schema.MAX_KEYS or boards >= schema.MAX_SESSIONS:
            raise ConfigError("options.commit.slots: %d; the log has room for %d" % (slots, schema.MAX_KEYS // boards))
        self.ready = False
        self._changed = changed
        self._client = schema.FIRST_OWN + node.board
        self._request = node.boot << 24
        self._current = None  # the command that the log has to settle
        self._jobs = [None]  # (coordinator, slot, number, value), in order; None: read
        self.vote.watch = self._on_log

    def _register(self, coordinator, slot):
        row = self.vote.register.values.get("txn/%d/%d" % (coordinator, slot))
        return None if row is None else row[1]

    def look(self, coordinator, slot):
        """(number, shards) of what the log decided last in that slot, shards None for an abort; (0, None): nothing."""
        value = self._register(coordinator, slot)
        if value is None:
            return 0, None
        words = value.split()
        return int(words[0]), None if words[1] == "abort" else [int(word) for word in words[2:]]

    def propose(self, coordinator, slot, number, shards):
        """Ask the log for an outcome: commit on these shards, or abort where that is None."""
        words = [str(number), "abort" if shards is None else "commit"]
        job = (coordinator, slot, number, " ".join(words + [str(shard) for shard in shards or ()]))
        if job not in self._jobs:
            self._jobs.append(job)
        self.on_tick()

    def on_tick(self):
        if self._current is None and self._next() and self.vote.propose(self._current) is False:
            self._current = None  # no room: again later

    def _next(self):
        """Make the next command of what is still open."""
        while self._jobs:
            job = self._jobs[0]
            if job is None:
                command = (schema.GET, "txn/%d/0" % self.node.board, None, None)
            else:
                coordinator, slot, number, value = job
                if self.look(coordinator, slot)[0] >= number:
                    self._jobs.pop(0)
                    continue
                command = (schema.CAS, "txn/%d/%d" % (coordinator, slot), value, self._register(coordinator, slot))
            self._request += 1
            self._current = (self._client, self._request) + command
            return True
        return False

    def _on_log(self):
        # The vote is in the middle of a decision: what follows from it is only put in line there.
        current = self._current
        if current is not None and self.vote.register.outcome(current[0], current[1]) is not None:
            self._current = None
            if self._jobs[0] is None:
                self._jobs.pop(0)
                self.ready = True
        self._changed()
        if self._current is None and self._next() and self.vote.pool.submit(self._current) is False:
            self._current = None
