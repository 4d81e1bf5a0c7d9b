"""Which cluster the boards of a kept lab were flashed with by hand, beside the lab: `cluster.json`.

A cluster that was restored as a whole has another number than before and begins with a saved state; whoever flashes one
of its boards again by hand has to give it the same. Must not decide on a number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .contracts import RigError
from .protocols import DEFAULT

FILE = "cluster.json"


@dataclass(frozen=True)
class Incarnation:
    """cluster: its number. options: of its protocols, the same on every board."""

    cluster: int = 1
    protocols: tuple[str, ...] = DEFAULT
    options: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that every board's config.json has."""
        settings: dict[str, Any] = {} if self.protocols == DEFAULT else {"protocols": list(self.protocols)}
        return (
            {**settings, "options": {name: dict(row) for name, row in self.options.items()}}
            if self.options
            else settings
        )


def read(directory: Path) -> Incarnation:
    """That of the lab in `directory`; the first one where nothing was restored yet."""
    try:
        document = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return Incarnation(int(document["cluster"]), tuple(document["protocols"]), dict(document["options"]))
    except FileNotFoundError:
        return Incarnation()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RigError(
            f"{directory / FILE} cannot be read: {error!r}; `brownout lab up --erase` begins anew"
        ) from error


def write(directory: Path, incarnation: Incarnation) -> None:
    text = json.dumps(asdict(incarnation), indent=2, sort_keys=True) + "\n"
    (directory / FILE).write_text(text, encoding="utf-8")


def forget(directory: Path) -> None:
    """The boards' flash is erased, or flashed for another cluster."""
    (directory / FILE).unlink(missing_ok=True)
