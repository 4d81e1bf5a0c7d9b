"""The workload against a stand-in for boards behind a real broker: outcomes, retries, client ids, the same choices."""

from __future__ import annotations

import threading
from collections import Counter

import paho.mqtt.client as paho
import pytest
from brownout.contracts import RigError
from brownout.history import Outcome
from brownout.mqtt_connection import by_broker
from brownout.workload import Workload, WorkloadPlan
from brownout_node.core import codec, schema
from mqtt_bed import Broker, free_port, wait_until

pytestmark = [pytest.mark.system, pytest.mark.needs("mosquitto")]
BOARDS = ("b1", "b2", "b3")
CLUSTER = 7


REFUSALS = {"busy": schema.BUSY, "expired": schema.EXPIRED, "full": schema.FULL, "decided full": schema.FULL}


class Boards:
    """All boards at once: one register map, sessions, and manners that a test can spoil board by board."""

    def __init__(self, port):
        self.manners = dict.fromkeys(BOARDS, "good")
        self.registers = {}
        self.asked = []  # (board, client, request)
        self._sessions = {}
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="boards")
        self._client.on_message = self._on_message
        ready = threading.Event()
        self._client.on_subscribe = lambda *_arguments: ready.set()
        self._client.on_connect = lambda client, *_arguments: client.subscribe("bed/cmd/+", 1)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(5.0)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client, _data, message):
        board = message.topic.rpartition("/")[2]
        _cluster, client, _boot, _sequence, kind, fields = codec.decode_message(message.payload)
        assert kind == schema.COMMAND
        request, operation, key, value, expected = fields
        self.asked.append((board, client, request))
        manner = self.manners[board]
        if manner == "silent":
            return
        if manner == "good" or manner == "deaf afterwards":
            if (client, request) not in self._sessions:
                self._sessions[client, request] = self._apply(operation, key, value, expected)
            status, result = self._sessions[client, request]
            if manner == "deaf afterwards":
                return
        else:
            status, result = REFUSALS[manner], None
        height = 0 if manner in ("busy", "expired", "full") else 5
        reply = codec.encode_message(CLUSTER, 1, 1, 1, schema.REPLY, (client, request, status, result, height))
        self._client.publish(f"bed/re/{client}", reply, qos=1)

    def _apply(self, operation, key, value, expected):
        if operation == schema.GET:
            return schema.OK, self.registers.get(key)
        if operation == schema.CAS and self.registers.get(key) != expected:
            return schema.MISMATCH, self.registers.get(key)
        self.registers[key] = value
        return schema.OK, None


class Lab:
    def __init__(self, directory):
        self.broker = Broker(directory)
        self.broker.start()
        self.boards = Boards(self.broker.port)
        self.workloads = []

    def start(self, seed=1, **plan):
        on_invoke = plan.pop("on_invoke", None)
        defaults = {"operations_per_s": 200.0, "rumours_per_s": 0.0, "operation_timeout_s": 0.6}
        workload = Workload(
            WorkloadPlan(**{**defaults, **plan}), "bed", CLUSTER, BOARDS, seed, try_s=0.15, on_invoke=on_invoke
        )
        self.workloads.append(workload)
        workload.start(by_broker("workload", "127.0.0.1", self.broker.port))
        return workload

    def run(self, count, **plan):
        """The operations of a workload of which `count` have been begun, and the workload."""
        workload = self.start(**plan)
        wait_until(lambda: len(workload.operations) >= count, f"{count} operations", 20.0)
        return workload.stop(), workload

    def close(self):
        for workload in self.workloads:
            workload.close()
        self.boards.close()
        self.broker.kill()


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.close()


def test_good_boards_answer_everything_and_values_are_unique(lab):
    operations, workload = lab.run(60)
    assert all(item.outcome in (Outcome.OK, Outcome.FAIL) for item in operations)
    assert {item.status for item in operations} <= {"ok", "mismatch"}
    assert {item.operation for item in operations} == {"put", "get", "cas"}
    assert {item.process for item in operations} == {0, 1, 2}
    values = [item.value for item in operations if item.value is not None]
    assert len(values) == len(set(values))
    assert all(item.finished_ns > item.invoked_ns for item in operations)
    for process in range(3):
        mine = [item for item in operations if item.process == process]
        assert all(later.invoked_ns >= sooner.finished_ns for sooner, later in zip(mine, mine[1:], strict=False))
    swaps = [item for item in operations if item.operation == "cas"]
    assert any(item.outcome is Outcome.OK for item in swaps)
    reads = workload.final_reads()
    assert {item.key: item.result for item in reads} == {
        key: lab.boards.registers.get(key) for _name, key in workload._closing_reads()
    }


def test_the_same_seed_makes_the_same_choices(lab):
    def choices(seed):
        operations, workload = lab.run(40, seed=seed, clients=1)
        workload.close()
        lab.boards.registers.clear()
        lab.boards._sessions.clear()
        return [(item.operation, item.key, item.board) for item in operations[:40]]

    first = choices(5)
    assert first == choices(5)
    assert first != choices(6)


def test_a_silent_board_is_passed_over_and_the_request_done_once(lab):
    lab.boards.manners["b1"] = "deaf afterwards"
    operations, _ = lab.run(40)
    assert all(item.status in ("ok", "mismatch") for item in operations)
    tries = Counter((client, request) for _board, client, request in lab.boards.asked)
    assert max(tries.values()) >= 2
    assert any(item.board != "b1" for item in operations if tries[item.client, item.request] > 1)


def test_nobody_answers_the_process_ends_and_client_ids_ascend(lab):
    lab.boards.manners = dict.fromkeys(BOARDS, "silent")
    operations, _ = lab.run(9)
    assert {item.outcome for item in operations} == {Outcome.INFO}
    assert {item.status for item in operations} == {"timeout"}
    assert all(item.finished_ns is None for item in operations)
    processes = [item.process for item in operations]
    clients = [item.client for item in operations]
    assert len(set(processes)) == len(processes)
    assert len(set(clients)) == len(clients)
    assert sorted(clients)[0] == schema.FIRST_CLIENT


@pytest.mark.parametrize("manner", ["busy", "full"])
def test_a_refusal_is_a_definite_failure(lab, manner):
    lab.boards.manners = dict.fromkeys(BOARDS, manner)
    operations, _ = lab.run(12)
    assert {(item.outcome, item.status) for item in operations} == {(Outcome.FAIL, manner)}
    assert {item.process for item in operations} == {0, 1, 2}
    assert {item.client for item in operations} == {1000, 1001, 1002}


def test_an_expired_session_means_a_new_client_of_the_same_process(lab):
    lab.boards.manners = dict.fromkeys(BOARDS, "expired")
    operations, _ = lab.run(9)
    assert {(item.outcome, item.status) for item in operations} == {(Outcome.FAIL, "expired")}
    assert {item.process for item in operations} == {0, 1, 2}
    assert len({item.client for item in operations}) == len(operations)


def test_a_refusal_after_an_earlier_try_is_not_definite(lab):
    lab.boards.manners = {"b1": "silent", "b2": "busy", "b3": "silent"}
    operations, _ = lab.run(20)
    for item in operations:
        alone = sum(entry[1:] == (item.client, item.request) for entry in lab.boards.asked) == 1
        assert item.outcome is (Outcome.FAIL if item.status == "busy" else Outcome.INFO)
        assert alone or item.status == "timeout"


@pytest.mark.parametrize("manner", ["expired", "full"])
def test_another_boards_refusal_does_not_say_that_an_earlier_try_failed(lab, manner):
    """b1 may have done it and lost its answer: b2's state, or its lack of room, tells nothing of that."""
    lab.boards.manners = {"b1": "deaf afterwards", "b2": manner, "b3": "deaf afterwards"}
    operations, _ = lab.run(20)
    tries = Counter((client, request) for _board, client, request in lab.boards.asked)
    refused = [item for item in operations if item.status == manner]
    assert {tries[item.client, item.request] > 1 for item in refused} == {True, False}
    for item in refused:
        again = tries[item.client, item.request] > 1
        assert item.outcome is (Outcome.INFO if again else Outcome.FAIL)


def test_a_log_that_decided_that_there_is_no_room_says_so_for_every_try(lab):
    lab.boards.manners = {"b1": "silent", "b2": "decided full", "b3": "silent"}
    operations, _ = lab.run(20)
    refused = [item for item in operations if item.status == "full"]
    tries = Counter((client, request) for _board, client, request in lab.boards.asked)
    assert any(tries[item.client, item.request] > 1 for item in refused)
    assert {item.outcome for item in refused} == {Outcome.FAIL}


def test_rumours_write_and_delete_at_their_own_pace_each_asked_for_once(lab):
    invoked = []
    operations, _ = lab.run(
        40, operations_per_s=0.0, rumours_per_s=200.0, deletes=0.3, on_invoke=lambda item: invoked.append(item)
    )
    assert {item.operation for item in operations} == {"write", "delete"}
    assert invoked == operations
    assert all((item.value is None) == (item.operation == "delete") for item in operations)
    assert max(Counter((client, request) for _board, client, request in lab.boards.asked).values()) == 1
    assert {item.board for item in operations} == set(BOARDS)


def test_what_could_not_be_sent_did_not_happen(lab):
    workload = lab.start()
    wait_until(lambda: workload.operations, "it runs")
    lab.broker.kill()
    wait_until(lambda: any(item.status == "unsent" for item in workload.operations), "an operation could not be sent")
    lab.broker.start()
    done = len(workload.operations)
    wait_until(lambda: any(item.status == "ok" for item in workload.operations[done:]), "it goes on", 15.0)
    unsent = {(item.client, item.request) for item in workload.stop() if item.status == "unsent"}
    assert not unsent & {entry[1:] for entry in lab.boards.asked}


def test_no_broker_is_a_rig_error():
    workload = Workload(WorkloadPlan(), "bed", CLUSTER, BOARDS, 1)
    port = free_port()
    with pytest.raises(RigError, match=f"no MQTT broker answers at 127.0.0.1:{port}"):
        workload.start(by_broker("workload", "127.0.0.1", port, within_s=0.3))
    workload.close()
