"""Codec, random numbers, clock, configuration and journal: MicroPython must print what CPython prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

VECTORS = Path(__file__).with_name("core_vectors.py")
FIRMWARE = VECTORS.parent.parent.parent / "firmware"


def test_both_interpreters_print_the_same(run_micropython: Callable[..., str]) -> None:
    script = VECTORS.read_text()
    here = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path[:0] = [{str(FIRMWARE)!r}]\n" + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    expected = here.stdout.splitlines()
    found = run_micropython(script).splitlines()
    assert len(expected) > 800
    for number, (ours, theirs) in enumerate(zip(expected, found, strict=False)):
        assert theirs == ours, f"line {number}"
    assert len(found) == len(expected)


SPEED = """
import time
from brownout_node.core import codec, schema

fields = (5, 0, b"12345678")
data = codec.encode_message(7, 1, 3, 1000, schema.PREVOTE, fields)
best = 1000000
for _ in range(200):
    start = time.ticks_us()
    for _ in range(20):
        codec.decode_message(codec.encode_message(7, 1, 3, 1000, schema.PREVOTE, fields))
    best = min(best, time.ticks_diff(time.ticks_us(), start))
print(best // 20)
"""


def test_a_prevote_is_encoded_and_decoded_in_well_under_100_microseconds(run_micropython: Callable[..., str]) -> None:
    assert int(run_micropython(SPEED)) < 100


JOURNAL_MEMORY = """
import gc
from brownout_node.storage.journal import Journal, format_genesis

class Flash:
    def __init__(self):
        self.cells = bytearray(b"\\xff" * 131072)
    def ioctl(self, operation, argument):
        if operation == 6:
            for at in range(argument * 4096, argument * 4096 + 4096):
                self.cells[at] = 255
        return 32 if operation == 4 else 4096
    def readblocks(self, block, buffer, offset):
        at = block * 4096 + offset
        buffer[:] = memoryview(self.cells)[at : at + len(buffer)]
    def writeblocks(self, block, buffer, offset):
        at = block * 4096 + offset
        for byte in buffer:
            self.cells[at] &= byte
            at += 1

flash = Flash()
format_genesis(flash, 1, 1)
journal = Journal(flash)
journal.open()
value = bytes(45)
gc.collect()
empty = gc.mem_alloc()
for number in range(200):
    journal.append([(0x200 + number, value)])
    journal.maintain()
gc.collect()
filled = gc.mem_alloc()
for number in range(4000):
    journal.append([(0x200 + number % 200, value)])
    journal.maintain()
gc.collect()
print(filled - empty, gc.mem_alloc() - filled)
"""


def test_a_journal_of_200_keys_takes_little_memory_and_does_not_grow(run_micropython: Callable[..., str]) -> None:
    filled, grown = map(int, run_micropython(JOURNAL_MEMORY).split())
    assert filled < 8192
    assert grown < 1024
