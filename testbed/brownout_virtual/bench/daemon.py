"""The daemon of a bench: gateways and boards in namespaces, and the wires between them that a real bench has.

It is what lies beyond the wire: the hubs, relays and pins that the stand-ins on the gateways switch, and the boards
that these feed. A host never talks to it, but to sshd, mosquitto and nftables on the gateways. Everything dies with it,
and its namespaces are removed. Must not know what a campaign is.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from brownout import bench_ca
from brownout.gateway_setup import SERIAL_TOOL, serial_agent

from .. import directory as lab_directory
from ..broker import Broker
from ..chip import Chip, ChipModel
from ..flash_image import MICROPYTHON_ADVICE, Geometry, create, prepare
from ..process import BoundedLog, CommandError, LabError, find_program, start_time
from .mishaps import NAME as MISHAP
from .mishaps import Mishaps, clock, processes
from .namespaces import Network, Node
from .physics import Outlet, Supply
from .rig_file import write_rig
from .servers import (
    BROKER_PORT,
    FIRST_LINK_PORT,
    PLAIN_PORT,
    BenchBroker,
    GatewaySshd,
    LinkServer,
    install_script,
    make_key,
    program,
)
from .standins import TOOLS, Answer, Enumeration
from .wires import Jig, unit

ANSWER_WITHIN_S = 5.0
MAX_REQUEST_BYTES = 1 << 20
VERSION = 1


@dataclass(frozen=True)
class Settings:
    """What `up` was asked for. liar: the board whose hub lies. port_bytes_per_s: None where ports are not paced."""

    directory: Path
    gateways: dict[str, tuple[str, ...]]
    bed: str
    heap_bytes: int
    geometry: Geometry
    real_timings: bool
    liar: str | None
    movable_clocks: bool
    port_bytes_per_s: int | None
    serial_only: frozenset[str]

    @property
    def boards(self) -> tuple[str, ...]:
        return tuple(board for boards in self.gateways.values() for board in boards)


class Bench:
    """A running bench. Use: `await start(progress)`, then `await ended.wait()`, then `await stop()`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = settings.directory
        self.paths = lab_directory.Paths(self.root)
        clocks = {name: clock(self.folder(name)) for name in settings.gateways} if settings.movable_clocks else {}
        self.network = Network(self.root, settings.gateways, clocks)
        self.secrets = self.root / "secrets"
        self.chips: dict[str, Chip] = {}
        self.supplies: dict[str, Supply] = {}
        self.sshd: dict[str, GatewaySshd] = {}
        self.broker: BenchBroker | None = None
        self.links: LinkServer | None = None
        self.ended = asyncio.Event()
        self._servers: list[asyncio.Server] = []

    @property
    def broker_gateway(self) -> Node:
        return next(iter(self.network.gateways.values()))

    def folder(self, gateway: str) -> Path:
        return self.root / "gateways" / gateway

    async def start(self, progress: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._check_children)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ended.set)
        if os.geteuid() != 0:
            raise LabError("a bench makes network namespaces: run it as root (`sudo brownout lab up --bench`)")
        micropython = find_program("micropython", MICROPYTHON_ADVICE)
        program("nft")
        self.network.make()
        progress(f"network: {len(self.network.gateways)} gateways, {len(self.network.boards)} boards")
        self._make_secrets()
        known = "".join([await self._start_gateway(node) for node in self.network.gateways.values()])
        (self.root / "known_hosts").write_text(known)
        await self._start_broker()
        progress(f"broker: mosquitto {self._broker.version} on {self.broker_gateway.address}:{BROKER_PORT}, TLS")
        lab_directory.install_rom(self.paths)
        model = ChipModel(
            micropython,
            self.paths.rom,
            self.settings.geometry,
            self.settings.heap_bytes,
            real_timings=self.settings.real_timings,
        )
        self._start_boards(model)
        progress(f"boards: {len(self.chips)} have power")
        write_rig(self)
        lab_directory.write_document(self.paths, self.to_document())

    @property
    def _broker(self) -> Broker:
        assert self.broker is not None, "started before anything asks for it"
        return self.broker

    def _make_secrets(self) -> None:
        bench_ca.make_authority(self.secrets)
        (self.secrets / "server.key").unlink(missing_ok=True)  # the address may be another one than last time
        bench_ca.make_server(self.secrets, [self.broker_gateway.address])
        bench_ca.make_passwords(self.secrets, ["host", *self.settings.boards])
        make_key(self.root / "user_key", "brownout host")

    async def _start_gateway(self, node: Node) -> str:
        """Tools, sshd and the control socket of one gateway; its line of known_hosts."""
        folder = self.folder(node.name)
        tools = folder / "bin"
        tools.mkdir(parents=True, exist_ok=True)
        for tool in (*TOOLS, "systemctl", "boardjig"):
            install_script(Path(__file__).with_name("tool.py"), tools / tool)
        install_script(serial_agent(), tools / SERIAL_TOOL)
        socket = Path("gateways") / node.name / "control.sock"
        socket.unlink(missing_ok=True)
        self._servers.append(
            await asyncio.start_unix_server(partial(self._serve, node.name), socket, limit=MAX_REQUEST_BYTES)
        )
        sshd = GatewaySshd(
            node,
            folder,
            pwd.getpwuid(0).pw_name,
            self.root / "user_key",
            BoundedLog(self.paths.log / f"{node.name}.log"),
        )
        line = sshd.make_files()
        sshd.start()
        self.sshd[node.name] = sshd
        self.supplies[node.name] = Supply(self._feed, self._outlets(node.name))
        return line

    def _outlets(self, gateway: str) -> list[Outlet]:
        """A hub for most boards, a relay for the next, a pin for the last; the liar has a hub of its own."""
        boards = [board for board in self.settings.gateways[gateway] if board != self.settings.liar]
        outlets = [Outlet("1-1", number, board) for number, board in enumerate(boards[:-2] or boards[:1], 1)]
        rest = boards[len(outlets) :]
        if rest:
            outlets.append(Outlet("BRLY1", 1, rest[0]))
        if rest[1:]:
            outlets.append(Outlet("gpiochip0", 17, rest[1]))
        if self.settings.liar in self.settings.gateways[gateway]:
            outlets.append(Outlet("1-2", 1, self.settings.liar, honest=False))
        return outlets

    def _feed(self, board: str, on: bool) -> None:
        chip = self.chips[board]
        if on:
            chip.power_on()
        else:
            chip.power_off()

    async def _start_broker(self) -> None:
        node = self.broker_gateway
        folder = self.folder(node.name) / "broker"
        folder.mkdir(exist_ok=True)
        acl = bench_ca.access_list(self.settings.bed, self.settings.boards)
        self.broker = BenchBroker(node, folder, self.secrets, acl, BoundedLog(self.paths.log / "broker.log"))
        await self.broker.start()
        self.links = LinkServer(
            node,
            self.folder(node.name) / "links",
            {
                "bed": self.settings.bed,
                "boards": list(self.settings.boards),
                "seed": 0,
                "listen": node.address,
                "ports": self.link_ports(),
                "broker": ["127.0.0.1", PLAIN_PORT],
                "certificate": str(self.secrets / "server.pem"),
                "key": str(self.secrets / "server.key"),
            },
            BoundedLog(self.paths.log / "links.log"),
        )
        await self.links.start()

    def link_ports(self) -> dict[str, int]:
        return {board: FIRST_LINK_PORT + number for number, board in enumerate(self.settings.boards)}

    def _start_boards(self, model: ChipModel) -> None:
        template = self.paths.flash / "empty.image"
        create(template, model.geometry)
        for name in self.settings.boards:
            image = self.paths.flash / f"{name}.bin"
            prepare(image, model.geometry, template, erase=False)
            namespace = self.network.boards[name].namespace
            prefix = (program("nsenter"), f"--net=/run/netns/{namespace}")
            self.chips[name] = Chip(name, model, image, self.paths.serial / name, prefix)
            self.chips[name].cable.bytes_per_s = self.settings.port_bytes_per_s
            self.chips[name].power_on()
        template.unlink()

    def to_document(self) -> dict[str, Any]:
        """lab.json: what a status shows; the host reads the rig file."""
        return {
            "version": VERSION,
            "kind": "bench",
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
            "directory": str(self.root),
            "rig": str(self.root / "rig.toml"),
            "namespaces": [node.namespace for node in (*self.network.gateways.values(), *self.network.boards.values())],
            "gateways": {name: {"address": node.address} for name, node in self.network.gateways.items()},
            "boards": {
                name: {"gateway": node.gateway, "address": node.address, "serial": str(self.paths.serial / name)}
                for name, node in self.network.boards.items()
            },
        }

    # What happens to it.

    def _check_children(self) -> None:
        if self.ended.is_set():
            return
        if self.broker is not None:
            self.broker.check()
        for sshd in self.sshd.values():
            sshd.check()
        for chip in self.chips.values():
            chip.check()

    async def _serve(self, gateway: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a stand-in: words parted by zero bytes in, exit code, newline and text out."""
        with contextlib.closing(writer):
            try:
                request = await asyncio.wait_for(reader.read(MAX_REQUEST_BYTES), ANSWER_WITHIN_S)
                while not reader.at_eof() and len(request) < MAX_REQUEST_BYTES:
                    request += await asyncio.wait_for(reader.read(MAX_REQUEST_BYTES), ANSWER_WITHIN_S)
                words = request.decode(errors="surrogateescape").split("\0")
                try:
                    code, text = await self._tool(gateway, words[0], words[1:])
                except CommandError as error:
                    code, text = 2, f"{words[0]}: {error}\n"
                except LabError as error:
                    code, text = 1, f"{words[0]}: {error}\n"
                writer.write(f"{code}\n{text}".encode(errors="surrogateescape"))
                await writer.drain()
            except (ConnectionError, TimeoutError) as error:
                print(f"a command was broken off: {error!r}", file=sys.stderr, flush=True)

    async def _tool(self, gateway: str, tool: str, words: Sequence[str]) -> Answer:
        if tool in TOOLS:
            return TOOLS[tool](words, self.supplies[gateway], Enumeration(self._enumerated))
        if tool == "systemctl":
            if gateway != self.broker_gateway.name:
                return 5, "Unit mosquitto.service could not be found.\n"
            return await unit(self._broker, words)
        if tool == "boardjig":
            return Jig(self.chips).run(words)
        if tool == MISHAP:
            return await Mishaps(self).run(gateway, words)
        raise CommandError(f"no such tool: {tool}")

    def _enumerated(self, board: str) -> bool:
        return self.chips[board].cable.link.is_symlink()

    async def stop(self) -> None:
        """End everything, boards first, and remove the namespaces."""
        self.ended.set()
        for chip in self.chips.values():
            chip.pull()
        for chip in self.chips.values():
            chip.close()
        for sshd in self.sshd.values():
            sshd.stop()
        if self.links is not None:
            self.links.stop()
        if self.broker is not None:
            self.broker.close()
        for server in self._servers:
            server.close()
        for node in self.network.gateways.values():
            _end_all(node)
        self.network.remove()
        lab_directory.forget(self.paths)


def _end_all(node: Node) -> None:
    """Kill what still runs in a namespace: sessions of sshd and what they started."""
    for process in processes(node.namespace):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


async def _live(settings: Settings, progress: Callable[[str], None]) -> None:
    bench = Bench(settings)
    try:
        await bench.start(progress)
        progress(f"ready {settings.directory}")
        await bench.ended.wait()
    finally:
        await bench.stop()


def serve(settings: Settings, progress: Callable[[str], None]) -> None:
    """Run a bench in this process until it is told to end. LabError where it cannot start."""
    paths = lab_directory.Paths(settings.directory)
    lab_directory.make(paths)
    os.umask(0o077)
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LabError(f"a lab is running in {paths.root}: end it with `brownout lab down`") from None
    lab_directory.forget(paths)
    os.chdir(paths.root)  # so that the control sockets' names are short
    asyncio.run(_live(settings, progress))
