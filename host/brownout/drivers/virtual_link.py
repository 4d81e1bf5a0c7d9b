"""Links of the virtual lab: the proxy between boards and broker judges whole messages by directed pair.

labctl link apply '[{"id": "f01.1", "action": "drop", "sources": ["b1"], "targets": ["b2"], ...}]'
labctl link clear [ID...]    labctl link counts
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..contracts import LinkCount, LinkRule, RigError, Support
from ..labctl import LabControl

KINDS = ("isolate", "split", "one_way", "loss", "delay", "bandwidth", "link_flap", "drop", "hold", "duplicate")


class VirtualLink:
    """Satisfies contracts.Link."""

    def __init__(self, control: LabControl, support: Mapping[str, Support]) -> None:
        self._control = control
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def apply(self, rules: Sequence[LinkRule]) -> None:
        if not rules:
            return
        text = json.dumps([asdict(rule) for rule in rules])
        standing = {count.rule for count in self._counts(self._control.ask("link", "apply", text))}
        missing = [rule.id for rule in rules if rule.id not in standing]
        if missing:
            raise RigError(f"link apply: the rules {', '.join(missing)} do not stand", definite=False)

    def clear(self, ids: Sequence[str] | None = None) -> None:
        if ids is not None and not ids:
            return
        standing = {count.rule for count in self._counts(self._control.ask("link", "clear", *(ids or ())))}
        left = standing & set(ids) if ids is not None else standing
        if left:
            raise RigError(f"link clear: the rules {', '.join(sorted(left))} still stand", definite=False)

    def counts(self) -> list[LinkCount]:
        return self._counts(self._control.ask("link", "counts"))

    @staticmethod
    def _counts(answer: Any) -> list[LinkCount]:
        try:
            return [LinkCount(**entry) for entry in answer]
        except TypeError as error:
            raise RigError(f"labctl link answered something else than counts: {error}", definite=False) from error
