"""What befalls a bench that nobody planned: sshd dies, a gateway reboots, a port gets another name, a disk fills.

    ask(DIRECTORY, "west", "reboot", "off")      as a test says it; the daemon's end is `Mishaps.run`

Reached by a gateway's control socket alone, so no campaign and no stand-in can call it. Must not know what a host does
about it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..process import CommandError, LabError, spawn
from .servers import SSH_PORT
from .standins import Answer

if TYPE_CHECKING:
    from .daemon import Bench

NAME = "mishap"
WITHIN_S = 20.0
DISK_BYTES = 256 * 1024
LIBFAKETIME = ("usr/lib/*/faketime/libfaketime.so.1", "usr/lib*/faketime/libfaketime.so.1")
WORDS = "sshd kill|start, reboot off|on, disk full|free, clock SECONDS, rename BOARD NAME"


def ask(directory: Path, gateway: str, *words: str) -> str:
    """Let it happen to a gateway of the bench that lives in `directory`. LabError says why it did not."""
    folder = os.open(directory / "gateways" / gateway, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WITHIN_S)
            connection.connect(f"/proc/self/fd/{folder}/control.sock")  # a socket's own path may be too long
            connection.sendall("\0".join([NAME, *words]).encode())
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while data := connection.recv(65536):
                answer += data
    finally:
        os.close(folder)
    code, _, text = answer.decode().partition("\n")
    if code != "0":
        raise LabError(text.strip())
    return text


def processes(namespace: str) -> list[int]:
    """Everything that runs in a namespace."""
    if not Path(f"/run/netns/{namespace}").exists():
        return []
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True)
    return [int(word) for word in listed.stdout.split()]


def clock(folder: Path) -> tuple[str, ...]:
    """Variables that let a file in a gateway's folder move its clock, by libfaketime."""
    found = [path for pattern in LIBFAKETIME for path in sorted(Path("/").glob(pattern))]
    if not found:
        raise LabError("no libfaketime on this machine: install it (`apt install faketime`)")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clock").write_text("+0s\n")
    return (
        f"LD_PRELOAD={found[0]}",
        f"FAKETIME_TIMESTAMP_FILE={folder / 'clock'}",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "FAKETIME_CACHE_DURATION=1",
    )


class Mishaps:
    """Everything is called from the event loop's thread of the bench's daemon."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def run(self, gateway: str, words: Sequence[str]) -> Answer:
        if list(words[:1]) == ["rename"] and len(words) == 3:
            self._rename(words[1], words[2])
        elif list(words) == ["sshd", "kill"]:
            self._kill_sshd(gateway)
        elif list(words) == ["sshd", "start"]:
            await self._start_sshd(gateway)
        elif list(words) == ["reboot", "off"]:
            self._off(gateway)
        elif list(words) == ["reboot", "on"]:
            await self._on(gateway)
        elif list(words) in (["disk", "full"], ["disk", "free"]):
            self._disk(gateway, words[1] == "full")
        elif list(words[:1]) == ["clock"] and len(words) == 2:
            self._clock(gateway, words[1])
        else:
            raise CommandError(f"there are: {WORDS}")
        return 0, ""

    def _kill_sshd(self, gateway: str) -> None:
        """The listener, its sessions, and what they run; the broker and its proxy live on."""
        bench = self._bench
        others = {bench.broker.pid if bench.broker else None, bench.links.pid if bench.links else None}
        bench.sshd[gateway].stop()
        for process in processes(bench.network.gateways[gateway].namespace):
            if process not in others:
                os.kill(process, signal.SIGKILL)

    async def _start_sshd(self, gateway: str) -> None:
        """It answers when this returns."""
        self._bench.sshd[gateway].start()
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(self._bench.network.gateways[gateway].address, SSH_PORT)
                except OSError:
                    await asyncio.sleep(0.01)
                    continue
                writer.close()
                return

    def _off(self, gateway: str) -> None:
        """Everything on the gateway ends at once and its network with it; boards and hubs keep their power."""
        bench = self._bench
        bench.sshd[gateway].stop()
        if gateway == bench.broker_gateway.name:
            if bench.broker is not None:
                bench.broker.kill()
            if bench.links is not None:
                bench.links.stop()
        for process in processes(bench.network.gateways[gateway].namespace):
            os.kill(process, signal.SIGKILL)
        bench.network.remove_gateway(gateway)

    async def _on(self, gateway: str) -> None:
        """As after a boot: a network without rules, and the services that start by themselves."""
        bench = self._bench
        await asyncio.to_thread(bench.network.restore_gateway, gateway)
        await self._start_sshd(gateway)
        if gateway == bench.broker_gateway.name:
            if bench.broker is not None:
                await bench.broker.start()
            if bench.links is not None:
                await bench.links.start()

    def _disk(self, gateway: str, full: bool) -> None:
        """What sessions write to, their tools' folder and their home, becomes a small disk without a free byte."""
        sshd = self._bench.sshd[gateway]
        for folder in (self._bench.folder(gateway) / "bin", self._bench.folder(gateway) / "home"):
            if full:
                script = (
                    'mount -t tmpfs -o size="$2" disk /mnt && cp -a "$1/." /mnt && mount --move /mnt "$1" && '
                    '{ cat /dev/zero > "$1/ballast" 2>/dev/null || test -s "$1/ballast"; }'
                )
            else:
                script = 'umount "$1"'
            self._inside(sshd.pid, "sh", "-c", script, "sh", str(folder), str(DISK_BYTES))

    @staticmethod
    def _inside(process: int | None, *words: str) -> None:
        """Run something with the mounts that a gateway's sessions see."""
        command = spawn(["nsenter", f"--mount=/proc/{process}/ns/mnt", *words], stderr=subprocess.PIPE)
        _, said = command.communicate(timeout=WITHIN_S)
        if command.returncode:
            raise LabError(f"{words[0]}: {said.decode(errors='replace').strip() or command.returncode}")

    def _clock(self, gateway: str, seconds: str) -> None:
        """The time of day jumps for everything that runs there; the time since the boot does not."""
        file = self._bench.folder(gateway) / "clock"
        if not file.exists() or not re.fullmatch(r"[+-]\d{1,9}", seconds):
            raise CommandError("clock takes seconds such as +3600, on a bench that was started with --movable-clocks")
        file.write_text(f"{seconds}s\n")

    def _rename(self, board: str, name: str) -> None:
        """The board's device comes back under another name; an empty name is its own again."""
        if board not in self._bench.chips:
            raise CommandError(f"no board {board!r}")
        self._bench.chips[board].cable.rename(self._bench.paths.serial / (name or board))
