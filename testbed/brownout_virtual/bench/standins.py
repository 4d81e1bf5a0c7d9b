"""Stand-ins for the tools on a bench's gateways: the real tools' command lines in, their output and exit codes out.

uhubctl 2.5, usbrelay 1.2, gpioset of libgpiod 1 and 2, systemctl for the broker's unit. Formats are those of the tools'
own sources and manuals: https://github.com/mvp/uhubctl, https://github.com/darrylb123/usbrelay,
https://libgpiod.readthedocs.io. Pure but for the supply that they switch. Must not know of namespaces or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .physics import Outlet, Supply

Answer = tuple[int, str]  # exit code, text


@dataclass(frozen=True)
class Enumeration:
    """What the USB side says of a board: whether its device is there, and its serial number."""

    present: Callable[[str], bool]


def uhubctl(words: Sequence[str], supply: Supply, usb: Enumeration) -> Answer:
    """uhubctl [-l LOCATION] [-p PORTS] [-a off|on|cycle|0|1|2] [-N] [-f] [-e] [-S]"""
    options: dict[str, str] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if word in ("-N", "-f", "-e", "-S", "-x", "-R"):
            continue
        if word not in ("-l", "-p", "-a", "-d", "-r", "-w") or not words:
            return 1, f"uhubctl: invalid option -- '{word.lstrip('-')}'\n"
        options[word] = words.pop(0)
    hubs = [device for device in supply.devices() if "-" in device and device[0].isdigit()]
    if "-l" in options:
        hubs = [hub for hub in hubs if hub == options["-l"]]
    if not hubs:
        return 1, "No compatible devices detected!\nRun with -h to get usage info.\n"
    action = {"0": "off", "1": "on", "2": "cycle"}.get(options.get("-a", ""), options.get("-a", ""))
    text = ""
    for hub in hubs:
        ports = [outlet.number for outlet in supply.of(hub)]
        if "-p" in options:
            ports = [port for port in ports if str(port) in options["-p"].split(",")]
        text += _hub(hub, supply, usb, ports, "Current status for")
        if action in ("off", "on"):
            for port in ports:
                supply.switch(hub, port, action == "on")
            text += f"Sent power {action} request\n" * bool(ports)
            text += _hub(hub, supply, usb, ports, "New status for")
    return 0, text


def _hub(hub: str, supply: Supply, usb: Enumeration, ports: Sequence[int], title: str) -> str:
    lines = [f"{title} hub {hub} [2109:3431 USB2.0 Hub, USB 2.10, {len(supply.of(hub))} ports, ppps]"]
    for outlet in supply.of(hub):
        if outlet.number in ports:
            lines.append(f"  Port {outlet.number}: {_port_status(outlet, usb)}")
    return "\n".join(lines) + "\n"


def _port_status(outlet: Outlet, usb: Enumeration) -> str:
    if not outlet.on:
        return "0000 off"
    if outlet.board is None or not usb.present(outlet.board):
        return "0100 power"
    return f"0103 power enable connect [10c4:ea60 Silicon Labs CP2102 USB to UART Bridge Controller {outlet.board}]"


def usbrelay(words: Sequence[str], supply: Supply, usb: Enumeration) -> Answer:
    """usbrelay [-q] [SERIAL_NUMBER[=0|1]...]: prints the state of every relay that it is not told to switch."""
    wanted = [word for word in words if not word.startswith("-")]
    text = ""
    for word in wanted:
        name, _, value = word.partition("=")
        device, _, number = name.rpartition("_")
        if value not in ("0", "1") or not number.isdigit() or not supply.switch(device, int(number), value == "1"):
            return 2, f"Setting {name} relay failed: No such relay\n"
    if wanted:
        return 0, ""
    for device in supply.devices():
        if not device[0].isdigit() and not device.startswith("gpiochip"):
            for outlet in supply.of(device):
                text += f"{device}_{outlet.number}={int(outlet.on)}\n"
    return 0, text


def gpioset(words: Sequence[str], supply: Supply, usb: Enumeration) -> Answer:
    """libgpiod 1: gpioset [--mode=exit] CHIP LINE=VALUE...; libgpiod 2: gpioset [-t0] -c CHIP LINE=VALUE..."""
    if list(words) in (["-v"], ["--version"]):
        return 0, "gpioset (libgpiod) v2.1.3\n"
    rest, chip = [], ""
    words = list(words)
    while words:
        word = words.pop(0)
        if word in ("-c", "--chip") and words:
            chip = words.pop(0)
        elif word.startswith("--chip="):
            chip = word.partition("=")[2]
        elif word in ("-t", "--toggle") and words:
            words.pop(0)
        elif not word.startswith("-"):
            rest.append(word)
    if not chip and rest:
        chip = rest.pop(0)
    for word in rest:
        line, _, value = word.partition("=")
        if not line.isdigit() or value not in ("0", "1"):
            return 1, f"gpioset: invalid line value: '{word}'\n"
        if not supply.switch(chip, int(line), value == "1"):
            return 1, f"gpioset: cannot find line '{line}'\n"
    return (0, "") if rest else (1, "gpioset: at least one GPIO line value must be specified\n")


def gpioget(words: Sequence[str], supply: Supply, usb: Enumeration) -> Answer:
    """libgpiod 2: gpioget [-a] [--numeric] -c CHIP LINE... prints 0 or 1 for each, parted by spaces; so does 1."""
    rest, chip = [], ""
    words = list(words)
    while words:
        word = words.pop(0)
        if word in ("-c", "--chip") and words:
            chip = words.pop(0)
        elif not word.startswith("-"):
            rest.append(word)
    if not chip and rest:
        chip = rest.pop(0)
    values = []
    for line in rest:
        found = [outlet for outlet in supply.of(chip) if str(outlet.number) == line]
        if not found:
            return 1, f"gpioget: cannot find line '{line}'\n"
        values.append(str(int(found[0].on)))
    return 0, " ".join(values) + "\n"


TOOLS: dict[str, Callable[[Sequence[str], Supply, Enumeration], Answer]] = {
    "uhubctl": uhubctl,
    "usbrelay": usbrelay,
    "gpioset": gpioset,
    "gpioget": gpioget,
}
