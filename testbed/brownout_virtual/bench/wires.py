"""Stand-ins for what a bench's builder wires up: systemctl for the broker's unit, and a jig at each board's pins.

boardjig is what a bench does with wires of its own (a reset pin, a trigger on the flash bus, a switch in the USB
cable); rig files name it in `command` templates. Must not switch power.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..broker import Broker
from ..chip import Chip
from ..process import CommandError
from .standins import Answer

SIGNALS = ("SIGKILL", "KILL", "SIGSTOP", "STOP", "SIGCONT", "CONT")


async def unit(broker: Broker, words: Sequence[str]) -> Answer:
    """systemctl kill -s SIGNAL mosquitto | start mosquitto | show -p MainPID -p ActiveState mosquitto"""
    words = [word for word in words if word not in ("--no-pager", "--")]
    if not words or words[-1].removesuffix(".service") != "mosquitto":
        return 5, f"Unit {words[-1] if words else ''} not found.\n"
    verb, options = words[0], words[1:-1]
    if verb == "start":
        await broker.start()
        return 0, ""
    if verb == "kill":
        signal = options[1] if len(options) == 2 and options[0] in ("-s", "--signal") else ""
        if signal not in SIGNALS:
            return 1, f"Failed to parse signal string {signal}.\n"
        if signal.endswith("KILL"):
            broker.kill()
        elif signal.endswith("STOP"):
            await broker.stall()
        else:
            await broker.start()
        return 0, ""
    if verb == "show":
        state = await broker.state()
        active = "active" if state["pid"] is not None else "failed"
        values = {"MainPID": str(state["pid"] or 0), "ActiveState": active}
        names = [name for option, name in zip(options[::2], options[1::2], strict=False) if option == "-p"]
        return 0, "".join(f"{name}={values.get(name, '')}\n" for name in names)
    return 1, f"Unknown command verb {verb}.\n"


class Jig:
    """boardjig reset|unplug|plug|plugged|wipe BOARD..., boardjig arm BOARD OPERATION BYTE, boardjig fired BOARD"""

    def __init__(self, chips: Mapping[str, Chip]) -> None:
        self._chips = chips

    def run(self, words: Sequence[str]) -> Answer:
        action, names = (words[0], words[1:]) if words else ("", ())
        if action == "arm":
            if len(words) != 4 or not (words[2].isdigit() and words[3].isdigit()):
                raise CommandError("arm takes BOARD OPERATION BYTE")
            self._chip(words[1]).arm_cut(int(words[2]), int(words[3]))
            return 0, ""
        if not names or action not in ("reset", "unplug", "plug", "plugged", "wipe", "flash"):
            raise CommandError("there are: reset, unplug, plug, plugged, wipe, flash BOARD; arm BOARD OPERATION BYTE")
        chips = [self._chip(name) for name in names]
        for chip in chips:
            self._do(action, chip)
        if action == "plugged":
            return 0, json.dumps({chip.name: chip.cable.plugged for chip in chips}) + "\n"
        if action == "flash":
            return 0, json.dumps({chip.name: chip.state() for chip in chips}) + "\n"
        return 0, ""

    @staticmethod
    def _do(action: str, chip: Chip) -> None:
        if action == "reset":
            if chip.on:  # the pin of a board without power may be pulled as well; nothing comes of it
                chip.reset()
        elif action == "unplug":
            chip.cable.unplug()
        elif action == "plug":
            chip.cable.plug()
        elif action == "wipe":
            chip.wipe_journal()

    def _chip(self, name: str) -> Chip:
        if name not in self._chips:
            raise CommandError(f"no board {name!r}; there are: {', '.join(self._chips)}")
        return self._chips[name]
