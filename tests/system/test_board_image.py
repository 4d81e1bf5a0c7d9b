"""A board's files as one LittleFS image: it reads back, and MicroPython itself mounts it and imports from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from brownout.board_image import BLOCK_BYTES, MemoryRegion, journal_image, littlefs_image, read_image
from brownout.contracts import RigError, UsageError
from brownout.firmware_build import build
from brownout.flash import config_file
from brownout.rig import load_model
from brownout_node.core import codec, schema
from brownout_node.storage.journal import Journal

pytestmark = pytest.mark.system
BLOCKS = 128
MICROPYTHON = str(Path(sys.executable).with_name("micropython"))
MOUNT = """\
import sys, vfs
class Ram:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
    def readblocks(self, block, buffer, offset=0):
        at = block * 4096 + offset
        buffer[:] = self.data[at : at + len(buffer)]
    def writeblocks(self, block, buffer, offset=0):
        at = block * 4096 + offset
        self.data[at : at + len(buffer)] = buffer
    def ioctl(self, operation, argument):
        if operation == 4:
            return len(self.data) // 4096
        if operation == 5:
            return 4096
        if operation == 6:
            return 0
vfs.mount(vfs.VfsLfs2(Ram(sys.argv[1])), "/board")
sys.path[:] = ["/board"]
from brownout_node.core import config
import json
with open("/board/config.json") as file:
    print(config.__file__, json.load(file)["board"])
with open("/board/written", "w") as file:
    file.write("and it can be written to")
with open("/board/written") as file:
    print(file.read())
"""


def a_boards_files() -> dict[str, bytes]:
    firmware = build(load_model("virtual"))
    config = config_file({"board": 3, "cluster": 7})
    return {file.path: file.data for file in (*firmware.files, config)}


def test_an_image_reads_back_and_micropython_imports_from_it(tmp_path: Path) -> None:
    files = a_boards_files()
    image = littlefs_image(files, BLOCKS)
    assert len(image) == BLOCKS * BLOCK_BYTES
    assert read_image(image) == files
    assert image == littlefs_image(files, BLOCKS)  # the same files, the same image: its digest says what a board has
    (tmp_path / "image").write_bytes(image)
    (tmp_path / "mount.py").write_text(MOUNT)
    micropython = MICROPYTHON if Path(MICROPYTHON).exists() else str(shutil.which("micropython"))
    result = subprocess.run(
        [micropython, str(tmp_path / "mount.py"), str(tmp_path / "image")],
        capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.stdout.splitlines() == ["/board/brownout_node/core/config.mpy 3", "and it can be written to"], result


def test_files_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="1 files of 65536 bytes do not go into a file system of 8 blocks"):
        littlefs_image({"big": bytes(65536)}, 8)
    with pytest.raises(UsageError, match="8 or more"):
        littlefs_image({}, 1)


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(RigError, match="no LittleFS of 16 blocks"):
        read_image(b"\xff" * (16 * BLOCK_BYTES))


def test_a_journal_image_is_a_journal_that_belongs_to_its_board() -> None:
    image = journal_image(7, 3, 32)
    assert len(image) == 32 * BLOCK_BYTES
    journal = Journal(MemoryRegion(image))
    journal.open()
    assert journal.condition == schema.JOURNAL_VALID
    assert journal.get(schema.JOURNAL_GENESIS) == codec.pack("uu", (7, 3))
