"""Run by both interpreters, which must print the same: what codec, random numbers, clock, configuration and journal do.

Everything is drawn from the firmware's own Prng, so that this file needs nothing that one of the interpreters lacks.
"""

import hashlib

from brownout_node.core import codec, schema
from brownout_node.core.clock import Clock
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError, JournalError, MessageError
from brownout_node.core.prng import Prng
from brownout_node.storage.journal import Journal, format_genesis

draw = Prng(2026, 1, 1, "vectors")
EDGES = (0, 23, 24, 255, 256, 65535, 65536, 4294967295, 4294967296, (1 << 62) - 1, 1 << 62, (1 << 63) - 1)
TEXTS = ("a", "key-7", "\u00e9t\u00e9", "\u20ac", "\U0001f600", "x" * 32)
DIGEST = b"\x00\x01\xfe\xffabcd"


def value_of(letter):
    if letter == "u":
        return EDGES[draw.below(len(EDGES))] if draw.chance(1, 2) else draw.below(100000)
    if letter == "i":
        return -EDGES[draw.below(len(EDGES))] if draw.chance(1, 2) else draw.below(100)
    if letter == "o":
        return draw.chance(1, 2)
    if letter == "d":
        return DIGEST if draw.chance(1, 2) else None
    if letter == "b":
        return bytes([draw.below(256) for _ in range(draw.below(60))])
    if letter == "v" and draw.chance(1, 4):
        return None
    return TEXTS[draw.below(len(TEXTS))]


def fields_of(types):
    # Of `name:type` fields: plain letters, or one [letters]limit.
    fields = []
    for field in types.split():
        kind = field.split(":")[1]
        if kind[0] == "[":
            letters, limit = kind[1:].split("]")
            rows = [tuple([value_of(letter) for letter in letters]) for _ in range(draw.below(int(limit) + 1))]
            fields.append(rows)
        else:
            fields.append(value_of(kind))
    return tuple(fields)


def plain(value):
    # Interpreters print text and bytes in different ways.
    if isinstance(value, str):
        return "t" + plain(value.encode())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (tuple, list)):
        return "(" + " ".join([plain(element) for element in value]) + ")"
    return repr(value)


def outcome(function, *arguments):
    try:
        return plain(function(*arguments))
    except (MessageError, ConfigError, JournalError) as error:
        return type(error).__name__ + " " + str(error)


def messages():
    results = hashlib.sha256()
    valid = refused = 0
    for kind, name, types in schema.MESSAGES:
        for _ in range(12):
            try:
                data = codec.encode_message(7, 3, 9, draw.below(99999), kind, fields_of(types))
            except MessageError as error:
                print(name, error)
                continue
            print(name, data.hex(), plain(codec.decode_message(data)))
            for _ in range(15):
                bent = bytearray(data)
                for _ in range(1 + draw.below(2)):
                    bent[draw.below(len(bent))] = draw.below(256)
                bent = bytes(bent)[: len(bent) - (draw.below(4) if draw.chance(1, 4) else 0)]
                result = outcome(codec.decode_message, bent)
                refused += result.startswith("MessageError")
                valid += not result.startswith("MessageError")
                results.update(result.encode())
    print("bent messages", valid, refused, results.digest().hex())
    for kind, name, types in schema.EVENTS:
        print(name, codec.encode_event(9, 1, 5000, 1 << 40, kind, fields_of(types)).hex())


def texts():
    for raw in (
        b"\xff,\x80,\xc3,\xc0\x80,\xc1\xbf,\xe0\x80\x80,\xe0\x9f\xbf,\xf0\x80\x80\x80,\xf0\x8f\xbf\xbf,\xed\xa0\x80,\xed\xbf\xbf"
        b",\xf4\x90\x80\x80,\xf5\x80\x80\x80,\xf8\x88\x80\x80\x80,\xfc\x84\x80\x80\x80\x80,\xf0\x9f\x98,ab\xe2\x28\xa1"
        b",\xc2\x80,\xdf\xbf,\xe0\xa0\x80,\xed\x9f\xbf,\xee\x80\x80,\xf0\x90\x80\x80,\xf4\x8f\xbf\xbf,plain"
    ).split(b","):
        print(raw.hex(), outcome(codec.unpack, "t", b"\x81" + bytes([0x60 + len(raw)]) + raw))
    for value in (-1, 1 << 63, True, 1.5, "1", None, b"1", (), "\ud800"):
        for spec in "uiokvtdb":
            result = outcome(codec.pack, spec, (value,))
            print(spec, type(value).__name__, result)


def numbers():
    for name in ("gossip", "membership", ""):
        stream = Prng((1 << 62) + 5, 999, 1 << 28, name)
        items = list(range(10))
        stream.shuffle(items)
        print([stream.below(n) for n in (1, 2, 10, 1000, 65536, 65537, 1 << 30)], items, stream.sample(items, 4))
        print([stream.chance(1, 3) for _ in range(20)])


class Host:
    """What a clock needs of a node and of a journal."""

    def __init__(self):
        self.now_ms = 0
        self.records = {}

    def get(self, key):
        return self.records.get(key)

    def persist(self, key, value):
        self.records[key] = value
        print("persist", key, value.hex())


def clocks():
    host = Host()
    clock = Clock(host, host)
    for step in range(60):
        host.now_ms += draw.below(5000)
        if step % 20 == 19:
            host.now_ms = 0
            clock = Clock(host, host)
        heard = clock.observe((host.now_ms + draw.below(100000)) << 16) if step % 3 == 0 else clock.observe(1 << 62)
        print(heard, clock.now(), clock.now())


def name_of(document):
    return Config(document).name


def configurations():
    document = {"cluster": 1, "board": 2, "bed": "bed", "seed": 3, "roster": [[2, "b2", 1], [1, "b1", 3]]}
    config = Config(document)
    print(config.roster, config.voters, config.total_weight, config.is_voter, config.name, config.protocols)
    print(config.tick_ms, config.resend_ms, config.mesh, config.telemetry, config.mqtt, config.wifi, config.watchdog_ms)
    for key, value in (
        ("tick_ms", 0),
        ("tick_ms", "50"),
        ("board", True),
        ("bed", "a#b"),
        ("roster", []),
        ("roster", [[2, "b2", 0]]),
        ("mqtt", {"port": 5}),
        ("mqtt", {"host": "h", "tls": {"cat": "x"}}),
        ("mesh", "mqtt"),
        ("speed", 1),
    ):
        changed = dict(document)
        changed[key] = value
        print(key, outcome(name_of, changed))


class Cut(Exception):
    """Power is gone."""


class Flash:
    """A NOR flash of 8 blocks of 512 bytes."""

    def __init__(self):
        self.cells = bytearray(b"\xff" * 4096)
        self.left = -1  # bytes to program before a cut

    def ioctl(self, operation, argument):
        if operation == 6:
            self.cells[argument * 512 : argument * 512 + 512] = b"\xff" * 512
        return 8 if operation == 4 else 512

    def readblocks(self, block, buffer, offset):
        at = block * 512 + offset
        buffer[:] = memoryview(self.cells)[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset):
        at = block * 512 + offset
        for byte in buffer:
            if self.left == 0:
                raise Cut()
            self.left -= 1
            self.cells[at] &= byte
            at += 1


def journals():
    flash = Flash()
    format_genesis(flash, 7, 3)
    journal = Journal(flash)
    journal.open()
    for step in range(400):
        records = []
        for _ in range(1 + draw.below(3)):
            size = draw.below(300) if draw.chance(1, 30) else draw.below(40)
            value = None if draw.chance(1, 12) else bytes([draw.below(256)]) * size
            records.append((2 + draw.below(10), value))
        flash.left = draw.below(200) if draw.chance(1, 5) else -1
        try:
            result = outcome(journal.append, records)
            journal.maintain()
        except Cut:
            result = "cut"
            flash.left = -1
            journal = Journal(flash)
            journal.open()
        state = hashlib.sha256(flash.cells)
        for key in journal.keys(0, 100):
            state.update(journal.get(key))
        print(step, result, journal.condition, journal.programs, journal.erases, state.digest().hex()[:16])


messages()
texts()
numbers()
clocks()
configurations()
journals()
