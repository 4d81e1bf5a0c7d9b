"""Reads the folder of a run while it is written, and keeps its picture and those who look at it up to date.

One thread a run looks every 50 ms at what was appended; that costs the run nothing but those reads, and needs nothing
of it: a run can be followed from another process, and one that has ended is read in the same way. Must not write.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import duckdb

from .. import store
from ..contracts import UsageError
from .clients import Client
from .picture import Picture

LOOK_S = 0.05
MOST_BYTES = 1 << 20  # of one file in one look, so that a long record shows while it is read
QUIET_BEFORE_CLOCK_NS = 300_000_000  # lines of that age may still come; the seconds before have ended


class Tail:
    """Whole lines of a file that grows. It may not exist yet, and may be unlinked while it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self._file: BinaryIO | None = None
        self._rest = b""

    def lines(self) -> tuple[list[dict[str, Any]], bool]:
        """The lines that have come, and whether there is more at once."""
        if self._file is None:
            try:
                self._file = self.path.open("rb")
            except FileNotFoundError:
                return [], False
        data = self._file.read(MOST_BYTES)
        whole, end, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest if end else whole + rest
        found = []
        for line in whole.split(b"\n") if end else ():
            try:
                document = json.loads(line)
            except ValueError:
                self.torn += 1
                continue
            if isinstance(document, dict):
                found.append(document)
        return found, len(data) == MOST_BYTES

    @property
    def opened(self) -> bool:
        return self._file is not None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Document:
    """A JSON document that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None

    def changed(self) -> dict[str, Any] | None:
        """What is in it, if that is new."""
        try:
            found = self.path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return None
            document = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        self._stamp = stamp
        return document if isinstance(document, dict) else None


def runs_now(manifest: Mapping[str, Any]) -> bool:
    """Whether the host of that run is still at it."""
    if manifest.get("finished") or "reason" in manifest:
        return False
    return is_process(manifest.get("host_pid"))


def is_process(number: Any) -> bool:
    if type(number) is not int or number < 1:
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


class Follower:
    """One run. `start` and `close` it; `step` alone does what its thread does, once."""

    def __init__(self, folder: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.folder = folder
        self.picture = Picture(folder.name)
        self.ended = False
        self.lag_s = 0.0  # of the last batch: from the host's receipt of its newest event until it was read here
        self.worst_lag_s = 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self._manifest: dict[str, Any] = {}
        self._documents = {name: Document(folder / name) for name in (store.MANIFEST, store.PLAN, store.VERDICT)}
        self._events = Tail(folder / store.EVENTS_LIVE)
        self._others = (
            (Tail(folder / store.FAULTS), self.picture.fault),
            (Tail(folder / store.OPERATIONS), self.picture.operation),
            (Tail(folder / store.GAPS), self.picture.gap),
        )
        self._table_read = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._follow, name=f"follow {self.folder.name}", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set() and not self.ended:
            try:
                more = self.step()
            except (UsageError, ValueError, KeyError, TypeError, OSError, duckdb.Error) as error:
                self._give_up(f"the folder cannot be read: {type(error).__name__}: {error}")
                return
            if not more:
                self._stop.wait(LOOK_S)

    def _give_up(self, why: str) -> None:
        """Show what was read until then, and why there is no more of it; one bad folder stops no other."""
        with self._lock:
            self.ended = True
            self.picture.run["reason"] = why
            self.picture.state("unreadable")
            message = encode("update", self.picture.changes() or {})
            for client in self._clients:
                client.offer(message)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
        for tail in (self._events, *(tail for tail, _take in self._others)):
            tail.close()

    # Reading.

    def step(self) -> bool:
        """Take what has come and tell those who look on. True: there is more to read at once."""
        with self._lock:
            was_over = self._is_over()  # read first: what was written before the end is then read below
            more = self._read()
            self._note_state(was_over and not more)
            change = self.picture.changes()
            if change is not None:
                self._stamp(change)
                message = encode("update", change)
                for client in self._clients:
                    client.offer(message)
        return more

    def _is_over(self) -> bool:
        """Whether everything that will ever be in the folder is there."""
        document = self._documents[store.MANIFEST].changed()
        if document is not None:
            self._manifest = document
            self.picture.manifest(document)
        if not self._manifest:
            return False
        if not is_process(self._manifest.get("host_pid")):
            return True
        closed = bool(self._manifest.get("finished")) or "reason" in self._manifest
        # The report is written last; a run that ended with a rig failure has none, nor a verdict.
        return closed and (
            (self.folder / store.REPORT).exists()
            or ("reason" in self._manifest and self._manifest["reason"] != "interrupted")
        )

    def _read(self) -> bool:
        document = self._documents[store.PLAN].changed()
        if document is not None:
            self.picture.plan(document)
        more = False
        for tail, take in self._others:
            lines, again = tail.lines()
            more = more or again
            for line in lines:
                take(line)
        lines, again = self._events.lines()
        for line in lines:
            self.picture.event(line)
        began_ns = self._began_ns()
        if began_ns is not None:
            now_ns = self._clock() - began_ns
            if lines:
                self.lag_s = max(0.0, (now_ns - max(line["received_ns"] for line in lines)) / 1e9)
                self.worst_lag_s = max(self.worst_lag_s, self.lag_s)
            if not self.ended and not self._manifest.get("finished"):
                self.picture.advance(max(0, now_ns - QUIET_BEFORE_CLOCK_NS))
        self._read_table()
        document = self._documents[store.VERDICT].changed()
        if document is not None:
            self.picture.verdict(document)
        return more or again

    def _read_table(self) -> None:
        """The events of a run that ended before anybody looked."""
        if self._table_read or self._events.opened or not (self.folder / store.EVENTS).exists():
            return
        self._table_read = True
        history = store.load(self.folder)
        for event in sorted(history.events, key=lambda event: event.received_ns):
            self.picture.event(vars(event))

    def _began_ns(self) -> int | None:
        """When the run began, on this machine's monotonic clock; None where it keeps another time, or has ended."""
        clock = self._manifest.get("clock")
        return clock.get("monotonic_began_ns") if isinstance(clock, dict) and runs_now(self._manifest) else None

    def _note_state(self, over: bool) -> None:
        manifest = self._manifest
        if over:
            self.ended = True
            if manifest.get("finished"):
                self.picture.state("ended")
            else:
                self.picture.state("interrupted" if "reason" in manifest else "abandoned")
        elif manifest.get("finished") or "reason" in manifest:
            self.picture.state("judging")
        elif "boards" in manifest:
            self.picture.state("running")

    # Showing.

    def _stamp(self, document: dict[str, Any]) -> None:
        """When the newest event was received, by the calendar: what a page says its delay by."""
        began_ns, newest = self._began_ns(), self.picture.newest
        if newest is None or began_ns is None or "newest" not in document:
            return
        ago_ns = self._clock() - began_ns - newest["received_ns"]
        document["newest"] = {**newest, "received_unix_ms": round(time.time() * 1000 - ago_ns / 1e6, 1)}

    def join(self, client: Client) -> bytes:
        """Take a client up, or one that lagged; the message it starts from."""
        with self._lock:
            client.reset()
            if client not in self._clients:
                self._clients.append(client)
            document = self.picture.snapshot()
            self._stamp(document)
            return encode("snapshot", document)

    def leave(self, client: Client) -> None:
        with self._lock:
            if client in self._clients:
                self._clients.remove(client)

    def looked_at(self) -> bool:
        return bool(self._clients)

    def see(self, look: Callable[[Picture], Any]) -> Any:
        """What `look` makes of the picture while it stands still."""
        with self._lock:
            return look(self.picture)


def encode(event: str, document: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    data = json.dumps(document, separators=(",", ":"))
    return f"event: {event}\ndata: {data}\n\n".encode()
