"""The board's ring of events: what happens at its bound."""

from __future__ import annotations

from brownout_node import telemetry
from brownout_node.core import codec, schema
from brownout_node.transport import serial


class PulledCable:
    """A cable that takes nothing."""

    busy = True

    def send(self, payload: bytes) -> bool:
        raise AssertionError(f"a busy cable was given {len(payload)} bytes")


def event(sequence: int) -> bytes:
    return codec.encode_event(1, sequence, 1000, 2000, schema.DIGEST, ("vote", sequence, bytes(8), 1))


def fill(ring: telemetry.Telemetry, count: int) -> list[bytes]:
    events = [event(sequence) for sequence in range(1, count + 1)]
    for data in events:
        ring.add(data)
    return events


def test_events_of_a_pulled_cable_go_by_mqtt_at_the_bound() -> None:
    taken: list[bytes] = []

    def publish(data: bytes) -> bool:
        taken.append(data)
        return True

    ring = telemetry.Telemetry(PulledCable(), publish, True)
    events = fill(ring, 400)
    assert ring.lost is None
    sent = b"".join(taken)
    assert sent and b"".join(events).startswith(sent)  # the oldest, whole and in order


def test_an_acknowledgement_without_news_brings_all_again_at_once() -> None:
    frames: list[bytes] = []

    class Cable:
        busy = False

        def send(self, payload: bytes) -> bool:
            frames.append(payload)
            return True

    ring = telemetry.Telemetry(Cable(), None, True)
    events = fill(ring, 3)
    ring.flush(10)
    ring.acknowledge(0, 20)
    ring.flush(20)
    assert [serial.read_events(frame) for frame in frames] == [(0, b"".join(events))] * 2
    ring.acknowledge(2, 30)
    ring.flush(30)
    assert len(frames) == 2  # what was acknowledged is gone, the rest has been sent


def test_events_that_nothing_takes_are_dropped_oldest_first_and_said() -> None:
    ring = telemetry.Telemetry(PulledCable(), lambda _data: False, True)
    fill(ring, 400)
    assert ring.lost is not None
    first, last = ring.lost
    assert first == 1 and 200 < last < 400
