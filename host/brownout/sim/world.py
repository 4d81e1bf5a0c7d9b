"""The world around simulated boards: who hears whom, cables, clients, and what the host gets to know.

Puts boards, network and telemetry together and hashes everything that boards hear and report, in order: two runs with
the same hash were the same run. Must not wait, and must not know campaigns.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from brownout_node.core import codec, schema
from brownout_node.transport.routes import CABLE

from .. import resources
from ..board_events import MQTT, SERIAL
from ..link_rules import HOST
from ..mqtt_connection import Handler
from ..next_release import as_next
from ..protocols import keys_of
from ..rig import PlannedBoard, SimSpec
from ..serial_cable import ACKNOWLEDGE_AFTER_EVENTS, ACKNOWLEDGE_AFTER_S
from ..sites import Sites, routes_of
from ..telemetry import Telemetry
from .board import SimBoard
from .engine import Engine
from .network import Network, Weather
from .transcript import Parts

HOST_SOURCE = 999_999  # the controller's own number as a source of commands
BROKER_PORT = 1883


@cache
def firmware_hashes() -> dict[str, str]:
    """The files of the firmware that the simulator runs -> the first 8 bytes of their SHA-256, in hexadecimal."""
    package = resources.firmware_package()
    files = [*(package / "core").glob("*.py"), package / "storage" / "journal.py", package / "telemetry.py"]
    return {_name(package, file): hashlib.sha256(file.read_bytes()).digest()[:8].hex() for file in sorted(files)}


def _name(package: Path, file: Path) -> str:
    return f"brownout_node/{file.relative_to(package).as_posix()}"


def firmware_hash() -> bytes:
    """One hash over all of them, as a board makes it."""
    digest = hashlib.sha256()
    for name, value in firmware_hashes().items():
        digest.update(name.encode() + b"\0" + bytes.fromhex(value))
    return digest.digest()[:8]


class SimWorld:
    """boards: those of the run. configuration: further keys of every board's config.json. parts: see bed.py."""

    def __init__(
        self,
        engine: Engine,
        spec: SimSpec,
        boards: Sequence[PlannedBoard],
        bed: str,
        cluster: int,
        seed: int,
        configuration: dict[str, Any],
        weather: Weather | None = None,
        parts: Callable[[Mapping[str, Any]], Parts] | None = None,
        sites: Sites | None = None,
    ) -> None:
        self.engine = engine
        self.spec = spec
        self.bed = bed
        self.cluster = cluster
        self.names = tuple(board.name for board in boards)
        self.telemetry = Telemetry(bed, lambda: engine.now_ns)
        self.network = Network(engine, spec, self.names, seed, weather, sites)
        self.sites = sites
        self.network.on_broker = self._broker_changed
        self.random = Random(f"{seed} world")
        self.on_power: Callable[[], None] = lambda: None
        self._trace = hashlib.blake2b(digest_size=16)
        self._serial_ns = int(spec.serial_ms * 1e6)
        self._acknowledging: set[str] = set()
        self._unacknowledged = dict.fromkeys(self.names, 0)
        self._asked: dict[str, tuple[int, int] | None] = {}
        self._clients: list[Handler] = []
        about = (f"sim of {len(firmware_hashes())} files", firmware_hash())
        roster = [[board.board, board.name, board.weight] for board in boards]
        self.boards: dict[str, SimBoard] = {}
        for board in boards:
            document = {"cluster": cluster, "board": board.board, "name": board.name, "bed": bed, "seed": seed}
            document |= {"roster": roster, "mesh": board.mesh, "telemetry": "serial", **configuration}
            document |= keys_of(configuration["protocols"], seed, board.board, [other.board for other in boards])
            if board.mesh == "mqtt":
                document["mqtt"] = {"host": "broker", "port": BROKER_PORT}
                if sites is not None and len(names := sites.routes(board.name)) > 1:
                    document["routes"] = routes_of(names, dict.fromkeys(sites.names, ("broker", BROKER_PORT)))
            made_of = parts(document) if parts is not None else None
            self.boards[board.name] = SimBoard(self, board.name, document, spec, about, seed, made_of)
        self._targets = self._all_targets([board for board in boards if board.weight])

    def _all_targets(
        self, voters: Sequence[PlannedBoard]
    ) -> dict[str, dict[int, list[tuple[str, Callable[[bytes], None]]]]]:
        """sender -> address -> (receiver, what is called with a message that arrives there)."""
        voting = {board.name for board in voters}
        targets: dict[str, dict[int, list[tuple[str, Callable[[bytes], None]]]]] = {}
        for sender in self.boards.values():
            others: list[tuple[str, Callable[[bytes], None]]] = [
                (other.name, partial(self._hear, other, sender.number))
                for other in self.boards.values()
                if other is not sender
            ]
            targets[sender.name] = {self.boards[name].number: [(name, hear)] for name, hear in others}
            targets[sender.name][schema.ALL] = others
            targets[sender.name][schema.VOTERS] = [entry for entry in others if entry[0] in voting]
        return targets

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()

    def _note(self, source: int, target: int, data: bytes) -> None:
        self._trace.update(struct.pack("<QqqI", self.engine.now_ns, source, target, len(data)) + data)

    # Between boards.

    def mesh(self, board: SimBoard, to: int, data: bytes, depart_ns: int) -> None:
        serial = board.by_cable
        if not (board.plugged if serial else board.connected):
            return
        if board.release > 1:
            data = as_next(data)
        if serial:
            depart_ns += self._serial_ns
        send = self.network.send
        if self.sites is None:
            for name, hear in self._targets[board.name].get(to, ()):
                send(board.name, name, data, hear, depart_ns)
            return
        here = self._broker_of(board)
        for name, hear in self._targets[board.name].get(to, ()):
            via = self.sites.path(here, self._broker_of(self.boards[name]))
            send(board.name, name, data, hear, depart_ns, via=via)

    def _broker_of(self, board: SimBoard) -> str:
        """The site of the broker that the board, or the host's bridge on its behalf, is connected to."""
        if self.sites is None or not (board.by_cable or board.route == CABLE):
            return board.route
        parted = self.network.parted
        brokers = self.network.brokers.items()
        living = [site for site, broker in brokers if broker.up and (board.name, site) not in parted]
        home = self.sites.home(board.name)
        return home if home in living or not living else living[0]

    def _hear(self, board: SimBoard, source: int, data: bytes) -> None:
        if board.by_cable:
            self.engine.at(self.engine.now_ns + self._serial_ns, self._hear_by_cable, board, source, data)
        elif board.connected:
            self._note(source, board.number, data)
            board.receive(source, data)

    def _hear_by_cable(self, board: SimBoard, source: int, data: bytes) -> None:
        if board.plugged:
            self._note(source, board.number, data)
            board.receive(source, data)

    # Clients and the controller.

    def connect(self, handler: Handler) -> SimConnection:
        self._clients.append(handler)
        return SimConnection(self, handler)

    def disconnect(self, handler: Handler) -> None:
        self._clients.remove(handler)

    def reply(self, board: SimBoard, client: int, data: bytes, depart_ns: int) -> None:
        if board.by_cable:
            depart_ns += self._serial_ns
        if board.release > 1:
            data = as_next(data)
        if board.plugged if board.by_cable else board.connected:
            via = (self._broker_of(board),)
            self.network.send(board.name, HOST, data, partial(self._client_hears, client), depart_ns, via=via)

    def _client_hears(self, client: int, data: bytes) -> None:
        self._note(0, client, data)
        topic = f"{self.bed}/re/{client}"
        for handler in self._clients:
            handler(topic, data)

    def command(self, name: str, data: bytes) -> None:
        """A client's message to a board."""
        board = self.boards[name]
        hear = partial(self._hear, board, schema.HOST)
        self.network.send(HOST, name, data, hear, self.engine.now_ns, via=(self._broker_of(board),))

    def control(self, name: str, number: int, kind: int, fields: tuple[Any, ...]) -> None:
        """The controller's own message, by the board's cable."""
        data = codec.encode_message(self.cluster, HOST_SOURCE, 0, number, kind, fields)
        self.engine.at(self.engine.now_ns + self._serial_ns, self._hear_by_cable, self.boards[name], schema.HOST, data)

    # Telemetry.

    def events_by_cable(self, board: SimBoard, previous: int, events: bytes) -> None:
        self.engine.at(self.engine.now_ns + self._serial_ns, self._ingest_cable, board, previous, events)

    def _ingest_cable(self, board: SimBoard, previous: int, events: bytes) -> None:
        self._note(board.number, 0, events)
        fresh = len(self.telemetry.ingest(board.name, events, SERIAL, previous=previous))
        self._unacknowledged[board.name] += fresh
        upto = self.telemetry.acknowledged(board.name)
        missed = upto is not None and previous > upto[1] and upto != self._asked.get(board.name)
        if missed or self._unacknowledged[board.name] >= ACKNOWLEDGE_AFTER_EVENTS:
            self._asked[board.name] = upto
            self.engine.at(self.engine.now_ns + self._serial_ns, self._acknowledge, board)
        elif board.name not in self._acknowledging:
            self._acknowledging.add(board.name)
            self.engine.at(self.engine.now_ns + int(ACKNOWLEDGE_AFTER_S * 1e9), self._acknowledge, board)

    def _acknowledge(self, board: SimBoard) -> None:
        self._acknowledging.discard(board.name)
        self._unacknowledged[board.name] = 0
        upto = self.telemetry.acknowledged(board.name)
        if upto is not None and board.plugged:
            board.acknowledge(*upto)

    def events_by_broker(self, board: SimBoard, packet: int, events: bytes) -> None:
        deliver = partial(self._ingest_broker, board, packet, board.life)
        self.network.send(board.name, HOST, events, deliver, self.engine.now_ns, via=(board.route,))

    def _ingest_broker(self, board: SimBoard, packet: int, life: int, events: bytes) -> None:
        self._note(board.number, 1, events)
        board.published(packet, life)
        self.telemetry.ingest(board.name, events, MQTT)

    # Power and the broker.

    def power_changed(self, board: SimBoard) -> None:
        self.on_power()

    def home(self, name: str) -> str:
        return "" if self.sites is None else self.sites.home(name)

    def broker_answers(self, site: str, name: str) -> bool:
        return (name, site) not in self.network.parted and self.network.answers(site)

    def part(self, site: str, names: Sequence[str]) -> None:
        """The links of these boards to the broker of that site die."""
        self.network.parted.update((name, site) for name in names)
        for name in names:
            if self.boards[name].route == site:
                self.boards[name].disconnect()

    def rejoin(self, site: str, names: Sequence[str]) -> None:
        self.network.parted.difference_update((name, site) for name in names)

    def _broker_changed(self, site: str, up: bool) -> None:
        if not up:
            for board in self.boards.values():
                if board.route == site:
                    board.disconnect()


class SimConnection:
    """A client's connection; the host connects again at once whenever the broker is back."""

    def __init__(self, world: SimWorld, handler: Handler) -> None:
        self._world = world
        self._handler = handler

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> bool:
        if not self._world.network.up:
            return False
        self._world.command(topic.rpartition("/")[2], payload)
        return True

    def close(self) -> None:
        self._world.disconnect(self._handler)
