"""Rigs: which boards there are, how they are reached, and which kinds of fault the rig can do. Read from TOML.

Four shapes. [virtual]: boards made for one run and thrown away. [sim]: models of boards in virtual time. [lab]: the
boards of a virtual lab that somebody keeps running. [[board]]: a bench of real boards. Must not open a port or reach a
gateway: this is data.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import resources
from .bench_rig import BenchSpec, read_bench
from .contracts import RigError, Support, UsageError
from .document import Table, nearest, read_document
from .fault_kinds import KINDS
from .sites import Sites, read_sites

RESERVED_NAMES = ("all", "voters", "host")  # addresses in topics
MOST_BOARDS = 200
MESHES = ("mqtt", "serial")
LATENCIES = ("constant", "uniform", "exponential")
BENCH_TABLES = ("power", "links", "jig", "safety")
SHAPES = {"virtual": "virtual", "lab": "virtual", "sim": "sim", "board": "bench"}  # table of a rig file -> rung


@dataclass(frozen=True)
class Model:
    """What all boards of one model have in common; see testbed/models."""

    name: str
    description: str
    platform: str  # what sys.platform says on the board; also the name of its port
    ports: tuple[str, ...]  # modules of brownout_node.ports that it needs
    architecture: str | None  # for native code (mpy-cross -march); bytecode needs none
    baud_rate: int
    block_bytes: int  # of a file, written at a time when the board is flashed
    window_bytes: int  # that may be under way to a board: what its cable takes while it writes its flash


@dataclass(frozen=True)
class GatewaySpec:
    """How a gateway is reached. transport: "local" or "ssh"."""

    name: str
    transport: str
    host: str = ""
    port: int = 22
    user: str = ""
    key: str = ""
    known_hosts: str = ""
    tools: str = ""  # folder of what `brownout rig setup-gateway` lays down there


@dataclass(frozen=True)
class BoardSpec:
    """One board of the rig. `port` is its serial port, empty for boards that exist only during a run."""

    name: str
    model: str = "virtual"
    port: str = ""
    gateway: str = ""
    mesh: str = "mqtt"
    address: str = ""  # of a bench's board, for its gateway's nftables
    mqtt_port: int = 1883  # where a bench's board finds the broker, through its gateway's proxy
    outlet: str = ""  # NAME/NUMBER: an outlet of [power.NAME]


@dataclass(frozen=True)
class VirtualSpec:
    """Boards that are made for a run."""

    most_boards: int = 60
    heap: str = "224k"
    real_timings: bool = False
    model: str = "virtual"


@dataclass(frozen=True)
class SimSpec:
    """Boards that are models around the firmware's own core. Times in milliseconds; a latency is one hop's.

    latency: constant (low) | uniform (low to high) | exponential (low, and high more on average).
    work_ms: a board's time for one message; program_ms, erase_ms: for one operation of its flash.
    """

    most_boards: int = 200
    latency: str = "uniform"
    latency_ms: tuple[float, float] = (0.2, 0.8)
    serial_ms: float = 1.0
    boot_ms: float = 150.0
    connect_ms: float = 15.0
    work_ms: float = 0.3
    program_ms: float = 0.1
    erase_ms: float = 0.5
    switch_ms: float = 10.0
    model: str = "virtual"


@dataclass(frozen=True)
class BrokerSpec:
    host: str
    port: int = 1883


@dataclass(frozen=True)
class Rig:
    """One rig, checked. `boards` is empty where they are made for each run."""

    name: str
    source: str  # the file that it was read from
    rung: str
    description: str
    bed: str  # prefix of its topics
    support: Mapping[str, Support]  # every kind of fault
    boards: tuple[BoardSpec, ...] = ()
    virtual: VirtualSpec | None = None
    simulated: SimSpec | None = None
    lab: Path | None = None  # directory of the running lab
    broker: BrokerSpec | None = None
    gateways: Mapping[str, GatewaySpec] = field(default_factory=dict)
    wifi: Mapping[str, str] | None = None
    bench: BenchSpec | None = None
    sites: Sites | None = None  # for campaigns that name none

    @property
    def capacity(self) -> int:
        made = self.made
        return made.most_boards if made else len(self.boards)

    @property
    def made(self) -> VirtualSpec | SimSpec | None:
        """Of what the boards are made that exist only during a run."""
        return self.virtual or self.simulated

    def board(self, name: str) -> BoardSpec:
        for board in self.boards:
            if board.name == name:
                return board
        if not self.boards:
            raise UsageError(
                f"{self.source}: the boards of rig {self.name!r} exist only while a campaign runs; start some that "
                "stay with `brownout lab up`, and use --rig lab"
            )
        names = [board.name for board in self.boards]
        raise UsageError(f"{self.source}: unknown board {name!r}{nearest(name, names)}; allowed: {', '.join(names)}")


@dataclass(frozen=True)
class PlannedBoard:
    """One board's part in a run: its number in the protocol, its weight in votes, how it reaches the others."""

    board: int
    name: str
    weight: int
    mesh: str
    model: str


def load_rig(name: str) -> Rig:
    """The rig of that file, or of that name among those that are shipped."""
    shipped = resources.shipped(resources.rigs_directory())
    if name in shipped:
        return read_rig(resources.rigs_directory() / f"{name}.toml")
    if os.sep in name or name.endswith(".toml"):
        return read_rig(Path(name))
    raise UsageError(
        f"--rig: unknown rig {name!r}{nearest(name, shipped)}; allowed: {', '.join(shipped)}, or the path of a rig file"
    )


def read_rig(path: Path) -> Rig:
    return parse_rig(Table.read(path))


def parse_rig(document: Table) -> Rig:
    """A rig from its document; relative paths in it start at the folder of the file."""
    document.only(
        "rig", "virtual", "lab", "sim", "board", "broker", "gateway", "wifi", "faults", "sites", *BENCH_TABLES
    )
    head = document.table("rig")
    head.only("name", "description", "rung", "bed")
    shapes = [shape for shape in SHAPES if shape in document]
    if len(shapes) != 1:
        raise document.error(
            shapes[1] if shapes else "board",
            f"{len(shapes)} kinds of boards",
            "one of [virtual], [lab], [sim], [[board]]",
        )
    rung = head.choice("rung", tuple(dict.fromkeys(SHAPES.values())))
    if rung != SHAPES[shapes[0]]:
        raise head.error("rung", repr(rung), "bench with [[board]], sim with [sim], virtual with [virtual] or [lab]")
    common: dict[str, Any] = {
        "name": head.word("name"),
        "source": document.source,
        "rung": rung,
        "description": head.text("description", "", most=400),
        "bed": head.word("bed", "bed"),
        "support": _support(document.table("faults", {})),
    }
    if "sites" in document:
        if shapes[0] not in ("virtual", "sim"):
            raise document.error("sites", "does not go with one broker for all", "[virtual] or [sim] beside it")
        common["sites"] = read_sites(document.table("sites"))
    if shapes[0] == "virtual":
        _refuse(document, "virtual", "broker", "gateway", "wifi")
        return Rig(**common, virtual=_virtual(document.table("virtual")))
    if shapes[0] == "sim":
        _refuse(document, "sim", "broker", "gateway", "wifi")
        return Rig(**common, simulated=_simulated(document.table("sim")))
    if shapes[0] == "lab":
        _refuse(document, "lab", "broker", "gateway", "wifi")
        directory = _lab_directory(document.table("lab"))
        return Rig(**common, lab=directory, boards=_lab_boards(directory))
    gateways = {name: _gateway(name, table) for name, table in document.named_tables("gateway").items()}
    return Rig(
        **common,
        boards=_boards(document, gateways),
        gateways=gateways,
        broker=_broker(document.table("broker")) if "broker" in document else None,
        wifi=_wifi(document.table("wifi")) if "wifi" in document else None,
        bench=read_bench(document, tuple(gateways)),
    )


def _refuse(document: Table, shape: str, *names: str) -> None:
    for name in names:
        if name in document:
            raise document.error(name, f"does not go with [{shape}]", f"rig, {shape}, faults")


def _support(table: Table) -> dict[str, Support]:
    table.only(*KINDS)
    choices = [str(support) for support in Support]
    return {kind: Support(table.choice(kind, choices, str(Support.ABSENT))) for kind in KINDS}


def _virtual(table: Table) -> VirtualSpec:
    table.only("most_boards", "heap", "real_timings", "model")
    heap = table.text("heap", VirtualSpec.heap, most=8)
    if not (heap.endswith("k") and heap[:-1].isascii() and heap[:-1].isdigit() and 64 <= int(heap[:-1]) <= 262_144):
        raise table.error("heap", repr(heap), 'KiB as text such as "224k", from "64k"')
    return VirtualSpec(
        most_boards=table.integer("most_boards", 1, MOST_BOARDS, VirtualSpec.most_boards),
        heap=heap,
        real_timings=table.boolean("real_timings", False),
        model=_model_name(table, VirtualSpec.model),
    )


def _simulated(table: Table) -> SimSpec:
    times = ("serial_ms", "boot_ms", "connect_ms", "work_ms", "program_ms", "erase_ms", "switch_ms")
    table.only("most_boards", "latency", "latency_ms", *times)
    low, high = table.interval("latency_ms", 0.001, 60_000) if "latency_ms" in table else SimSpec.latency_ms
    return SimSpec(
        most_boards=table.integer("most_boards", 1, MOST_BOARDS, SimSpec.most_boards),
        latency=table.choice("latency", LATENCIES, SimSpec.latency),
        latency_ms=(low, high),
        **{name: table.number(name, 0, 60_000, getattr(SimSpec, name), what="milliseconds") for name in times},
    )


def _model_name(table: Table, default: str | None = None) -> str:
    models = resources.shipped(resources.models_directory())
    name: str = table.choice("model", models) if default is None else table.choice("model", models, default)
    return name


def default_lab_directory() -> Path:
    """Where `brownout lab up` keeps its lab unless told otherwise."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "brownout" / "lab"


def _lab_directory(table: Table) -> Path:
    table.only("directory")
    text = table.text("directory", "")
    if not text:
        return default_lab_directory()
    return Path(table.source).parent / Path(text).expanduser()


def _lab_boards(directory: Path) -> tuple[BoardSpec, ...]:
    """The boards that the running lab says it has."""
    path = directory / "lab.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        entries = state["boards"]
        names = list(entries)
        return tuple(
            BoardSpec(
                name=name,
                port=str(directory / "serial" / name),
                mesh="serial" if entries[name].get("serial_only") else "mqtt",
            )
            for name in names
        )
    except FileNotFoundError:
        raise RigError(f"no lab is running in {directory}; start one: brownout lab up") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RigError(f"{path} cannot be read ({error}); stop the lab and start it again: brownout lab down") from None


def _gateway(name: str, table: Table) -> GatewaySpec:
    table.only("transport", "host", "port", "user", "key", "known_hosts", "tools")
    transport = table.choice("transport", ("local", "ssh"))
    if transport == "local":
        table.only("transport")
        return GatewaySpec(name, transport)
    folder = Path(table.source).parent
    return GatewaySpec(
        name,
        transport,
        host=table.text("host"),
        port=table.integer("port", 1, 65535, 22),
        user=table.text("user", most=64),
        key=str(folder / Path(table.text("key")).expanduser()),
        known_hosts=str(folder / Path(table.text("known_hosts")).expanduser()),
        tools=table.text("tools", ".brownout/bin", most=1024),
    )


def _boards(document: Table, gateways: Mapping[str, GatewaySpec]) -> tuple[BoardSpec, ...]:
    tables = document.tables("board")
    if not 1 <= len(tables) <= MOST_BOARDS:
        raise document.error("board", f"{len(tables)} boards", f"1 to {MOST_BOARDS} tables [[board]]")
    boards: list[BoardSpec] = []
    for table in tables:
        table.only("name", "model", "port", "gateway", "mesh", "address", "mqtt_port", "outlet")
        board = BoardSpec(
            name=table.word("name"),
            model=_model_name(table),
            port=table.text("port"),
            gateway=table.choice("gateway", tuple(gateways), ""),
            mesh=table.choice("mesh", MESHES, "mqtt"),
            address=_address(table),
            mqtt_port=table.integer("mqtt_port", 1, 65535, 1883),
            outlet=_outlet(table, document),
        )
        if board.name in RESERVED_NAMES or board.name in [other.name for other in boards]:
            raise table.error("name", repr(board.name), f"each name once, and none of {', '.join(RESERVED_NAMES)}")
        if board.port.startswith("-"):
            raise table.error("port", repr(board.port), "a path, which no tool takes for an option")
        if board.port in [other.port for other in boards]:
            raise table.error("port", f"{board.port!r} belongs to another board", "each serial port once")
        boards.append(board)
    return tuple(boards)


def _address(table: Table) -> str:
    text: str = table.text("address", "")
    try:
        return str(ipaddress.IPv4Address(text)) if text else ""
    except ValueError:
        raise table.error("address", repr(text), "an IPv4 address such as 192.0.2.7") from None


def _outlet(table: Table, document: Table) -> str:
    text: str = table.text("outlet", "")
    name, _, number = text.rpartition("/")
    if text and (name not in document.named_tables("power") or not (number.isascii() and number.isdigit())):
        raise table.error("outlet", repr(text), "NAME/NUMBER, an outlet of a table [power.NAME]")
    return text


def _broker(table: Table) -> BrokerSpec:
    table.only("host", "port", "gateway", "unit", "ca", "passwords")
    return BrokerSpec(table.text("host"), table.integer("port", 1, 65535, 1883))


def _wifi(table: Table) -> dict[str, str]:
    table.only("ssid", "password")
    return {"ssid": table.text("ssid", most=32), "password": table.text("password", most=64)}


def load_model(name: str) -> Model:
    """The board model of that name."""
    directory = resources.models_directory()
    if name not in resources.shipped(directory):
        raise UsageError(f"unknown board model {name!r}; allowed: {', '.join(resources.shipped(directory))}")
    path = directory / f"{name}.toml"
    document = Table(read_document(path), str(path))
    document.only("model")
    table = document.table("model")
    table.only("name", "description", "platform", "ports", "architecture", "baud_rate", "block_bytes", "window_bytes")
    return Model(
        name=table.word("name"),
        description=table.text("description", "", most=400),
        platform=table.word("platform"),
        ports=table.texts("ports"),
        architecture=table.text("architecture", None, most=16),
        baud_rate=table.integer("baud_rate", 1200, 10_000_000, 115_200),
        block_bytes=table.integer("block_bytes", 48, 4096, 96),
        window_bytes=table.integer("window_bytes", 64, 1_000_000, 200),
    )


def _on_bench(rig: Rig, campaign: str, count: int, serial_only: int) -> list[BoardSpec]:
    """Every board of a bench has a cable, so any of them can do without its network; the others cannot do with one."""
    networked = [board for board in rig.boards if board.mesh == "mqtt"]
    if len(networked) < count - serial_only:
        raise UsageError(
            f"{rig.source}: campaign {campaign!r} needs {count - serial_only} boards with mesh = 'mqtt'; "
            f"rig {rig.name!r} has {len(networked)}"
        )
    first = networked[: count - serial_only]
    cabled = [board for board in rig.boards if board not in first][:serial_only]
    return [*first, *(replace(board, mesh="serial") for board in cabled)]


def choose_boards(rig: Rig, campaign: str, voters: int, learners: int, serial_only: int) -> tuple[PlannedBoard, ...]:
    """Give the boards of a rig their parts. UsageError where the rig has too few; `campaign` is named in it.

    Voters come first; the boards that are on serial only are the last ones, learners and voters alike.
    """
    count = voters + learners
    if count > rig.capacity:
        raise UsageError(
            f"{rig.source}: campaign {campaign!r} needs {count} boards ({voters} voters, {learners} learners); "
            f"rig {rig.name!r} has {rig.capacity}"
        )
    if rig.made:
        chosen = [
            BoardSpec(f"b{number}", rig.made.model, mesh="serial" if number > count - serial_only else "mqtt")
            for number in range(1, count + 1)
        ]
    elif rig.bench is not None:
        chosen = _on_bench(rig, campaign, count, serial_only)
    else:
        by_mesh = {mesh: [board for board in rig.boards if board.mesh == mesh] for mesh in MESHES}
        for mesh, needed in (("serial", serial_only), ("mqtt", count - serial_only)):
            if len(by_mesh[mesh]) < needed:
                raise UsageError(
                    f"{rig.source}: campaign {campaign!r} needs {needed} boards with mesh = {mesh!r}; "
                    f"rig {rig.name!r} has {len(by_mesh[mesh])}"
                )
        chosen = by_mesh["mqtt"][: count - serial_only] + by_mesh["serial"][:serial_only]
    return tuple(
        PlannedBoard(number, board.name, 1 if number <= voters else 0, board.mesh, board.model)
        for number, board in enumerate(chosen, 1)
    )
