"""Talks to a virtual lab through the one command on its gateway: words in, JSON out. Must not know what they mean."""

from __future__ import annotations

import json
from typing import Any

from .contracts import Gateway, RigError

TIMEOUT_S = 20.0


class LabControl:
    """`labctl` is the command's path on the gateway."""

    def __init__(self, gateway: Gateway, labctl: str) -> None:
        self.gateway = gateway
        self.labctl = labctl

    def ask(self, *words: str) -> Any:
        """Run one command of the lab; RigError where it is refused or gives no answer."""
        result = self.gateway.run([self.labctl, *words], timeout_s=TIMEOUT_S)
        try:
            return json.loads(result.stdout)
        except ValueError:
            raise RigError(
                f"gateway {self.gateway.name}: labctl {words[0]} answered {result.stdout[:100]!r}, which is no JSON",
                definite=False,
            ) from None

    def ask_by_board(self, boards: list[str], *words: str) -> dict[str, dict[str, Any]]:
        """The same for a command that answers for each board; every board must be among the answers."""
        answer = self.ask(*words, *boards)
        for board in boards:
            if not isinstance(answer, dict) or not isinstance(answer.get(board), dict):
                raise RigError(f"labctl {' '.join(words)} said nothing about {board}", definite=False)
        return {board: answer[board] for board in boards}
