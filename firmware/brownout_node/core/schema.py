"""THE wire, event and journal schema: one table, append-only.

Everything that crosses a wire, a serial cable or a power cut is named here once. Ids are never reused:
a retired row keeps its id and says so. The reference page in docs/ is generated from these rows.
This file must not import anything but its siblings' constants; it holds no behaviour.

A row is (id, name, fields); fields are `name:type` separated by spaces. Types:
  u  unsigned integer below 2**63        i  signed integer, magnitude below 2**63
  o  boolean                             k  text, 1 to 32 bytes of UTF-8 (a key or a short name)
  t  text, at most 64 bytes              v  text of at most 64 bytes, or null (a value)
  d  8 bytes, or null (a digest or id)   b  bytes, at most 400
  [...]n  a list of at most n tuples of the types inside
"""

VERSION = 1  # first element of every protocol message
MAX_MESSAGE = 512  # bytes, header included; a transport may promise less (250)

# Addresses that are not one board.
ALL = 0  # every board of the bed; board ids start at 1
VOTERS = -1  # the boards with weight above zero
HOST = -2  # the controller: clients and telemetry

# A protocol message is the CBOR array [VERSION, cluster, source, boot, sequence, kind, *fields].
HEADER = "version:u cluster:u source:u boot:u sequence:u kind:u"

PING = 16
PING_REQUEST = 17
ACK = 18
RUMOUR = 32
SYNC = 33
REPAIR = 34
NEWS = 35
REQUEST = 48
PROPOSAL = 49
PREVOTE = 50
PRECOMMIT = 51
FETCH = 52
ENTRIES = 53
STATE_FETCH = 54
STATE_PAGE = 55
COMMAND = 64
REPLY = 65
TRAP = 80
DESCRIBE = 81
TELEMETRY_ACK = 82

MESSAGES = (
    # membership (SWIM). An update is (board, state, incarnation).
    (PING, "ping", "probe:u updates:[uuu]8"),
    (PING_REQUEST, "ping_request", "probe:u target:u updates:[uuu]8"),
    (ACK, "ack", "probe:u target:u updates:[uuu]8"),
    # gossip. An item is (key, value or null for a tombstone, stamp, writer, number): stamp is the writer's hybrid
    # logical clock, number counts the writer's own updates from 1. A version vector entry is (writer, number). A writer
    # that lost its journal counts from boot * 2**24 + 1. digest is null in a reply; stamp is the sender's clock.
    (RUMOUR, "rumour", "items:[kvuuu]4"),
    (SYNC, "sync", "exchange:u page:u pages:u reply:o versions:[uu]40 digest:d"),
    (REPAIR, "repair", "exchange:u last:o items:[kvuuu]4 versions:[uu]12 stamp:u"),
    (NEWS, "news", "updates:[ku]4"),  # (key, stamp) of what was new in a rumour; only with gossip_feedback
    # vote. value is an encoded BATCH; value_id its first 8 bytes of SHA-256, null votes for nothing.
    (REQUEST, "request", "client:u request:u operation:u key:k value:v expected:v"),
    (PROPOSAL, "proposal", "height:u round:u valid_round:i value:b"),
    (PREVOTE, "prevote", "height:u round:u value_id:d"),
    (PRECOMMIT, "precommit", "height:u round:u value_id:d"),
    (FETCH, "fetch", "height:u"),  # "my next undecided height"
    (ENTRIES, "entries", "first:u next:u values:[b]8"),  # decided values from `first`; sender's next undecided height
    (STATE_FETCH, "state_fetch", "height:u page:u"),
    (STATE_PAGE, "state_page", "height:u page:u pages:u data:b"),
    # clients and the controller; source is the client's id, at least FIRST_CLIENT.
    (COMMAND, "command", "request:u operation:u key:k value:v expected:v"),
    (REPLY, "reply", "client:u request:u status:u value:v height:u"),
    (TRAP, "trap", "point:u count:u action:u"),
    (DESCRIBE, "describe", "request:u"),
    (TELEMETRY_ACK, "telemetry_ack", "boot:u sequence:u"),  # every event of that boot up to and including it arrived
)

FIRST_CLIENT = 1000
FIRST_OWN = 0x20000000  # + board, up to LAST_OWN: what a board itself asks of the log; nobody waits for the answer
LAST_OWN = 0x200003E7

# One decided value: the commands of a batch, in order. A batch that fits a proposal is at most 384 bytes.
BATCH = "[uuukvv]8"  # (client, request, operation, key, value, expected)
MAX_BATCH_BYTES = 384

# Operations. Those of the log are linearizable; those of gossip are eventually the same everywhere.
PUT = 1
GET = 2
CAS = 3
ADMIT = 4  # key: decimal board id, value: decimal boot; made by boards, never by clients
WRITE = 16
DELETE = 17
READ = 18
OPERATIONS = (
    (PUT, "put"),
    (GET, "get"),
    (CAS, "cas"),
    (ADMIT, "admit"),
    (WRITE, "write"),
    (DELETE, "delete"),
    (READ, "read"),
)

# Reply status. `busy`, `full`, `expired` and `refused` mean that the operation definitely did not happen.
OK = 0
MISMATCH = 1  # cas: the key did not hold `expected`
BUSY = 2  # the board's bounded queue of pending requests is full
FULL = 3  # the store's bounded number of keys is reached
EXPIRED = 4  # the client's session was evicted; take a new client id
REFUSED = 5  # the board cannot serve this operation (unknown, or it is still catching up)
STALE = 6  # the answer to a read is the board's own state, which may be behind
STATUSES = (
    (OK, "ok"),
    (MISMATCH, "mismatch"),
    (BUSY, "busy"),
    (FULL, "full"),
    (EXPIRED, "expired"),
    (REFUSED, "refused"),
    (STALE, "stale"),
)

# Membership states, in the order in which they override each other at the same incarnation.
ALIVE = 0
SUSPECT = 1
DEAD = 2

# Trap points and actions.
AFTER_PERSIST = 1
AFTER_SEND = 2
HALT = 1
POWER_OFF = 2

# What a journal was found to be at boot.
JOURNAL_VALID = 0
JOURNAL_MISSING = 1
JOURNAL_INVALID = 2

# An event is the CBOR array [boot, sequence, now_ms, stamp, kind, *fields]; sequence counts from 1 in each boot.
EVENT_HEADER = "boot:u sequence:u now_ms:u stamp:u kind:u"

BOOT = 1
FILE = 2
CONNECTED = 3
REJECTED = 4
METRICS = 5
TRAPPED = 6
SAFE_MODE = 7
LOST_EVENTS = 8
DESCRIBED = 9
DIGEST = 10
FLIGHT = 11
NEWER = 12
DEGRADED = 13
MEMBER = 16
WRITTEN = 32
MERGED = 33
FORGOTTEN = 34
PROPOSED = 48
PREVOTED = 49
PRECOMMITTED = 50
DECIDED = 51
APPLIED = 52
ROUND = 53
ADMITTED = 54
CAUGHT_UP = 55
SUBMITTED = 56

EVENTS = (
    # First event of a boot: the durable state that the board starts from. journal: JOURNAL_*. may_vote: this board may
    # send votes. next_height: first undecided height. The locked and voted fields belong to next_height; -1: none.
    (
        BOOT,
        "boot",
        "implementation:t version:t firmware:d reset_cause:t journal:u may_vote:o next_height:u round:u locked_round:i"
        " locked:d prevote_round:i prevoted:d precommit_round:i precommitted:d incarnation:u gossip_number:u",
    ),
    (FILE, "file", "name:t hash:d"),  # one firmware file and its first 8 bytes of SHA-256
    (CONNECTED, "connected", "transport:k"),
    (REJECTED, "rejected", "source:i reason:t"),  # a message that was malformed, foreign or forged
    (
        METRICS,
        "metrics",
        "heap_used:u heap_free:u ticks:u late_1ms:u late_5ms:u late_20ms:u late_100ms:u late_more:u late_worst_ms:u"
        " received:u sent:u persists:u programs:u erases:u",
    ),
    (TRAPPED, "trapped", "point:u count:u action:u"),
    (SAFE_MODE, "safe_mode", "reason:t"),
    (LOST_EVENTS, "lost_events", "first:u last:u"),  # fell out of the bounded ring before they could leave
    (DESCRIBED, "described", "request:u files:u"),  # the answer to DESCRIBE is complete
    (DIGEST, "digest", "protocol:k height:u digest:d count:u"),  # state of one protocol, at a height where it has one
    (FLIGHT, "flight", "at:u data:b"),  # a piece of the boot's recording, see recorder.py; at: bytes before it
    # fields of a later release were left out, of so many messages by now; told at the 1st, 2nd, 4th, 8th, ..
    (NEWER, "newer", "source:i kind:u count:u"),
    # the flash or the heap has failed: the board takes no part and refuses clients until it can start anew
    (DEGRADED, "degraded", "reason:t"),
    (MEMBER, "member", "board:u state:u incarnation:u"),
    (WRITTEN, "written", "key:k value:v stamp:u number:u"),  # a local multi-writer write or delete, durable
    (MERGED, "merged", "key:k value:v stamp:u writer:u number:u repair:o"),  # somebody's update became the state here
    # a tombstone that every board is known to have seen, or an item that a peer deleted and forgot: no trace is kept
    (FORGOTTEN, "forgotten", "key:k stamp:u writer:u"),
    (PROPOSED, "proposed", "height:u round:u value_id:d valid_round:i"),
    (PREVOTED, "prevoted", "height:u round:u value_id:d valid_round:i"),  # valid_round: of the proposal voted for
    (PRECOMMITTED, "precommitted", "height:u round:u value_id:d"),
    (DECIDED, "decided", "height:u round:u value_id:d weight:u caught_up:o"),  # weight of the precommits that were seen
    (APPLIED, "applied", "height:u client:u request:u operation:u key:k value:v expected:v status:u result:v"),
    (ROUND, "round", "height:u round:u proposer:u"),  # entered a round above 0
    (ADMITTED, "admitted", "board:u height:u"),  # may vote from this height on
    (CAUGHT_UP, "caught_up", "first:u next:u source:u"),
    (SUBMITTED, "submitted", "client:u request:u operation:u"),  # a client's command was accepted for the log
)

# Journal keys. A record value is what codec.pack() makes of the given fields.
JOURNAL_GENESIS = 1  # cluster:u board:u ; written by the flasher, never by a board
JOURNAL_BOOT = 2  # boot:u
JOURNAL_CLOCK = 3  # ceiling:u ; no stamp above it was ever given out
JOURNAL_INCARNATION = 4  # incarnation:u
JOURNAL_STANDING = 5  # may_vote:o from_height:u ; absent on a board whose genesis stands
JOURNAL_VOTE = 16  # height:u round:u prevote_round:i prevoted:d precommit_round:i precommitted:d
JOURNAL_LOCK = 17  # height:u locked_round:i locked:d valid_round:i valid:d
JOURNAL_HEIGHT = 18  # next_height:u state_digest... ; see vote.py
JOURNAL_GOSSIP_NUMBER = 32  # number:u ; own updates written so far
JOURNAL_GOSSIP_VECTOR = 33  # + page (up to 46): versions:[uu]40 ; what was covered when something was last forgotten
JOURNAL_PROPOSED = 0x40  # + slot: proposal values of the undecided height that a vote refers to
JOURNAL_SESSION = 0x100  # + slot: client sessions
JOURNAL_REGISTER = 0x200  # + slot: registers of the voted store
JOURNAL_ITEM = 0x300  # + slot: items of the gossip store
JOURNAL_LOG = 0x10000  # + height modulo LOG_ENTRIES: decided values, kept for boards that catch up
LOG_ENTRIES = 64
MAX_KEYS = 64  # registers of the voted store; and, separately, items of the gossip store, tombstones included
MAX_SESSIONS = 32
