"""What the boards report, from all channels into one record, while the run goes on.

Serial ports hand their event frames to `ingest`; what comes by MQTT it collects itself. Thread-safe. Every new event is
given to subscribers once, in batches, in the thread that it came by. Must not judge.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from .board_events import MQTT, SERIAL, EventError, EventRecord, decode_events
from .history import BoardEvent, Gap
from .mqtt_connection import ManyConnections, MqttConnection, connected

MAX_MALFORMED = 100  # kept with their text; beyond that they are only counted

Callback = Callable[[list[BoardEvent]], None]


class Telemetry:
    """clock: nanoseconds since the run began."""

    def __init__(self, bed: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.bed = bed
        self.presence: dict[str, bool] = {}
        self.pair_counts: Counter[tuple[str, str]] = Counter()  # what the tap saw: (from, to) -> messages
        self.malformed: list[tuple[str, str, str]] = []  # (board, channel, what was wrong)
        self.malformed_count = 0
        self._clock = clock
        self._record = EventRecord()
        self._arrived: list[BoardEvent] = []
        self._changed = threading.Condition()
        self._delivery = threading.RLock()  # one batch at a time to the subscribers, in order of arrival
        self._subscribers: list[Callback] = []
        self._connection: MqttConnection | ManyConnections | None = None

    # Collecting.

    def connect(
        self,
        host: str,
        port: int,
        *,
        tap: bool = False,
        client: str = "telemetry",
        others: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Collect what boards send by MQTT; with `tap`, count messages between boards as well. RigError: no broker.

        others: further brokers that boards may send by.
        """
        topics = [(f"{self.bed}/ev/+", 1), (f"{self.bed}/up/+", 1)]
        if tap:
            topics.append((f"{self.bed}/g/#", 0))
        self._connection = connected(client, [(host, port), *others], topics, self._on_message)

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.ready

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _on_message(self, topic: str, payload: bytes) -> None:
        levels = topic[len(self.bed) + 1 :].split("/")
        if levels[0] == "g" and len(levels) == 3:
            self.pair_counts[levels[1], levels[2]] += 1
        elif levels[0] == "ev":
            self.ingest(levels[1], payload, MQTT)
        elif levels[0] == "up":
            with self._changed:
                self.presence[levels[1]] = payload == b"1"
                self._changed.notify_all()

    def ingest(
        self, board: str, data: bytes, channel: str = SERIAL, *, previous: int | None = None
    ) -> list[BoardEvent]:
        """Take concatenated events; return the new ones. previous: as the serial frame says, see EventRecord."""
        now_ns = self._clock()
        try:
            decoded = decode_events(data)
        except EventError as error:
            decoded = error.events
            self._note_malformed(board, channel, str(error))
        with self._delivery:
            with self._changed:
                fresh = self._record.add(board, decoded, channel, now_ns, previous)
                self._arrived.extend(fresh)
                if fresh:
                    self._changed.notify_all()
                subscribers = list(self._subscribers)
            if fresh:
                for callback in subscribers:
                    callback(fresh)
        return fresh

    def acknowledged(self, board: str) -> tuple[int, int] | None:
        """(boot, number) up to which everything that went by this board's cable has arrived; None: none of it has."""
        with self._changed:
            return self._record.acknowledged(board)

    def _note_malformed(self, board: str, channel: str, text: str) -> None:
        with self._changed:
            self.malformed_count += 1
            if len(self.malformed) < MAX_MALFORMED:
                self.malformed.append((board, channel, text))

    # Watching.

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Give every new batch to `callback` from now on; returns the function that ends it."""
        with self._delivery, self._changed:
            self._subscribers.append(callback)

        def end() -> None:
            with self._delivery, self._changed:
                if callback in self._subscribers:
                    self._subscribers.remove(callback)

        return end

    def mark(self) -> int:
        """Where the record stands now, for `wait_for(since=...)`."""
        with self._changed:
            return len(self._arrived)

    def wait_for(
        self, predicate: Callable[[BoardEvent], bool], timeout_s: float, *, since: int = 0
    ) -> BoardEvent | None:
        """The first event that arrived at or after mark `since` and fits; None if none came in time."""
        deadline_s = time.monotonic() + timeout_s
        at = since
        while True:
            with self._changed:
                while at >= len(self._arrived):
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0 or not self._changed.wait(left_s):
                        return None
                batch = self._arrived[at:]
            for event in batch:
                if predicate(event):
                    return event
            at += len(batch)

    def wait_for_presence(self, board: str, up: bool, timeout_s: float) -> bool:
        """Wait until the broker says that the board is there, or is not."""
        with self._changed:
            return self._changed.wait_for(lambda: self.presence.get(board) is up, timeout_s)

    # The record.

    def events(self) -> list[BoardEvent]:
        """All events so far: by board, then order of boots, then number."""
        with self._changed:
            return self._record.events()

    def gaps(self) -> list[Gap]:
        """What never arrived, as far as it can be known now; ask at the end of a run, when all is drained."""
        with self._changed:
            return self._record.gaps()

    def boots(self, board: str) -> list[int]:
        """The boots heard of, in order."""
        with self._changed:
            return self._record.boots(board)
