"""Faults of flash and clock in the simulator: what boards make of them, and that a wrong plan is refused."""

from __future__ import annotations

import cbor2
import pytest
from brownout.campaign_file import Campaign, parse_campaign
from brownout.conditions import BLOCK_BYTES, rotten
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.flash import SimFlash
from brownout.sim.runs import simulate
from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.errors import JournalError
from brownout_node.core.node import Node
from brownout_node.degraded import Degraded
from brownout_node.storage.journal import Journal, format_genesis

SIM = load_rig("sim")


def campaign(fault: str) -> Campaign:
    text = f"[campaign]\nname = 'x'\ndescription = 'x'\nduration_s = 10\nvoters = 3\n[[fault]]\n{fault}"
    return parse_campaign(Table(parse_document(text.encode(), "x.toml"), "x.toml"))


def written(blocks: int) -> SimFlash:
    flash = SimFlash()
    format_genesis(flash, 1, 1)
    journal = Journal(flash)
    journal.open()
    number = 0
    first = journal._sequence  # the only way to know which block is written to
    while journal._sequence < first + blocks:
        number += 1
        journal.append([(schema.JOURNAL_LOG + number % 8, bytes([number & 255]) * 200)])
    return flash


@pytest.mark.parametrize("draw", range(8))
def test_whatever_rots_in_a_journal_is_found_at_its_next_boot(draw: int) -> None:
    flash = written(6)
    headers = [bytes(flash.data[at : at + 16]) for at in range(0, len(flash.data), BLOCK_BYTES)]
    bits = rotten(headers, 16, draw)
    assert bits == rotten(headers, 16, draw)
    assert 16 <= len(bits) <= 17
    for position, bit in bits:
        flash.flip(position, bit)
    journal = Journal(flash)
    journal.open()
    assert journal.condition == schema.JOURNAL_INVALID
    assert journal.keys(0, 1 << 28) == []


def test_the_block_that_is_written_to_does_not_rot_alone() -> None:
    flash = SimFlash()
    format_genesis(flash, 1, 1)
    headers = [bytes(flash.data[at : at + 16]) for at in range(0, len(flash.data), BLOCK_BYTES)]
    assert rotten(headers, 16, 1) == []


def test_a_drift_that_nobody_could_see_is_refused() -> None:
    small = campaign("kind = 'drift'\nppm = 100\nat_s = 1\nfor_s = 2")
    with pytest.raises(
        UsageError, match=r"fault\[0\].ppm: 100 comes to 0 ms in 2.0 s, too little to prove; allowed: 25001 or"
    ):
        plan(small, SIM, 1)


def test_the_same_seed_rots_the_same_bits() -> None:
    rot = campaign("kind = 'bitrot'\nat_s = 1\nfor_s = 1")
    first, again, other = (plan(rot, SIM, seed).faults[0].parameters["draw"] for seed in (1, 1, 2))
    assert first == again != other


def test_what_rots_under_a_journal_at_work_is_not_handed_out() -> None:
    flash = written(3)
    journal = Journal(flash)
    journal.open()
    key = schema.JOURNAL_GENESIS  # in the oldest block
    assert journal.get(key) is not None
    flash.flip(journal._index[key] >> 10, 3)
    with pytest.raises(JournalError, match="damaged: block"):
        journal.get(key)
    with pytest.raises(JournalError, match="a write failed"):
        journal.append([(key, b"new")])
    journal.open()
    assert journal.condition == schema.JOURNAL_INVALID


@pytest.mark.parametrize("way", ["full", "fails", "sticks"])
def test_a_write_that_did_not_happen_is_an_error_and_the_old_value_stands(way: str) -> None:
    flash = written(1)
    journal = Journal(flash)
    journal.open()
    before = {key: journal.get(key) for key in journal.keys(0, 1 << 28)}
    flash.refuse(way, frozenset(range(32)), 0)
    with pytest.raises(JournalError):
        journal.append([(schema.JOURNAL_LOG, b"never")])
    assert flash.refused == 1
    journal.open()  # what is there can be read all the same
    assert {key: journal.get(key) for key in journal.keys(0, 1 << 28)} == before
    flash.refuse("", frozenset(), 0)
    journal.open()
    journal.append([(schema.JOURNAL_LOG, b"at last")])
    assert journal.get(schema.JOURNAL_LOG) == b"at last"


def test_under_pressure_boards_stop_say_so_and_come_back_and_nothing_is_lost() -> None:
    fault = "kind = 'pressure'\nselect = ['b2']\nat_s = 1\nfor_s = 2"
    run = simulate(plan(campaign(fault), SIM, 3), SIM)
    assert run.verdict == "valid"
    told = [event for event in run.history.events if event.kind == "degraded"]
    assert [(event.board, event.boot, event.fields["reason"]) for event in told] == [("b2", 1, "memory")]
    released_ns = next(record.at_ns for record in run.history.faults if record.stage == "proven")
    boots = [event for event in run.history.events if event.kind == "boot" and event.board == "b2"]
    assert [event.boot for event in boots] == [1, 2]
    assert boots[1].received_ns > released_ns  # it waited for room, and did not start into the pressure
    statuses = {operation.status for operation in run.history.operations}
    assert "busy" in statuses


def test_the_same_seed_fails_the_same_request() -> None:
    fault = campaign("kind = 'pressure'\nselect = ['b2']\nat_s = 1\nfor_s = 2")
    first, again, other = (simulate(plan(fault, SIM, seed), SIM).trace_hash for seed in (1, 1, 2))
    assert first == again != other


def degraded(error: Exception) -> tuple[Degraded, Journal, SimFlash]:
    flash = SimFlash()
    format_genesis(flash, 7, 1)
    journal = Journal(flash)
    journal.open()
    config = Config({"cluster": 7, "board": 1, "name": "b1", "bed": "bed", "roster": [[1, "b1", 1]], "seed": 1})
    node = Node(config, journal, ("test", "1", bytes(8), "power"))
    ready = node.take_ready()
    assert ready is not None
    journal.append(ready[0])
    return Degraded(node, journal, error, 5, lambda: False), journal, flash


@pytest.mark.parametrize(
    ("error", "status"),
    [(JournalError("flash: 28"), schema.FULL), (MemoryError(), schema.BUSY)],
    ids=["flash", "memory"],
)
def test_a_degraded_board_says_why_and_refuses_clients(error: Exception, status: int) -> None:
    board, _journal, _flash = degraded(error)
    fields = (9, schema.PUT, "k", "v", None)
    board.receive(schema.HOST, codec.encode_message(7, 1001, 1, 1, schema.COMMAND, fields), 50)
    board.receive(2, codec.encode_message(7, 2, 1, 1, schema.FETCH, (1,)), 51)
    board.receive(schema.HOST, b"rubbish", 52)
    records, messages, events = board.take_ready()
    assert records == []
    [(to, data)] = messages
    reply = codec.decode_message(data)
    assert (to, reply[4], reply[5][:3]) == (1001, schema.REPLY, (1001, 9, status))
    [event] = [cbor2.loads(data) for data in events]
    assert event[1] == 6  # its number follows the last that left
    assert event[4:] == [schema.DEGRADED, str(error) or "memory"]
    assert board.take_ready() is None


def test_a_degraded_board_starts_anew_once_its_flash_takes_a_write() -> None:
    board, journal, flash = degraded(JournalError("flash: 28"))
    flash.refuse("full", frozenset(range(32)), 0)
    for now_ms in (500, 1000, 2500):
        board.tick(now_ms)
        assert not board.over
    assert flash.refused == 2
    flash.refuse("", frozenset(), 0)
    board.tick(3500)
    assert board.over
    journal.open()
    assert codec.unpack("u", journal.get(schema.JOURNAL_BOOT)) == (1,)  # no boot was counted for trying


def test_a_degraded_board_never_stamps_above_what_its_next_boot_can_know() -> None:
    flash = SimFlash()
    format_genesis(flash, 7, 1)
    journal = Journal(flash)
    journal.open()
    config = Config({"cluster": 7, "board": 1, "name": "b1", "bed": "bed", "roster": [[1, "b1", 1]], "seed": 1})
    node = Node(config, journal, ("test", "1", bytes(8), "power"))
    ready = node.take_ready()
    assert ready is not None
    journal.append(ready[0])
    node.tick(100_000)  # beyond what the durable ceiling covers: the clock asks for a higher one
    node.emit(schema.CONNECTED, ("mqtt",))
    board = Degraded(node, journal, JournalError("flash: 28"), 5, lambda: False)
    _records, _messages, [event] = board.take_ready()
    packed = journal.get(schema.JOURNAL_CLOCK)
    assert cbor2.loads(event)[3] <= codec.unpack("u", packed)[0]
