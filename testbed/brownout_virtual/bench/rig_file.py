"""Writes the rig file of a bench: what `brownout rig discover` and an afternoon of cabling would have written.

Must not hold anything that the host could not know of a real bench.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..process import LabError
from .servers import BROKER_PORT, SSH_PORT

if TYPE_CHECKING:
    from .daemon import Bench

PHYSICAL = (
    "cut", "cycle", "power_flap", "blackout", "reset", "cut_mid_write", "wipe", "isolate", "broker_kill",
    "broker_stall", "unplug",
)  # fmt: skip
INJECTED = (
    "split", "one_way", "loss", "delay", "bandwidth", "link_flap", "drop", "hold", "duplicate", "trap", "silent",
    "equivocate", "lie", "replay_old", "delay_votes", "corrupt",
)  # fmt: skip
DEVICES = {"1-": "uhubctl", "BRLY": "usbrelay", "gpiochip": "gpioset"}


def _driver(device: str) -> str:
    for start, driver in DEVICES.items():
        if device.startswith(start):
            return driver
    raise LabError(f"no driver for {device}")


def write_rig(bench: Bench) -> None:
    root = bench.root
    (root / "rig.qualified.json").unlink(missing_ok=True)  # of another bench that stood here
    lines = [
        "# The bench that `brownout lab up --bench` made; it is gone with it.",
        "[rig]",
        'name = "bench"',
        'rung = "bench"',
        f'bed = "{bench.settings.bed}"',
        'description = "gateways and boards in network namespaces on this machine"',
    ]
    for name, node in bench.network.gateways.items():
        lines += ["", f"[gateway.{name}]", 'transport = "ssh"', f'host = "{node.address}"', f"port = {SSH_PORT}"]
        lines += ['user = "root"', 'key = "user_key"', 'known_hosts = "known_hosts"']
        lines += [f'tools = "{bench.folder(name) / "bin"}"']
    first = bench.broker_gateway
    lines += ["", "[broker]", f'host = "{first.address}"', f"port = {BROKER_PORT}", f'gateway = "{first.name}"']
    lines += ['unit = "mosquitto"', 'ca = "secrets/ca.pem"', 'passwords = "secrets/passwords.json"']
    lines += ["", "[links]", f'gateway = "{first.name}"', "lease_s = 10.0", 'isolate = "nftables"']
    lines += [f'control = "{bench.folder(first.name) / "links" / "bin" / "linkctl"}"']
    lines += ["", "[jig]  # commands on a board's own gateway"]
    lines += ['reset = ["boardjig", "reset", "{board}"]', 'wipe = ["boardjig", "wipe", "{board}"]']
    lines += ['arm = ["boardjig", "arm", "{board}", "{operation}", "{byte}"]']
    lines += ['unplug = ["boardjig", "unplug", "{board}"]', 'plug = ["boardjig", "plug", "{board}"]']
    outlets: dict[str, str] = {}
    for gateway, supply in bench.supplies.items():
        for device in supply.devices():
            name = f"{gateway}-{device.lower()}"
            lines += ["", f"[power.{name}]", f'driver = "{_driver(device)}"', f'gateway = "{gateway}"']
            lines += [f'device = "{device}"']
            for outlet in supply.of(device):
                if outlet.board is not None:
                    outlets[outlet.board] = f"{name}/{outlet.number}"
    ports = bench.link_ports()
    for name, node in sorted(bench.network.boards.items(), key=lambda item: (len(item[0]), item[0])):  # b2 before b10
        lines += ["", "[[board]]", f'name = "{name}"', 'model = "virtual"', f'gateway = "{node.gateway}"']
        lines += [f'port = "{bench.paths.serial / name}"', f'address = "{node.address}"', f"mqtt_port = {ports[name]}"]
        lines += [f'outlet = "{outlets[name]}"']
        if name in bench.settings.serial_only:
            lines += ['mesh = "serial"']
    lines += ["", "[faults]", *(f'{kind} = "physical"' for kind in PHYSICAL)]
    lines += [f'{kind} = "injected"' for kind in INJECTED]
    (root / "rig.toml").write_text("\n".join(lines) + "\n")
