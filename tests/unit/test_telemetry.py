"""Telemetry: events as bytes to a record without duplicates, gaps by the rules, waiting without polling."""

from __future__ import annotations

import threading

import cbor2
import pytest
from brownout.board_events import MQTT, SERIAL, EventError, EventRecord, decode_events
from brownout.telemetry import Telemetry
from brownout_node.core import codec, schema
from hypothesis import given
from hypothesis import strategies as st
from mqtt_bed import Broker, Client, wait_until

BOOT_FIELDS = ("micropython", "1.28", bytes(8), "power", 0, True, 1, 0, -1, None, -1, None, -1, None, 1, 0)


def boot(number):
    return codec.encode_event(number, 1, 3, 9, schema.BOOT, BOOT_FIELDS)


def event(boot_number, sequence, kind=schema.CONNECTED, fields=("mqtt",)):
    return codec.encode_event(boot_number, sequence, 10 * sequence, 99, kind, fields)


def record(*steps):
    """A record fed with (channel, data) or, of a serial frame that does not carry on, (channel, data, previous)."""
    result = EventRecord()
    for channel, data, *rest in steps:
        result.add("b1", decode_events(data), channel, 0, rest[0] if rest else 0 if channel == SERIAL else None)
    return result


def gaps(of):
    return [(gap.boot, gap.first, gap.last) for gap in of.gaps()]


def test_fields_come_by_name_and_digests_as_hex():
    decided = event(3, 4, schema.DECIDED, (7, 1, bytes(range(8)), 3, False))
    assert decode_events(boot(2) + decided)[1] == (
        *(3, 4, 40, 99, "decided"),
        {"height": 7, "round": 1, "value_id": "0001020304050607", "weight": 3, "caught_up": False},
    )


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ([1, 1, 1, 1, 200], "unknown event kind 200"),
        ([1, 1, 1, 1, schema.CONNECTED], "connected with 0 fields; it has 1"),
        ([1, 1, 1, 1, schema.CONNECTED, 5], "connected.transport is 5"),
        ([1, 0, 1, 1, schema.CONNECTED, "mqtt"], "header"),
        ([1, True, 1, 1, schema.CONNECTED, "mqtt"], "header"),
        ("text", "not an array"),
    ],
)
def test_a_bad_event_is_named_and_the_good_before_it_kept(item, text):
    with pytest.raises(EventError, match=text) as caught:
        decode_events(event(1, 1) + cbor2.dumps(item))
    assert [kept[1] for kept in caught.value.events] == [1]


@given(st.binary(max_size=100))
def test_rubbish_is_an_event_error_or_nothing(data):
    try:
        assert decode_events(data) == [] or data
    except EventError:
        return


def test_duplicates_count_once_whatever_the_channel():
    both = record((SERIAL, boot(1) + event(1, 2)), (MQTT, event(1, 2)), (SERIAL, event(1, 2) + event(1, 3)))
    assert [item.sequence for item in both.events()] == [1, 2, 3]
    assert gaps(both) == []


def test_boots_stand_in_order_of_arrival_also_after_the_count_was_lost():
    lost = 0x10000000
    order = [5, lost + 160, lost + 161, lost + 16]  # the count is lost twice
    both = record(*[(SERIAL, boot(number)) for number in order], (MQTT, event(lost + 160, 2)))
    assert both.boots("b1") == order
    assert gaps(both) == []
    late = record((SERIAL, boot(7)), (MQTT, event(6, 1)))
    assert late.boots("b1") == [6, 7]


def test_a_hole_inside_a_channel_is_a_gap_and_a_tail_is_none():
    assert gaps(record((MQTT, boot(1) + event(1, 2) + event(1, 5) + event(1, 9)))) == [(1, 3, 4), (1, 6, 8)]
    tail_of_mqtt = record((SERIAL, boot(1)), (MQTT, event(1, 2)), (SERIAL, event(1, 5)))
    assert gaps(tail_of_mqtt) == []
    tail_of_serial = record((SERIAL, boot(1) + event(1, 2)), (MQTT, event(1, 4)))
    assert gaps(tail_of_serial) == []


def test_what_an_unbroken_cable_skips_left_by_mqtt_and_says_so():
    lost = record((SERIAL, boot(1) + event(1, 4) + event(1, 9)), (MQTT, event(1, 3)))
    found = lost.gaps()
    assert [(gap.first, gap.last) for gap in found] == [(2, 2)]
    assert "none of them a safety event" in found[0].reason
    never_connected = record((SERIAL, boot(1) + event(1, 4)))
    assert gaps(never_connected) == []


def test_a_missed_frame_makes_the_same_hole_a_gap_and_holds_the_acknowledgement_until_it_is_sent_again():
    missed = [(SERIAL, boot(1)), (SERIAL, event(1, 4), 3), (MQTT, event(1, 5)), (SERIAL, event(1, 6), 4)]
    assert gaps(record(*missed)) == [(1, 2, 3)]
    assert record(*missed).acknowledged("b1") == (1, 1)
    again = record(*missed, (SERIAL, event(1, 3) + event(1, 4), 1), (SERIAL, event(1, 6), 4), (MQTT, event(1, 2)))
    assert gaps(again) == []
    assert again.acknowledged("b1") == (1, 6)


def test_a_host_that_comes_late_does_not_take_the_past_for_complete():
    late = record((SERIAL, event(1, 9)), (SERIAL, event(1, 11)))
    assert gaps(late) == [(1, 0, 0)]
    assert record((SERIAL, event(1, 9), 8)).acknowledged("b1") == (1, 0)  # the board is to start from the first
    assert record((MQTT, event(1, 9))).acknowledged("b1") is None


def test_lost_boots_and_lost_events_are_gaps():
    assert gaps(record((SERIAL, boot(1)), (SERIAL, boot(4)))) == [(2, 0, 0), (3, 0, 0)]
    assert gaps(record((SERIAL, boot(1)), (SERIAL, event(2, 2) + event(2, 4)))) == [(2, 0, 0)]
    overflow = record((SERIAL, boot(1) + event(1, 5) + event(1, 6, schema.LOST_EVENTS, (2, 4))))
    assert gaps(overflow) == [(1, 2, 4)]
    arrived = (SERIAL, boot(1) + event(1, 2) + event(1, 4) + event(1, 5) + event(1, 6, schema.LOST_EVENTS, (2, 4)))
    assert gaps(record(arrived)) == [(1, 3, 3)]  # the board does not know which of them had arrived


def test_subscribers_get_each_new_event_once_and_waiters_see_it():
    telemetry = Telemetry("bed", lambda: 17)
    batches = []
    end = telemetry.subscribe(batches.append)
    found = []
    mark = telemetry.mark()
    waiter = threading.Thread(
        target=lambda: found.append(telemetry.wait_for(lambda item: item.boot == 2, 5.0, since=mark))
    )
    waiter.start()
    telemetry.ingest("b1", boot(1))
    telemetry.ingest("b1", boot(1) + boot(2))
    waiter.join(5.0)
    end()
    telemetry.ingest("b1", boot(3))
    assert [[item.boot for item in batch] for batch in batches] == [[1], [2]]
    assert found[0].boot == 2
    assert found[0].received_ns == 17
    assert telemetry.wait_for(lambda item: item.boot == 9, 0.01) is None
    telemetry.ingest("b1", b"\x00" + boot(4))
    assert telemetry.malformed_count == 1


@pytest.mark.system
@pytest.mark.needs("mosquitto")
def test_events_presence_and_the_tap_by_mqtt_and_back_before_the_boards_after_a_broker_death(tmp_path):
    broker = Broker(tmp_path)
    broker.start()
    telemetry = Telemetry("bed")
    telemetry.connect("127.0.0.1", broker.port, tap=True)
    board = Client("b1", broker.port, will="bed/up/b1")
    try:
        board.publish("bed/up/b1", b"1", qos=1, retain=True)
        board.publish("bed/g/b1/all", b"x")
        board.publish("bed/ev/b1", boot(1) + event(1, 2), qos=1)
        assert telemetry.wait_for(lambda item: item.kind == "connected", 5.0).channel == "mqtt"
        assert telemetry.wait_for_presence("b1", True, 5.0)
        assert telemetry.pair_counts["b1", "all"] == 1
        board.drop_dead()
        assert telemetry.wait_for_presence("b1", False, 5.0)
        broker.kill()
        wait_until(lambda: not telemetry.connected, "the loss of the broker is noticed")
        broker.start()
        wait_until(lambda: telemetry.connected, "the host is back")
        board = Client("b1", broker.port)
        board.publish("bed/ev/b1", boot(2), qos=1)
        assert telemetry.wait_for(lambda item: item.boot == 2, 5.0)
        assert [item.sequence for item in telemetry.events()] == [1, 2, 1]
        assert telemetry.gaps() == []
    finally:
        board.close()
        telemetry.close()
        broker.kill()
