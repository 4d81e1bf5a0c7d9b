"""The board's event loop in the real MicroPython, on a pseudo-terminal and a real broker, with a tiny protocol."""

from __future__ import annotations

import hashlib
import io
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from board import CLIENT, EVENT_NAMES, Board, command, config, control, install, make_genesis
from brownout_node.core import codec, schema
from brownout_node.transport import serial
from mqtt_bed import Broker, Client, wait_until

OK = (CLIENT, 1, schema.OK, "v", 0)


@pytest.fixture
def start(micropython: str, tmp_path: Path) -> Iterator[Callable[..., Board]]:
    """start(name, **config) installs a board in a folder of its own and powers it; again without config: power only."""
    boards: list[Board] = []

    def power(name: str = "b1", **changes: Any) -> Board:
        folder = tmp_path / name
        if not folder.exists():
            install(folder, config(**changes))
            make_genesis(folder)
        boards.append(Board(micropython, folder))
        return boards[-1]

    yield power
    for board in boards:
        board.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.kill()


def by_mqtt(broker: Broker) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": broker.port}


def events_of(client: Client, name: str) -> list[list[Any]]:
    """The events of that name in the next message that has some."""
    while True:
        topic, payload = client.next()
        assert topic.split("/")[1] == "ev"
        stream = io.BytesIO(payload)
        events = []
        while stream.tell() < len(payload):
            events.append(cbor2.load(stream))
        found = [event for event in events if EVENT_NAMES[event[4]] == name]
        if found:
            return found


# By cable.


def test_the_first_event_of_a_boot_is_its_durable_state(start):
    board = start()
    name, event = board.events.get(timeout=10)
    boot, sequence, _now, stamp, kind, implementation, version, firmware, cause, journal, *_rest = event
    assert (name, boot, sequence, kind) == ("boot", 1, 1, schema.BOOT)
    assert implementation.startswith("micropython")
    assert version.startswith("MicroPython")
    assert (len(firmware), cause, journal) == (8, "start", schema.JOURNAL_VALID)
    board.kill()
    again = start().event("boot")
    assert again[:2] == [2, 1]
    assert again[3] > stamp
    assert again[7] == firmware


def test_a_command_is_durable_answered_and_passed_on(start):
    board = start()
    board.command(1, schema.PUT, "k", "v")
    assert board.reply() == OK
    to, (cluster, source, boot, _sequence, kind, fields) = board.messages.get(timeout=10)
    assert (to, cluster, source, boot, kind) == ("all", 7, 1, 1, schema.REQUEST)
    assert fields == (CLIENT, 1, schema.PUT, "k", "v", None)
    board.kill()
    board = start()
    board.command(2, schema.GET, "k")
    assert board.reply() == (CLIENT, 2, schema.OK, "v", 0)


def test_messages_of_other_boards_arrive_and_foreign_ones_are_refused(start):
    board = start()
    said = (2, 5, schema.PUT, "k", "v", None)
    from_two = codec.encode_message(7, 2, 1, 1, schema.REQUEST, said)
    board.send(serial.mesh_payload("b2", from_two))
    assert board.event("submitted")[5:] == [2, 5, schema.PUT]
    board.send(serial.mesh_payload("host", command(6, schema.GET, "k")))
    assert board.reply()[1] == 6
    for name, message in (
        ("b1", from_two),  # its own name: an echo, not even looked at
        ("b9", from_two),
        ("b2", codec.encode_message(8, 2, 1, 1, schema.REQUEST, said)),
        ("host", from_two),
        ("b2", b"\x00\xff rubbish"),
        ("b2", codec.encode_message(7, 2, 1, 1, schema.PING, (1, ()))),
    ):
        board.send(serial.mesh_payload(name, message))
    reasons = [board.event("rejected")[6] for _ in range(5)]
    assert reasons[:3] == ["forged source", "foreign cluster", "forged source"]
    assert reasons[4] == "no protocol takes kind 16"
    board.send(bytes([serial.MESH]))
    board.send(bytes([99, 1, 2]))
    board.command(7, schema.GET, "k")
    assert board.reply()[1] == 7


def test_events_come_again_until_they_are_acknowledged(start):
    board = start(metrics_period_ms=600000)
    board.event("boot")
    board.command(1, schema.PUT, "k", "v")
    board.event("submitted")
    wait_until(lambda: len(board.frames) >= 4, "sent again")
    assert board.frames[0] == (0, [1])
    assert board.frames[1] == (1, [2])
    assert board.frames[2:4] == [(0, [1, 2])] * 2
    board.control(schema.TELEMETRY_ACK, 1, 1)
    wait_until(lambda: board.frames[-1] == (0, [2]), "only what is left")
    board.control(schema.TELEMETRY_ACK, 2, 2)  # another boot
    board.send(serial.mesh_payload("b2", codec.encode_message(7, 2, 1, 1, schema.TELEMETRY_ACK, (1, 2))))  # a board
    count = len(board.frames)
    wait_until(lambda: len(board.frames) > count + 1, "it is still sent")
    board.control(schema.TELEMETRY_ACK, 1, 2)
    board.command(2, schema.PUT, "k", "w")
    wait_until(lambda: board.frames[-1] == (0, [3]), "nothing older is kept")


def test_nobody_reads_the_cable_and_nothing_blocks_and_what_was_lost_is_told(start):
    board = start(metrics_period_ms=600000)
    board.event("boot")
    board.listen.clear()
    for request in range(1, 31):
        board.command(request, schema.CAS, "k", "30")
        time.sleep(0.1)  # the point is that nothing happens at the cable meanwhile, and much on the board
    board.listen.set()
    seen: set[int] = {1}
    lost = None
    deadline = time.monotonic() + 10
    while lost is None and time.monotonic() < deadline:
        board.control(schema.TELEMETRY_ACK, 1, 890)
        try:
            name, event = board.events.get(timeout=0.2)
        except queue.Empty:
            continue
        seen.add(event[1])
        if name == "lost_events":
            lost = event
    assert lost is not None
    first, last = lost[5:]
    while not board.events.empty():
        seen.add(board.events.get()[1][1])
    missing = set(range(1, lost[1] + 1)) - seen
    assert missing
    assert missing <= set(range(first, last + 1))
    board.command(99, schema.GET, "k")
    wait_until(lambda: [reply for reply in list(board.replies.queue) if reply[1][5][1] == 99], "the board works")


def test_a_board_says_which_files_it_runs(start):
    board = start()
    firmware = board.event("boot")[7]
    board.control(schema.DESCRIBE, 77)
    files: dict[str, bytes] = {}
    while True:
        name, event = board.events.get(timeout=10)
        if name == "file":
            files[event[5]] = event[6]
        elif name == "described":
            assert event[5:] == [77, len(files)]
            break
    on_disk = {
        str(path.relative_to(board.folder)): hashlib.sha256(path.read_bytes()).digest()[:8]
        for path in board.folder.rglob("*.*py")
    }
    assert files == on_disk
    whole = hashlib.sha256(b"".join(name.encode() + b"\0" + files[name] for name in sorted(files)))
    assert firmware == whole.digest()[:8]


def test_ticks_are_counted_by_their_lateness(start):
    board = start(tick_ms=20)
    first, second = board.event("metrics"), board.event("metrics")
    used, free, ticks, *late = second[5:13]
    assert used + free > 200_000
    assert ticks == sum(late)
    assert 1 <= ticks - first[7] <= 15  # 10 to a report; a machine that is busy makes them fewer, and later
    assert second[-3:] == first[-3:]  # nothing was written meanwhile


def test_a_mistake_in_a_protocol_ends_the_run_before_anything_else_happens(start):
    board = start()
    board.event("boot")
    board.send(bytes([serial.CLIENT]) + command(1, schema.PUT, "crash", "v"))
    board.command(2, schema.GET, "k")
    board.wait_for_text(b"ValueError: a mistake")
    assert (board.folder / "failed_starts.txt").read_text() == "ValueError: a mistake"
    assert board.replies.empty()


# Traps.


def test_power_goes_after_a_write_and_before_anything_is_sent(start):
    board = start()
    board.event("boot")
    board.control(schema.TRAP, schema.AFTER_PERSIST, 2, schema.POWER_OFF)
    board.command(1, schema.PUT, "k", "one")
    assert board.reply()[1] == 1
    board.command(2, schema.PUT, "k", "two")
    board.command(3, schema.GET, "k")
    trapped = board.event("trapped")
    assert trapped[5:] == [schema.AFTER_PERSIST, 2, schema.POWER_OFF]
    numbers = sorted({number for _previous, numbers in board.frames for number in numbers})
    assert numbers == list(range(1, trapped[1] + 1))  # no gap, although the step's own events never left
    board.wait_for_text(b">>> ")  # `-i`: the process would have ended
    assert board.replies.empty()
    board.kill()
    board = start()
    board.command(4, schema.GET, "k")
    assert board.reply()[3] == "two"


def test_a_board_halts_after_it_sent_and_the_prompt_is_still_there(start):
    board = start()
    board.event("boot")
    board.control(schema.TRAP, schema.AFTER_SEND, 1, schema.HALT)
    board.command(1, schema.PUT, "k", "v")
    assert board.reply() == OK
    assert board.event("trapped")[5:] == [schema.AFTER_SEND, 1, schema.HALT]
    board.command(2, schema.GET, "k")
    count = len(board.frames)
    time.sleep(0.5)  # metrics would have come, and the answer
    assert (len(board.frames), board.replies.qsize()) == (count, 0)
    board.type(b"\x03")
    board.wait_for_text(b"this is the prompt")


def test_a_trap_is_disarmed_by_a_count_of_zero_and_boards_cannot_set_one(start):
    board = start()
    board.event("boot")
    board.control(schema.TRAP, schema.AFTER_PERSIST, 1, schema.HALT)
    board.control(schema.TRAP, schema.AFTER_PERSIST, 0, schema.HALT)
    trap = codec.encode_message(7, 2, 1, 1, schema.TRAP, (schema.AFTER_PERSIST, 1, schema.HALT))
    board.send(serial.mesh_payload("b2", trap))
    board.command(1, schema.PUT, "k", "v")
    assert board.reply() == OK


# By MQTT.


@pytest.mark.needs("mosquitto")
def test_boards_and_clients_meet_at_the_broker(start, broker):
    client = Client("client", broker.port, f"bed/re/{CLIENT}", "bed/up/+")
    tap = Client("tap", broker.port, "bed/g/#")
    one = start("b1", mqtt=by_mqtt(broker))
    assert client.next() == ("bed/up/b1", b"1")
    two = start("b2", mqtt=by_mqtt(broker), board=2)
    assert client.next() == ("bed/up/b2", b"1")
    client.publish("bed/cmd/b1", command(1, schema.PUT, "k", "v"), qos=1)
    topic, reply = client.next()
    assert topic == f"bed/re/{CLIENT}"
    assert codec.decode_message(reply)[5] == OK
    assert two.event("submitted")[5:] == [CLIENT, 1, schema.PUT]
    topic, message = tap.next()
    assert topic == "bed/g/b1/all"
    assert codec.decode_message(message)[1] == 1
    for topic in ("bed/cmd/b1", "bed/g/b2/b1", "bed/g/b2/voters", "bed/g/nobody/all"):
        client.publish(topic, b"rubbish", qos=1)
    client.publish("bed/cmd/b1", command(2, schema.GET, "k"), qos=1)
    assert codec.decode_message(client.next()[1])[5][1] == 2
    one.kill()
    assert client.next() == ("bed/up/b1", b"0")
    client.close()
    tap.close()


@pytest.mark.needs("mosquitto")
def test_what_a_verdict_hangs_on_goes_by_cable_and_the_rest_by_mqtt(start, broker):
    listener = Client("listener", broker.port, "bed/ev/b1", qos=1)
    board = start(mqtt=by_mqtt(broker))
    assert events_of(listener, "connected")[0][5] == "mqtt"
    assert events_of(listener, "metrics")
    board.command(1, schema.PUT, "k", "v")
    board.event("submitted")
    by_cable = {number for _previous, numbers in board.frames for number in numbers}
    assert 1 in by_cable
    assert events_of(listener, "metrics")[0][1] not in by_cable
    listener.close()


@pytest.mark.needs("mosquitto")
def test_without_a_cable_everything_goes_by_mqtt_and_waits_for_the_broker(start, broker):
    listener = Client("listener", broker.port, "bed/ev/b1", qos=1)
    start(mqtt=by_mqtt(broker), telemetry="mqtt", metrics_period_ms=100)
    numbers = [event[1] for event in events_of(listener, "boot") + events_of(listener, "metrics")]
    assert numbers[0] == 1
    listener.close()
    broker.kill()
    time.sleep(1.0)  # some events without a broker
    broker.start()
    listener = Client("listener", broker.port, "bed/ev/b1", qos=1)
    late = events_of(listener, "metrics")[0][1]
    got: set[int] = set()
    while late + 20 not in got:
        got |= {event[1] for event in events_of(listener, "metrics")}
    assert len(got) >= 15
    listener.close()


@pytest.mark.needs("mosquitto")
def test_commands_by_cable_are_answered_by_cable_while_the_broker_is_away(start, broker):
    board = start(mqtt=by_mqtt(broker))
    board.event("boot")
    broker.kill()
    time.sleep(0.2)
    board.control(schema.DESCRIBE, 1)
    board.command(1, schema.PUT, "k", "v")
    assert board.reply() == OK


def test_control_messages_are_those_of_the_schema():
    assert codec.decode_message(control(schema.TRAP, 1, 2, 1))[4:] == (schema.TRAP, (1, 2, 1))
