"""Puts together what switches a rig: its gateway and the drivers behind it. Must not switch anything itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .contracts import Broker, Cable, Conditions, Gateway, Link, Power, RigError, Storage
from .drivers.virtual_broker import VirtualBroker
from .drivers.virtual_cable import VirtualCable
from .drivers.virtual_conditions import VirtualConditions
from .drivers.virtual_lab import gateway_spec
from .drivers.virtual_link import VirtualLink
from .drivers.virtual_power import VirtualPower
from .drivers.virtual_storage import VirtualStorage
from .gateway import open_gateway
from .labctl import LabControl
from .rig import Rig


@dataclass
class Switches:
    """Everything that can be done to the boards of a rig."""

    gateway: Gateway
    power: Power
    link: Link
    broker: Broker
    cable: Cable
    storage: Storage
    conditions: Conditions | None = None  # where boards' clocks and flash can be spoilt

    def close(self) -> None:
        self.gateway.close()


def lab_switches(rig: Rig, document: dict[str, Any]) -> Switches:
    """The switches of a running virtual lab, by its lab.json."""
    gateway = open_gateway(gateway_spec(document))
    control = LabControl(gateway, str(document["labctl"]))
    return Switches(
        gateway=gateway,
        power=VirtualPower(control, rig.support),
        link=VirtualLink(control, rig.support),
        broker=VirtualBroker(control, rig.support),
        cable=VirtualCable(control, rig.support),
        storage=VirtualStorage(control, rig.support),
        conditions=VirtualConditions(control, rig.support),
    )


def open_switches(rig: Rig) -> Switches:
    """The switches of a rig that stands by itself; boards made for a run have none outside of it."""
    if rig.lab is None:
        raise RigError(
            f"rig {rig.name!r} has nothing that can be switched by hand"
            + (
                "; start a lab: brownout lab up, and say --rig lab"
                if rig.virtual
                else f" ({rig.source} names no driver)"
            )
        )
    from .drivers.virtual_lab import VirtualLab

    return lab_switches(rig, VirtualLab.attach(rig.lab).document)
