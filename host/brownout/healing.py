"""Undoes everything that faults may have left on a rig: links, broker, cables, power, conditions.

Each thing by itself and each gateway by itself, so that one that does not answer holds up nothing else; on a bench
again for a while, since a gateway that restarts is back soon. Must not judge, and must not say "healed" of what it
could not reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .bench_lab import BenchLab
from .contracts import RigError

if TYPE_CHECKING:
    from .bed import Hand

WITHIN_S = 20.0  # on a bench; a virtual lab answers or does not
AGAIN_S = 0.5


class Unhealed(RigError):
    """Something could not be undone. left: what, and why; again: the command to say once that is mended."""

    def __init__(self, left: Mapping[str, RigError], again: str = "", sentence: str = "") -> None:
        whys: dict[str, list[str]] = {}
        for what, why in left.items():
            whys.setdefault(str(why), []).append(what)
        said = "; ".join(f"{', '.join(names)} ({why})" for why, names in whys.items())
        super().__init__(sentence or f"not healed: {said}. Mend that, then: {again}", definite=False)


def both(error: RigError, left: Unhealed) -> RigError:
    """What went wrong, and what that left behind, as one error."""
    return Unhealed({}, sentence=f"{error}. {left}")


def heal(hand: Hand, within_s: float | None = None) -> list[str]:
    """Sentences about what was undone. Unhealed names what is left when the time is out."""
    healing = _Healing(hand)
    if within_s is None:
        within_s = WITHIN_S if isinstance(hand.lab, BenchLab) else 0.0
    until_s = time.monotonic() + within_s
    while left := healing.attempt():
        if time.monotonic() > until_s:
            raise Unhealed(left, hand.heals)
        time.sleep(AGAIN_S)
    return healing.done


class _Healing:
    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self.done: list[str] = []
        self._cut = False
        self._steps: dict[str, Callable[[], None]] = {"links": self._links, "broker": self._broker}
        for boards in self._together():
            self._steps[f"power of {', '.join(boards)}"] = lambda boards=boards: self._boards(boards)  # type: ignore[misc]
        if hand.conditions is not None:
            self._steps["conditions"] = self._conditions

    def _together(self) -> list[Sequence[str]]:
        """The boards by the gateways that they and their switches hang at."""
        lab = self._hand.lab
        if not isinstance(lab, BenchLab):
            return [self._hand.names]
        groups: dict[tuple[str, ...], list[str]] = {}
        for board in self._hand.names:
            groups.setdefault(lab.gateways_of(board), []).append(board)
        return list(groups.values())

    def attempt(self) -> dict[str, RigError]:
        """Do what is left to do; what failed, and why."""
        left = {}
        for what, step in list(self._steps.items()):
            try:
                step()
                del self._steps[what]
            except RigError as error:
                left[what] = error
        return left

    def _links(self) -> None:
        link = self._hand.link
        try:
            self._cut = self._cut or bool(link.counts())
        except RigError:  # not what it should be: it is cleared all the same, and that says whether it worked
            self._cut = True
        if self._cut or isinstance(self._hand.lab, BenchLab):  # gateways know more than this process may
            link.clear()
        if self._cut:
            self.done.append("links cleared")

    def _broker(self) -> None:
        broker = self._hand.broker
        state = broker.state()
        broker.start()
        if not state.get("running", True) or state.get("stalled"):
            self.done.append("broker started")

    def _boards(self, boards: Sequence[str]) -> None:
        cable, power, lab = self._hand.cable, self._hand.power, self._hand.lab
        unplugged = [board for board, plugged in cable.state(boards).items() if not plugged]
        if unplugged:
            cable.plug(unplugged)
            self.done.append(f"cables plugged in: {', '.join(unplugged)}")
        if isinstance(lab, BenchLab):
            states = power.state(boards).items()
            lab.missing_ports([board for board, state in states if state.evidence["switch"] == "on"])
        dark = [board for board, state in power.state(boards).items() if not state.on]
        if dark:
            power.on(dark)
            self.done.append(f"power switched on: {', '.join(dark)}")

    def _conditions(self) -> None:
        assert self._hand.conditions is not None
        self.done += self._hand.conditions.heal()
