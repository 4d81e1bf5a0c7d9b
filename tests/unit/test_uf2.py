"""UF2 files: made, checked block by block, and copied onto a board's drive, which goes away when the board has them."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

import pytest
from brownout.cli import main
from brownout.contracts import RigError, UsageError
from brownout.uf2 import BLOCK_BYTES, check, copy, drives, to_uf2

INFO = "UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: RPI-RP2\n"
DATA = bytes(range(256)) * 5 + b"end"
FLASH = 0x10000000


class Board:
    """A folder as the drive of a board in its boot loader: it starts, and the drive is empty, with the last block."""

    def __init__(self, drive: Path, blocks: int) -> None:
        drive.mkdir()
        (drive / "INFO_UF2.TXT").write_text(INFO)
        self.drive, self.taken = drive, b""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, args=(blocks,))

    def _wait(self, blocks: int) -> None:
        file = self.drive / "brownout.uf2"
        while not self._over.is_set():
            if file.exists() and file.stat().st_size == blocks * BLOCK_BYTES:
                self.taken = file.read_bytes()
                (self.drive / "INFO_UF2.TXT").unlink()
                return
            time.sleep(0.005)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_file_is_copied_whole_and_the_board_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "image").write_bytes(DATA)
    made = tmp_path / "image.uf2"
    words = ["chip", "pack", str(tmp_path / "image"), "--chip", "rp2040", "--address", "0x10100000", "--out", str(made)]
    assert main(words) == 0
    assert made.read_bytes() == to_uf2(DATA, FLASH + 0x100000, "rp2040")
    with Board(tmp_path / "RPI-RP2", 6) as board:
        assert main(["chip", "uf2", str(made), "--drive", str(board.drive)]) == 0
    assert board.taken == made.read_bytes()
    assert "6 blocks, and the board has started" in capsys.readouterr().out


def test_each_block_carries_its_piece_and_its_place() -> None:
    made = to_uf2(DATA, FLASH, "rp2350")
    assert check(made, "x") == "rp2350"
    pieces = []
    for at in range(0, len(made), BLOCK_BYTES):
        _, _, flags, address, size, number, count, family = struct.unpack_from("<8I", made, at)
        assert (flags, address, size, number, count) == (0x2000, FLASH + 256 * len(pieces), 256, len(pieces), 6)
        assert family == 0xE48BFF59  # RP2350, secure ARM, of the UF2 families' list
        pieces.append(made[at + 32 : at + 32 + size])
    assert b"".join(pieces) == DATA.ljust(6 * 256, b"\0")


def damaged(how: str) -> bytes:
    made = bytearray(to_uf2(DATA, FLASH, "rp2040"))
    if how == "cut short":
        return bytes(made[:-100])
    if how == "a block is missing":
        return bytes(made[:BLOCK_BYTES] + made[2 * BLOCK_BYTES :])
    if how == "its end is missing":
        return bytes(made[:-BLOCK_BYTES])
    if how == "a block is spoilt":
        made[3 * BLOCK_BYTES + 508] ^= 1
        return bytes(made)
    assert how == "two chips"
    return bytes(made) + to_uf2(DATA, FLASH, "rp2350")


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("cut short", "no whole blocks"), ("a block is missing", "block 1 says that it is number 2 of 6"),
        ("its end is missing", "5 of 6 blocks"), ("a block is spoilt", "block 3 is no UF2 block"),
        ("two chips", "rp2040 and rp2350"),
    ],
)  # fmt: skip
def test_a_damaged_file_never_reaches_a_board(tmp_path: Path, how: str, named: str) -> None:
    (tmp_path / "image.uf2").write_bytes(damaged(how))
    drive = tmp_path / "drive"
    drive.mkdir()
    (drive / "INFO_UF2.TXT").write_text(INFO)
    with pytest.raises(UsageError, match=named):
        copy(tmp_path / "image.uf2", drive)
    assert [path.name for path in drive.iterdir()] == ["INFO_UF2.TXT"]


def test_only_the_drive_of_the_right_chip_is_written_to(tmp_path: Path) -> None:
    image = tmp_path / "image.uf2"
    image.write_bytes(to_uf2(DATA, FLASH, "rp2350"))
    stick = tmp_path / "media" / "user" / "stick"
    stick.mkdir(parents=True)
    with pytest.raises(RigError, match="no drive of an RP2 board"):
        copy(image, stick)
    (stick / "INFO_UF2.TXT").write_text(INFO)
    assert drives([tmp_path / "media"]) == {stick: "rp2040"}
    with pytest.raises(UsageError, match="is for rp2350, and the board at .* is an rp2040"):
        copy(image, stick)


def test_a_board_that_does_not_start_is_named(tmp_path: Path) -> None:
    image = tmp_path / "image.uf2"
    image.write_bytes(to_uf2(DATA, FLASH, "rp2040"))
    (tmp_path / "INFO_UF2.TXT").write_text(INFO)
    with pytest.raises(RigError, match="6 blocks are copied, and the board did not start"):
        copy(image, tmp_path, gone_within_s=0.05)
