"""Faults of a board's flash, clock and heap: how each is applied, proven from a second side, and healed.

A clock is proven by the stamps of the board's own events against the host's clock; bits by reading the flash back, and
by what the board finds at its next boot. Must not judge what the protocols make of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random
from statistics import median
from typing import TYPE_CHECKING
from zlib import crc32

from .history import FaultStage

if TYPE_CHECKING:
    from .injector import FaultLife

BLOCK_BYTES = 4096
MAGIC = 0x314C4A42  # of a block of the journal: firmware/brownout_node/storage/journal.py
READ_WITHIN_S = 5.0
READINGS = 5  # of a clock; the median counts
SLACK_MS = 25.0  # what telemetry may add to the difference of two readings, and its median not take away


def run(life: FaultLife) -> None:
    """The life of one such fault, after its moment has come."""
    if life.fault.kind == "bitrot":
        _bitrot(life)
    elif life.fault.kind in ("full", "worn"):
        _refuse(life)
    elif life.fault.kind == "pressure":
        _pressure(life)
    else:
        _clock(life)


# Flash.


def _bitrot(life: FaultLife) -> None:
    """The older blocks rot; the board starts anew, since only then it reads them all."""
    parameters = life.fault.parameters
    boots = life.bed.watch.boots(life.boards)
    running = parameters.get("board", "off") == "running"
    if not running:
        life.off(life.boards)
    bits = {
        board: rotten(life.bed.conditions.headers(board), int(parameters.get("bits", 16)), int(parameters["draw"]))
        for board in life.boards
    }
    read_back = {board: life.bed.conditions.flip(board, bits[board]) for board in life.boards}
    life.note(FaultStage.APPLIED, {"last_boots": boots, "board": "running" if running else "off"})
    turned = {
        board: sum(before ^ after == 1 << bit for (before, after), (_at, bit) in zip(found, bits[board], strict=True))
        for board, found in read_back.items()
    }
    blocks = {board: sorted({position // BLOCK_BYTES for position, _bit in drawn}) for board, drawn in bits.items()}
    proven = all(bits[board] and turned[board] == len(bits[board]) for board in life.boards)
    life.proof(proven, {"bits_turned": turned, "in_blocks": blocks})
    life.last()
    if running:
        life.off(life.boards)
    free = life.on(life.boards)
    evidence = life.boot_evidence(free, boots)
    for board in free:
        event = life.bed.watch.boot(board)
        if "boot" in evidence.get(board, {}) and event is not None:
            evidence[board]["journal"] = event.fields["journal"]
    life.note(FaultStage.HEALED, evidence)


def _refuse(life: FaultLife) -> None:
    """The flash does not do what it is asked; a board that met it stops, says so, and starts anew when it can."""
    parameters = life.fault.parameters
    way = "full" if life.fault.kind == "full" else str(parameters.get("way", "fails"))
    sectors = [int(sector) for sector in parameters.get("which", range(32))]
    boots = life.bed.watch.boots(life.boards)
    from_ns = life.bed.now_ns()
    life.bed.conditions.refuse(life.boards, way, sectors, int(parameters.get("after", 0)))
    life.note(FaultStage.APPLIED, {"way": way, "sectors": sectors, "last_boots": boots})
    life.last()
    refused = life.bed.conditions.refused(life.boards)
    told = {board: life.bed.watch.degraded(board, from_ns) for board in life.boards}
    evidence = {board: {"refused": refused[board], "the_board_said": told[board]} for board in life.boards}
    life.proof(all(refused.values()), evidence)
    life.bed.conditions.refuse(life.boards, "", (), 0)
    life.note(FaultStage.HEALED, life.boot_evidence([board for board in life.boards if refused[board]], boots))


def _pressure(life: FaultLife) -> None:
    """The heap is full; a board that met it stops, says so, and starts anew when there is room."""
    parameters = life.fault.parameters
    boots = life.bed.watch.boots(life.boards)
    from_ns = life.bed.now_ns()
    kib = int(parameters.get("kib", 8))
    life.bed.conditions.press(life.boards, kib, int(parameters["draw"]))
    life.note(FaultStage.APPLIED, {"kib_left": kib, "last_boots": boots})
    life.last()
    pressed = life.bed.conditions.pressed(life.boards)
    told = {board: life.bed.watch.degraded(board, from_ns) for board in life.boards}
    evidence = {board: {"pressed": pressed[board], "the_board_said": told[board]} for board in life.boards}
    life.proof(all(pressed.values()), evidence)
    life.bed.conditions.press(life.boards, None, 0)
    life.note(FaultStage.HEALED, life.boot_evidence([board for board in life.boards if told[board]], boots))


def rotten(headers: Sequence[bytes], bits: int, draw: int) -> list[tuple[int, int]]:
    """Different bytes of the log's blocks, with one bit of each, but none of the block that is being written.

    What was written last and does not match its checksum looks like a write that was cut by a loss of power, to any
    log; so rot there is no fault that a board could be blamed for.
    """
    sequences = {block: found for block, header in enumerate(headers) if (found := _sequence(header))}
    if len(sequences) < 2:
        return []
    head = max(sequences, key=lambda block: sequences[block])
    newest = sorted((block for block in sequences if block != head), key=lambda block: -sequences[block])
    random = Random(draw)
    # One bit in the header of the block before the newest: that block counts in any case.
    certain = newest[0] * BLOCK_BYTES + random.randrange(16)
    places = random.sample(range(len(newest) * BLOCK_BYTES), bits)
    positions = {certain, *(newest[place // BLOCK_BYTES] * BLOCK_BYTES + place % BLOCK_BYTES for place in places)}
    return [(position, random.randrange(8)) for position in sorted(positions)]


def _sequence(header: bytes) -> int:
    """The number of a block of the log; 0 where it is none."""
    magic, sequence, _tail, check = struct.unpack("<IIII", header)
    return int(sequence) if magic == MAGIC and check == crc32(header[:12]) else 0


# Clocks.


def _clock(life: FaultLife) -> None:
    kind, parameters = life.fault.kind, life.fault.parameters
    ppm = int(parameters["ppm"]) if kind == "drift" else 0
    ahead_ms = 0 if kind == "drift" else int(parameters["ms"])
    before = {board: _reading(life, board) for board in life.boards}
    from_ns = life.bed.now_ns()
    life.bed.conditions.clock(life.boards, ppm=ppm, ms=ahead_ms)
    life.note(FaultStage.APPLIED, {"ppm": ppm, "ms": ahead_ms})
    life.last()
    lasted_s = (life.bed.now_ns() - from_ns) / 1e9
    after = {board: _reading(life, board) for board in life.boards}
    expected_ms = ahead_ms + ppm * lasted_s / 1000
    moved_ms = {
        board: None if (was := before[board]) is None or (now := after[board]) is None else round(now - was, 1)
        for board in life.boards
    }
    slack_ms = max(SLACK_MS, abs(expected_ms) / 4)
    proven = all(moved is not None and abs(moved - expected_ms) <= slack_ms for moved in moved_ms.values())
    life.proof(proven, {"expected_ms": round(expected_ms, 1), "moved_ms": moved_ms, "within_ms": round(slack_ms, 1)})
    if kind != "jump":  # a clock that jumped stays ahead
        life.bed.conditions.clock(life.boards, ppm=-ppm, ms=-ahead_ms)
    life.note(FaultStage.HEALED, {"ahead_ms": {board: _rounded(_reading(life, board)) for board in life.boards}})


def _reading(life: FaultLife, board: str) -> float | None:
    """How far the board's clock is ahead of the run's; None where it does not tell, or starts anew meanwhile."""
    after_ns = life.bed.now_ns()
    found = []
    boots = set()
    for _ in range(READINGS):
        told = life.bed.watch.ahead_ms(board, after_ns, READ_WITHIN_S)
        if told is None:
            break
        boots.add(told[0])
        found.append(told[1])
        after_ns = life.bed.now_ns()
    return median(found) if found and len(boots) == 1 else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
