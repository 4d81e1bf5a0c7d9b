"""What a bench's rig file says beside its boards: outlets, links, jig, safety. Data only, read strictly.

Must not open a port or reach a gateway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .document import Table

ISOLATE = ("proxy", "nftables")
JIG_WORDS: dict[str, tuple[str, ...]] = {  # command -> what its template may name
    "reset": ("board", "port"),
    "unplug": ("board", "port"),
    "plug": ("board", "port"),
    "wipe": ("board", "port"),
    "arm": ("board", "port", "operation", "byte"),
}
DRIVERS: dict[str, tuple[str, ...]] = {  # name -> the keys of its own that it takes; outlets.py opens them
    "uhubctl": (),
    "usbrelay": ("inverted",),
    "gpioset": ("libgpiod", "active_low"),
    "tasmota": ("over",),
    "shelly": ("generation",),
    "pdudaemon": ("url",),
    "command": ("on", "off", "state"),
    "labgrid": ("backend", "python"),
}


_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.@-]*", re.ASCII)


@dataclass(frozen=True)
class OutletsSpec:
    """One switch with outlets. options: what its driver takes."""

    name: str
    driver: str
    gateway: str
    device: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class LinksSpec:
    """The links' proxy, on the gateway where the broker is. lease_s: after which a gateway undoes what stands."""

    gateway: str
    control: str
    isolate: str
    lease_s: float


@dataclass(frozen=True)
class BrokerUnit:
    """The broker as a service of its gateway, and what lets one in."""

    gateway: str
    unit: str
    ca: str
    passwords: str


@dataclass(frozen=True)
class SafetySpec:
    """Bounds on what is done to the hardware."""

    cycles_per_hour: int = 3600
    stagger_s: float = 0.0


@dataclass(frozen=True)
class BenchSpec:
    outlets: Mapping[str, OutletsSpec]
    links: LinksSpec
    broker: BrokerUnit
    jig: Mapping[str, tuple[str, ...]]
    safety: SafetySpec


def read_bench(document: Table, gateways: Sequence[str]) -> BenchSpec | None:
    """None where the file has no [links]: its boards can be flashed, and no campaign runs on them."""
    if "links" not in document:
        return None
    folder = Path(document.source).parent
    links = document.table("links")
    links.only("gateway", "control", "isolate", "lease_s")
    broker = document.table("broker")
    safety = document.table("safety", {})
    safety.only("cycles_per_hour", "stagger_s")
    return BenchSpec(
        outlets={name: _outlets(name, table, gateways) for name, table in document.named_tables("power").items()},
        links=LinksSpec(
            gateway=links.choice("gateway", gateways),
            control=links.text("control", most=1024),
            isolate=links.choice("isolate", ISOLATE, "proxy"),
            lease_s=links.number("lease_s", 2, 3600, 15.0),
        ),
        broker=BrokerUnit(
            gateway=broker.choice("gateway", gateways),
            unit=_unit(broker),
            ca=str(folder / Path(broker.text("ca", most=1024)).expanduser()),
            passwords=str(folder / Path(broker.text("passwords", most=1024)).expanduser()),
        ),
        jig=_jig(document.table("jig", {})),
        safety=SafetySpec(
            cycles_per_hour=safety.integer("cycles_per_hour", 1, 100_000, SafetySpec.cycles_per_hour),
            stagger_s=safety.number("stagger_s", 0, 60, SafetySpec.stagger_s),
        ),
    )


def is_unit_name(text: str) -> bool:
    """Whether systemctl takes it for one unit, and not for a pattern or an option."""
    return _UNIT.fullmatch(text) is not None and len(text) <= 64


def _unit(broker: Table) -> str:
    unit: str = broker.text("unit", "mosquitto", most=64)
    if not is_unit_name(unit):
        raise broker.error("unit", repr(unit), "the name of one systemd unit such as mosquitto")
    return unit


def _outlets(name: str, table: Table, gateways: Sequence[str]) -> OutletsSpec:
    driver = table.choice("driver", tuple(DRIVERS))
    allowed = DRIVERS[driver]
    table.only("driver", "gateway", "device", *allowed)
    if table.text("device").startswith("-"):
        raise table.error("device", repr(table.text("device")), "a name that no tool takes for an option")
    return OutletsSpec(
        name=name,
        driver=driver,
        gateway=table.choice("gateway", gateways),
        device=table.text("device"),
        options={key: table.values[key] for key in allowed if key in table},
    )


def _jig(table: Table) -> dict[str, tuple[str, ...]]:
    table.only(*JIG_WORDS)
    commands: dict[str, tuple[str, ...]] = {}
    for name, words in JIG_WORDS.items():
        if name in table:
            template = table.values[name]
            if not isinstance(template, list) or not template or not all(isinstance(word, str) for word in template):
                raise table.error(name, repr(template)[:60], 'a list of words such as ["boardjig", "reset", "{board}"]')
            commands[name] = tuple(template)
            for word in template:
                if word.startswith("{") and word[1:-1] not in words:
                    raise table.error(name, repr(word), ", ".join("{" + known + "}" for known in words))
    return commands


def fill(template: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """A template's words with those of them that are `{name}` replaced, each as one argument, whatever is in it."""
    return [values[word[1:-1]] if word[:1] == "{" and word[-1:] == "}" and word[1:-1] in values else word
            for word in template]  # fmt: skip
