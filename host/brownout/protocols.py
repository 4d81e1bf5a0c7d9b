"""What the host knows of the firmware's protocols: their rows on the wire, their operations, their options.

A protocol is a file of `brownout_node/core` with a PROTOCOL; the rows of its module join those of the schema here, so
that telemetry, proxies and clients know them. Whatever `brownout_node` Python imports counts: one of your own is
known once PYTHONPATH names its firmware. Must not know what any of them promises; checkers do.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from brownout_node import core
from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError

from .contracts import UsageError

DEFAULT = ("membership", "gossip", "vote")
Row = tuple[int, str, str]


@dataclass(frozen=True)
class Protocol:
    """One protocol: its name, its operations for clients, OPTIONS as its module has them, whether it signs messages."""

    name: str
    operations: tuple[str, ...]
    options: str = ""
    keys: bool = False


def _modules() -> dict[str, ModuleType]:
    found = {}
    for info in sorted(pkgutil.iter_modules(core.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{core.__name__}.{info.name}")
        if hasattr(module, "PROTOCOL"):
            found[info.name] = module
    return found


def _gather(attribute: str, shipped: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    """The schema's rows and every module's. Raises UsageError where two protocols use one number or one name."""
    rows = list(shipped)
    owners = {key: "schema.py" for row in rows for key in row[:2]}
    for name, module in _MODULES.items():
        for row in getattr(module, attribute, ()):
            for key in row[:2]:
                if owners.setdefault(key, f"{name}.py") != f"{name}.py":
                    raise UsageError(f"core/{name}.py: {attribute}: {key!r} is taken by {owners[key]}; take another")
            rows.append(row)
    return tuple(rows)


_MODULES = _modules()
MESSAGES: tuple[Row, ...] = _gather("MESSAGES", schema.MESSAGES)
EVENTS: tuple[Row, ...] = _gather("EVENTS", schema.EVENTS)
OPERATIONS: tuple[tuple[int, str], ...] = _gather("OPERATIONS", schema.OPERATIONS)
for _module in _MODULES.values():
    codec.learn(_module)

_NAMES = dict(OPERATIONS)
PROTOCOLS: Mapping[str, Protocol] = {
    name: Protocol(
        name,
        tuple(_NAMES[number] for number in module.PROTOCOL.operations),
        getattr(module, "OPTIONS", ""),
        getattr(module, "KEYS", False),
    )
    for name, module in _MODULES.items()
}


def operations_of(protocols: Iterable[str]) -> tuple[str, ...]:
    """What clients may ask of boards that have loaded these."""
    return tuple(operation for name in protocols for operation in PROTOCOLS[name].operations)


def check_options(protocols: Sequence[str], options: Mapping[str, Mapping[str, int]]) -> None:
    """Raises ConfigError, with the words that a board would use."""
    document = {"cluster": 0, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]]}
    config = Config(
        {**document, "protocols": list(protocols), "options": {name: dict(options[name]) for name in options}}
    )
    for name in protocols:
        if name not in PROTOCOLS:
            raise ConfigError(f"protocols: {name!r}; allowed: {', '.join(PROTOCOLS)}")
        config.options_of(name, PROTOCOLS[name].options)


def configuration(protocols: Sequence[str], options: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """What config.json says of the protocols, besides keys."""
    return {
        "protocols": list(protocols),
        **({"options": {key: dict(options[key]) for key in options}} if options else {}),
    }


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
