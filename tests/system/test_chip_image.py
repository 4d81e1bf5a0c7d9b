"""A real esptool writes and verifies images to mock boot loaders, many at once, and names the ports that fail."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from brownout.chip_image import ImageTarget, command, picotool_command, write_images
from brownout.cli import main
from brownout.contracts import UsageError
from esp32_mock_bootloader import mock_bootloader

pytestmark = pytest.mark.system
BOARDS = 8


def test_eight_boards_at_once_and_the_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    image = tmp_path / "firmware.bin"
    image.write_bytes(b"\xe9" + random.Random(1).randbytes(8191))
    with ExitStack() as stack:
        mocks = [stack.enter_context(mock_bootloader(chip="esp32")) for _ in range(BOARDS)]
        targets = [ImageTarget(f"b{at}", mock.url(), "esp32", image) for at, mock in enumerate(mocks, 1)]
        targets.append(ImageTarget("b9", "socket://127.0.0.1:1", "esp32", image))
        results = write_images(targets, jobs=BOARDS)
    assert [result.board for result in results] == [f"b{at}" for at in range(1, BOARDS + 2)]
    assert [result.error for result in results[:BOARDS]] == [None] * BOARDS
    assert "b9 at socket://127.0.0.1:1" in (results[BOARDS].error or "")


def test_what_broke_off_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, record = tmp_path / "firmware.bin", tmp_path / "bench.flashed.json"
    image.write_bytes(b"\xe9" + random.Random(1).randbytes(4095))
    options = ["--chip", "esp32", "--no-reset", "--done", str(record)]
    with mock_bootloader(chip="esp32") as mock:
        words = [f"b1={mock.url()}", "b2=socket://127.0.0.1:1"]
        assert main(["chip", "write", str(image), *words, *options]) == 4
        assert "b2 at socket://127.0.0.1:1" in capsys.readouterr().err
    with mock_bootloader(chip="esp32") as mock:  # b1's boot loader is away: nobody asks for it
        assert main(["chip", "write", str(image), words[0], f"b2={mock.url()}", *options]) == 0
    said = capsys.readouterr().out
    assert "b1           has it already" in said
    assert "b2           written and verified" in said
    image.write_bytes(b"\xe9" + random.Random(2).randbytes(4095))  # another image: everybody gets it
    assert main(["chip", "write", str(image), words[0], *options]) == 4
    assert list(json.loads(record.read_text())) == ["b2 image"]  # b1 may hold half of one, and is not believed


def test_an_image_goes_where_it_was_told_to(tmp_path: Path) -> None:
    image = tmp_path / "b1.littlefs"
    target = ImageTarget("b1", "/dev/x", "esp32s3", image, 0x200000, reset=True)
    words = command(target, "write-flash")
    assert words[-3:] == ["write-flash", "0x200000", str(image)]
    assert words[words.index("--before") + 1] == "default-reset"
    pico = ImageTarget("b1", "E66038B7", "rp2040", image, 0x10100000, reset=True)
    assert picotool_command(pico) == [
        "picotool", "load", "-v", "-x", str(image), "-t", "bin", "-o", "0x10100000", "--ser", "E66038B7", "-f",
    ]  # fmt: skip


def test_what_cannot_be_an_image_is_refused_before_a_board_is_touched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image"):
        write_images([ImageTarget("b1", "socket://127.0.0.1:1", "esp32", tmp_path / "missing.bin")])
