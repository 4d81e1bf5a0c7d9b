"""UF2, the format that RP2 boards take as a USB drive: made, checked block by block, and copied onto a board's drive.

https://github.com/microsoft/uf2 has the format; a drive of that kind holds INFO_UF2.TXT. Must not write to a folder
without it, nor a file for another chip: the boot loader would ignore every block and say nothing.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from .contracts import RigError, UsageError

BLOCK_BYTES = 512
PAYLOAD_BYTES = 256
MAGIC = (0x0A324655, 0x9E5D5157, 0x0AB16F30)
NOT_MAIN_FLASH, HAS_FAMILY = 0x00000001, 0x00002000
FAMILIES = {"rp2040": 0xE48BFF56, "rp2350": 0xE48BFF59}
BOARD_IDS = {"RPI-RP2": "rp2040", "RP2350": "rp2350"}
INFO = "INFO_UF2.TXT"
_HEAD = struct.Struct("<8I")
_GONE_WITHIN_S = 20.0
_LOOK_S = 0.02


def to_uf2(data: bytes, address: int, chip: str) -> bytes:
    """Data for that place of the chip's flash, such as a LittleFS image, as UF2."""
    pieces = [data[at : at + PAYLOAD_BYTES] for at in range(0, len(data), PAYLOAD_BYTES)]
    blocks = []
    for number, piece in enumerate(pieces):
        where = address + number * PAYLOAD_BYTES
        head = _HEAD.pack(*MAGIC[:2], HAS_FAMILY, where, PAYLOAD_BYTES, number, len(pieces), FAMILIES[chip])
        blocks.append(head + piece.ljust(476, b"\0") + struct.pack("<I", MAGIC[2]))
    return b"".join(blocks)


def check(data: bytes, name: str) -> str:
    """Look at every block; the chip that it is for. UsageError names the first block that is wrong."""
    if not data or len(data) % BLOCK_BYTES:
        raise UsageError(f"{name}: {len(data)} bytes are no whole blocks of {BLOCK_BYTES}; was it loaded completely?")
    chips: set[str] = set()
    seen: dict[int, list[int]] = {}
    for index in range(len(data) // BLOCK_BYTES):
        block = data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
        first, second, flags, _address, size, number, count, family = _HEAD.unpack_from(block)
        if (first, second, struct.unpack_from("<I", block, BLOCK_BYTES - 4)[0]) != MAGIC or size > 476:
            raise UsageError(f"{name}: block {index} is no UF2 block")
        if flags & NOT_MAIN_FLASH:
            continue
        chip = next((chip for chip, known in FAMILIES.items() if known == family), "") if flags & HAS_FAMILY else ""
        if chip:
            chips.add(chip)
            if number != len(seen.setdefault(family, [])) or number >= count:
                raise UsageError(f"{name}: block {index} says that it is number {number} of {count}")
            seen[family].append(count)
    if len(chips) != 1:
        raise UsageError(f"{name}: it is for {' and '.join(sorted(chips)) or 'no chip'} that we know; allowed: one RP2")
    for counts in seen.values():
        if set(counts) != {len(counts)}:
            raise UsageError(f"{name}: {len(counts)} of {counts[0]} blocks are there")
    return chips.pop()


def drives(roots: Sequence[Path]) -> dict[Path, str]:
    """The drives of boards that wait for a UF2 below these folders, and their chips."""
    found = {}
    for root in roots:
        for info in [*root.glob(INFO), *root.glob(f"*/{INFO}"), *root.glob(f"*/*/{INFO}")]:
            try:
                lines = info.read_text(encoding="ascii", errors="replace").splitlines()
            except OSError:
                continue  # it has just gone
            words = dict(line.partition(":")[::2] for line in lines)
            chip = BOARD_IDS.get(words.get("Board-ID", "").strip())
            if chip is not None:
                found[info.parent] = chip
    return found


def copy(path: Path, drive: Path, *, gone_within_s: float = _GONE_WITHIN_S) -> int:
    """Copy a UF2 onto a board's drive; how many blocks. The board has taken it when its drive goes away."""
    data = path.read_bytes()
    chip = check(data, str(path))
    there = drives([drive]).get(drive)
    if there is None:
        raise RigError(f"{drive} is no drive of an RP2 board: it has no {INFO}; hold BOOTSEL while it gets power")
    if there != chip:
        raise UsageError(f"{path} is for {chip}, and the board at {drive} is an {there}")
    try:
        with (drive / "brownout.uf2").open("wb", buffering=0) as file:
            for at in range(0, len(data), BLOCK_BYTES):
                file.write(data[at : at + BLOCK_BYTES])
            os.fsync(file.fileno())
    except OSError as error:
        if (drive / INFO).exists():  # else it has started already: the last block was enough
            raise RigError(f"{drive}: {error}; block by block it took less than the whole", definite=False) from error
    until_s = time.monotonic() + gone_within_s
    while (drive / INFO).exists():
        if time.monotonic() > until_s:
            raise RigError(
                f"{drive}: all {len(data) // BLOCK_BYTES} blocks are copied, and the board did not start within "
                f"{gone_within_s:g} s; pull its plug and try again",
                definite=False,
            )
        time.sleep(_LOOK_S)
    return len(data) // BLOCK_BYTES
