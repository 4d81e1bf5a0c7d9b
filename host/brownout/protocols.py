"""What the host knows of the firmware's protocols: their rows on the wire, their operations, their options.

A protocol is a file with a PROTOCOL: one of `brownout_node/core`, or a file of your own that a campaign names and `add`
takes in. The rows of its module join those of the schema here, so that telemetry, proxies and clients know them. Must
not know what a protocol promises; checkers do.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from brownout_node import core
from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from brownout_node.transport import routes

from .contracts import UsageError

DEFAULT = ("membership", "gossip", "vote")
Row = tuple[int, str, str]

# What is known by now. These are added to and never replaced, so others may hold on to them.
MESSAGES: dict[int, Row] = {}
EVENTS: dict[int, Row] = {}
OPERATIONS: dict[int, str] = {}
MESSAGE_IDS: dict[str, int] = {}
OPERATION_IDS: dict[str, int] = {}


@dataclass(frozen=True)
class Protocol:
    """One protocol: its name, its operations for clients, OPTIONS as its module has them, whether it signs messages.

    source: the text of one of your own; None for those of the firmware.
    """

    name: str
    operations: tuple[str, ...]
    options: str = ""
    keys: bool = False
    source: str | None = None


PROTOCOLS: dict[str, Protocol] = {}
_owners: dict[tuple[str, Any], str] = {}  # (table, number or name) -> the file that has it


def _take_rows(place: str, module: Any) -> None:
    """Put a module's rows into the tables. UsageError where a number or a name is taken, or an event has a list."""
    for row in getattr(module, "EVENTS", ()):
        if "[" in row[2]:
            raise UsageError(f"{place}: EVENTS: {row[1]!r} has a list; the host reads flat events, emit one an element")
    for table in ("MESSAGES", "EVENTS", "OPERATIONS"):
        for row in getattr(module, table, ()):
            for key in row[:2]:
                owner = _owners.get((table, key))
                if owner is not None:
                    raise UsageError(f"{place}: {table}: {key!r} is taken by {owner}; take another")
    for table in ("MESSAGES", "EVENTS", "OPERATIONS"):
        for row in getattr(module, table, ()):
            _owners.update({(table, key): place for key in row[:2]})
            if table == "MESSAGES":
                MESSAGES[row[0]] = row
                MESSAGE_IDS[row[1]] = row[0]
            elif table == "EVENTS":
                EVENTS[row[0]] = row
            else:
                OPERATIONS[row[0]] = row[1]
                OPERATION_IDS[row[1]] = row[0]


def _take(name: str, module: ModuleType, file: str | None = None, source: str | None = None) -> None:
    place = file or f"core/{name}.py"
    _take_rows(place, module)
    codec.learn(module)
    unknown = [number for number in module.PROTOCOL.operations if number not in OPERATIONS]
    if unknown:
        raise UsageError(f"{place}: operation {unknown[0]} has no row; add it to OPERATIONS")
    PROTOCOLS[name] = Protocol(
        name,
        tuple(OPERATIONS[number] for number in module.PROTOCOL.operations),
        getattr(module, "OPTIONS", ""),
        getattr(module, "KEYS", False),
        source,
    )


def _take_firmware() -> None:
    _take_rows("schema.py", schema)
    _take_rows("transport/routes.py", routes)
    codec.learn(routes)
    for info in sorted(pkgutil.iter_modules(core.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{core.__name__}.{info.name}")
        if hasattr(module, "PROTOCOL"):
            _take(info.name, module)


def add(file: str, source: str) -> str:
    """Take in the protocol in `source`, the text of `file`; its name. The same text again changes nothing.

    It becomes a module beside the firmware's, so that `from . import codec, schema` works as on a board. UsageError
    where it cannot be imported, is no protocol, or takes a name or a number of another one.
    """
    name = Path(file).stem
    known = PROTOCOLS.get(name)
    if known is not None and known.source == source:
        return name
    full_name = f"{core.__name__}.{name}"
    if known is not None or importlib.util.find_spec(full_name) is not None:
        raise UsageError(f"{file}: there is a protocol or a file {name} already; call it otherwise")
    module = ModuleType(full_name)
    module.__package__ = core.__name__
    sys.modules[full_name] = module
    try:
        run_source(file, source, module)
        if not hasattr(module, "PROTOCOL"):
            raise UsageError(f"{file}: not a protocol; it has to name its class PROTOCOL")
        _take(name, module, file, source)
    except BaseException:
        del sys.modules[full_name]
        raise
    return name


def run_source(file: str, source: str, module: ModuleType) -> None:
    """Run a module's text in it; UsageError names the file, and the line where there is one."""
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except SyntaxError as error:
        raise UsageError(f"{file}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        raise UsageError(f"{line_of(error, file)}: {type(error).__name__}: {error}") from error


def line_of(error: Exception, file: str) -> str:
    """FILE:LINE, the last one of that file that the error came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else file


_take_firmware()


def operations_of(protocols: Iterable[str]) -> tuple[str, ...]:
    """What clients may ask of boards that have loaded these."""
    return tuple(dict.fromkeys(operation for name in protocols for operation in PROTOCOLS[name].operations))


def check_options(protocols: Sequence[str], options: Mapping[str, Mapping[str, int]]) -> None:
    """Raises ConfigError, with the words that a board would use."""
    document = {"cluster": 0, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]]}
    config = Config({**document, **configuration(protocols, options)})
    for name in protocols:
        if name not in PROTOCOLS:
            raise ConfigError(f"protocols: {name!r}; allowed: {', '.join(PROTOCOLS)}")
        config.options_of(name, PROTOCOLS[name].options)


def configuration(protocols: Sequence[str], options: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """What config.json says of the protocols, besides keys."""
    chosen = {name: dict(options[name]) for name in options}
    return {"protocols": list(protocols), **({"options": chosen} if chosen else {})}


def keys_of(protocols: Iterable[str], seed: int, board: int, boards: Iterable[int]) -> dict[str, Any]:
    """What config.json says of keys: those of `board`, where one of the protocols signs what it sends."""
    signed = any(name in PROTOCOLS and PROTOCOLS[name].keys for name in protocols)
    return {"keys": pairwise_keys(seed, board, boards)} if signed else {}


def pairwise_keys(seed: int, board: int, boards: Iterable[int]) -> list[list[Any]]:
    """[other board, key in hexadecimal] for each other one; both of a pair get the same, nobody else does.

    They follow from the run's seed: they keep boards apart from each other, not from who reads the plan.
    """
    rows: list[list[Any]] = []
    for other in sorted(set(boards) - {board}):
        low, high = sorted((board, other))
        rows.append([other, hashlib.sha256(f"brownout key {seed} {low} {high}".encode()).hexdigest()])
    return rows
