"""USB hubs with switched ports, by uhubctl 2.4 or later: https://github.com/mvp/uhubctl

    [power.hub]
    driver = "uhubctl"
    gateway = "east"
    device = "1-1"            # the hub's location; `uhubctl` lists it

Proves: the hub's word for each port, and whether a device is connected behind it. A hub may say `off` and go on
feeding: that is what `brownout rig qualify` finds out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..contracts import RigError

OPTIONS: tuple[str, ...] = ()
PROVES = "the hub's own word for the port, and de-enumeration of the device behind it"
_PORT = re.compile(r"^  Port (\d+): ([0-9a-f]{4})( .*)?$", re.MULTILINE)


class Uhubctl:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        ports = ",".join(str(number) for number in numbers)
        return [["uhubctl", "-N", "-e", "-l", self.device, "-p", ports, "-a", "on" if on else "off"]]

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        return [["uhubctl", "-N", "-e", "-l", self.device, "-p", ",".join(str(number) for number in numbers)]]

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        states: dict[int, bool] = {}
        for text in texts:
            for port, _status, rest in _PORT.findall(text):
                states[int(port)] = "power" in (rest or "").split(" [")[0].split()
        missing = [str(number) for number in numbers if number not in states]
        if missing:
            raise RigError(f"uhubctl: hub {self.device} says nothing about port {', '.join(missing)}", definite=False)
        return {number: states[number] for number in numbers}
