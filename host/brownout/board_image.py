"""A board's files and its journal's genesis as images, which one tool writes in one go instead of file by file.

    files = littlefs_image({"main.py": b"..."}, blocks=512)      # esptool at the partition "vfs", or as UF2 blocks
    journal = journal_image(cluster=7, board=3, blocks=32)       # the partition "journal"

The file system is made by littlefs-python (extra `flash`), with the geometry that MicroPython mounts. Must not talk to
a board, nor decide whether one may get a new journal: who writes the image does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from brownout_node.storage.journal import format_genesis

from .contracts import RigError, UsageError

BLOCK_BYTES = 4096
CACHE_BYTES = 1024  # no part of the format
DISK_VERSION = 0x00020000  # which every MicroPython mounts
FEWEST_BLOCKS = 8
JOURNAL_BLOCKS = 32  # as brownout_node.ports.common has it


def _littlefs() -> Any:
    try:
        return importlib.import_module("littlefs")
    except ImportError:
        raise RigError("images need littlefs-python: pip install 'brownout[flash]'") from None


def littlefs_image(files: Mapping[str, bytes], blocks: int) -> bytes:
    """A LittleFS of so many blocks of 4096 bytes with these files (path without a leading slash -> content)."""
    if blocks < FEWEST_BLOCKS:
        raise UsageError(f"a file system of {blocks} blocks; it takes {FEWEST_BLOCKS} or more, of {BLOCK_BYTES} bytes")
    littlefs = _littlefs()
    volume = littlefs.LittleFS(
        block_size=BLOCK_BYTES,
        block_count=blocks,
        read_size=32,
        prog_size=32,
        cache_size=CACHE_BYTES,
        disk_version=DISK_VERSION,
    )
    try:
        for path in sorted(files):
            folder = path.rpartition("/")[0]
            if folder:
                volume.makedirs(folder, exist_ok=True)
            with volume.open(path, "wb") as file:
                file.write(files[path])
    except (littlefs.LittleFSError, OSError) as error:
        total = sum(len(data) for data in files.values())
        raise UsageError(
            f"{len(files)} files of {total} bytes do not go into a file system of {blocks} blocks: {error}"
        ) from None
    finally:
        volume.unmount()
    return bytes(volume.context.buffer)


def read_image(image: bytes) -> dict[str, bytes]:
    """The files of a LittleFS; RigError where it is none."""
    littlefs = _littlefs()
    blocks = len(image) // BLOCK_BYTES
    context = littlefs.UserContext(len(image))
    context.buffer[:] = image
    try:
        volume = littlefs.LittleFS(
            context,
            mount=False,  # or it would format what it cannot mount
            block_size=BLOCK_BYTES,
            block_count=blocks,
            read_size=32,
            prog_size=32,
            cache_size=CACHE_BYTES,
        )
        volume.mount()
    except littlefs.LittleFSError as error:
        raise RigError(f"that is no LittleFS of {blocks} blocks: {error}") from None
    found = {}
    for folder, _folders, names in volume.walk("/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}".lstrip("/")
            with volume.open(path, "rb") as file:
                found[path] = file.read()
    return found


class MemoryRegion:
    """A flash region in memory, as the journal's code takes one."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def readblocks(self, block: int, buffer: Any, offset: int = 0) -> None:
        at = block * BLOCK_BYTES + offset
        buffer[:] = self.data[at : at + len(buffer)]

    def writeblocks(self, block: int, buffer: Any, offset: int = 0) -> None:
        at = block * BLOCK_BYTES + offset
        for place, value in enumerate(bytes(buffer)):
            self.data[at + place] &= value  # flash turns ones into zeros and no more

    def ioctl(self, operation: int, argument: int) -> int:
        if operation == 4:
            return len(self.data) // BLOCK_BYTES
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            self.data[argument * BLOCK_BYTES : (argument + 1) * BLOCK_BYTES] = b"\xff" * BLOCK_BYTES
        return 0


def journal_image(cluster: int, board: int, blocks: int) -> bytes:
    """An erased journal region with the genesis record of this board."""
    region = MemoryRegion(b"\xff" * (blocks * BLOCK_BYTES))
    format_genesis(region, cluster, board)
    return bytes(region.data)
