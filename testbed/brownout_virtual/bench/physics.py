"""What feeds the boards of a bench: hubs with ports, relays with channels, lines of a GPIO chip, and one hub that lies.

The truth behind the stand-ins of uhubctl, usbrelay and gpioset: their state here, the boards' power through `feed`.
A lying port says that it is off and goes on feeding its board; ganged ports switch together. Must not format anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Outlet:
    """One switchable outlet. honest: whether it does what it says. gang: outlets of one name switch together."""

    device: str  # 1-1, HW348, gpiochip0
    number: int
    board: str | None = None
    on: bool = True
    honest: bool = True
    gang: str = ""


@dataclass
class Supply:
    """All outlets of one gateway. feed(board, on) gives a board power or takes it."""

    feed: Callable[[str, bool], None]
    outlets: list[Outlet] = field(default_factory=list)

    def of(self, device: str) -> list[Outlet]:
        return [outlet for outlet in self.outlets if outlet.device == device]

    def devices(self) -> list[str]:
        return list(dict.fromkeys(outlet.device for outlet in self.outlets))

    def switch(self, device: str, number: int, on: bool) -> bool:
        """Whether there is such an outlet."""
        chosen = [outlet for outlet in self.of(device) if outlet.number == number]
        if not chosen:
            return False
        gangs = {outlet.gang for outlet in chosen if outlet.gang}
        for outlet in self.outlets:
            if outlet in chosen:
                outlet.on = on
            if (outlet in chosen or outlet.gang in gangs) and outlet.honest and outlet.board is not None:
                self.feed(outlet.board, on)
        return True
