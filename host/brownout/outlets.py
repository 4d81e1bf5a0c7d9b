"""Which power drivers there are, by the name that a rig file gives them. Must not switch anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .bench_rig import OutletsSpec
from .contracts import Outlets
from .drivers import command, gpioset, labgrid_power, pdudaemon, shelly, tasmota, uhubctl, usbrelay

_DRIVERS: dict[str, tuple[Any, Callable[[str, Mapping[str, object]], Outlets]]] = {
    "uhubctl": (uhubctl, uhubctl.Uhubctl),
    "usbrelay": (usbrelay, usbrelay.Usbrelay),
    "gpioset": (gpioset, gpioset.Gpioset),
    "tasmota": (tasmota, tasmota.Tasmota),
    "shelly": (shelly, shelly.Shelly),
    "pdudaemon": (pdudaemon, pdudaemon.Pdudaemon),
    "command": (command, command.Command),
    "labgrid": (labgrid_power, labgrid_power.LabgridPower),
}


def options_of(driver: str) -> tuple[str, ...]:
    """The keys that a driver takes in its [power.NAME] table."""
    return tuple(_DRIVERS[driver][0].OPTIONS)


def proves(driver: str) -> str:
    return str(_DRIVERS[driver][0].PROVES)


def open_outlets(spec: OutletsSpec) -> Outlets:
    return _DRIVERS[spec.driver][1](spec.device, spec.options)
