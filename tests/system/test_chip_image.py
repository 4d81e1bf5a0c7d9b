"""A real esptool writes and verifies images to mock boot loaders, many at once, and names the ports that fail."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from brownout.chip_image import ImageTarget, write_images
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


def test_what_cannot_be_an_image_is_refused_before_a_board_is_touched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image"):
        write_images([ImageTarget("b1", "socket://127.0.0.1:1", "esp32", tmp_path / "missing.bin")])
