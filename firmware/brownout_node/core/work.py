"""Proof of work: who finds a hash below the target makes the next block, and the chain with the most work counts.

A block is found by SHA-256, `hashes` tries a tick; of two branches the one with more accumulated work is adopted, of
two with the same the one that was here first (Nakamoto 2008). Every `retarget` blocks the target moves, by at most 4
times, so that a block takes `interval_ms`. Boards know no time of day, so a block says how long its miner worked on it.
- A new block goes to all. A board that hears of more work than it knows asks with a few of its own blocks, and is sent
  what follows the last one in common.
- In RAM are the last `window` blocks and what branches off from them; in the journal, the last LOG of the chain. A
  branch that would undo more than `window` blocks is refused, and that is said: then somebody has to decide.
- A post (a short text) goes to all and is held until it is `confirmations` deep in the chain; who asked is told then.
  A post that is not in after `window` blocks is forgotten, so that it cannot get in twice: its client hears nothing.
- A board that lost its journal takes over another's chain from the oldest block that is offered, on trust. It does not
  begin a chain of its own unless all others say that they have none either.
Must not call final what is less than `confirmations` deep. What is deeper may still be undone: that is improbable only
as long as links are faster than blocks, and one side of a split has most of the hashes.
"""

import hashlib

from . import codec, schema
from .errors import ConfigError, MessageError

try:
    from micropython import const
except ImportError:
    const = int

BLOCK = 136
POST = 137
TIP = 138
LOCATE = 139
BLOCKS = 140
ASK_POST = 136  # the operation

MESSAGES = (
    (BLOCK, "work_block", "block:b"),
    (POST, "work_post", "client:u request:u value:t"),
    (TIP, "work_tip", "height:u total:u id:d"),
    (LOCATE, "work_locate", "empty:o known:[ud]10"),  # (height, id), the best known first
    # follow one of those known, or, anchor, nothing that the asker knows; total and id of the sender's tip
    (BLOCKS, "work_blocks", "anchor:o total:u id:d blocks:[b]6"),
)
EVENTS = (
    (136, "mined", "height:u id:d parent:d target:u elapsed_ms:u"),
    (137, "adopted", "height:u id:d parent:d target:u total:u miner:u elapsed_ms:u"),  # now part of this board's chain
    (138, "reorganised", "depth:u height:u old:d new:d"),  # so many blocks, above that height, were undone
    (139, "included", "height:u id:d client:u request:u value:v"),  # a post of an adopted block
    (140, "fork_refused", "height:u id:d source:u"),  # it would undo more than the window, or shares nothing with it
)
OPERATIONS = ((ASK_POST, "post"),)
OPTIONS = (
    "bits:10:1:24 hashes:20:1:2000 interval_ms:2000:100:600000 retarget:8:0:32 window:16:4:32 confirmations:6:1:32"
)

LOG = 96  # blocks of the chain in the journal, for boards that catch up
ONE = 1 << 30  # a hash is its first 30 bits; so many tries are expected, divided by the target
_EASIEST = 1 << 29
_HARDEST = 1 << 8
_TIP_KEY = 0x22000  # height, and the lowest height of this board's chain
_LOG_KEY = 0x22100
_HEADER = "duuuuu[uut]4"  # parent, height, target, total, miner, elapsed_ms, posts (client, request, text)
_LONGEST_MS = const(3600000)
_POSTS = const(4)
_POOL = const(16)
_BYTES = const(430)
_SAID = const(32)  # of blocks that are refused, in a boot: a flood of rubbish must not crowd out other events

# A block as it is held: (parent, height, target, total, elapsed_ms, bytes).
_PARENT = const(0)
_HEIGHT = const(1)
_TARGET = const(2)
_TOTAL = const(3)
_ELAPSED = const(4)
_RAW = const(5)


def id_of(raw):
    """A block's name: bytes of its hash that the proof says nothing of."""
    return hashlib.sha256(raw).digest()[8:16]


def proven(raw, target):
    return hashlib.sha256(raw).digest()[:4] < (target << 2).to_bytes(4, "big")


class Work:
    kinds = (BLOCK, POST, TIP, LOCATE, BLOCKS)
    operations = (ASK_POST,)

    def __init__(self, node, stored):
        self.node = node
        self._stored = stored
        self._random = node.random("work")
        options = node.config.options_of("work", OPTIONS)
        self._hashes = options["hashes"]
        self._interval_ms = options["interval_ms"]
        self._retarget = options["retarget"]
        self._window = options["window"]
        self._confirmations = options["confirmations"]
        if self._confirmations > self._window:
            raise ConfigError("options.work.confirmations: %d; allowed: up to the window" % self._confirmations)
        self._keep = self._window + self._retarget
        self._peers = [entry[0] for entry in node.config.roster if entry[0] != node.board]
        self._lost = stored.get(schema.JOURNAL_GENESIS) is None
        self._without = []  # who said that it has no chain either
        self.blocks = {}  # id -> block
        self.main = {}  # height -> id, of the chain
        self._included = {}  # (client, request) -> height, of the chain
        self._first = 1
        self._load(stored, ONE >> options["bits"])
        self._pool = []  # [client, request, text, height when it came, whether the client waits here]
        self._nonce = self._random.below(ONE)
        self._since = node.now_ms
        self._asked_at = -60000
        self._said = 0
        self._tip_at = 0
        self._digest_at = self._random.below(node.config.digest_period_ms)

    def _load(self, stored, target):
        genesis = hashlib.sha256(("brownout work %d" % self.node.cluster).encode()).digest()[:8]
        self._genesis = genesis
        packed = stored.get(_TIP_KEY)
        height, self._first = (0, 1) if packed is None else codec.unpack("uu", packed)
        low = max(height - self._keep, self._first - 1)
        if low == 0:
            self.blocks[genesis] = (None, 0, target, 0, 0, b"")
            self.main[0] = self.best = genesis
        for at in range(max(low, self._first), height + 1):
            raw = self._logged(at)
            fields = codec.unpack(_HEADER, raw[:-4])
            self.best = self._hold(raw, fields)
            self.main[at] = self.best
            self._note(raw, at)

    # What others ask.

    def digest(self):
        return self.best

    @property
    def tip(self):
        return self.blocks[self.best]

    def on_command(self, client, request, operation, key, value, expected):
        for post in self._pool:
            if post[0] == client and post[1] == request:
                post[4] = True
                return
        height = self._included.get((client, request))
        if height is not None and self._deep(height):
            self.node.reply(client, request, schema.OK, None, height)
        elif value is None:
            self.node.reply(client, request, schema.REFUSED, None, 0)
        elif not self._pool_in(client, request, value, True):
            self.node.reply(client, request, schema.BUSY, None, 0)
        else:
            self.node.send(schema.ALL, POST, (client, request, value))

    def _pool_in(self, client, request, text, waits):
        if len(self._pool) >= _POOL:
            return False
        self._pool.append([client, request, text, self.tip[_HEIGHT], waits])
        return True

    def _deep(self, height):
        return self.tip[_HEIGHT] - height + 1 >= self._confirmations

    # Time.

    def on_tick(self):
        node = self.node
        now = node.now_ms
        if now >= self._tip_at:
            self._tip_at = (
                now + node.config.sync_period_ms * 3 // 4 + self._random.below(node.config.sync_period_ms // 2 + 1)
            )
            node.send(schema.ALL, TIP, (self.tip[_HEIGHT], self.tip[_TOTAL], self.best))
            for post in self._pool:
                if post[4] and (post[0], post[1]) not in self._included:
                    node.send(schema.ALL, POST, (post[0], post[1], post[2]))
        if now >= self._digest_at:
            self._digest_at = now + node.config.digest_period_ms
            deep = max(0, self.tip[_HEIGHT] + 1 - self._confirmations)
            if deep in self.main:
                node.emit(schema.DIGEST, ("work", deep, self.main[deep], self.tip[_HEIGHT]))
        if self.tip[_HEIGHT] or not self._lost or len(self._without) == len(self._peers):
            self._mine()

    def _mine(self):
        tip = self.tip
        target = self._target_after(tip)
        elapsed = max(1, min(_LONGEST_MS, self.node.now_ms - self._since))
        posts = [tuple(post[:3]) for post in self._pool if (post[0], post[1]) not in self._included][:_POSTS]
        fields = (self.best, tip[_HEIGHT] + 1, target, tip[_TOTAL] + ONE // target, self.node.board, elapsed, posts)
        body = codec.pack(_HEADER, fields)
        limit = (target << 2).to_bytes(4, "big")
        nonce = self._nonce
        for _try in range(self._hashes):
            nonce = (nonce + 1) % ONE
            raw = body + nonce.to_bytes(4, "big")
            if hashlib.sha256(raw).digest()[:4] < limit:
                block = self._hold(raw, fields)
                self.node.emit(136, (fields[1], block, fields[0], target, elapsed))
                self._adopt(block, self.node.board)
                self.node.send(schema.ALL, BLOCK, (raw,))
                break
        self._nonce = nonce

    def _target_after(self, block):
        """The target that the next block has to meet."""
        target = block[_TARGET]
        if not self._retarget or not block[_HEIGHT] or block[_HEIGHT] % self._retarget:
            return target
        elapsed = 0
        for _block in range(self._retarget):
            elapsed += block[_ELAPSED]
            block = self.blocks.get(block[_PARENT], block)
        wanted = self._interval_ms * self._retarget
        moved = target * max(wanted // 4, min(wanted * 4, elapsed)) // wanted
        return max(_HARDEST, min(_EASIEST, moved))

    # Messages.

    def on_message(self, source, kind, fields):
        if source not in self._peers:
            return
        if kind == BLOCK:
            self._receive(source, fields[0], False)
        elif kind == POST:
            self._on_post(fields[0], fields[1], fields[2])
        elif kind == TIP:
            if not fields[1] and source not in self._without:
                self._without.append(source)
            if fields[1] > self.tip[_TOTAL] and fields[2] not in self.blocks:
                self._ask(source, None)
        elif kind == LOCATE:
            self._on_locate(source, fields[0], fields[1])
        else:
            self._on_blocks(source, fields)

    def _on_post(self, client, request, text):
        for post in self._pool:
            if post[0] == client and post[1] == request:
                return
        if (client, request) not in self._included:
            self._pool_in(client, request, text, False)

    def _ask(self, source, branch):
        """Ask for what follows; `branch`: the last block of a branch of theirs that is known already."""
        now = self.node.now_ms
        if branch is None and now < self._asked_at + self.node.config.resend_ms:
            return
        self._asked_at = now
        known = [] if branch is None else [(self.blocks[branch][_HEIGHT], branch)]
        height = self.tip[_HEIGHT]
        back = 0
        while height - back in self.main:
            known.append((height - back, self.main[height - back]))
            back = back * 2 if back > 1 else back + 1
        low = min(self.main)
        known.append((low, self.main[low]))
        self.node.send(source, LOCATE, (height == 0, known))

    def _on_locate(self, source, empty, known):
        top = self.tip[_HEIGHT]
        anchor = False
        start = 0
        for height, name in known:
            if self._known(height, name):
                start = height + 1
                break
        else:
            anchor = empty
            at = max(self._first, top - LOG + 1)
            while anchor and at <= top and self._retarget > 1 and at % self._retarget != 1:
                at += 1  # from the first block of a period on, the next target can be told
            start = at if anchor else top + 1
        batch = []
        size = 0
        while start <= top and len(batch) < 6:
            raw = self._logged(start)
            size += 3 + (0 if raw is None else len(raw))
            if raw is None or size > _BYTES:
                break
            batch.append((raw,))
            start += 1
        self.node.send(source, BLOCKS, (anchor, self.tip[_TOTAL], self.best, batch))

    def _known(self, height, name):
        """Whether that block is in the chain, and what follows it can be sent."""
        if height == 0:
            return name == self._genesis and self._first == 1 and self._logged(1) is not None
        return height <= self.tip[_HEIGHT] and self._logged(height, name) is not None

    def _logged(self, height, name=None):
        """The chain's block at that height, from the journal; None where it is not there, or is not `name`."""
        raw = self._stored.get(_LOG_KEY + height % LOG)
        if raw is None or codec.unpack(_HEADER, raw[:-4])[1] != height or (name is not None and id_of(raw) != name):
            return None
        return raw

    def _on_blocks(self, source, fields):
        anchor, total, tip, batch = fields
        block = None
        for entry in batch:
            block = self._receive(source, entry[0], anchor)
            if block is None:
                return
        if not batch and total > self.tip[_TOTAL] and tip not in self.blocks and self.tip[_HEIGHT]:
            self._refuse(self.tip[_HEIGHT], tip, source)
        elif block is not None and total > self.tip[_TOTAL] and tip not in self.blocks:
            self._ask(source, block)

    # Blocks.

    def _receive(self, source, raw, anchor):
        """Take a block; its name where it is known now, else None."""
        try:
            fields = codec.unpack(_HEADER, raw[:-4])
        except MessageError as error:
            self._reject(source, str(error))
            return None
        name = id_of(raw)
        if name in self.blocks:
            return name
        parent = self.blocks.get(fields[0])
        if parent is None and not (anchor and not self.tip[_HEIGHT]):
            if fields[3] > self.tip[_TOTAL]:
                self._ask(source, None)
            return None
        fault = self._fault(raw, fields, parent)
        if fault is not None:
            self._reject(source, fault)
            return None
        if parent is None:
            self._first = fields[1]
        elif self.main.get(parent[_HEIGHT]) == fields[0] and self.tip[_HEIGHT] - parent[_HEIGHT] > self._window:
            if fields[3] > self.tip[_TOTAL]:
                self._refuse(fields[1], name, source)
                return None
        self._hold(raw, fields)
        if fields[3] > self.tip[_TOTAL]:
            self._adopt(name, source)
        return name if name in self.blocks else None

    def _fault(self, raw, fields, parent):
        """What is wrong with a block; None where nothing is. Without a parent: as far as it shows."""
        if not _HARDEST <= fields[2] <= _EASIEST or not proven(raw, fields[2]):
            return "work: no proof"
        if not 0 < fields[5] <= _LONGEST_MS or fields[4] not in self.node.config.names:
            return "work: not a miner's"
        if parent is None:
            return None
        if fields[1] != parent[_HEIGHT] + 1 or fields[2] != self._target_after(parent):
            return "work: another target"
        if fields[3] != parent[_TOTAL] + ONE // fields[2]:
            return "work: another total"
        for post in fields[6]:
            if self._has(parent, post):
                return "work: a post twice"
        return None

    def _has(self, block, post):
        for _block in range(self._window):
            if block is None or not block[_HEIGHT]:
                break
            for other in codec.unpack(_HEADER, block[_RAW][:-4])[6]:
                if other[:2] == post[:2]:
                    return True
            block = self.blocks.get(block[_PARENT])
        return False

    def _hold(self, raw, fields):
        name = id_of(raw)
        self.blocks[name] = (fields[0], fields[1], fields[2], fields[3], fields[5], raw)
        return name

    def _reject(self, source, reason):
        self._said += 1
        if self._said <= _SAID:
            self.node.emit(schema.REJECTED, (source, reason[:64]))

    def _refuse(self, height, name, source):
        self._said += 1
        if self._said <= _SAID:
            self.node.emit(140, (height, name, source))

    # The chain.

    def _adopt(self, name, source):
        """Make the branch that ends in `name` the chain."""
        branch = []
        at = name
        block = self.blocks[at]
        anchor = block[_HEIGHT] == self._first and not self.tip[_HEIGHT]
        while block is not None and self.main.get(block[_HEIGHT]) != at:
            branch.append(at)
            at = block[_PARENT]
            block = self.blocks.get(at)
        old = self.best
        top = self.tip[_HEIGHT]
        low = block[_HEIGHT] if block is not None else branch and self.blocks[branch[-1]][_HEIGHT] - 1
        if (block is None and not anchor) or top - low > self._window:
            self._refuse(self.blocks[name][_HEIGHT], name, source)
            for other in branch:
                del self.blocks[other]
            return
        for height in range(low + 1, top + 1):
            for post in self._posts(self.main.pop(height)):
                self._included.pop(post[:2], None)
        self.best = name
        if top > low:
            self.node.emit(138, (top - low, low, old, name))
        branch.reverse()
        for other in branch:
            self._append(other)
        self.node.persist(_TIP_KEY, codec.pack("uu", (self.tip[_HEIGHT], self._first)))
        self._since = self.node.now_ms
        self._settle()
        self._prune()

    def _posts(self, name):
        raw = self.blocks[name][_RAW]
        return codec.unpack(_HEADER, raw[:-4])[6] if raw else ()

    def _append(self, name):
        parent, height, target, total, elapsed, raw = self.blocks[name]
        self.main[height] = name
        self.node.persist(_LOG_KEY + height % LOG, raw)
        miner = codec.unpack(_HEADER, raw[:-4])[4]
        self.node.emit(137, (height, name, parent, target, total, miner, elapsed))
        for post in self._note(raw, height):
            self.node.emit(139, (height, name) + post)

    def _note(self, raw, height):
        posts = codec.unpack(_HEADER, raw[:-4])[6]
        for post in posts:
            self._included[post[:2]] = height
        return posts

    def _settle(self):
        """Answer what is deep enough, forget what did not get in for too long."""
        rest = []
        for post in self._pool:
            height = self._included.get((post[0], post[1]))
            if height is not None and self._deep(height):
                if post[4]:
                    self.node.reply(post[0], post[1], schema.OK, None, height)
            elif height is not None or self.tip[_HEIGHT] - post[3] < self._window:
                rest.append(post)
        self._pool = rest

    def _prune(self):
        top = self.tip[_HEIGHT]
        sides = []
        for name in sorted(self.blocks):
            block = self.blocks[name]
            if self.main.get(block[_HEIGHT]) == name:
                if block[_HEIGHT] < top - self._keep:
                    for post in self._posts(name):
                        self._included.pop(post[:2], None)
                    del self.blocks[name]
                    del self.main[block[_HEIGHT]]
            elif block[_HEIGHT] <= top - self._window:
                del self.blocks[name]
            else:
                sides.append((block[_TOTAL], name))
        sides.sort()
        for _total, name in sides[: -2 * self._window]:
            del self.blocks[name]


PROTOCOL = Work
