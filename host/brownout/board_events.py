"""Telemetry as bytes -> decoded events; and the record of what arrived: duplicates out, gaps found, boots in order.

Pure: no threads, no sockets. Must not judge what a gap means for a verdict; it only says what never arrived and why.

A board's safety events leave by serial, the others by MQTT; each channel keeps its order and repeats what was not
acknowledged. So a number that is missing behind the last one of its channel is a tail that was in RAM when power went,
and no gap. Between two serial events that follow on each other, missing numbers can only have left by MQTT.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cbor2

from .history import BoardEvent, Gap
from .protocols import EVENTS

SERIAL = "serial"
MQTT = "mqtt"
HEADER_FIELDS = 5
SAME_ERA = 64  # boots that far apart are one count; a larger step means that the count was lost with the journal


class EventError(Exception):
    """Bytes that are not an event of the schema. `events` are those decoded before it."""

    def __init__(self, message: str, events: list[tuple[Any, ...]]) -> None:
        super().__init__(message)
        self.events = events


@cache
def _columns(spec: str) -> tuple[tuple[str, str], ...]:
    """(name, type) of each field of a row."""
    return tuple((column.partition(":")[0], column.partition(":")[2]) for column in spec.split())


def _valid(kind: str, value: Any) -> bool:
    if kind in "ui":
        return type(value) is int and (kind == "i" or value >= 0)
    if kind == "o":
        return type(value) is bool
    if kind in "kt":
        return type(value) is str
    if kind == "v":
        return value is None or type(value) is str
    if kind == "d":
        return value is None or (type(value) is bytes and len(value) == 8)
    return type(value) is bytes


def _decode_one(item: Any) -> tuple[int, int, int, int, str, dict[str, Any]]:
    if not isinstance(item, list) or len(item) < HEADER_FIELDS:
        raise ValueError("not an array with an event's header")
    boot, sequence, now_ms, stamp, number = item[:HEADER_FIELDS]
    if not all(_valid("u", value) for value in item[:HEADER_FIELDS]) or sequence < 1:
        raise ValueError("a header that is not of unsigned integers")
    row = EVENTS.get(number)
    if row is None:
        raise ValueError(f"unknown event kind {number}")
    name, columns = row[1], _columns(row[2])
    if len(item) != HEADER_FIELDS + len(columns):
        raise ValueError(f"{name} with {len(item) - HEADER_FIELDS} fields; it has {len(columns)}")
    fields = {}
    for (column, kind), value in zip(columns, item[HEADER_FIELDS:], strict=True):
        if not _valid(kind, value):
            raise ValueError(f"{name}.{column} is {value!r}")
        fields[column] = value.hex() if type(value) is bytes else value
    return boot, sequence, now_ms, stamp, name, fields


def decode_events(data: bytes) -> list[tuple[int, int, int, int, str, dict[str, Any]]]:
    """(boot, sequence, now_ms, stamp, kind, fields) of each of the events; EventError at the first bad one."""
    stream = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(stream)
    events: list[tuple[int, int, int, int, str, dict[str, Any]]] = []
    while stream.tell() < len(data):
        at = stream.tell()
        try:
            events.append(_decode_one(decoder.decode()))
        except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise EventError(f"event at byte {at} of {len(data)}: {error}", list(events)) from error
    return events


@dataclass
class BootRecord:
    """What arrived of one boot of one board."""

    events: dict[int, BoardEvent] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)  # channel -> highest number
    contiguous: int = 0  # everything that went by serial up to this number has arrived
    left_by_mqtt: set[int] = field(default_factory=set)
    lost: list[tuple[int, int]] = field(default_factory=list)

    def follow(self, previous: int, sequences: Iterable[int]) -> None:
        """Take the numbers of one serial frame; `previous` is the last one before them that the board still keeps.

        What it does not keep has been acknowledged. So the frame carries on where the stream stood, unless `previous`
        is a number that never came; what the stream skips then did not leave by serial.
        """
        if previous > self.contiguous:
            return
        for sequence in sequences:
            if sequence > self.contiguous:
                if self.contiguous or sequence == 1:
                    self.left_by_mqtt.update(range(self.contiguous + 1, sequence))
                self.contiguous = sequence

    def missing(self) -> list[int]:
        """Numbers that will never arrive though their channel went on."""
        top = max(self.events)
        if len(self.events) == top:
            return []
        return [number for number in range(1, top) if number not in self.events and self._overtaken(number)]

    def _overtaken(self, number: int) -> bool:
        if number in self.left_by_mqtt:
            return number < self.last.get(MQTT, 0)
        return all(number < last for last in self.last.values())


class EventRecord:
    """Every event of a run once, by board and boot."""

    def __init__(self) -> None:
        self._boards: dict[str, dict[int, BootRecord]] = {}
        self._order: dict[str, list[int]] = {}
        self._heard: dict[str, int] = {}  # board -> boot of its last serial frame

    def add(
        self, board: str, decoded: Iterable[tuple[Any, ...]], channel: str, now_ns: int, previous: int | None = None
    ) -> list[BoardEvent]:
        """Take decoded events; return those that are new. previous: of a serial frame, see BootRecord.follow."""
        fresh = []
        numbers: dict[int, list[int]] = {}
        boots = self._boards.setdefault(board, {})
        for boot, sequence, now_ms, stamp, kind, fields in decoded:
            record = boots.get(boot)
            if record is None:
                record = boots[boot] = BootRecord()
                self._place(board, boot)
            numbers.setdefault(boot, []).append(sequence)
            if sequence in record.events:
                continue
            event = BoardEvent(board, boot, sequence, now_ms, stamp, kind, fields, now_ns, channel)
            record.events[sequence] = event
            record.last[channel] = max(sequence, record.last.get(channel, 0))
            if kind == "lost_events":
                record.lost.append((fields["first"], fields["last"]))
            fresh.append(event)
        if previous is not None:
            for boot, sequences in numbers.items():
                boots[boot].follow(previous, sequences)
                self._heard[board] = boot
        return fresh

    def acknowledged(self, board: str) -> tuple[int, int] | None:
        """(boot, number) up to which all that went by this board's cable has arrived; 0: the start is missing."""
        boot = self._heard.get(board)
        return None if boot is None else (boot, self._boards[board][boot].contiguous)

    def _place(self, board: str, boot: int) -> None:
        """Boots stand in the order in which they were first heard; within one count of boots, in that of the count."""
        order = self._order.setdefault(board, [])
        at = len(order)
        while at and 0 < order[at - 1] - boot < SAME_ERA:
            at -= 1
        order.insert(at, boot)

    def boots(self, board: str) -> list[int]:
        return list(self._order.get(board, ()))

    def events(self) -> list[BoardEvent]:
        """All events: by board, then order of boots, then number."""
        return [
            event
            for board in sorted(self._boards)
            for boot in self._order[board]
            for _sequence, event in sorted(self._boards[board][boot].events.items())
        ]

    def gaps(self) -> list[Gap]:
        """What never arrived. A boot of which nothing was heard, or not its first event, is one gap with first = 0."""
        gaps: list[Gap] = []
        for board in sorted(self._boards):
            order = self._order[board]
            for index, boot in enumerate(order):
                if index and 0 < boot - order[index - 1] < SAME_ERA:
                    silent = range(order[index - 1] + 1, boot)
                    gaps.extend(Gap(board, number, 0, 0, "nothing of this boot arrived") for number in silent)
                gaps.extend(self._gaps_of(board, boot))
        return gaps

    def _gaps_of(self, board: str, boot: int) -> list[Gap]:
        record = self._boards[board][boot]
        if 1 not in record.events:
            return [Gap(board, boot, 0, 0, "its boot event never arrived")]
        fallen = {number for first, last in record.lost for number in range(first, last + 1)}
        # What fell out of the ring may have left by the cable before, without an acknowledgement.
        gone = sorted(number for number in fallen if number not in record.events)
        gaps = [Gap(board, boot, first, last, "fell out of the board's ring") for first, last in _runs(gone)]
        for first, last in _runs([number for number in record.missing() if number not in fallen]):
            by_mqtt = record.left_by_mqtt.issuperset(range(first, last + 1))
            reason = "lost on the way by mqtt, none of them a safety event" if by_mqtt else "lost on the way"
            gaps.append(Gap(board, boot, first, last, reason))
        return gaps


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of ascending numbers that follow on each other."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
