"""What passed between boards and host while a run lasted, kept in the run's folder: the contents for a replay.

    flight/tap.bin.gz    records: type, nanoseconds, board (0: the host), size, then the bytes
    flight/firmware.zip  the brownout_node that the boards ran, as source
    flight/boards.json   the config.json of each board, and where recordings came from
Boards name messages by their CRC-32; the bytes are here. Real and virtual boards send their recordings as events;
simulated boards leave theirs here, so that recording changes nothing of a simulated run. Must not interpret messages.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from brownout_node.core import schema
from brownout_node.core.config import Config
from brownout_node.core.recorder import RecordedNode
from brownout_node.storage.journal import Journal

from .. import resources
from ..contracts import UsageError

FOLDER = "flight"
TAP = "tap.bin.gz"
FIRMWARE = "firmware.zip"
BOARDS = "boards.json"
MESSAGE, PIECE = 1, 2  # types of record
HOST = 0
EPOCH = (1980, 1, 1, 0, 0, 0)  # the least date of a file in an archive: the same files make the same archive
_HEAD = struct.Struct("<BQHH")
_PIECE = struct.Struct("<II")


class Record(NamedTuple):
    """One record: a message that a board (or the host) sent, or a piece (boot, place, bytes) of its recording."""

    kind: int
    at_ns: int
    board: int
    data: bytes


def piece_of(record: Record) -> tuple[int, int, bytes]:
    """(boot, bytes before it, the bytes) of a PIECE."""
    boot, at = _PIECE.unpack_from(record.data)
    return boot, at, record.data[_PIECE.size :]


def source_files(package: Path) -> dict[str, bytes]:
    """The Python files of a brownout_node, path inside it -> content."""
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(package.rglob("*.py"))}


def source_hash(files: Mapping[str, bytes]) -> str:
    """One hash over what a replay runs of them: the core and the journal."""
    digest = hashlib.sha256()
    for name in sorted(files):
        if name.startswith(("core/", "storage/")):
            digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()[:16]


class FlightRecord:
    """The recording side, of one run's folder. All methods may be called from any thread."""

    def __init__(
        self, folder: Path, clock: Callable[[], int], *, by_events: bool, firmware: Path | None = None
    ) -> None:
        self.path = folder / FOLDER
        self.path.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._by_events = by_events
        self._lock = threading.Lock()
        self._file: gzip.GzipFile | None = gzip.open(self.path / TAP, "wb", compresslevel=1)  # noqa: SIM115
        self._configurations: dict[str, Any] = {}
        package = resources.firmware_package() if firmware is None else firmware / "brownout_node"
        files = source_files(package)
        self._source = source_hash(files)
        with zipfile.ZipFile(self.path / FIRMWARE, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(f"brownout_node/{name}", EPOCH), content, zipfile.ZIP_DEFLATED)

    def board(self, document: Mapping[str, Any]) -> None:
        """The config.json of a board, before it is used."""
        with self._lock:
            self._configurations[document["name"]] = dict(document)
            told = {"by_events": self._by_events, "source": self._source, "boards": self._configurations}
            (self.path / BOARDS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def message(self, board: int, data: bytes) -> None:
        """A message that a board, or the host, has sent."""
        self._append(MESSAGE, board, data)

    def piece(self, board: int, boot: int, at: int, data: bytes) -> None:
        """A piece of a board's recording that came by another way than its events."""
        self._append(PIECE, board, _PIECE.pack(boot, at) + data)

    def _append(self, kind: int, board: int, data: bytes) -> None:
        head = _HEAD.pack(kind, max(0, self._clock()), board, len(data))
        with self._lock:
            if self._file is not None:
                self._file.write(head + data)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class RecordedSimNode(RecordedNode):
    """The node of a simulated board whose recording, and whose messages, go straight into a FlightRecord."""

    def __init__(
        self, flight: FlightRecord, config: Config, stored: Journal, about: tuple[Any, ...], entropy: int
    ) -> None:
        self._flight = flight
        super().__init__(config, stored, about, entropy)

    def receive(self, source: int, data: bytes, now_ms: int) -> None:
        if source == schema.HOST:
            self._flight.message(HOST, data)
        super().receive(source, data, now_ms)

    def take_ready(self) -> Any:
        ready = super().take_ready()
        if ready is not None:
            for _to, data in ready[1]:
                self._flight.message(self.board, data)
        return ready

    def leave(self, at: int, piece: bytes) -> None:
        self._flight.piece(self.board, self.boot, at, piece)


def read_boards(folder: Path) -> dict[str, Any]:
    """boards.json. UsageError where the run was not recorded."""
    path = folder / FOLDER / BOARDS
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder; give the folder of a run")
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: there is no {FOLDER}/{BOARDS} in it; only runs that were recorded can be replayed"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from None
    return document


def read_tap(folder: Path) -> Iterator[Record]:
    """All records; of a run whose host was killed, those that are whole."""
    path = folder / FOLDER / TAP
    if not path.exists():
        return
    with gzip.open(path, "rb") as file:
        try:
            while head := file.read(_HEAD.size):
                kind, at_ns, board, size = _HEAD.unpack(head)
                data = file.read(size)
                if len(data) < size:
                    return
                yield Record(kind, at_ns, board, data)
        except (EOFError, struct.error):
            return
