"""Reads histories that somebody else recorded: the log of a Jepsen run on one register, EDN maps, JSON objects.

One event a line, in the order in which they happened; docs/checkers.md shows each format. Must not guess at a line that
it cannot read: that is a FormatError, which names it. Must not judge anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .models import Call

TYPES = ("invoke", "ok", "fail", "info")
ACTIONS = {"cas-register": ("read", "write", "cas"), "kv-append": ("get", "put", "append")}
EXTENSIONS = {".log": "jepsen-log", ".edn": "edn", ".jsonl": "jsonl"}

JEPSEN_LINE = re.compile(r"jepsen\.util - (\d+)\s+:(\w+)\s+:([\w-]+)\s+(.*\S)\s*$")
NEMESIS_LINE = re.compile(r"jepsen\.util - :nemesis\s")
EDN_TOKEN = re.compile(r'[\s,]*(?:([{}\[\]])|("(?:[^"\\]|\\.)*")|(:[^\s,{}\[\]"]+)|(-?\d+)(?![\w.])|(nil)\b)')


class FormatError(Exception):
    """A line that does not belong into a history of this format. Names the line, says what is allowed."""


@dataclass(frozen=True)
class Event:
    """One line. found: for a compare-and-set that failed, a tuple of what it saw instead, empty where not told."""

    line: int
    process: Any
    type: str
    action: str
    key: Any
    value: Any
    found: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Recorded:
    """What a Call's name is here: where it stands. last_line: of its completion, None where it has none."""

    process: Any
    first_line: int
    last_line: int | None


# Values. A register holds a text, an integer or nothing; a compare-and-set has a pair of them.


def _plain(value: Any) -> bool:
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))


def _edn(text: str) -> Any:
    """One EDN value of maps, vectors, texts, keywords (kept with their colon), integers and nil."""
    stack: list[list[Any]] = [[]]
    position = 0
    text = text.rstrip(" \t\r\n,")
    while position < len(text):
        match = EDN_TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{text[position : position + 20]!r} is not EDN that is read here")
        position = match.end()
        bracket, quoted, keyword, number, _nil = match.groups()
        if bracket in ("{", "["):
            stack.append([bracket])
        elif bracket:
            opened, *parts = stack.pop() if len(stack) > 1 else [""]
            if opened + bracket not in ("{}", "[]") or (bracket == "}" and len(parts) % 2):
                raise ValueError(f"{bracket!r} closes nothing")
            pairs = zip(parts[::2], parts[1::2], strict=True)
            stack[-1].append(tuple(parts) if bracket == "]" else dict(pairs))
        else:
            stack[-1].append(json.loads(quoted) if quoted else keyword or (int(number) if number else None))
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError("it is not one whole EDN value")
    return stack[0][0]


# Lines of each format.


def _jepsen_events(lines: Iterable[str]) -> Iterator[Event]:
    """One register, whose key is the empty text."""
    for number, line in enumerate(lines, 1):
        if not line.strip() or NEMESIS_LINE.search(line):
            continue
        match = JEPSEN_LINE.search(line)
        if match is None:
            raise FormatError(
                f"line {number}: {_short(line)} is not a line of a Jepsen log; allowed is"
                " `INFO  jepsen.util - PROCESS :TYPE :FUNCTION VALUE`"
            )
        process, kind, action, text = match.groups()
        try:
            value = _edn(text)
        except ValueError as error:
            raise FormatError(f"line {number}: {error}") from None
        # A failed compare-and-set repeats its pair where the register held something else, and else says why.
        found = () if kind == "fail" and action == "cas" and isinstance(value, tuple) else None
        yield Event(number, int(process), kind, action, "", value, found)


def _edn_events(lines: Iterable[str]) -> Iterator[Event]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = _edn(line)
            if not isinstance(fields, dict):
                raise ValueError("it is not a map")
            document = {
                str(name).removeprefix(":"): value[1:] if name in (":type", ":f", ":error") and value else value
                for name, value in fields.items()
            }
        except (ValueError, TypeError) as error:
            raise FormatError(
                f"line {number}: {_short(line)} is not an EDN map of an operation ({error}); allowed is"
                ' `{:process 0, :type :invoke, :f :put, :key "k", :value "v"}`'
            ) from None
        if document.get("process") != ":nemesis":
            yield _event(number, document)


def _jsonl_events(lines: Iterable[str]) -> Iterator[Event]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            if not isinstance(document, dict):
                raise ValueError("it is not an object")
        except ValueError as error:
            raise FormatError(
                f"line {number}: {_short(line)} is not a JSON object ({error}); allowed is"
                ' `{"process": 0, "type": "invoke", "f": "write", "key": "k", "value": "v"}`'
            ) from None
        yield _event(number, document)


def _event(number: int, document: dict[str, Any]) -> Event:
    for name in ("process", "type", "f"):
        if name not in document:
            raise FormatError(f"line {number}: no {name!r}; needed are process, type, f and, but for one register, key")
    value = document.get("value")
    value = tuple(value) if isinstance(value, list) else value
    found: tuple[Any, ...] | None = None
    if document["type"] == "fail" and ("found" in document or document.get("error") == "mismatch"):
        found = (document["found"],) if "found" in document else ()
    return Event(number, document["process"], document["type"], document["f"], document.get("key", ""), value, found)


def _short(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 80 else text[:77] + "...")


READERS: dict[str, Callable[[Iterable[str]], Iterator[Event]]] = {
    "jepsen-log": _jepsen_events,
    "edn": _edn_events,
    "jsonl": _jsonl_events,
}


# Calls.


def read(lines: Iterable[str], form: str, model: str) -> dict[Any, list[Call]]:
    """Key -> calls. FormatError where a line is not of that format, or no operation of that model."""
    keys: dict[Any, list[Call]] = {}
    going_on: dict[Any, Event] = {}
    for event in READERS[form](lines):
        _allowed(event, model)
        began = going_on.pop(event.process, None)
        if event.type == "invoke":
            if began is not None:
                raise FormatError(
                    f"line {event.line}: process {event.process} begins an operation, and the one of line {began.line}"
                    " has not ended; a process has one at a time"
                )
            going_on[event.process] = event
            continue
        if began is None:
            raise FormatError(f"line {event.line}: process {event.process} has begun nothing that could end here")
        if (event.action, event.key) != (began.action, began.key):
            raise FormatError(
                f"line {event.line}: {event.action} of key {event.key!r} ends what began at line {began.line} as"
                f" {began.action} of key {began.key!r}"
            )
        call = _call(began, event)
        if call is not None:
            keys.setdefault(began.key, []).append(call)
    for began in going_on.values():
        call = _call(began, None)
        if call is not None:
            keys.setdefault(began.key, []).append(call)
    return keys


def _allowed(event: Event, model: str) -> None:
    if event.type not in TYPES:
        raise FormatError(f"line {event.line}: unknown type {event.type!r}; allowed: {', '.join(TYPES)}")
    if event.action not in ACTIONS[model]:
        raise FormatError(
            f"line {event.line}: {model} has no function {event.action!r}; allowed: {', '.join(ACTIONS[model])}"
        )
    for name, value in (
        ("process", event.process),
        ("key", event.key),
        *(("found", seen) for seen in event.found or ()),
    ):
        if not _plain(value):
            raise FormatError(f"line {event.line}: {name} {value!r} is not a text or an integer")
    if event.type in ("info", "fail"):
        return  # the value of these may say why
    value = event.value
    if event.action == "cas":
        if not (isinstance(value, tuple) and len(value) == 2 and all(_plain(part) for part in value)):
            raise FormatError(f"line {event.line}: the value of cas is a pair [expected, new], not {value!r}")
    elif model == "kv-append" and not (isinstance(value, str) or (value is None and event.action == "get")):
        raise FormatError(f"line {event.line}: the value of {event.action} is a text, not {value!r}")
    elif not _plain(value):
        raise FormatError(f"line {event.line}: value {value!r} is not a text, an integer or nothing")


def _call(began: Event, ended: Event | None) -> Call | None:
    """What an operation came to; None where it definitely did not happen and nothing follows from that."""
    kind = "info" if ended is None else ended.type
    at = None if ended is None or kind == "info" else ended.line
    name = Recorded(began.process, began.line, None if ended is None else ended.line)
    if kind == "fail":
        if began.action != "cas" or ended is None or ended.found is None:
            return None
        return Call(began.line, at, "mismatch", began.value, ended.found[0] if ended.found else None, name)
    result = ended.value if ended is not None and kind == "ok" and began.action in ("read", "get") else None
    if result is None and began.action == "get":
        result = ""  # a text that was never put is empty
    return Call(began.line, at, began.action, began.value, result, name)
