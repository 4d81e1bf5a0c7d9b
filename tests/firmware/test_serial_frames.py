"""Frames on the cable: whole ones come through both ways, damaged ones are dropped, decoders never raise."""

from __future__ import annotations

import contextlib
import io

from brownout_node.transport import serial
from hypothesis import given
from hypothesis import strategies as st

payloads = st.binary(min_size=1, max_size=serial.MAX_PAYLOAD)
awkward = st.lists(st.sampled_from([0, 1, 5, 6, 7, 0x45, 0x46, 255]), min_size=1, max_size=600).map(bytes)
text = st.binary(max_size=80).map(lambda data: data.replace(b"\0", b"."))


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]


def received(decoder, pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    frames, console = [], b""
    for piece in pieces:
        for is_frame, data in decoder.feed(piece):
            if is_frame:
                frames.append(data)
            else:
                console += data
    return frames, console + decoder.flush()


@given(payloads | awkward)
def test_a_frame_to_the_board_holds_no_byte_that_a_console_takes_for_itself(payload):
    encoded = serial.encode_to_board(payload)
    assert min(encoded) >= 5
    assert encoded.count(5) == 2


@given(st.lists(payloads | awkward, max_size=5), st.lists(st.integers(0, 10**6), max_size=8))
def test_the_board_gets_every_frame_however_it_is_cut_into_pieces(sent, cuts):
    stream = b"".join(map(serial.encode_to_board, sent))
    decoder = serial.BoardDecoder()
    assert [payload for piece in in_pieces(stream, cuts) for payload in decoder.feed(piece)] == sent


@given(st.lists(st.tuples(text, payloads | awkward), max_size=5), text, st.lists(st.integers(0, 10**6), max_size=8))
def test_the_host_tells_frames_from_console_text(sent, tail, cuts):
    stream = b"".join(before + serial.encode_to_host(payload) for before, payload in sent) + tail
    decoder = serial.HostDecoder()
    frames, console = received(decoder, in_pieces(stream, cuts))
    assert frames == [payload for _before, payload in sent]
    assert console == b"".join(before for before, _payload in sent) + tail
    assert decoder.damaged == 0


@given(st.binary(max_size=400), st.lists(st.integers(0, 10**6), max_size=4), payloads)
def test_after_noise_the_second_frame_at_the_latest_is_understood(noise, cuts, payload):
    host = serial.HostDecoder()
    frames, _console = received(host, in_pieces(noise + serial.encode_to_host(payload) * 2, cuts))
    assert frames[-1:] == [payload]
    board = serial.BoardDecoder()
    pieces = in_pieces(noise + serial.encode_to_board(payload) * 2, cuts)
    assert [frame for piece in pieces for frame in board.feed(piece)][-2:] == [payload, payload]


@given(payloads, st.integers(0, 10**6), st.integers(1, 255))
def test_a_frame_with_a_changed_byte_is_dropped_and_the_next_ones_arrive(payload, place, flip):
    for encode, decoder in (
        (serial.encode_to_host, serial.HostDecoder()),
        (serial.encode_to_board, serial.BoardDecoder()),
    ):
        spoilt = bytearray(encode(payload))
        spoilt[place % len(spoilt)] ^= flip
        if bytes(spoilt) == encode(payload):
            continue
        after = bytes(reversed(payload)) + b"!"
        stream = bytes(spoilt) + encode(after) * 2
        frames = [frame for frame in decoder.feed(stream) if not isinstance(frame, tuple) or frame[0]]
        got = [frame[1] if isinstance(frame, tuple) else frame for frame in frames]
        assert got[-1] == after
        assert set(got) <= {payload, after}  # a change of a delimiter alone may leave the payload whole


@given(st.binary(max_size=6000))
def test_rubbish_never_raises_and_what_is_kept_is_bounded(data):
    host, board = serial.HostDecoder(), serial.BoardDecoder()
    for start in range(0, len(data), 37):
        host.feed(data[start : start + 37])
        assert board.feed(data[start : start + 37]) == [] or b"\x05" in data
    assert len(host.flush()) <= 2 * serial.MAX_PAYLOAD + 64
    assert serial.decode_from_board(data) is None or len(data) > 4
    serial.decode_from_host(data)


def test_text_is_not_held_back_unless_a_frame_may_have_begun():
    decoder = serial.HostDecoder()
    assert decoder.feed(b">>> ") == [(False, b">>> ")]
    assert decoder.feed(b"\0abc") == []
    assert decoder.flush() == b"abc"
    endless = b"\0" + b"x" * 5000
    assert decoder.feed(endless) == [(False, endless[1:])]


@given(st.integers(0, 2**32 - 1), st.binary(max_size=300), st.text("abcdefgh-_0123456789", min_size=1, max_size=32))
def test_bodies_of_each_channel(number, body, name):
    for payload, channel in (
        (serial.events_payload(number, body), serial.EVENTS),
        (serial.mesh_payload(name, body), serial.MESH),
        (serial.reply_payload(number, body), serial.CLIENT),
    ):
        assert payload[0] == channel
    assert serial.read_events(serial.events_payload(number, body)) == (number, body)
    assert serial.read_mesh(serial.mesh_payload(name, body)) == (name, body)
    assert serial.read_reply(serial.reply_payload(number, body)) == (number, body)


SAME_ON_BOTH = """
from brownout_node.transport import serial
for seed in range(1, 40):
    payload = bytes([(seed * i * i + 7 * i) & 255 if (i ^ seed) & 3 else i % 7 for i in range(seed * 26)])
    board, host = serial.encode_to_board(payload), serial.encode_to_host(payload)
    assert serial.BoardDecoder().feed(b"xy" + board) == [payload]
    assert serial.HostDecoder().feed(host) == [(True, payload)]
    print(board.hex(), host.hex())
"""


def test_both_interpreters_make_the_same_bytes(run_micropython):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(SAME_ON_BOTH, {})
    assert run_micropython(SAME_ON_BOTH) == printed.getvalue()
    assert printed.getvalue().count("\n") == 39


def test_a_frame_of_many_zero_bytes_is_made_in_room_for_a_few_frames(run_micropython):
    # Where it was a list of pieces it took 180 KB on the way, and the list itself in one piece.
    printed = run_micropython(
        "import gc\n"
        "from brownout_node.transport import serial\n"
        "payload = bytes(960)\n"
        "serial.encode_to_host(payload)\n"
        "gc.collect()\n"
        "gc.disable()\n"
        "before = gc.mem_alloc()\n"
        "frame = serial.encode_to_host(payload)\n"
        "print(gc.mem_alloc() - before, len(frame))\n"
    )
    taken, size = map(int, printed.split())
    assert size > 960
    assert taken < 8 * size
