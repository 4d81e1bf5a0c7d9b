"""Faults of flash and clock in the simulator: what boards make of them, and that a wrong plan is refused."""

from __future__ import annotations

import pytest
from brownout.campaign_file import Campaign, parse_campaign
from brownout.conditions import BLOCK_BYTES, rotten
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.flash import SimFlash
from brownout_node.core import schema
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
