"""A board's configuration: checked once, completely, before anything starts; the host checks the same document.

Config(document) takes what config.json holds. Required: cluster, board, bed, seed, roster ([board, name, weight], ..).
Optional: protocols, options, keys, the timings below, mesh and telemetry ("serial" | "mqtt"), mqtt, routes, wifi,
watchdog_ms, and name (which then must be the roster's). Every fault is a ConfigError that names the key and says what
is allowed. This file must not read files or act on anything.

    options: {"work": {"difficulty_bits": 14}}, by protocol; integers, as the protocol's own OPTIONS say
    keys: [[2, "00..ff"], ..], 32 bytes in hexadecimal that this board shares with that one and with nobody else
    mqtt: {"host": "10.0.0.1", "port": 1883, "user": "b1", "password": None, "keep_alive_s": 10, "tls": None}
    tls:  {"ca": "/ca.der", "cert": "/b1.der", "key": "/b1.key", "server_name": "broker"}, each optional
    routes: [["north"], ["south", "10.0.1.1", 1883], ["serial"]], 2 to 4 in order of preference: the name of the broker
            in mqtt, others that take the same user, and last, perhaps, the cable
    wifi: {"ssid": "bed", "password": "secret", "address": "10.0.0.11/24", "gateway": "10.0.0.1"}, the last two optional
"""

from binascii import unhexlify

from .options import Options, fail, number, numbers
from .schema import FIRST_CLIENT

# key:default:least:most, no default where required. One text, since tuples of numbers would cost twice the heap.
_NUMBERS = (
    "cluster::0:1073741823 board::1:999 seed::0:9223372036854775807 tick_ms:50:1:1000 gossip_period_ms:200:10:60000"
    " gossip_fanout:2:1:8 sync_period_ms:1000:10:600000 probe_period_ms:500:10:60000 probe_timeout_ms:200:5:60000"
    " suspicion_ms:2000:10:600000 propose_timeout_ms:400:10:60000 vote_timeout_ms:300:10:60000"
    " timeout_step_ms:200:0:60000 resend_ms:150:10:60000 fetch_period_ms:400:10:60000 digest_period_ms:1000:10:600000"
    " metrics_period_ms:2000:10:600000 watchdog_ms:8000:0:8300"  # 0: no watchdog; an RP2040 cannot count further
    " gossip_rounds:0:0:1000"  # periods in which an update is pushed; 0: enough for the size of the roster
    " gossip_feedback:0:0:1"  # 1: receivers answer what was new to them, and then those periods begin anew
    " gossip_early:1:0:1"  # 0: news waits for the period, so that rounds are rounds
    " random_order:0:0:1"  # 1: whom to probe and to repair with is drawn anew each time, not from a shuffled lap
    " flight:0:0:1"  # 1: the flight recorder runs
)
_WORD = "abcdefghijklmnopqrstuvwxyz0123456789_-"
_RESERVED = "all voters host"  # names of addresses in topics and on cables
_MOST_BOARDS = 200


def _text(key, value, most=128):
    if not isinstance(value, str) or not 0 < len(value.encode()) <= most:
        fail(key, value, "text, 1 to %d bytes" % most)
    return value


def _word(key, value, allowed=_WORD):
    for character in _text(key, value, 32):
        if character not in allowed:
            fail(key, value, "any of " + allowed)
    return value


def _choice(key, value, choices):
    if value not in choices:
        fail(key, value, " | ".join(choices))
    return value


def _rows(key, value, most):
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= most:
        fail(key, value, "list of 1 to %d" % most)
    return value


def _table(key, value, required, optional):
    if not isinstance(value, dict):
        fail(key, value, "table")
    allowed = (required + " " + optional).split()
    for name in value:
        if name not in allowed:
            fail(key, name, " ".join(allowed))
    for name in required.split():
        if name not in value:
            fail(key, name + " is missing", " ".join(allowed))
    return value


def _secret(text):
    try:
        key = unhexlify(text)
    except (ValueError, TypeError):
        key = b""
    if len(key) != 32:
        fail("keys", "a key", "64 hexadecimal digits")  # never the key itself
    return key


def _texts(key, table, required, optional):
    for name in _table(key, table, required, optional):
        _text(key + "." + name, table[name])
    return table


class Config(Options):
    """The checked configuration, as attributes. `roster` and `voters` are sorted by board."""

    def __init__(self, document):
        optional = " ".join([row.split(":")[0] for row in _NUMBERS.split()])
        _table(
            "config",
            document,
            "cluster board seed bed roster",
            optional + " name protocols options keys mesh telemetry mqtt routes wifi",
        )
        for key, value in numbers("", _NUMBERS, document):
            setattr(self, key, value)
        if self.probe_timeout_ms >= self.probe_period_ms:
            fail("probe_timeout_ms", self.probe_timeout_ms, "less than probe_period_ms")
        self.bed = _word("bed", document["bed"], _WORD + "/")
        self._set_roster(document["roster"])
        self.name = self.names.get(self.board)
        if self.name is None:
            fail("board", self.board, "a board of the roster")
        _choice("name", document.get("name", self.name), (self.name,))
        self.protocols = tuple(_rows("protocols", document.get("protocols", ("membership", "gossip", "vote")), 8))
        for name in self.protocols:
            if self.protocols.count(_word("protocols", name)) > 1:
                fail("protocols", name, "each once")
        self.options = _table("options", document.get("options", {}), "", " ".join(self.protocols))
        self.keys = {}  # board -> what this board and that one alone know, to sign messages with
        for row in _rows("keys", document["keys"], _MOST_BOARDS) if "keys" in document else ():
            if len(_rows("keys", row, 2)) != 2:
                fail("keys", "a row", "[board, 64 hexadecimal digits]")
            self.keys[number("keys", row[0], 1, FIRST_CLIENT - 1)] = _secret(row[1])
        self._set_transports(document)

    def _set_roster(self, rows):
        roster = []
        self.names = {}
        self.boards = {}  # name -> board
        for row in _rows("roster", rows, _MOST_BOARDS):
            if len(_rows("roster", row, 3)) != 3:
                fail("roster", row, "[board, name, weight]")
            board = number("roster board", row[0], 1, FIRST_CLIENT - 1)
            name = _word("roster name", row[1])
            if name in self.boards or board in self.names or name in _RESERVED.split():
                fail("roster", row, "each board and name once; no " + _RESERVED)
            self.names[board] = name
            self.boards[name] = board
            roster.append((board, name, number("roster weight", row[2], 0, 1000)))
        roster.sort()
        self.roster = tuple(roster)
        self.voters = tuple([(board, weight) for board, _name, weight in roster if weight])
        self.total_weight = sum([weight for _board, weight in self.voters])
        number("roster: sum of weights", self.total_weight, 1, 1000000)
        self.is_voter = self.board in [board for board, _weight in self.voters]

    def _set_transports(self, document):
        mqtt = document.get("mqtt")
        self.mqtt = None if mqtt is None else self._mqtt(mqtt)
        transports = ("serial",) if mqtt is None else ("serial", "mqtt")
        self.mesh = _choice("mesh", document.get("mesh", transports[-1]), transports)
        self.telemetry = _choice("telemetry", document.get("telemetry", "serial"), transports)
        self.routes = self._routes(document["routes"]) if "routes" in document else None
        self.wifi = document.get("wifi")
        if self.wifi is not None:
            _texts("wifi", self.wifi, "ssid password", "address gateway")

    def _routes(self, rows):
        if self.mesh != "mqtt" or not 2 <= len(_rows("routes", rows, 4)):
            fail("routes", rows, "2 to 4, with mesh mqtt")
        known = []
        for row in rows:
            # A broker has a name, and one that is not in mqtt has an address; the cable is the last one.
            wanted = 1 if not known or _rows("routes", row, 3)[0] == "serial" else 3
            if len(_rows("routes", row, 3)) != wanted or _word("routes", row[0]) in known or "serial" in known:
                fail("routes", row, "[name] first, [name, host, port], [serial] last; each name once")
            if wanted == 3:
                _text("routes host", row[1])
                number("routes port", row[2], 1, 65535)
            known.append(row[0])
        if known[0] == "serial":
            fail("routes", "serial", "a broker first")
        return tuple(rows)

    def _mqtt(self, table):
        _table("mqtt", table, "host", "port user password keep_alive_s tls")
        tls = table.get("tls")
        if tls is not None:
            _texts("mqtt.tls", tls, "", "ca cert key server_name")
        password = table.get("password")
        return {
            "host": _text("mqtt.host", table["host"]),
            "port": number("mqtt.port", table.get("port", 1883 if tls is None else 8883), 1, 65535),
            "user": _text("mqtt.user", table.get("user", self.name)),
            "password": None if password is None else _text("mqtt.password", password),
            "keep_alive_s": number("mqtt.keep_alive_s", table.get("keep_alive_s", 10), 1, 3600),
            "tls": tls,
        }
