"""Transistors and relays at a gateway's own pins, by libgpiod 1 or 2: https://libgpiod.readthedocs.io

    [power.pins]
    driver = "gpioset"
    gateway = "east"
    device = "gpiochip0"
    libgpiod = 2              # `gpioset --version`; the two take other options
    active_low = false        # true where a low pin feeds the board

Proves: with libgpiod 2 the pin's level, read back without turning it into an input. libgpiod 1 cannot do that: there
the switch's word is what it was last told, and the proof has to come from the board's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts import RigError

OPTIONS = ("libgpiod", "active_low")
PROVES = "the pin's level (libgpiod 2); nothing (libgpiod 1)"


class Gpioset:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device
        self.version = 1 if options.get("libgpiod", 2) == 1 else 2
        self.active_low = bool(options.get("active_low", False))
        self._told: dict[int, bool] = {}

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        values = [f"{number}={int(on != self.active_low)}" for number in numbers]
        self._told |= dict.fromkeys(numbers, on)
        if self.version == 1:
            return [["gpioset", "--mode=exit", self.device, *values]]
        return [["gpioset", "-t0", "-c", self.device, *values]]

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        if self.version == 1:
            return []
        return [["gpioget", "--as-is", "--numeric", "-c", self.device, *(str(number) for number in numbers)]]

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        if self.version == 1:
            return {number: self._told.get(number, True) for number in numbers}
        values = " ".join(texts).split()
        if len(values) != len(numbers) or not set(values) <= {"0", "1"}:
            raise RigError(f"gpioget: {self.device} answered {' '.join(values)[:80]!r}", definite=False)
        return {number: (value == "1") != self.active_low for number, value in zip(numbers, values, strict=True)}
