"""What boards of an exhaustive search are told and say: commands and messages by number, and each in words.

Must not know how a board comes to say it.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from brownout_node.core import codec, schema

VOTES = (schema.PROPOSAL, schema.PREVOTE, schema.PRECOMMIT)
KIND_NAMES = {row[0]: row[1] for row in schema.MESSAGES}


class Command(NamedTuple):
    """A client's put, which it hands to the board of that number."""

    client: int
    board: int
    key: str
    value: str

    def __str__(self) -> str:
        return f"client {self.client} asks b{self.board} to put {self.key} = {self.value}"


class Message(NamedTuple):
    """One message, whichever boot sent it and how often. data: its bytes, as they first left."""

    source: int
    to: int
    kind: int
    fields: tuple[Any, ...]
    data: bytes

    def __str__(self) -> str:
        """What it says, in words: `precommit h1 r0 1f3a..`."""
        words = [KIND_NAMES[self.kind]]
        if self.kind in VOTES:
            height, number = self.fields[:2]
            words += [f"h{height}", f"r{number}", name_of(self.value_id)]
            if self.kind == schema.PROPOSAL and self.fields[2] >= 0:
                words.append(f"valid since r{self.fields[2]}")
        elif self.kind == schema.REQUEST:
            words.append(f"of client {self.fields[0]}")
        elif self.kind == schema.ENTRIES:
            words.append(f"h{self.fields[0]} to h{self.fields[1] - 1}")
        elif self.kind == schema.FETCH:
            words.append(f"from h{self.fields[0]}")
        return " ".join(words)

    @property
    def place(self) -> tuple[Any, ...]:
        """Of a proposal or vote: kind, height and round. A board says one thing in one place."""
        return (self.kind, *self.fields[:2])

    @property
    def value_id(self) -> bytes | None:
        """What a proposal or vote is for."""
        if self.kind == schema.PROPOSAL:
            return hashlib.sha256(self.fields[3]).digest()[:8]
        return bytes(self.fields[2]) if self.fields[2] is not None else None


def name_of(value_id: bytes | None) -> str:
    return "nil" if value_id is None else value_id.hex()[:4] + ".."


class Messages:
    """All different messages of a search, by number."""

    def __init__(self) -> None:
        self.all: list[Message] = []
        self._numbers: dict[tuple[int, int, int, tuple[Any, ...]], int] = {}

    def number_of(self, to: int, data: bytes) -> int:
        _cluster, source, _boot, _sequence, kind, fields = codec.decode_message(data)
        fields = tuple(tuple(part) if isinstance(part, list) else part for part in fields)
        key = (source, to, kind, fields)
        if key not in self._numbers:
            self._numbers[key] = len(self.all)
            self.all.append(Message(*key, data))
        return self._numbers[key]


class Prevoted(NamedTuple):
    """A prevote as the board reports it. valid_round: of the proposal that it is for."""

    height: int
    round: int
    value_id: bytes | None
    valid_round: int

    def forgets(self, precommit: Message) -> bool:
        """Whether it is for another value than the board precommitted before, without a later quorum for that."""
        height, number, locked = precommit.fields
        if None in (locked, self.value_id) or height != self.height or number >= self.round:
            return False
        return self.value_id != locked and self.valid_round < number


def commands_of(value: bytes) -> list[tuple[int, int]]:
    """(client, request) of every command in a decided value."""
    return [(row[0], row[1]) for row in codec.unpack(schema.BATCH, value)[0]]
