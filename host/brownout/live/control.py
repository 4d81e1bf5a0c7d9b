"""Buttons for the power and the links of a rig: the same switches as `brownout power` and `brownout link`.

The rig is taken for one action at a time and given back, so that a campaign can have it in between; while one runs on
a bench, its lock refuses. Must not check who asks; guard.py does, before.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread

from ..bed import Hand
from ..contracts import RigError, UsageError
from ..link_by_hand import bend
from ..rig import Rig, load_rig
from . import guard

POWER = ("on", "off", "reset")
LINKS = ("isolate", "clear")


class Control:
    """The switches of one rig, and the token that lets somebody use them."""

    def __init__(self, rig_name: str) -> None:
        self.rig_name = rig_name
        self.rig: Rig = load_rig(rig_name)
        # Known from the rig's file or its lab: to be asked for a page takes nobody's rig away.
        self.boards = [board.name for board in self.rig.boards]
        if not self.boards:
            raise UsageError(
                f"{self.rig.source}: rig {self.rig.name!r} exists only while a campaign runs; start one that stays "
                "with `brownout lab up`, and use --rig lab"
            )
        self.token = guard.new_token()
        self._busy = asyncio.Lock()

    async def ask(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """what: power | link | state. RigError while another action is at work."""
        if self._busy.locked():
            raise RigError("another action is at work; try again")
        action, boards = body.get("action"), body.get("boards", [])
        if not isinstance(boards, list) or not all(isinstance(name, str) for name in boards):
            raise UsageError("boards must be a list of names")
        if what not in ("power", "link", "state"):
            raise UsageError(f"nothing to switch called {what}; there are power, link and state")
        allowed = {"power": POWER, "link": LINKS, "state": (None,)}[what]
        if action not in allowed:
            raise UsageError(f"{what} {action}: allowed are {', '.join(str(one) for one in allowed)}")
        async with self._busy:
            if action is not None:
                print(f"{what} {action} {' '.join(boards)}", file=sys.stderr, flush=True)
            return await anyio.to_thread.run_sync(self._act, what, action, boards)

    def _act(self, what: str, action: str | None, boards: Sequence[str]) -> dict[str, Any]:
        with Hand(self.rig) as hand:
            for board in boards:
                hand.rig.board(board)
            if what == "power" and boards:
                getattr(hand.power, str(action))(list(boards))
            elif action == "isolate":
                bend(hand, "isolate", boards, {})
            elif action == "clear":
                hand.link.clear(None)
            elif what == "power":
                raise UsageError("power: name at least one board")
            states = hand.power.state(list(hand.names))
            counts = hand.link.counts()
        cut = sorted({count.rule for count in counts})
        return {
            "boards": {name: {"on": state.on, **_plain(state.evidence)} for name, state in states.items()},
            "rules": cut,
        }


def _plain(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What fits a table's cell."""
    return {key: value for key, value in evidence.items() if isinstance(value, str | int | float | bool)}
