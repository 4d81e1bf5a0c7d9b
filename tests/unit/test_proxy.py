"""The proxy between boards and broker: against a real mosquitto with paho clients, and its parser against rubbish."""

from __future__ import annotations

import contextlib
import signal
import socket
import time

import cbor2
import pytest
from brownout import mqtt_packets as mqtt
from brownout_node.core import schema
from brownout_virtual.link_session import Session
from brownout_virtual.proxy import Proxy
from hypothesis import given
from hypothesis import strategies as st
from mqtt_bed import Broker, Client, LoopThread, wait_until

BOARDS = ("b1", "b2", "b3")
system = pytest.mark.system
needs_broker = pytest.mark.needs("mosquitto")


def message(kind, *fields):
    return cbor2.dumps([schema.VERSION, 1, 1, 1, 1, kind, *fields])


def precommit(height, round_=0):
    return message(schema.PRECOMMIT, height, round_, None)


class Bed:
    """A broker, the proxy in a thread, and boards that are plain clients behind it."""

    def __init__(self, directory):
        self.broker = Broker(directory)
        self.broker.start()
        self.thread = LoopThread()
        self.proxy = Proxy("bed", BOARDS, "127.0.0.1", self.broker.port)
        self.ports = self.thread.call(self.proxy.start)
        self.clients = []

    def board(self, name, qos=0, will=False):
        topics = [f"bed/g/+/{name}", "bed/g/+/all", f"bed/cmd/{name}"]
        return self._keep(Client(name, self.ports[name], *topics, qos=qos, will=f"bed/up/{name}" if will else None))

    def boards(self):
        return [self.board(name) for name in BOARDS]

    def host(self, *topics):
        return self._keep(Client("host", self.broker.port, *topics, qos=1))

    def _keep(self, client):
        self.clients.append(client)
        return client

    def apply(self, action, sources, targets, name="r", **more):
        rule = {"id": name, "action": action, "sources": sources, "targets": targets, **more}
        self.thread.call(self.proxy.apply, [rule])

    def clear(self, *names):
        self.thread.call(self.proxy.clear, list(names) or None)

    def count(self, source, target, what="matched", rule="r"):
        for entry in self.thread.call(self.proxy.counts):
            if (entry["rule"], entry["source"], entry["target"]) == (rule, source, target):
                return entry[what]
        raise AssertionError(f"no count of {source} -> {target}")

    def wait_matched(self, source, target, count=1):
        wait_until(lambda: self.count(source, target) >= count, f"{count} matches of {source} -> {target}")

    def close(self):
        for client in self.clients:
            client.close()
        self.thread.call(self.proxy.stop)
        self.thread.close()
        self.broker.kill()


@pytest.fixture
def bed(tmp_path):
    bed = Bed(tmp_path)
    yield bed
    bed.close()


@system
@needs_broker
def test_a_split_cuts_directed_and_group_topics_and_heals(bed):
    b1, b2, b3 = bed.boards()
    bed.apply("drop", ["b1"], ["b2", "b3"], "out")
    bed.apply("drop", ["b2", "b3"], ["b1"], "in")
    b1.publish("bed/g/b1/b2", b"lost")
    b1.publish("bed/g/b1/all", b"lost")
    assert b1.next()[1] == b"lost"  # a group's topic gives a board its own messages back
    b2.publish("bed/g/b2/all", b"from b2")
    assert {b2.next()[1], b3.next()[1]} == {b"from b2"}
    wait_until(lambda: bed.count("b1", "b2", rule="out") == 2, "both messages dropped towards b2")
    wait_until(lambda: bed.count("b1", "b3", rule="out") == 1, "the group's message dropped towards b3")
    wait_until(lambda: bed.count("b2", "b1", rule="in") == 1, "b2 dropped towards b1")
    assert bed.count("b3", "b1", rule="in") == 0
    assert all(entry["passed"] == 0 for entry in bed.thread.call(bed.proxy.counts))
    bed.clear()
    b1.publish("bed/g/b1/all", b"healed")
    assert [client.next()[1] for client in (b1, b2, b3)] == [b"healed"] * 3


@system
@needs_broker
def test_one_way_leaves_the_other_way_open(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("drop", ["b1"], ["b2"])
    b1.publish("bed/g/b1/b2", b"lost")
    bed.wait_matched("b1", "b2")
    b2.publish("bed/g/b2/b1", b"arrives")
    assert b1.next() == ("bed/g/b2/b1", b"arrives")
    assert b2.messages.empty()


@system
@needs_broker
def test_isolation_from_the_host_keeps_qos_1_unacknowledged_and_the_window_open(bed):
    host = bed.host("bed/ev/+", "bed/re/+")
    b1 = bed.board("b1", qos=1)
    b2 = bed.board("b2")
    bed.apply("drop", ["b1"], ["host"], "out")
    bed.apply("drop", ["host"], ["b1"], "in")
    sent = b1.publish("bed/ev/b1", b"kept", qos=1)
    for _ in range(60):  # three times the broker's window of messages in flight
        host.publish("bed/cmd/b1", b"lost", qos=1)
    wait_until(lambda: bed.count("host", "b1", rule="in") == 60, "60 commands dropped")
    wait_until(lambda: bed.count("b1", "host", rule="out") == 1, "the event dropped")
    assert not sent.is_published()
    b2.publish("bed/g/b2/b1", b"boards still talk")
    assert b1.next()[1] == b"boards still talk"
    bed.clear()
    host.publish("bed/cmd/b1", b"open", qos=1)
    assert b1.next()[1] == b"open"


@system
@needs_broker
def test_loss_takes_a_share_and_counts_the_rest(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("loss", ["b1"], ["b2"], amount=40)
    for number in range(200):
        b1.publish("bed/g/b1/b2", b"%d" % number)
    wait_until(lambda: bed.count("b1", "b2") + bed.count("b1", "b2", "passed") == 200, "all messages have been judged")
    lost = bed.count("b1", "b2")
    assert 40 < lost < 120
    numbers = [int(payload) for payload in b2.payloads(200 - lost)]
    assert numbers == sorted(numbers)


@system
@needs_broker
def test_a_delay_is_kept_in_order_and_only_for_its_pair(bed):
    b1, b2, b3 = bed.boards()
    bed.apply("delay", ["b1"], ["b2"], amount=150)
    began = time.monotonic()
    for number in range(5):
        b1.publish("bed/g/b1/b2", b"%d" % number)
    b3.publish("bed/g/b3/b2", b"quick")
    assert b2.next()[1] == b"quick"
    assert b2.payloads(5) == [b"0", b"1", b"2", b"3", b"4"]
    assert time.monotonic() - began >= 0.15
    bed.apply("delay", ["b1"], ["b2"], amount=60_000)
    b1.publish("bed/g/b1/b2", b"late")
    bed.wait_matched("b1", "b2")
    bed.clear()
    assert b2.next()[1] == b"late"


@system
@needs_broker
def test_bandwidth_paces(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("bandwidth", ["b1"], ["b2"], amount=1000)
    began = time.monotonic()
    for _ in range(3):
        b1.publish("bed/g/b1/b2", bytes(100))
    b2.payloads(3)
    assert time.monotonic() - began >= 0.3


@system
@needs_broker
def test_hold_by_kind_and_height_releases_in_order(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("hold", ["*"], ["b2"], kinds=["precommit"], height=7)
    for height, round_ in ((7, 0), (8, 0), (7, 1)):
        b1.publish("bed/g/b1/b2", precommit(height, round_))
    bed.wait_matched("b1", "b2", 2)
    assert b2.next()[1] == precommit(8)
    assert b2.messages.empty()
    bed.clear("r")
    assert b2.payloads(2) == [precommit(7, 0), precommit(7, 1)]


@system
@needs_broker
def test_what_is_held_outlives_a_connection_but_not_a_later_cut(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("hold", ["b1"], ["b2"])
    b1.publish("bed/g/b1/b2", b"held")
    bed.wait_matched("b1", "b2")
    b2.close()
    b2 = bed.board("b2")
    bed.clear("r")
    assert b2.next()[1] == b"held"
    bed.apply("hold", ["b1"], ["b2"])
    b1.publish("bed/g/b1/b2", b"cut")
    bed.wait_matched("b1", "b2")
    bed.apply("drop", ["b1"], ["b2"], "cut")
    bed.clear("r")
    bed.clear("cut")
    b1.publish("bed/g/b1/b2", b"after")
    assert b2.next()[1] == b"after"


@system
@needs_broker
def test_duplicate_the_nth_of_a_kind(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("duplicate", ["b1"], ["b2"], kinds=["precommit"], nth=2, amount=2)
    for height in (1, 2, 3):
        b1.publish("bed/g/b1/b2", precommit(height))
    assert b2.payloads(5) == [precommit(height) for height in (1, 2, 2, 2, 3)]
    assert (bed.count("b1", "b2"), bed.count("b1", "b2", "passed")) == (1, 2)


@system
@needs_broker
def test_a_stalled_board_is_not_read_until_it_is_lifted(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("stall", ["b1"], ["*"])
    b1.publish("bed/g/b1/b2", b"stuck")
    b2.publish("bed/g/b2/b1", b"down is open")
    assert b1.next()[1] == b"down is open"
    assert b2.messages.empty()
    assert bed.count("b1", "host") == 1
    bed.clear()
    assert b2.next()[1] == b"stuck"


@system
@needs_broker
def test_a_reset_closes_and_refuses_while_it_stands(bed):
    b1, b2, _b3 = bed.boards()
    bed.apply("reset", ["b1"], ["*"])
    assert b1.ends.get(timeout=5)
    with pytest.raises(OSError):
        Client("b1", bed.ports["b1"]).close()
    b2.publish("bed/g/b2/b2", b"unharmed")
    assert b2.next()[1] == b"unharmed"
    bed.clear()
    b1 = bed.board("b1")
    b2.publish("bed/g/b2/b1", b"back")
    assert b1.next()[1] == b"back"
    assert bed.thread.call(bed.proxy.connected)["b1"]


@system
@needs_broker
def test_connections_die_with_the_broker_and_come_back_with_it(bed):
    b1 = bed.board("b1")
    bed.broker.kill()
    assert b1.ends.get(timeout=5)
    with pytest.raises(OSError):
        Client("b1", bed.ports["b1"]).close()
    bed.broker.start()
    b1 = bed.board("b1")
    b1.publish("bed/g/b1/b1", b"back")
    assert b1.next()[1] == b"back"


@system
@needs_broker
def test_a_stalled_broker_only_makes_things_late(bed):
    b1, b2, _b3 = bed.boards()
    bed.broker.send_signal(signal.SIGSTOP)
    b1.publish("bed/g/b1/b2", b"late")
    bed.broker.send_signal(signal.SIGCONT)
    assert b2.next()[1] == b"late"


@system
@needs_broker
def test_wills_speak_for_dead_boards_and_not_for_those_that_leave(bed):
    host = bed.host("bed/up/+")
    dead, leaving = bed.board("b1", will=True), bed.board("b2", will=True)
    leaving.close()
    dead.drop_dead()
    assert host.next() == ("bed/up/b1", b"0")
    bed.apply("drop", ["b3"], ["b1"])  # any rule: makes sure that a call passed the proxy since
    assert host.messages.empty()


@system
@needs_broker
def test_garbage_closes_that_connection_only(bed):
    b2 = bed.board("b2")
    for rubbish in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 8,
        b"\x10\xff\xff\xff\xff\xff",
        b"\x10\x0c\x00\x04MQTT\x05\x02",
    ):
        with socket.create_connection(("127.0.0.1", bed.ports["b1"]), 5.0) as connection:
            connection.settimeout(5.0)
            connection.sendall(rubbish.ljust(14, b"\x00"))
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    b2.publish("bed/g/b2/b2", b"unharmed")
    assert b2.next()[1] == b"unharmed"


# The parser, without sockets.


class FakeTransport:
    """Collects what a side writes."""

    def __init__(self):
        self.data = b""

    def is_closing(self):
        return False

    def write(self, data):
        self.data += data


def sides():
    """A session's uplink side whose output is collected, and that output."""
    proxy = Proxy("bed", BOARDS, "127.0.0.1", 1)
    proxy.apply([{"id": "r", "action": "drop", "sources": ["b1"], "targets": ["host"], "kinds": ["reply"]}])
    session = Session(proxy, "b1")
    output = FakeTransport()
    session.down_side.transport = output
    return session, output


packets = st.one_of(
    st.builds(mqtt.publish, st.sampled_from([b"bed/g/b1/b2", b"bed/re/1000", b"bed/ev/b1"]), st.binary(max_size=300)),
    st.builds(
        lambda body, packet_id: mqtt.publish(b"bed/re/1000", body, qos=1, packet_id=packet_id),
        st.just(message(schema.REPLY, 1000, 1, 0, None, 1)),
        st.integers(1, 65535),
    ),
    st.just(mqtt.PING),
    st.builds(mqtt.acknowledge, st.just(mqtt.PUBACK), st.integers(1, 65535)),
)


@given(st.lists(packets, max_size=12), st.lists(st.integers(1, 40), max_size=60))
def test_any_chunking_gives_the_same_output(stream, cuts):
    data = mqtt.connect("b1") + b"".join(stream)
    expected = mqtt.connect("b1") + b"".join(packet for packet in stream if b"\x18\x41" not in packet)
    session, output = sides()
    position = 0
    for size in cuts:
        session.up_side.data_received(data[position : position + size])
        position += size
    session.up_side.data_received(data[position:])
    assert output.data == expected
    assert not session.closed


@given(st.binary(max_size=200), st.booleans())
def test_rubbish_closes_or_waits_but_never_raises(rubbish, after_connect):
    session, output = sides()
    if after_connect:
        session.up_side.data_received(mqtt.connect("b1"))
    before = len(output.data)
    session.proxy.forget = lambda session: None
    session.down_side.end = lambda: None
    session.up_side.data_received(rubbish)
    if not after_connect and rubbish[:1] and not 1 <= rubbish[0] >> 4 <= 14:
        assert session.closed
    assert rubbish.startswith(output.data[before:])
