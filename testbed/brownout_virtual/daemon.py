"""The virtual lab's daemon: one process that owns the boards, the links between them, the broker and the gateway.

<lab>/lab.json says where everything is, <lab>/bin/labctl switches it. Everything dies with the daemon. Must not
know what a campaign is: it only does what the gateway's commands say.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brownout.sites import Sites

from . import directory
from .broker import HOST, Broker
from .chip import Chip, ChipModel
from .commands import Commands
from .flash_image import MICROPYTHON_ADVICE, Geometry, create, prepare
from .process import BoundedLog, CommandError, LabError, find_program, start_time
from .proxy import Proxy
from .sites import VirtualSites
from .sshd import Gateway

ANSWER_WITHIN_S = 5.0
MAX_REQUEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What `up` was asked for."""

    directory: Path
    boards: tuple[str, ...]
    serial_only: frozenset[str]
    bed: str
    seed: int
    heap_bytes: int
    geometry: Geometry
    real_timings: bool
    erase: bool
    broker: str | None  # mosquitto, iotcore, or whichever there is
    ssh: bool
    owner: int | None
    sites: Sites | None = None


class Lab:
    """A running lab. Use: `await start(progress)`, then `await ended.wait()`, then `await stop()`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.paths = paths = directory.Paths(settings.directory)
        self.sites: VirtualSites | None = None
        if settings.sites is None:
            self.broker = Broker(paths.broker, BoundedLog(paths.log / "broker.log"), settings.broker)
        else:
            self.sites = VirtualSites(settings.sites, settings.bed, paths.broker, paths.log)
            self.broker = self.sites.brokers[settings.sites.names[0]]
        self.proxy = Proxy(
            settings.bed, settings.boards, HOST, self.broker.port, seed=settings.seed, routes=self._routes()
        )
        self.gateway = Gateway(paths.gateway, paths.labctl, BoundedLog(paths.log / "sshd.log"))
        self.chips: dict[str, Chip] = {}
        self.ended = asyncio.Event()
        self._commands = Commands(self)
        self._server: asyncio.Server | None = None

    def _routes(self) -> dict[str, dict[str, tuple[str, int]]]:
        """board -> the brokers that it may be connected to, its own first; its bridge of the cable may use any."""
        if self.sites is None:
            return {}
        sites, addresses = self.sites.sites, self.sites.addresses()
        routes = {}
        for board in self.settings.boards:
            ways = list(dict.fromkeys((*sites.routes(board), *sites.names)))
            routes[board] = {site: addresses[site] for site in ways if site in addresses}
        return routes

    async def start(self, progress: Callable[[str], None]) -> None:
        settings, paths = self.settings, self.paths
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._check_children)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.shut_down)
        if settings.owner is not None:
            loop.add_reader(settings.owner, self._hear_owner, settings.owner)
        micropython = find_program("micropython", MICROPYTHON_ADVICE)
        directory.install_labctl(paths)
        directory.install_rom(paths)
        if self.sites is None:
            await self.broker.start()
            progress(f"broker: {self.broker.kind} {self.broker.version} on {HOST}:{self.broker.port}")
        else:
            await self.sites.start()
            progress(f"brokers: {self.broker.kind} {self.broker.version} at {', '.join(self.sites.brokers)}")
        await self.proxy.start()
        self._server = await asyncio.start_unix_server(self._serve, "control.sock", limit=MAX_REQUEST_BYTES)
        await self.gateway.start(wanted=settings.ssh)
        progress("gateway: " + self._describe_gateway())
        model = ChipModel(
            micropython, paths.rom, settings.geometry, settings.heap_bytes, real_timings=settings.real_timings
        )
        self._start_boards(model, progress)
        directory.write_document(paths, self.to_document())

    def _start_boards(self, model: ChipModel, progress: Callable[[str], None]) -> None:
        template = self.paths.flash / "empty.image"
        create(template, model.geometry)
        for done, name in enumerate(self.settings.boards, 1):
            image = self.paths.flash / f"{name}.bin"
            prepare(image, model.geometry, template, erase=self.settings.erase)
            self.chips[name] = Chip(name, model, image, self.paths.serial / name)
            self.chips[name].power_on()
            if done % 10 == 0 or done == len(self.settings.boards):
                progress(f"boards: {done} of {len(self.settings.boards)} have power")
        template.unlink()

    def _describe_gateway(self) -> str:
        if self.gateway.port is None:
            return f"local ({self.gateway.reason})"
        return f"ssh on {HOST}:{self.gateway.port}"

    def to_document(self) -> dict[str, Any]:
        """lab.json: where everything is."""
        settings, paths, broker = self.settings, self.paths, self.broker
        return {
            "version": directory.VERSION,
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
            "directory": str(paths.root),
            "bed": settings.bed,
            "seed": settings.seed,
            "mqtt": {"host": HOST, "port": broker.port, "broker": broker.kind, "version": broker.version},
            "boards": {
                name: {
                    "serial": str(paths.serial / name),
                    "mqtt_port": self.proxy.ports[name],
                    "routes": self.proxy.route_ports[name] if self.sites is not None else {},
                    "serial_only": name in settings.serial_only,
                    "flash": str(chip.image),
                }
                for name, chip in self.chips.items()
            },
            "sites": {} if self.sites is None else {name: port for name, (_, port) in self.sites.addresses().items()},
            "gateway": self.gateway.to_document(),
            "labctl": str(paths.labctl),
            "control": str(paths.control),
            "heap_bytes": settings.heap_bytes,
            "flash": settings.geometry.to_document(),
            "real_timings": settings.real_timings,
            "ephemeral": settings.owner is not None,
        }

    async def status(self) -> dict[str, Any]:
        """lab.json and the present state of everything in it."""
        connected = self.proxy.connected()
        boards = {}
        for name, chip in self.chips.items():
            boards[name] = {**chip.state(), "plugged": chip.cable.plugged, "connected": connected[name]}
        return {
            **self.to_document(),
            "running": True,
            "state": {"boards": boards, "broker": await self.broker.state(), "links": self.proxy.counts()},
        }

    # What happens to it.

    def shut_down(self) -> None:
        self.ended.set()

    def _hear_owner(self, owner: int) -> None:
        if not os.read(owner, 4096):
            asyncio.get_running_loop().remove_reader(owner)
            self.shut_down()

    def _check_children(self) -> None:
        if self.ended.is_set():
            return
        if self.sites is not None:
            self.sites.check()
        self.broker.check()
        self.gateway.check()
        for chip in self.chips.values():
            chip.check()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of labctl: words parted by zero bytes in, exit code, newline and text out."""
        with contextlib.closing(writer):
            try:
                request = await asyncio.wait_for(reader.read(MAX_REQUEST_BYTES), ANSWER_WITHIN_S)
                while not reader.at_eof():
                    request += await asyncio.wait_for(reader.read(MAX_REQUEST_BYTES), ANSWER_WITHIN_S)
                writer.write(await self._answer(request.decode(errors="surrogateescape").split("\0")))
                await writer.drain()
            except (ConnectionError, TimeoutError) as error:
                print(f"a command was broken off: {error!r}", file=sys.stderr, flush=True)

    async def _answer(self, words: list[str]) -> bytes:
        try:
            code, text = 0, json.dumps(await self._commands.run(words))
        except CommandError as error:
            code, text = 2, f"labctl: {error}"
        except LabError as error:
            code, text = 1, f"labctl: {error}"
        return f"{code}\n{text}\n".encode(errors="surrogateescape")

    async def stop(self) -> None:
        """End everything, boards first."""
        self.ended.set()
        for chip in self.chips.values():
            chip.pull()
        for chip in self.chips.values():
            chip.close()
        self.gateway.close()
        self.broker.close()
        if self.sites is not None:
            await self.sites.close()
        await self.proxy.stop()
        if self._server is not None:
            self._server.close()
        directory.forget(self.paths)


async def _live(settings: Settings, progress: Callable[[str], None]) -> None:
    lab = Lab(settings)
    try:
        await lab.start(progress)
        progress(f"ready {settings.directory}")
        await lab.ended.wait()
    finally:
        await lab.stop()


def serve(settings: Settings, progress: Callable[[str], None]) -> None:
    """Run a lab in this process until it is told to end. LabError where it cannot start."""
    paths = directory.Paths(settings.directory)
    directory.make(paths)
    os.umask(0o077)  # keys, and a socket that switches power
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LabError(f"a lab is running in {paths.root}: end it with `brownout lab down`") from None
    directory.forget(paths)
    os.chdir(paths.root)  # so that the control socket's name is short
    asyncio.run(_live(settings, progress))
