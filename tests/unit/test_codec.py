"""The codec against cbor2, for every row of the schema, and against everything that is not a message."""

from __future__ import annotations

import io

import cbor2
import pytest
from brownout import protocols
from brownout_node.core import codec, schema
from brownout_node.core.errors import MessageError
from hypothesis import example, given, settings
from hypothesis import strategies as st

UNSIGNED = st.one_of(st.integers(0, 30), st.integers(0, 2**32 + 2), st.integers(0, 2**63 - 1))
EDGES = [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**62 - 1, 2**62, 2**63 - 1]


def _text(least: int, most: int) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"])
    return st.text(characters, min_size=least, max_size=most).filter(lambda text: len(text.encode()) <= most)


def _field(letter: str) -> st.SearchStrategy[object]:
    return {
        "u": UNSIGNED | st.sampled_from(EDGES),
        "i": st.integers(-(2**63) + 1, 2**63 - 1) | st.sampled_from(EDGES).map(lambda edge: -edge),
        "o": st.booleans(),
        "k": _text(1, 32),
        "t": _text(0, 64),
        "v": st.none() | _text(0, 64),
        "d": st.none() | st.binary(min_size=8, max_size=8),
        "b": st.binary(max_size=400),
    }[letter]


def _bare(fields: str) -> str:
    return "".join(field.split(":")[1] for field in fields.split())


def _parse(spec: str, at: int = 0) -> tuple[list[st.SearchStrategy[object]], int]:
    """Strategies for the fields of a bare spec; written apart from the codec's own parser on purpose."""
    fields: list[st.SearchStrategy[object]] = []
    while at < len(spec) and spec[at] != "]":
        if spec[at] == "[":
            inner, at = _parse(spec, at + 1)
            digits = ""
            while at + 1 < len(spec) and spec[at + 1].isdigit():
                at += 1
                digits += spec[at]
            fields.append(st.lists(st.tuples(*inner), max_size=int(digits)))
        else:
            fields.append(_field(spec[at]))
        at += 1
    return fields, at


def of_spec(spec: str) -> st.SearchStrategy[tuple[object, ...]]:
    return st.tuples(*_parse(spec)[0])


HEADER = st.tuples(UNSIGNED, UNSIGNED, UNSIGNED, UNSIGNED)
ROWS = [pytest.param(row, id=row[1]) for row in protocols.MESSAGES.values()]
EVENT_ROWS = [pytest.param(row, id=row[1]) for row in protocols.EVENTS.values()]
ANY_MESSAGE = st.one_of(
    [st.tuples(HEADER, st.just(row[0]), of_spec(_bare(row[2]))) for row in protocols.MESSAGES.values()],
)


def canonical(document: object) -> bytes:
    return cbor2.dumps(document, canonical=True)


@pytest.mark.parametrize("row", ROWS)
@settings(max_examples=50)
@given(data=st.data())
def test_every_message_is_what_cbor2_makes_of_it(row: tuple[int, str, str], data: st.DataObject) -> None:
    kind, _name, spec = row
    header = data.draw(HEADER)
    fields = data.draw(of_spec(_bare(spec)))
    reference = canonical([schema.VERSION, *header, kind, *fields])
    if len(reference) > schema.MAX_MESSAGE:
        with pytest.raises(MessageError):
            codec.encode_message(*header, kind, fields)
        with pytest.raises(MessageError):
            codec.decode_message(reference)
        return
    assert codec.encode_message(*header, kind, fields) == reference
    assert codec.decode_message(reference) == (*header, kind, fields)
    assert codec.decode_message(memoryview(reference)) == (*header, kind, fields)


@pytest.mark.parametrize("row", EVENT_ROWS)
@settings(max_examples=40)
@given(data=st.data())
def test_every_event_is_what_cbor2_makes_of_it(row: tuple[int, str, str], data: st.DataObject) -> None:
    kind, _name, spec = row
    header = data.draw(HEADER)
    fields = data.draw(of_spec(_bare(spec)))
    assert codec.encode_event(*header, kind, fields) == canonical([*header, kind, *fields])


@given(of_spec(schema.BATCH))
def test_a_batch_packs_and_unpacks(fields: tuple[object, ...]) -> None:
    packed = codec.pack(schema.BATCH, fields)
    assert packed == canonical(fields)
    assert codec.unpack(schema.BATCH, packed) == fields


@given(st.binary(max_size=600))
@example(b"")
@example(b"\x9f\xff")
@example(b"\x81" * 512)
def test_rubbish_is_refused_with_the_one_error(data: bytes) -> None:
    with pytest.raises(MessageError):
        codec.decode_message(data)


@given(ANY_MESSAGE, st.data())
def test_a_mutated_message_is_refused_or_is_another_valid_one(message: tuple, data: st.DataObject) -> None:
    header, kind, fields = message
    encoded = bytearray(canonical([schema.VERSION, *header, kind, *fields]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        if data.draw(st.booleans()):
            encoded[at] = data.draw(st.integers(0, 255))
        else:
            encoded[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not encoded:
            break
    try:
        decoded = codec.decode_message(bytes(encoded))
    except MessageError:
        return
    # What was taken is exactly what cbor2 reads, and has no second encoding.
    stream = io.BytesIO(encoded)
    assert cbor2.CBORDecoder(stream).decode() == [schema.VERSION, *decoded[:5], *map(_lists, decoded[5])]
    assert stream.read() == b""
    assert codec.encode_message(*decoded) == bytes(encoded)


def _lists(field: object) -> object:
    return [list(row) for row in field] if isinstance(field, list) else field


@given(ANY_MESSAGE, st.data())
def test_every_truncation_and_every_tail_is_refused(message: tuple, data: st.DataObject) -> None:
    header, kind, fields = message
    encoded = canonical([schema.VERSION, *header, kind, *fields])
    with pytest.raises(MessageError):
        codec.decode_message(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(MessageError):
        codec.decode_message(encoded + data.draw(st.binary(min_size=1, max_size=9)))


HEAD = bytes([0x88, 1, 7, 1, 3, 9])  # version, cluster, source, boot, sequence; then kind and two fields

REFUSED = {
    "not shortest, one byte": HEAD + bytes([0x18, 0x12, 1, 0x80]),
    "not shortest, 23 in a byte": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 82, 0x18, 23]),
    "not shortest, two bytes": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0x19, 0, 255]),
    "not shortest, four bytes": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0x1A, 0, 0, 255, 255]),
    "not shortest, eight bytes": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0x1B, 0, 0, 0, 0, 255, 255, 255, 255]),
    "2**63": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0x1B, 128, 0, 0, 0, 0, 0, 0, 0]),
    "reserved length": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0x1C]),
    "negative where unsigned": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0x20]),
    "a float": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0xF9, 0, 0]),
    "a tag": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0xC0, 1]),
    "undefined": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0xF7]),
    "null where it is not allowed": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 81, 0xF6]),
    "indefinite array": bytes([0x9F, 1, 7, 1, 3, 9, 0x18, 81, 1, 0xFF]),
    "a map": bytes([0xA7, 1, 7, 1, 3, 9, 0x18, 81, 1]),
    "version 2": bytes([0x87, 2, 7, 1, 3, 9, 0x18, 81, 1]),
    "unknown kind": bytes([0x87, 1, 7, 1, 3, 9, 0x18, 99, 1]),
    "indefinite list": HEAD + bytes([0x10, 1, 0x9F, 0xFF]),
    "nine updates in a ping": HEAD + bytes([0x10, 1, 0x89]) + b"\x83\x01\x00\x00" * 9,
    "an update of two": HEAD + bytes([0x10, 1, 0x81, 0x82, 1, 0]),
    "nested too deep": HEAD + bytes([0x10, 1, 0x81, 0x83, 0x81, 1, 0, 0]),
    "a list that promises 2**32": HEAD + bytes([0x10, 1, 0x9A, 255, 255, 255, 255]),
    "a string that promises 2**62": bytes([0x8A, 1, 7, 1, 3, 9, 0x18, 49, 0, 0, 0, 0x5B, 64, 0, 0, 0, 0, 0, 0, 0]),
    "a digest of seven": bytes([0x89, 1, 7, 1, 3, 9, 0x18, 50, 1, 0, 0x47, 1, 2, 3, 4, 5, 6, 7]),
    "one": b"\x01",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_canonical_or_not_of_the_schema_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        codec.decode_message(data)


NOT_TEXT = [
    b"\xff",
    b"\x80",
    b"\xc3",
    b"\xc0\x80",  # overlong
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xed\xa0\x80",  # a surrogate
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",  # past U+10FFFF
    b"\xf8\x88\x80\x80\x80",
    b"\xf0\x9f\x98",
    b"ab\xe2\x28\xa1",
]


@pytest.mark.parametrize("raw", NOT_TEXT, ids=[raw.hex() for raw in NOT_TEXT])
def test_bytes_that_are_not_unicode_text_are_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        codec.unpack("t", b"\x81" + bytes([0x60 + len(raw)]) + raw)


UNENCODABLE = [
    ("u", (-1,)),
    ("u", (2**63,)),
    ("u", (True,)),
    ("u", ("1",)),
    ("u", (None,)),
    ("u", (1.0,)),
    ("i", (-(2**63),)),
    ("i", (2**63,)),
    ("o", (1,)),
    ("k", ("",)),
    ("k", ("x" * 33,)),
    ("k", ("é" * 17,)),
    ("k", (b"x",)),
    ("k", ("\ud800",)),
    ("k", (None,)),
    ("t", ("x" * 65,)),
    ("v", ("x" * 65,)),
    ("v", (b"x",)),
    ("d", (b"1234567",)),
    ("d", ("12345678",)),
    ("b", (b"x" * 401,)),
    ("b", (None,)),
    ("[u]2", ([(1,), (2,), (3,)],)),
    ("[u]2", ([1],)),
    ("[u]2", ([(1, 2)],)),
    ("[u]2", (None,)),
    ("uu", (1,)),
    ("u", (1, 2)),
]


@pytest.mark.parametrize(("spec", "fields"), UNENCODABLE)
def test_what_could_not_be_read_back_is_not_encoded(spec: str, fields: tuple) -> None:
    with pytest.raises(MessageError):
        codec.pack(spec, fields)


def test_an_unknown_kind_is_not_encoded() -> None:
    with pytest.raises(MessageError, match="unknown kind 199"):
        codec.encode_message(1, 1, 1, 1, 199, ())  # no protocol has it, no test's either
    with pytest.raises(MessageError, match="unknown kind 199"):
        codec.encode_event(1, 1, 1, 1, 199, ())


def test_a_message_that_is_too_long_is_not_encoded() -> None:
    values = [(b"v" * 400,)]
    assert len(codec.encode_message(1, 1, 1, 1, schema.ENTRIES, (1, 2, values))) > 400
    with pytest.raises(MessageError, match="at most 512"):
        codec.encode_message(1, 1, 1, 1, schema.ENTRIES, (1, 3, values * 2))
