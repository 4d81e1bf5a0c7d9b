"""Bytes <-> messages, events and journal values: CBOR (RFC 8949) in core deterministic encoding, by schema.py's rows.

Every value has exactly one encoding here: shortest heads, definite lengths, nothing after the end. Whatever else comes
from outside is refused with MessageError, and nothing else escapes; but fields that a later release may have added to a
message are left out, so that boards with different firmware get on. Encoding checks as strictly as decoding, so that a
board never sends or stores what it would refuse to read. A `[...]n` list is a list of tuples, of one element too:
`[b]8` is [(b"..",), ..]. This file must not know what a message means.
"""

import struct

from . import schema
from .errors import MessageError

try:
    from micropython import const
except ImportError:
    const = int

_UNSIGNED = const(0x75)  # the type letters of the schema, as character codes
_SIGNED = const(0x69)
_BOOLEAN = const(0x6F)
_VALUE = const(0x76)
_DIGEST = const(0x64)

# Least and most bytes of each type of string: k, t, v, d, b.
_SIZES = {0x6B: (1, 32), 0x74: (0, 64), 0x76: (0, 64), 0x64: (8, 8), 0x62: (0, 400)}
_BYTE_STRINGS = b"db"

_HEADER_FIELDS = const(6)
_MORE_FIELDS = const(4)  # that a later release may add to a message
_EVENT_HEADER_FIELDS = const(5)

_specs = {}
_messages = {}  # kind -> spec; with the rows that they come from
_events = {}
_message_tables = [schema.MESSAGES]
_event_tables = [schema.EVENTS]


def learn(module):
    """Take in the rows MESSAGES and EVENTS of a protocol's module, so that boards hold only those they use."""
    for name, tables in (("MESSAGES", _message_tables), ("EVENTS", _event_tables)):
        rows = getattr(module, name, None)
        if rows is not None and rows not in tables:
            tables.append(rows)


def pack(spec, fields):
    """Encode `fields` as an array by a bare type spec such as "uu[kv]8"."""
    return _pack(_spec(spec), fields)


def unpack(spec, data):
    """Decode what pack() made; a tuple."""
    items = _spec(spec)
    return _finish(items, data, _start(data, len(items)), [])


def encode_message(cluster, source, boot, sequence, kind, fields):
    """Encode a protocol message of the schema's row `kind`."""
    items = _row(_messages, _message_tables, schema.HEADER, kind)
    data = _pack(items, (schema.VERSION, cluster, source, boot, sequence, kind) + tuple(fields))
    if len(data) > schema.MAX_MESSAGE:
        raise MessageError("kind %d: %d bytes, at most %d" % (kind, len(data), schema.MAX_MESSAGE))
    return data


def decode_message(data):
    """(cluster, source, boot, sequence, kind, fields) of one message; fields that a later release adds are left out."""
    if not 0 < len(data) <= schema.MAX_MESSAGE:
        raise MessageError("%d bytes, 1 to %d are allowed" % (len(data), schema.MAX_MESSAGE))
    header = []
    try:
        at = _read(_spec("uuuuuu"), data, 1, header)
    except IndexError:
        raise MessageError("truncated in the header")
    version, cluster, source, boot, sequence, kind = header
    if version != schema.VERSION:
        raise MessageError("version %d, only %d is known" % (version, schema.VERSION))
    items = _row(_messages, _message_tables, schema.HEADER, kind)
    more = data[0] - (0x80 | len(items))
    if not 0 <= more <= _MORE_FIELDS or data[0] > 0x97:
        raise MessageError("0: not an array of %d" % len(items))
    return cluster, source, boot, sequence, kind, _finish(items[_HEADER_FIELDS:], data, at, [], more)


def more_fields(data, fields):
    """How many fields a message that was decoded has beyond those that are known here."""
    return (data[0] & 31) - _HEADER_FIELDS - len(fields)


def encode_event(boot, sequence, now_ms, stamp, kind, fields):
    """Encode one telemetry event of the schema's row `kind`."""
    items = _row(_events, _event_tables, schema.EVENT_HEADER, kind)
    return _pack(items, (boot, sequence, now_ms, stamp, kind) + tuple(fields))


# Specs, made when first used: for each field the code of its type letter, or (limit, spec) for a list.


def _spec(text):
    spec = _specs.get(text)
    if spec is None:
        spec = _specs[text] = _parse(text, 0)[0]
    return spec


def _row(cache, tables, header, kind):
    spec = cache.get(kind)
    if spec is None:
        for table in tables:
            for row in table:
                if row[0] == kind:
                    text = "".join([field.split(":")[1] for field in (header + " " + row[2]).split()])
                    spec = cache[kind] = _parse(text, 0)[0]
                    return spec
        raise MessageError("unknown kind %d" % kind)
    return spec


def _parse(text, at):
    spec = []
    while at < len(text) and text[at] != "]":
        if text[at] == "[":
            inner, at = _parse(text, at + 1)
            limit = 0
            while at + 1 < len(text) and text[at + 1].isdigit():
                at += 1
                limit = limit * 10 + int(text[at])
            spec.append((limit, inner))
        else:
            spec.append(ord(text[at]))
        at += 1
    return tuple(spec), at


# Encoding.


def _pack(items, fields):
    out = bytearray()
    _write(items, fields, out)
    return bytes(out)


def _head(out, major, number):
    if number < 24:
        out.append(major | number)
    elif number < 0x100:
        out.append(major | 24)
        out.append(number)
    elif number < 0x10000:
        out.extend(struct.pack(">BH", major | 25, number))
    elif number >> 32 == 0:
        out.extend(struct.pack(">BI", major | 26, number))
    else:
        out.extend(struct.pack(">BQ", major | 27, number))


def _write(items, fields, out):
    if not isinstance(fields, (tuple, list)) or len(fields) != len(items):
        raise MessageError("%d fields are needed: %s" % (len(items), type(fields)))
    _head(out, 0x80, len(items))
    index = -1
    for item in items:
        index += 1
        value = fields[index]
        if item == _UNSIGNED or item == _SIGNED:
            if type(value) is not int or (value < 0 and item == _UNSIGNED) or abs(value) >> 63:
                raise MessageError("field %d: not an integer in range" % index)
            if 0 <= value < 24:  # most are: their head is all
                out.append(value)
            elif value < 0:
                _head(out, 0x20, -1 - value)
            else:
                _head(out, 0, value)
        elif item == _BOOLEAN:
            if value is not True and value is not False:
                raise MessageError("field %d: not a boolean" % index)
            out.append(0xF5 if value else 0xF4)
        elif isinstance(item, tuple):
            if not isinstance(value, (tuple, list)) or len(value) > item[0]:
                raise MessageError("field %d: not a list of at most %d" % (index, item[0]))
            _head(out, 0x80, len(value))
            for element in value:
                _write(item[1], element, out)
        elif value is None and (item == _VALUE or item == _DIGEST):
            out.append(0xF6)
        else:
            _write_string(item, value, out, index)


def _write_string(item, value, out, index):
    least, most = _SIZES[item]
    major = 0x40
    if item not in _BYTE_STRINGS:
        major = 0x60
        if isinstance(value, str):
            text = value
            try:
                value = text.encode()
            except UnicodeError:
                raise MessageError("%d: not UTF-8" % index)
            _check_text(text, len(value), index)
        else:
            value = None
    if not isinstance(value, (bytes, bytearray)) or not least <= len(value) <= most:
        raise MessageError("field %d: not a string of %d to %d bytes" % (index, least, most))
    _head(out, major, len(value))
    out.extend(value)


def _check_text(text, size, at):
    # MicroPython takes surrogates, overlong forms and codes past the end of Unicode for text; CPython does not.
    if len(text) == size:
        return  # ASCII
    for character in text:
        code = ord(character)
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            break
        size -= 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4
    if size:
        raise MessageError("%d: not UTF-8" % at)


# Decoding.


def _start(data, count):
    # Fixed arrays are shorter than 24, so their head is one byte.
    if not len(data) or data[0] != 0x80 | count:
        raise MessageError("0: not an array of %d" % count)
    return 1


def _finish(items, data, at, out, more=0):
    try:
        at = _read(items, data, at, out)
        at = _skip(data, at, more)
    except IndexError:
        raise MessageError("truncated at %d" % len(data))
    if at != len(data):
        raise MessageError("%d: bytes after the end" % at)
    return tuple(out)


def _skip(data, at, left):
    # Past so many items; of later releases only what is as plain as this one's own: no maps, tags or floats.
    while left:
        left -= 1
        major = data[at] >> 5
        number = data[at] & 31
        at += 1
        if number > 27 or major == 5 or major == 6 or (major == 7 and number > 22):
            raise MessageError("%d: an item that no release has" % at)
        if number > 23:
            size = 1 << (number - 24)
            number = int.from_bytes(data[at : at + size], "big")
            at += size
        if major == 4:
            left += number
        elif major == 2 or major == 3:
            at += number
    if at > len(data):
        raise IndexError
    return at


def _read(items, data, at, out):
    # Append one value for each item to `out`, return where the next begins. IndexError: the data end before that.
    for item in items:
        first = data[at]
        at += 1
        if first < 24 and item == _UNSIGNED:  # most are
            out.append(first)
            continue
        number = first & 31
        if number > 23:
            if number > 27:
                raise MessageError("%d: reserved or indefinite length" % at)
            size = 1 << (number - 24)
            if at + size > len(data):
                raise IndexError
            number = int.from_bytes(data[at : at + size], "big")
            at += size
            if number < 24 or (size > 1 and number >> (size << 2) == 0):
                raise MessageError("%d: not the shortest form" % at)
        major = first >> 5
        if item == _UNSIGNED or item == _SIGNED:
            if major > 1 or (major and item == _UNSIGNED) or (number + major) >> 63:
                raise MessageError("%d: not an integer in range" % at)
            out.append(-1 - number if major else number)
        elif isinstance(item, tuple):
            if major != 4 or number > item[0]:
                raise MessageError("%d: not a list of at most %d" % (at, item[0]))
            at = _read_list(item[1], number, data, at, out)
        elif major == 7:
            if item == _BOOLEAN and (number == 20 or number == 21):
                out.append(number == 21)
            elif number == 22 and (item == _VALUE or item == _DIGEST):
                out.append(None)
            else:
                raise MessageError("%d: wrong type" % at)
        else:
            if item == _BOOLEAN or major != (2 if item in _BYTE_STRINGS else 3):
                raise MessageError("%d: wrong type" % at)
            least, most = _SIZES[item]
            if not least <= number <= most:
                raise MessageError("%d: %d bytes, %d to %d are allowed" % (at, number, least, most))
            end = at + number
            if end > len(data):
                raise IndexError
            if major == 2:
                out.append(bytes(data[at:end]))
            else:
                out.append(_read_text(data[at:end], at))
            at = end
    return at


def _read_list(items, count, data, at, out):
    rows = []
    head = 0x80 | len(items)
    while count:
        if data[at] != head:
            raise MessageError("%d: not an array of %d" % (at, len(items)))
        row = []
        at = _read(items, data, at + 1, row)
        rows.append(tuple(row))
        count -= 1
    out.append(rows)
    return at


def _read_text(raw, at):
    try:
        text = str(raw, "utf-8")
    except UnicodeError:
        raise MessageError("%d: not UTF-8" % at)
    _check_text(text, len(raw), at)
    return text
