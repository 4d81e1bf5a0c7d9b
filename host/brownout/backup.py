"""A backup of boards' states: a folder with a manifest and a file of pages for each board, checked whole when read.

    manifest.json   when, of which rig and cluster, who voted, heights, digests, firmware, SHA-256 of the files
    <board>.state   CBOR: [height, [page, ..]], the pages as they went over the wire

Reading refuses whatever is damaged, incomplete or at odds with itself. Must not talk to boards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
from brownout_node.core.errors import MessageError

from .contracts import UsageError
from .saved_state import SavedState

FORMAT = 1
MANIFEST = "manifest.json"
SEAL = "sha256"  # of the manifest, over everything else in it


@dataclass(frozen=True)
class Backup:
    """manifest: as on disk. states: of the boards that answered."""

    manifest: Mapping[str, Any]
    states: Mapping[str, SavedState]

    @property
    def cluster(self) -> int:
        return int(self.manifest["cluster"])

    @property
    def newest(self) -> tuple[str, SavedState]:
        """The board whose state reaches furthest: a decision that one board has stored stands for all."""
        name = max(sorted(self.states), key=lambda board: self.states[board].height)
        return name, self.states[name]

    @property
    def agreed_height(self) -> int:
        """Every board of the backup has the log below it."""
        return min(state.height for state in self.states.values())


def make(facts: Mapping[str, Any], states: Mapping[str, SavedState], firmware: Mapping[str, Any]) -> Backup:
    """facts: made_utc, rig, bed, cluster, roster, protocols, missing. UsageError where boards contradict each other."""
    boards = {
        name: {
            "height": state.height,
            "digest": state.digest.hex(),
            "registers": len(state.content[1]),
            "sessions": len(state.content[2]),
            "sha256": sha256(_content(state)).hexdigest(),
            "firmware": dict(firmware.get(name, {})),
        }
        for name, state in sorted(states.items())
    }
    backup = Backup({"format": FORMAT, **facts, "boards": boards}, dict(states))
    _compare(backup, "this backup")
    return backup


def _content(state: SavedState) -> bytes:
    return cbor2.dumps([state.height, list(state.pages)])


def write(directory: Path, backup: Backup) -> None:
    """Put it into a folder that is new or empty; the manifest comes last, so that half a backup is none."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty; name a new folder")
    for name, state in backup.states.items():
        (directory / f"{name}.state").write_bytes(_content(state))
    document = {**backup.manifest, SEAL: _seal(backup.manifest)}
    (directory / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _seal(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    return sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read(directory: Path) -> Backup:
    """A whole backup; UsageError says what is damaged or missing."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{directory} holds no backup: {MANIFEST} is missing") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get(SEAL) != _seal(manifest):
        raise UsageError(f"{path} is damaged: its sha256 is another one than it says; use another backup")
    if manifest["format"] != FORMAT:
        raise UsageError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
    states = {name: _read_state(directory / f"{name}.state", entry) for name, entry in manifest["boards"].items()}
    backup = Backup(manifest, states)
    _compare(backup, str(directory))
    return backup


def _read_state(path: Path, entry: Mapping[str, Any]) -> SavedState:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; the backup is incomplete") from error
    if sha256(content).hexdigest() != entry["sha256"]:
        raise UsageError(f"{path} is damaged: its sha256 is not the manifest's; use another backup")
    try:
        height, pages = cbor2.loads(content)
        state = SavedState(height, tuple(pages))
        digest = state.digest.hex()
    except (ValueError, TypeError, MessageError, cbor2.CBORDecodeError) as error:
        raise UsageError(f"{path} does not hold a board's state: {error}") from error
    if (height, digest) != (entry["height"], entry["digest"]):
        raise UsageError(f"{path} holds another state than its manifest names; use another backup")
    return state


def _compare(backup: Backup, place: str) -> None:
    """Boards at one height have one state."""
    first: dict[int, str] = {}
    for name, state in sorted(backup.states.items()):
        other = first.setdefault(state.height, name)
        if backup.states[other].digest != state.digest:
            raise UsageError(
                f"{place}: {other} and {name} hold different states at height {state.height}; the boards have diverged,"
                " and no backup can tell which one is right (--boards saves one of them, if you know which)"
            )
