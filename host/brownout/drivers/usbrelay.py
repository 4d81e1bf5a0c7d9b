"""HID relay boards, by usbrelay: https://github.com/darrylb123/usbrelay

    [power.relay]
    driver = "usbrelay"
    gateway = "east"
    device = "BRLY1"          # the module's serial number; `usbrelay` lists it
    inverted = false          # true where the board is fed through the normally closed contact

Proves: the relay's own word. That the contact carries the board's supply is for `brownout rig qualify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts import RigError

OPTIONS = ("inverted",)
PROVES = "the relay's own word"


class Usbrelay:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device
        self.inverted = bool(options.get("inverted", False))

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        value = int(on != self.inverted)
        return [["usbrelay", "-q", *(f"{self.device}_{number}={value}" for number in numbers)]]

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        return [["usbrelay", "-q"]]

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        states = dict(line.partition("=")[::2] for text in texts for line in text.split())
        wanted = {number: states.get(f"{self.device}_{number}") for number in numbers}
        missing = [str(number) for number, value in wanted.items() if value not in ("0", "1")]
        if missing:
            raise RigError(f"usbrelay: no relay {', '.join(missing)} on {self.device}", definite=False)
        return {number: (value == "1") != self.inverted for number, value in wanted.items()}
