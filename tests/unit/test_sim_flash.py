"""The model of NOR flash: what programs, erases and cuts leave behind."""

from __future__ import annotations

import pytest
from brownout.sim.flash import BLOCK_BYTES, PowerLost, SimFlash
from brownout_node.core import schema
from brownout_node.storage.journal import Journal, format_genesis
from hypothesis import given, settings
from hypothesis import strategies as st


def read(flash: SimFlash, block: int, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    flash.readblocks(block, buffer, offset)
    return bytes(buffer)


@given(st.integers(0, 7), st.integers(0, BLOCK_BYTES - 32), st.binary(max_size=32), st.binary(max_size=32))
def test_a_program_only_clears_bits_and_an_erase_sets_them(
    block: int, offset: int, first: bytes, second: bytes
) -> None:
    flash = SimFlash(blocks=8)
    flash.writeblocks(block, first, offset)
    assert read(flash, block, offset, len(first)) == first
    flash.writeblocks(block, second, offset)
    size = max(len(first), len(second))
    expected = bytes(a & b for a, b in zip(first.ljust(size, b"\xff"), second.ljust(size, b"\xff"), strict=True))
    assert read(flash, block, offset, size) == expected
    flash.ioctl(6, block)
    assert flash.data == b"\xff" * len(flash.data)
    assert (flash.programs, flash.erases) == (2, 1)


@given(st.integers(1, 4), st.integers(0, 40))
def test_a_cut_meets_the_operation_and_the_byte_that_it_was_armed_for(operation: int, byte: int) -> None:
    flash = SimFlash(blocks=8)
    flash.cut(operation, byte)
    for number in range(1, operation):
        flash.writeblocks(0, b"\0" * 32, 32 * number)
    with pytest.raises(PowerLost):
        flash.writeblocks(1, b"\0" * 32, 0)
    done = min(byte, 32)
    assert read(flash, 1, 0, 33) == b"\0" * done + b"\xff" * (33 - done)
    flash.writeblocks(1, b"\0" * 32, 0)  # it is over
    assert read(flash, 1, 0, 32) == b"\0" * 32


def test_a_cut_is_disarmed_and_an_erase_can_be_cut_too() -> None:
    flash = SimFlash(blocks=8)
    flash.cut(1, 0)
    flash.cut(0, 0)
    flash.writeblocks(0, b"\0" * BLOCK_BYTES)
    flash.cut(1, 100)
    with pytest.raises(PowerLost):
        flash.ioctl(6, 0)
    assert read(flash, 0, 0, 101) == b"\xff" * 100 + b"\0"


def test_lost_writes_worn_blocks_and_flipped_bits() -> None:
    flash = SimFlash(blocks=8)
    flash.lost_writes = 1
    flash.writeblocks(0, b"\0")
    assert read(flash, 0, 0, 1) == b"\xff"
    flash.writeblocks(0, b"\0")
    assert read(flash, 0, 0, 1) == b"\0"
    flash.flip(0, 3)
    assert read(flash, 0, 0, 1) == b"\x08"
    flash.worn.add(2)
    with pytest.raises(OSError):
        flash.writeblocks(2, b"\0")


@given(st.integers(1, 60), st.integers(0, 300))
@settings(max_examples=60)
def test_the_firmware_s_journal_keeps_its_promises_over_a_cut_anywhere(operation: int, byte: int) -> None:
    flash = SimFlash()
    format_genesis(flash, 7, 1)
    journal = Journal(flash)
    journal.open()
    flash.cut(operation, byte)
    before: dict[int, bytes] = {}
    during: tuple[int, bytes] | None = None
    for number in range(200):
        during = (100 + number % 5, b"%d" % number * 20)
        try:
            journal.append([during])
        except PowerLost:
            break
        before[during[0]] = during[1]
    reopened = Journal(flash)
    reopened.open()
    assert reopened.condition == schema.JOURNAL_VALID
    assert during is not None
    for key, value in before.items():
        allowed = {value} | ({during[1]} if during[0] == key else set())
        assert reopened.get(key) in allowed
