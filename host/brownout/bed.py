"""A rig at work: its gateway and switches by hand (`Hand`), or flashed, watched and ready for a campaign (`Bed`).

Brings a rig up in the order in which nothing is lost: flash, power off, listen, power on. Must not know which campaign
runs on it, and must not ask which rung it is on after the lab is up: boards, ports and switches are all it sees.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from brownout_node.core import adversary, codec, schema

from . import bench_lock, broker_keys, healing, incarnation, upgrade
from .bench_lab import BenchLab
from .contracts import Progress, RigError, Support, UsageError
from .drivers.virtual_lab import LabOptions, VirtualLab
from .firmware_build import Firmware, build
from .flash import FlashResult, FlashTarget, flash, raise_failures
from .mqtt_connection import Connect, by_brokers, connected
from .pace import Pace, WallPace
from .protocols import DEFAULT, OPERATION_IDS, keys_of
from .replay.tap import HOST, FlightRecord
from .rig import PlannedBoard, Rig, choose_boards, load_model
from .saved_state import StateClient
from .serial_hub import SerialHub
from .sites import Sites, routes_of
from .switches import lab_switches
from .telemetry import Telemetry
from .watch import Watch

MOST_VOTERS = 7  # of boards that are flashed by hand
READY_WITHIN_S = 30.0  # power on until every board has said that it is connected
DESCRIBE_WITHIN_S = 10.0
HOST_SOURCE = 999_999  # the controller's own number as a source of commands
BROKER_ANSWERS_WITHIN_S = 0.5
POWER_LOOK_S = 0.02  # between two looks at a switch that cannot notify
TRAP_POINTS = {"after persist": schema.AFTER_PERSIST, "after send": schema.AFTER_SEND}
TRAP_ACTIONS = {"halt": schema.HALT, "power off": schema.POWER_OFF}


def quiet(what: str, done: int, total: int) -> None:
    """A Progress for those who want none."""


def without_password(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A board's configuration as it may be kept in a run's folder."""
    kept = dict(configuration)
    if kept.get("mqtt"):
        kept["mqtt"] = {key: value for key, value in kept["mqtt"].items() if key != "password"}
    return kept


@dataclass(frozen=True)
class BoardPlace:
    """Where one board is reached."""

    name: str
    serial: str
    mqtt_host: str
    mqtt_port: int


def by_hand(rig: Rig) -> tuple[PlannedBoard, ...]:
    """The parts of the boards of a lab that stays."""
    serial = sum(board.mesh == "serial" for board in rig.boards)
    count = len(rig.boards)
    return choose_boards(rig, "by hand", min(MOST_VOTERS, count), max(0, count - MOST_VOTERS), serial)


class Hand:
    """The switches of a rig that is up: what `brownout power`, `link`, `flash` and `console` use."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.rig.boards and self.rig.lab is None:
            self.attach(self._take_bench())
            return self
        if self.rig.lab is None:
            raise UsageError(
                f"{self.rig.source}: rig {self.rig.name!r} exists only while a campaign runs; start one that "
                "stays with `brownout lab up`, and use --rig lab"
            )
        self.attach(VirtualLab.attach(self.rig.lab))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _take_bench(self) -> BenchLab:
        self._stack.enter_context(bench_lock.held(self.rig.source, "brownout at work"))
        bench = BenchLab(self.rig)
        self._stack.callback(bench.close)
        return bench

    def attach(self, lab: VirtualLab | BenchLab) -> None:
        """Take hold of a lab that is up."""
        self.lab = lab
        self.names: tuple[str, ...] = tuple(lab.document["boards"])
        self.places = {name: BoardPlace(name, lab.serial_port(name), *lab.broker_address(name)) for name in self.names}
        self.broker_address = lab.broker_address()
        self.brokers: dict[str, tuple[str, int]] = lab.sites() if isinstance(lab, VirtualLab) else {}
        self.broker_addresses = list(self.brokers.values()) or [self.broker_address]
        switches = lab.switches() if isinstance(lab, BenchLab) else lab_switches(self.rig, lab.document)
        self._stack.callback(switches.close)
        self.gateway = switches.gateway
        self.power = switches.power
        self.link = switches.link
        self.broker = switches.broker
        self.cable = switches.cable
        self.storage = switches.storage
        self.conditions = switches.conditions

    def support(self, kind: str) -> Support:
        return self.rig.support[kind]

    def flash(
        self, progress: Progress = quiet, boards: Sequence[str] | None = None, also: Sequence[str] = ()
    ) -> list[FlashResult]:
        """Flash the boards of a lab that stays, for use by hand: the first seven vote, the others learn.

        What they had promised before is kept. also: protocols beside those that they have. RigError names every board
        that could not be flashed.
        """
        targets = self.flash_targets(boards, also)
        results = flash(targets, rescue=lambda board: self.power.reset([board]), progress=progress)
        raise_failures(results)
        return results

    def flash_targets(self, boards: Sequence[str] | None = None, also: Sequence[str] = ()) -> list[FlashTarget]:
        """What `flash` puts onto the boards."""
        whole = by_hand(self.rig)
        roster = [[board.board, board.name, board.weight] for board in whole]
        chosen = [board for board in whole if boards is None or board.name in boards]
        kept = isinstance(self.lab, VirtualLab)
        current = incarnation.read(self.lab.directory) if kept else incarnation.Incarnation()
        loaded = (*current.protocols, *(name for name in also if name not in current.protocols))
        settings = current.settings | ({"protocols": list(loaded)} if also else {})
        return self.targets(
            chosen,
            lambda board: self.configuration(board, roster, cluster=current.cluster, seed=0, **settings),
            protocols=loaded,
        )

    def targets(
        self,
        boards: Sequence[PlannedBoard],
        configuration: Callable[[PlannedBoard], dict[str, Any]],
        firmware: Path | None = None,
        own: Mapping[str, str] | None = None,
        protocols: Sequence[str] = DEFAULT,
    ) -> list[FlashTarget]:
        """What the flasher is told of each board. firmware: a folder, instead of ours. own: texts of others."""
        models = {name: load_model(name) for name in sorted({board.model for board in boards})}
        built = {name: build(model, firmware, own, protocols) for name, model in models.items()}
        return [
            FlashTarget(
                board=board.name,
                port=self.places[board.name].serial,
                model=models[board.model],
                firmware=self._with_board_files(built[board.model]),
                config=configuration(board),
            )
            for board in boards
        ]

    def _with_board_files(self, firmware: Firmware) -> Firmware:
        """What a bench's boards need beside the firmware: its certificate authority."""
        if not isinstance(self.lab, BenchLab):
            return firmware
        files = sorted([*firmware.files, *self.lab.board_files()], key=lambda file: file.path)
        return Firmware(tuple(files), firmware.compiler)

    def configuration(
        self, board: PlannedBoard, roster: list[list[Any]], *, cluster: int, seed: int, **more: Any
    ) -> dict[str, Any]:
        """A board's config.json."""
        place = self.places[board.name]
        document: dict[str, Any] = {
            "cluster": cluster,
            "board": board.board,
            "name": board.name,
            "bed": self.rig.bed,
            "seed": seed,
            "roster": roster,
            "mesh": board.mesh,
            "telemetry": "serial",
            **more,
        }
        if board.mesh == "mqtt":
            document["mqtt"] = {"host": place.mqtt_host, "port": place.mqtt_port}
            if isinstance(self.lab, BenchLab):
                document["mqtt"] |= self.lab.mqtt_options(board.name)
        return document

    @property
    def heals(self) -> str:
        """The command that undoes what is left, for a sentence."""
        return f"brownout heal --rig {self.rig.source}"

    def heal(self) -> list[str]:
        """Undo everything that a fault may have left; sentences about what was undone."""
        return healing.heal(self)


class Bed(Hand):
    """A rig that is flashed, watched and ready. Use as a context manager; leaving it takes an ephemeral lab down.

    boards: the parts of the run. settings: what all boards' configurations hold. directory: the run's folder, for
    serial logs and the lab of a rig that is made for the run. firmware: a folder of firmware to flash instead of ours.
    own: protocols that do not lie in it, file name -> text. recorded: whether boards keep a flight recording.
    sites: where boards are, with a broker at each place.
    """

    def __init__(
        self,
        rig: Rig,
        boards: Sequence[PlannedBoard],
        *,
        directory: Path,
        cluster: int,
        seed: int,
        settings: Mapping[str, Any] | None = None,
        firmware: Path | None = None,
        own: Mapping[str, str] | None = None,
        recorded: bool = False,
        progress: Progress = quiet,
        sites: Sites | None = None,
    ) -> None:
        super().__init__(rig)
        self.sites = sites
        self.boards = tuple(boards)
        self.directory = directory
        self.cluster = cluster
        self.seed = seed
        self.settings = dict(settings or {})
        self.firmware = firmware
        self.own = dict(own or {})
        self.progress = progress
        self.pace: Pace = WallPace()
        self.watch = Watch(self.pace)
        self.began_ns = self.pace.now_ns()
        self.telemetry = Telemetry(rig.bed, self.now_ns)
        self.flight = FlightRecord(directory, self.now_ns, by_events=True, firmware=firmware) if recorded else None
        self.described: dict[str, dict[str, str]] = {}
        self.flashed: dict[str, str] = {}
        self._took_power = False
        self._requests = 0
        self._requests_lock = threading.Lock()

    def now_ns(self) -> int:
        """Nanoseconds since the run began: the clock of everything that is recorded."""
        return self.pace.now_ns() - self.began_ns

    # Coming up.

    def __enter__(self) -> Self:
        try:
            self._come_up()
        except BaseException as error:
            self._leave_powered(error)
            raise
        return self

    def _leave_powered(self, error: BaseException) -> None:
        """A bench whose boards were switched off to come up is not left so."""
        try:
            if self._took_power:
                self.heal()
        except healing.Unhealed as left:
            if isinstance(error, RigError):
                raise healing.both(error, left) from error
        finally:
            self._stack.close()

    @property
    def heals(self) -> str:
        return f"brownout heal {self.directory}"

    def heal(self) -> list[str]:
        """As by hand; and then every board of a bench has its serial port, or the record has lost its voice."""
        healed = super().heal()
        if isinstance(self.lab, BenchLab):
            self._require_ports(self.lab, healed)
        return healed

    def _come_up(self) -> None:
        lab = self._start_lab()
        self.attach(lab)
        missing = [board.name for board in self.boards if board.name not in self.names]
        if missing:
            raise UsageError(f"{self.rig.source}: no board {', '.join(missing)}; it has {', '.join(self.names)}")
        self.names = tuple(board.name for board in self.boards)
        if isinstance(lab, BenchLab):
            lab.bridge([board.name for board in self.boards if board.mesh == "serial"])
            self._bring_ports(lab)
        self._flash()
        self._took_power = isinstance(lab, BenchLab)
        self.power.off(self.names)
        self._fed_all_the_same = [name for name, state in self.power.state(self.names).items() if state.on]
        self._listen()
        self._power_on()

    def _start_lab(self) -> VirtualLab | BenchLab:
        if self.rig.lab is not None:
            return VirtualLab.attach(self.rig.lab)
        if self.rig.virtual is None:
            return self._take_bench()
        self.progress("starting the lab", 0, 1)
        options = LabOptions(
            boards=tuple(board.name for board in self.boards),
            serial_only=tuple(board.name for board in self.boards if board.mesh == "serial"),
            bed=self.rig.bed,
            seed=self.seed,
            heap=self.rig.virtual.heap,
            real_timings=self.rig.virtual.real_timings,
            protocols=self._own_files(),
            sites=self.sites,
        )
        lab = VirtualLab.start(self.directory / "lab", options)
        self._stack.callback(lab.close)
        self.progress("starting the lab", 1, 1)
        return lab

    def _bring_ports(self, lab: BenchLab) -> None:
        """Every board has power and its port is there before anything is flashed."""
        self._require_ports(lab, super().heal())

    def _require_ports(self, lab: BenchLab, healed: list[str]) -> None:
        missing = lab.missing_ports(self.names)
        if missing:
            raise RigError(
                f"{self.rig.source}: no serial port of {', '.join(missing)} at its gateway, with power on"
                + (f" (before: {'; '.join(healed)})" if healed else "")
                + "; is the board plugged in, and is `port` right? /dev/ttyUSB0 may come back under another name: "
                "brownout rig discover shows the names that stay"
            )

    def _own_files(self) -> tuple[Path, ...]:
        """The campaign's own protocols as files beside the run: the lab has to know their messages too."""
        folder = self.directory / "own"
        if self.own:
            folder.mkdir()
        for name, text in self.own.items():
            (folder / name).write_text(text, encoding="utf-8")
        return tuple(folder / name for name in self.own)

    def roster(self) -> list[list[Any]]:
        return [[board.board, board.name, board.weight] for board in self.boards]

    @property
    def loaded(self) -> tuple[str, ...]:
        """The protocols that the boards load."""
        return tuple(self.settings.get("protocols", DEFAULT))

    def _configuration(self, board: PlannedBoard) -> dict[str, Any]:
        """The config.json of one board."""
        everybody = [other.board for other in self.boards]
        keys = keys_of(self.loaded, self.seed, board.board, everybody)
        more = {**self.settings, **keys}
        if self.flight is not None:
            more["flight"] = 1
        document = self.configuration(board, self.roster(), cluster=self.cluster, seed=self.seed, **more)
        if self.sites is not None and board.mesh == "mqtt" and isinstance(self.lab, VirtualLab):
            names = self.sites.routes(board.name)
            if len(names) > 1:
                document["routes"] = routes_of(names, self.lab.routes(board.name))
        if self.flight is not None:
            self.flight.board(without_password(document))
        return document

    def _flash(self) -> None:
        """Flash every board anew, with a fresh journal; it stays at its prompt."""
        targets = self.targets(self.boards, self._configuration, self.firmware, self.own, self.loaded)
        results = flash(
            targets,
            genesis="always",
            reset=False,
            rescue=lambda board: self.power.reset([board]),
            progress=self.progress,
        )
        raise_failures(results)
        for target in targets:
            self.flashed |= target.firmware.hashes

    def _listen(self) -> None:
        self.telemetry.subscribe(self.watch.take)
        self.telemetry.connect(*self.broker_addresses[0], others=self.broker_addresses[1:])
        self._stack.callback(self.telemetry.close)
        if self.flight is not None:
            self._stack.callback(self.flight.close)
            topics = [(f"{self.rig.bed}/g/#", 0), (f"{self.rig.bed}/cmd/#", 0)]
            tap = connected("tap", self.broker_addresses, topics, self._on_tapped)
            self._stack.callback(tap.close)
        standing_in = [] if self.sites is None else [name for name in self.names if name in self.sites.serial]
        bridged = {
            board.name: self._bridge_addresses(board.name)
            for board in self.boards
            if board.mesh == "serial" or board.name in standing_in
        }
        self.hub = SerialHub(
            self.rig.bed,
            self.cluster,
            {board.name: self.places[board.name].serial for board in self.boards},
            self.telemetry,
            bridged=bridged,
            standing_in=[board.name for board in self.boards if board.name in standing_in and board.mesh != "serial"],
            voters=[board.name for board in self.boards if board.weight],
            directory=self.directory / "serial",
            clock=self.now_ns,
            on_sent=None if self.flight is None else lambda message: self._keep(HOST, message),
        )

    def _bridge_addresses(self, board: str) -> list[tuple[str, int]]:
        """Where the bridge of a board's cable finds brokers: the links of that board, its own site's first."""
        routes = self.lab.routes(board) if isinstance(self.lab, VirtualLab) else {}
        return list(routes.values()) or [(self.places[board].mqtt_host, self.places[board].mqtt_port)]

    def _on_tapped(self, topic: str, payload: bytes) -> None:
        """What boards and clients send through the broker."""
        levels = topic[len(self.rig.bed) + 1 :].split("/")
        numbers = {board.name: board.board for board in self.boards}
        if levels[0] == "cmd":
            self._keep(HOST, payload)
        elif len(levels) == 3 and levels[1] in numbers:
            self._keep(numbers[levels[1]], payload)

    def _keep(self, board: int, message: bytes) -> None:
        assert self.flight is not None
        self.flight.message(board, message)

    def _power_on(self) -> None:
        self.power.on(self.names)
        if self._fed_all_the_same:  # their switches lie; they start by their reset pins, and no cut of theirs is proven
            self.power.reset(self._fed_all_the_same)
        self.hub.start()
        self._stack.callback(self.hub.close)
        self.progress("waiting for the boards", 0, len(self.boards))
        for done, name in enumerate(self.names, 1):
            if self.watch.wait_for_boot(name, None, READY_WITHIN_S) is None:
                raise RigError(
                    f"board {name} has power, but no boot event came within {READY_WITHIN_S:.0f} s; its console is in "
                    f"{self.directory / 'serial' / (name + '.log')}"
                )
            self.progress("waiting for the boards", done, len(self.boards))
        networked = [board.name for board in self.boards if board.mesh == "mqtt"]
        missing = self.watch.wait_for_connections(networked, READY_WITHIN_S)
        if missing:
            raise RigError(f"no connection to the broker within {READY_WITHIN_S:.0f} s from: {', '.join(missing)}")
        self._describe()

    def _describe(self) -> None:
        """Let every board name its firmware files, all at once."""
        requests = {name: self.command(name, schema.DESCRIBE, lambda number: (number,)) for name in self.names}
        for name, request in requests.items():
            files = self.watch.wait_for_description(name, request, DESCRIBE_WITHIN_S)
            if files is None:
                raise RigError(f"board {name} did not name its firmware files within {DESCRIBE_WITHIN_S:.0f} s")
            self.described[name] = files

    def command(self, board: str, kind: int, fields: Callable[[int], tuple[Any, ...]]) -> int:
        """Send the controller's own message to a board by its cable; returns the number it was given."""
        with self._requests_lock:
            self._requests += 1
            number = self._requests
        message = codec.encode_message(self.cluster, HOST_SOURCE, 0, number, kind, fields(number))
        if not self.hub.send(board, message):
            raise RigError(f"board {board}: its serial port is not open, so it cannot be told anything")
        return number

    # What the run asks for.

    def drive(self, function: Callable[[], None]) -> None:
        function()

    @property
    def connect(self) -> Connect:
        """Connections of clients to the broker."""
        return by_brokers("workload", self.broker_addresses)

    def states(self) -> StateClient:
        """A way to save boards' states and to give them back."""
        numbers = {board.name: board.board for board in self.boards}
        return StateClient(by_brokers("states", self.broker_addresses), self.rig.bed, self.cluster, self.pace, numbers)

    def facts(self) -> dict[str, Any]:
        """What stands around the boards, for the manifest; once everything is up."""
        mqtt = self.lab.document["mqtt"]
        return {
            "clock": {"monotonic_began_ns": self.began_ns},
            "broker": {"kind": mqtt["broker"], "version": mqtt["version"]},
            "firmware_flashed": {"files": self.flashed},
            "lab": {
                "directory": str(self.lab.directory),
                "pid": self.lab.document["pid"],
                "started": self.lab.document["started"],
            },
        }

    def last_facts(self) -> dict[str, Any]:
        """What was done to the rig, for the manifest."""
        commands = [
            {
                "argv": list(result.argv),
                "ms": round(result.duration_ms, 2),
                "exit_code": result.exit_code,
                "gateway": result.gateway,
            }
            for result in self.gateway.commands
        ]
        return {"gateway": {"transport": self.gateway.transport, "commands": commands}}

    # What faults ask for.

    def silent(self, board: str, for_s: float, within_s: float) -> bool:
        return self.hub.wait_silent(board, for_s, within_s)

    def port_gone(self, board: str, within_s: float) -> bool:
        return self.hub.wait_open(board, False, within_s)

    def wait_for_power(self, board: str, *, on: bool, within_s: float) -> bool:
        """Look at the switch until it says so."""
        until = self.now_ns() + int(within_s * 1e9)
        while self.power.state([board])[board].on != on:
            if self.now_ns() > until:
                return False
            self.pace.sleep(POWER_LOOK_S)
        return True

    def wait_for_broker(self, *, answers: bool, within_s: float) -> bool:
        """Ask the broker for a connection of its own until it answers, or until it does not."""
        return self._wait_for_broker(self.broker_addresses[0], answers, within_s)

    def broker_of_site_answers(self, site: str, *, answers: bool, within_s: float) -> bool:
        """The same of one site's broker."""
        return self._wait_for_broker(self.brokers[site], answers, within_s)

    def _wait_for_broker(self, address: tuple[str, int], answers: bool, within_s: float) -> bool:
        until = self.now_ns() + int(within_s * 1e9)
        while self._broker_answers(address) != answers:
            if self.now_ns() > until:
                return False
            self.pace.sleep(POWER_LOOK_S)
        return True

    def uplink_answers(self, board: str, site: str) -> bool:
        """Whether the board's own way to that site's broker takes a connection."""
        assert isinstance(self.lab, VirtualLab), "no other lab has sites"
        return self._broker_answers(self.lab.routes(board)[site])

    def crosses(self, source: str, target: str, within_s: float) -> bool:
        """Whether a message that the host puts to one site's broker comes out at the other's."""
        came = self.pace.signal()
        topic = f"{self.rig.bed}/g/host/probe"  # which no board listens to
        probe = b"%d %d" % (self.seed, self.now_ns())

        def take(_topic: str, payload: bytes) -> None:
            if payload == probe:
                came.set()

        with ExitStack() as stack:
            try:
                listening = connected("probe-in", [self.brokers[target]], [(topic, 0)], take, within_s)
                stack.callback(listening.close)
                speaking = connected("probe-out", [self.brokers[source]], [], lambda _topic, _payload: None, within_s)
                stack.callback(speaking.close)
            except RigError:
                return False  # a broker that does not answer passes nothing on
            speaking.publish(topic, probe, 0)
            return came.wait(within_s)

    def _broker_answers(self, address: tuple[str, int]) -> bool:
        """An MQTT CONNECT by hand: a stalled broker's kernel still accepts connections, it does not answer."""
        hello = b"\x10\x13\x00\x04MQTT\x04\x02\x00\x0a\x00\x07bedhand"
        try:
            with socket.create_connection(address, BROKER_ANSWERS_WITHIN_S) as plain:
                plain.settimeout(BROKER_ANSWERS_WITHIN_S)
                key = broker_keys.find(*address)
                probe = key.context.wrap_socket(plain, server_hostname=key.server) if key else plain
                with probe:
                    probe.sendall(hello)
                    return probe.recv(4)[:1] == b"\x20"
        except OSError:
            return False

    def upgrade(self, boards: Sequence[str]) -> Callable[[], None]:
        """Get the next release ready; what is returned flashes it, and leaves the boards at their prompt."""
        return upgrade.prepare(self, boards)

    def reconnect(self, boards: Sequence[str]) -> None:
        """Take the cables of boards that have power again."""
        upgrade.reconnect(self, boards)

    def configuration_of(self, board: PlannedBoard) -> dict[str, Any]:
        """The config.json of one board."""
        return self._configuration(board)

    def turn(self, board: str, behaviour: int, split: Sequence[str]) -> None:
        """Tell a board how to behave from now on, and to whom it tells another story; see core/adversary.py."""
        bits = sum(1 << other.board for other in self.boards if other.name in split)
        self.command(board, adversary.TURN, lambda _number: (behaviour, bits))

    def hand_over(self, board: str) -> None:
        """Tell a board to hand its turns over to others; see core/hand_over.py."""
        operation = OPERATION_IDS["hand_over"]
        self.command(board, schema.COMMAND, lambda number: (number, operation, "turns", None, None))

    def arm_trap(self, board: str, parameters: Mapping[str, Any]) -> None:
        point = TRAP_POINTS[parameters.get("point", "after persist")]
        action = TRAP_ACTIONS[parameters.get("action", "power off")]
        self.command(board, schema.TRAP, lambda _number: (point, int(parameters.get("count", 1)), action))
