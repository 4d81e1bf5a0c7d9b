"""A bench of real boards, taken hold of: its gateways, its boards' serial ports, its broker and its switches.

The counterpart of a virtual lab for rigs whose boards stand by themselves. Must not flash, watch or hurt a board.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import broker_keys
from .bench_ca import SERVER_NAME
from .bench_rig import BenchSpec
from .broker_keys import BrokerKey
from .contracts import CommandResult, Gateway, RigError, UsageError
from .drivers.bench_broker import BenchBroker
from .drivers.bench_jig import Jig, JigCable, JigStorage
from .drivers.bench_link import BenchLink, Isolation
from .drivers.bench_power import BenchPower, Feed, Switch
from .firmware_build import FirmwareFile
from .gateway import SshGateway, open_gateway
from .gateway_setup import SERIAL_TOOL
from .outlets import open_outlets
from .rig import Rig
from .serial_tunnel import SerialTunnel
from .switches import Switches

CA_ON_BOARD = "brownout_node/broker_ca.der"


class Gateways:
    """All gateways of a bench as one, for the manifest. Satisfies contracts.Gateway as far as that asks."""

    name = "all"
    transport = "ssh"

    def __init__(self, gateways: dict[str, Gateway]) -> None:
        self.by_name = gateways

    @property
    def commands(self) -> list[CommandResult]:
        return [result for gateway in self.by_name.values() for result in gateway.commands]

    @commands.setter
    def commands(self, commands: list[CommandResult]) -> None:
        raise UsageError("what ran belongs to one gateway")

    def run(self, argv: Sequence[str], *, timeout_s: float = 10.0, check: bool = True) -> CommandResult:
        raise UsageError("a command belongs to one gateway")

    def close(self) -> None:
        for gateway in self.by_name.values():
            gateway.close()


class BenchLab:
    """A bench in our hands. `document` has the shape of a lab's; closing it leaves the bench as it is."""

    def __init__(self, rig: Rig) -> None:
        if rig.bench is None or rig.broker is None:
            raise RigError(f"{rig.source}: it has no [links], so no campaign can run on it; see docs/bench.md")
        self.rig = rig
        self.spec: BenchSpec = rig.bench
        self._stack = ExitStack()
        self._stack.callback(self._close_gateways)
        self._gateways: dict[str, Gateway] = {}
        self._tunnels: list[SerialTunnel] = []
        self._addresses = {board.name: board.address for board in rig.boards if board.mesh == "mqtt" and board.address}
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="brownout-bench-")))
        try:
            self._read_secrets()
            self._open()
        except BaseException:
            self.close()
            raise

    def _read_secrets(self) -> None:
        try:
            self._passwords: dict[str, str] = json.loads(Path(self.spec.broker.passwords).read_text(encoding="utf-8"))
            self._ca = Path(self.spec.broker.ca).with_suffix(".der").read_bytes()
        except (OSError, ValueError) as error:
            raise RigError(f"{self.rig.source}: the bench's secrets: {error}; try: brownout rig setup") from error
        missing = [name for name in ("host", *self._names()) if name not in self._passwords]
        if missing:
            raise RigError(f"{self.spec.broker.passwords}: no password for {', '.join(missing)}; brownout rig setup")

    def _names(self) -> list[str]:
        return [board.name for board in self.rig.boards]

    def _open(self) -> None:
        for name, spec in self.rig.gateways.items():
            self._gateways[name] = open_gateway(spec)
        for name, gateway in self._gateways.items():
            ports = {board.name: board.port for board in self.rig.boards if board.gateway == name}
            if ports and isinstance(gateway, SshGateway):
                tool = f"{self.rig.gateways[name].tools}/{SERIAL_TOOL}"
                tunnel = SerialTunnel(gateway, tool, ports, self.directory / "serial")
                self._stack.callback(tunnel.close)
                tunnel.start()
                self._tunnels.append(tunnel)
        assert self.rig.broker is not None
        host = self.rig.broker.host
        self._keep("host", host, self.rig.broker.port)
        for board in self.rig.boards:
            self._keep(board.name, host, board.mqtt_port)

    def _keep(self, user: str, host: str, port: int) -> None:
        key = BrokerKey(user, self._passwords[user], self.spec.broker.ca, SERVER_NAME)
        broker_keys.add(host, port, key)

    # What a bed asks of a lab.

    @property
    def document(self) -> dict[str, Any]:
        assert self.rig.broker is not None
        return {
            "boards": {name: {} for name in self._names()},
            "mqtt": {"broker": "mosquitto", "version": self.spec.broker.unit, "port": self.rig.broker.port},
            "pid": None,
            "started": None,
        }

    def serial_port(self, board: str) -> str:
        return str(self.directory / "serial" / board)

    def broker_address(self, board: str | None = None) -> tuple[str, int]:
        assert self.rig.broker is not None
        port = self.rig.board(board).mqtt_port if board else self.rig.broker.port
        return self.rig.broker.host, port

    def mqtt_options(self, board: str) -> dict[str, Any]:
        """What a board's configuration says beside the broker's address."""
        return {
            "user": board,
            "password": self._passwords[board],
            "tls": {"ca": CA_ON_BOARD, "server_name": SERVER_NAME},
        }

    def board_files(self) -> list[FirmwareFile]:
        return [FirmwareFile(CA_ON_BOARD, self._ca, hashlib.sha256(self._ca).hexdigest())]

    def enumerated(self, board: str) -> bool:
        return (self.directory / "serial" / board).is_symlink()

    def missing_ports(self, boards: Sequence[str]) -> list[str]:
        """The boards whose ports do not come within a few seconds."""
        return [name for tunnel in self._tunnels for name in tunnel.wait_for(boards)]

    def gateway_of(self, board: str) -> Gateway:
        return self._gateways[self.rig.board(board).gateway]

    def gateways_of(self, board: str) -> tuple[str, ...]:
        """The names of the gateways that a board needs: its own, and that of its switch."""
        entry = self.rig.board(board)
        outlets = self.spec.outlets.get(entry.outlet.rpartition("/")[0])
        return (entry.gateway,) if outlets is None else (entry.gateway, outlets.gateway)

    @property
    def gateways(self) -> dict[str, Gateway]:
        return self._gateways

    def switches(self) -> Switches:
        support = self.rig.support
        home = {board.name: self._gateways[board.gateway] for board in self.rig.boards}
        ports = {board.name: board.port for board in self.rig.boards}
        feeds = {}
        for board in self.rig.boards:
            name, _, outlet = board.outlet.rpartition("/")
            feeds[board.name] = Feed(board.name, name, int(outlet))
        switches = {
            name: Switch(self._gateways[spec.gateway], open_outlets(spec)) for name, spec in self.spec.outlets.items()
        }
        power = BenchPower(
            feeds, switches, home, ports, self.spec.jig, self.enumerated, support, self.spec.safety
        )  # fmt: skip
        isolation = None
        if self.spec.links.isolate == "nftables":
            isolation = Isolation(self._addresses, home, self.spec.links.lease_s)
        link = BenchLink(
            self._gateways[self.spec.links.gateway],
            self.spec.links.control,
            self.spec.links.lease_s,
            isolation,
            support,
        )
        self._stack.callback(link.close)
        jig = Jig(self.spec.jig, home, ports)
        return Switches(
            gateway=Gateways(self._gateways),
            power=power,
            link=link,
            broker=BenchBroker(self._gateways[self.spec.broker.gateway], self.spec.broker.unit, support),
            cable=JigCable(jig, support),
            storage=JigStorage(jig, lambda boards: [board for board in boards if self.enumerated(board)], support),
        )

    def bridge(self, boards: Sequence[str]) -> None:
        """These boards run without their network, so that nftables on their gateways would not cut them off."""
        for board in boards:
            self._addresses.pop(board, None)

    def _close_gateways(self) -> None:
        for gateway in self._gateways.values():
            gateway.close()

    def close(self) -> None:
        self._stack.close()
