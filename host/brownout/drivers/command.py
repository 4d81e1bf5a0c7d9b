"""Any switch that has a command: templates in the rig file, filled word by word and never read by a shell.

    [power.own]
    driver = "command"
    gateway = "east"
    device = "rack 3"
    on = ["rackswitch", "{device}", "{outlet}", "on"]
    off = ["rackswitch", "{device}", "{outlet}", "off"]
    state = ["rackswitch", "{device}", "{outlet}"]    # may be left out; prints 1 or on, 0 or off

Proves: what `state` prints; nothing without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..bench_rig import fill
from ..contracts import RigError, UsageError

OPTIONS = ("on", "off", "state")
PROVES = "what its `state` prints; nothing without it"
STATES = {"1": True, "on": True, "0": False, "off": False}


class Command:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device
        self._templates: dict[str, Any] = {}
        for name in OPTIONS:
            template = options.get(name, [])
            if not isinstance(template, list) or not all(isinstance(word, str) for word in template):
                raise UsageError(f"power driver command, {name}: a list of words")
            self._templates[name] = template
        if not self._templates["on"] or not self._templates["off"]:
            raise UsageError("power driver command: needs `on` and `off`, lists of words")
        self._told: dict[int, bool] = {}

    def _filled(self, name: str, number: int) -> list[str]:
        return fill(self._templates[name], {"device": self.device, "outlet": str(number)})

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        self._told |= dict.fromkeys(numbers, on)
        return [self._filled("on" if on else "off", number) for number in numbers]

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        return [self._filled("state", number) for number in numbers] if self._templates["state"] else []

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        if not self._templates["state"]:
            return {number: self._told.get(number, True) for number in numbers}
        states = {number: STATES.get(text.strip().lower()) for number, text in zip(numbers, texts, strict=True)}
        for number, state in states.items():
            if state is None:
                raise RigError(f"{self.device}, outlet {number}: its state is none of 0, 1, on, off", definite=False)
        return {number: bool(state) for number, state in states.items()}
