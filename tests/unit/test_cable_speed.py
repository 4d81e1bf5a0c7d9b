"""A virtual cable with a speed of its own takes as long as a wire of that speed, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from brownout_virtual.cable import Cable, board_terminal

BYTES_PER_S = 20_000
COUNT = 4000
AS_IT_SHOULD_S = COUNT / BYTES_PER_S
DATA = bytes(range(0x20, 0x70)) * (COUNT // 80)


async def _read_all(file: int, count: int) -> bytes:
    os.set_blocking(file, False)
    data = b""
    async with asyncio.timeout(20.0):
        while len(data) < count:
            try:
                data += os.read(file, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.001)
    return data


async def _both_ways(link: Path, bytes_per_s: int | None) -> tuple[float, float]:
    cable = Cable(link)
    cable.bytes_per_s = bytes_per_s
    cable.plug()
    master, slave = board_terminal()
    cable.attach(master, os.ttyname(slave), os.getpid())
    cable.listen()
    port = os.open(link, os.O_RDWR | os.O_NOCTTY)
    try:
        began_s = time.monotonic()
        os.write(port, DATA)
        assert await _read_all(slave, COUNT) == DATA
        to_board_s = time.monotonic() - began_s
        os.write(slave, DATA)
        assert await _read_all(port, COUNT) == DATA
        return to_board_s, time.monotonic() - began_s - to_board_s
    finally:
        cable.close()
        os.close(port)
        os.close(slave)


def test_a_paced_cable_takes_the_time_of_its_wire_in_each_direction(tmp_path: Path) -> None:
    for took_s in asyncio.run(_both_ways(tmp_path / "port", BYTES_PER_S)):
        # The last piece has arrived when its own time begins; a busy machine may take longer, but not by its pace.
        assert 0.9 * AS_IT_SHOULD_S <= took_s < 10 * AS_IT_SHOULD_S


def test_a_cable_without_a_speed_is_quicker(tmp_path: Path) -> None:
    assert sum(asyncio.run(_both_ways(tmp_path / "port", None))) < AS_IT_SHOULD_S
