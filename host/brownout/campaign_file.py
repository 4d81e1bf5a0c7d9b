"""Campaigns: what a run does, as data. Read from TOML; what is wrong is named with file, key and what is allowed.

Must not know any rig: whether a rig can do what a campaign asks is `faults.plan`'s question.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from brownout_node.core.schema import MAX_KEYS

from . import protocols, resources
from .contracts import UsageError
from .document import REQUIRED, Table, nearest, shown
from .fault_kinds import (
    AT_SITE,
    HOST,
    KINDS,
    MOMENTS,
    NEMESIS_KINDS,
    SELECTOR_WORDS,
    SELECTORS,
    SHAPES,
    FaultKind,
    Parameter,
)
from .operations import default_mix, in_mixes, of_clients, row_of
from .sites import Sites, read_sites
from .workload import PlannedOperation, WorkloadPlan

LONGEST_S = 86_400.0
# Timings of a board's configuration that a campaign may set; config.py has their bounds.
TIMINGS = (
    "tick_ms",
    "gossip_period_ms",
    "gossip_fanout",
    "gossip_rounds",
    "gossip_feedback",
    "gossip_early",
    "random_order",
    "sync_period_ms",
    "probe_period_ms",
    "probe_timeout_ms",
    "suspicion_ms",
    "propose_timeout_ms",
    "vote_timeout_ms",
    "timeout_step_ms",
    "resend_ms",
    "fetch_period_ms",
    "digest_period_ms",
    "metrics_period_ms",
)
MOST_VOTERS = 16
MOST_OPERATIONS = 100_000
# The keys of an [[operation]]: what each is.
OPERATION_KEYS = {
    "at_s": "when, in seconds from the campaign's start; later where the client's last one is not over",
    "client": "1 to 31, 1 if left out; a client has one operation at a time",
    "operation": "put, get and cas on the log's registers, write and delete on gossip's items, or a protocol's own",
    "key": "up to 32 characters",
    "value": "made up and unique if left out; not where the operation has none",
    "expected": "what the client saw last of the key if left out; only where the operation has one",
    "boards": "who is asked first, in this order; the others follow as the seed draws them",
}
Selector = str | tuple[str, ...]  # one of the words, random:K, or names


@dataclass(frozen=True)
class FaultSpec:
    """One [[fault]] of a campaign. `place` is where it stands, for messages."""

    place: str
    kind: str
    at_s: float
    for_s: float
    jitter_s: float = 0.0
    select: Selector | None = None
    when: str | None = None
    shape: str | None = None
    groups: tuple[tuple[str, ...], ...] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NemesisSpec:
    """Faults drawn by the seed: one of `kinds` every so often, each for so long."""

    kinds: tuple[str, ...]
    every_s: tuple[float, float]
    for_s: tuple[float, float]


@dataclass(frozen=True)
class ChecksSpec:
    """Bounds for the checkers, counted from the last heal."""

    progress_within_s: float = 10.0
    converge_within_s: float = 10.0
    operations_at_least: int = 10  # a run that did fewer says nothing
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # key of a register -> least and most
    reroute_within_s: float = 3.0  # from the death of a broker to the first message by another route


@dataclass(frozen=True)
class Campaign:
    name: str
    source: str
    description: str
    duration_s: float
    voters: int
    learners: int
    serial_only: int
    timing: Mapping[str, int]
    protocols: tuple[str, ...]
    options: Mapping[str, Mapping[str, int]]  # by protocol
    workload: WorkloadPlan
    faults: tuple[FaultSpec, ...]
    nemesis: NemesisSpec | None
    checks: ChecksSpec
    checker: str | None = None  # the file of a check of its own
    sources: Mapping[str, str] = field(default_factory=dict)  # its own protocols and checker: file name -> text
    sites: Sites | None = None

    @property
    def boards(self) -> int:
        return self.voters + self.learners

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind of fault that may come up, sorted."""
        return tuple(sorted({fault.kind for fault in self.faults} | set(self.nemesis.kinds if self.nemesis else ())))


def load_campaign(name: str) -> Campaign:
    """The campaign of that file, or of that name among those that are shipped."""
    shipped = resources.shipped(resources.campaigns_directory())
    if name in shipped:
        return read_campaign(resources.campaigns_directory() / f"{name}.toml")
    if os.sep in name or name.endswith(".toml") or Path(name[:200]).is_file():
        return read_campaign(Path(name))
    raise UsageError(
        f"unknown campaign {shown(name)}{nearest(name, shipped)}; allowed: {', '.join(shipped)}, "
        "or the path of a campaign file"
    )


def read_campaign(path: Path) -> Campaign:
    return parse_campaign(Table.read(path))


def parse_campaign(document: Table) -> Campaign:
    document.only("campaign", "timing", "sites", "protocol", "workload", "operation", "fault", "nemesis", "checks")
    head = document.table("campaign")
    head.only("name", "description", "duration_s", "voters", "learners", "serial_only", "protocols")
    duration_s = head.seconds("duration_s", 0.5, LONGEST_S)
    voters = head.integer("voters", 1, MOST_VOTERS, 5)
    learners = head.integer("learners", 0, 193, 0)
    names, sources = _protocols(head)
    checks = document.table("checks", {})
    checker = _own_file(checks, "file", checks.text("file", most=200)) if "file" in checks else None
    if checker is not None:
        sources |= dict([checker])
    return Campaign(
        name=head.word("name"),
        source=document.source,
        description=head.text("description", "", most=1000),
        duration_s=duration_s,
        voters=voters,
        learners=learners,
        serial_only=head.integer("serial_only", 0, voters + learners, 0),
        timing=_timing(document.table("timing", {})),
        protocols=names,
        options=_options(document, names),
        workload=_workload(document.table("workload", {}), _operations(document, duration_s, names), names),
        faults=tuple(_fault(table, duration_s) for table in document.tables("fault")),
        nemesis=_nemesis(document.table("nemesis"), duration_s) if "nemesis" in document else None,
        checks=_checks(checks),
        checker=None if checker is None else checker[0],
        sources=sources,
        sites=read_sites(document.table("sites")) if "sites" in document else None,
    )


def _protocols(head: Table) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of the protocols, and the texts of those that are files beside the campaign."""
    sources: dict[str, str] = {}
    names = []
    for name in head.texts("protocols", protocols.DEFAULT):
        if name.endswith(".py"):
            file, text = _own_file(head, "protocols", name)
            sources[file] = text
            names.append(protocols.add(file, text))
        elif name in protocols.PROTOCOLS:
            names.append(name)
        else:
            known = tuple(protocols.PROTOCOLS)
            raise head.error(
                "protocols",
                f"unknown {shown(name)}{nearest(name, known)}",
                f"{', '.join(known)}, or a file such as my.py",
            )
    return tuple(names), sources


def _own_file(table: Table, key: str, name: str) -> tuple[str, str]:
    """(file name, text) of a file that lies beside the campaign's."""
    path = Path(table.source).parent / name
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise table.error(key, shown(name), "a file of Python, its name of letters, digits and _, such as my.py")
    try:
        return path.name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise table.error(key, f"{path}: {error}", "a file that can be read") from None


def _timing(table: Table) -> dict[str, int]:
    """Checked by the very code that checks it on a board."""
    table.only(*TIMINGS)
    timing = {name: table.integer(name, 0, 2**31) for name in TIMINGS if name in table}
    try:
        Config({"cluster": 0, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]], **timing})
    except ConfigError as error:
        raise UsageError(f"{table.source}: {table.place}.{error}") from None
    return timing


def _options(document: Table, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """The [protocol.NAME] tables, checked by the very code that checks them on a board."""
    tables = document.table("protocol", {})
    tables.only(*names)
    options = {}
    for name in names:
        table = tables.table(name, {})
        options[name] = {key: table.integer(key, -(2**31), 2**31) for key in table.values}
    options = {name: values for name, values in options.items() if values}
    try:
        protocols.check_options(names, options)
    except ConfigError as error:
        raise UsageError(f"{document.source}: {str(error).replace('options.', 'protocol.', 1)}") from None
    return options


def _workload(table: Table, operations: tuple[PlannedOperation, ...], names: tuple[str, ...]) -> WorkloadPlan:
    if operations:  # clients do these and nothing else
        table.only("operation_timeout_s")
    table.only("clients", "operations_per_s", "keys", "mix", "rumours_per_s", "deletes", "operation_timeout_s")
    default = WorkloadPlan()
    return WorkloadPlan(
        clients=table.integer("clients", 0, 31, default.clients),
        operations_per_s=table.number("operations_per_s", 0, 1000, default.operations_per_s),
        keys=table.integer("keys", 1, 60, default.keys),
        mix=_mix(table.table("mix"), names) if "mix" in table else default_mix(names),
        rumours_per_s=table.number("rumours_per_s", 0, 1000, default.rumours_per_s) if "gossip" in names else 0.0,
        deletes=table.number("deletes", 0, 1, default.deletes, what="a share"),
        operation_timeout_s=table.seconds("operation_timeout_s", 0.1, 600, default.operation_timeout_s),
        operations=operations,
    )


def _operations(document: Table, duration_s: float, names: tuple[str, ...]) -> tuple[PlannedOperation, ...]:
    tables = document.tables("operation")
    if len(tables) > MOST_OPERATIONS:
        raise document.error("operation", f"there are {len(tables)}", f"up to {MOST_OPERATIONS}")
    return tuple(_operation(table, duration_s, names) for table in tables)


def _operation(table: Table, duration_s: float, names: tuple[str, ...]) -> PlannedOperation:
    name = table.choice("operation", of_clients(names))
    row = row_of(name)
    absent = {key for key, draw in (("value", row.value), ("expected", row.expected)) if draw is None}
    table.only(*(key for key in OPERATION_KEYS if key not in absent))
    return PlannedOperation(
        at_s=table.seconds("at_s", 0, duration_s),
        client=table.integer("client", 1, 31, 1),
        operation=name,
        key=table.text("key", most=32),
        value=table.text("value", None, most=32),
        expected=table.text("expected", None, most=32),
        boards=table.texts("boards", (), what='a list of board names, such as ["b1"]'),
    )


def _mix(table: Table, names: tuple[str, ...]) -> dict[str, float]:
    allowed = in_mixes(names)
    table.only(*allowed)
    mix: dict[str, float] = {name: table.number(name, 0, 1000, 0.0, what="a weight") for name in allowed}
    if not sum(mix.values()):
        raise UsageError(f"{table.source}: {table.place}: every weight is 0; allowed: at least one above 0")
    return {name: weight for name, weight in mix.items() if weight}


# Faults.

_COMMON = ("kind", "at_s", "jitter_s", "when")


def _fault(table: Table, duration_s: float) -> FaultSpec:
    name = table.choice("kind", tuple(KINDS))
    kind = KINDS[name]
    keys = [*_COMMON, *(parameter.name for parameter in kind.parameters)]
    if kind.lasts:
        keys.append("for_s")
    if kind.select is not None:
        keys.append("select")
    if name == "split":
        keys += ["shape", "groups"]
    table.only(*keys)
    at_s = table.seconds("at_s", 0, LONGEST_S)
    jitter_s = table.seconds("jitter_s", 0, LONGEST_S, 0.0)
    for_s = 0.0
    if kind.lasts:
        for_s = table.seconds("for_s", 0.01, LONGEST_S, REQUIRED if kind.for_s is None else kind.for_s)
    if round(at_s + jitter_s + for_s, 6) > duration_s:
        raise table.error(
            "at_s",
            f"the fault may last until {at_s + jitter_s + for_s:g} s",
            f"at_s + jitter_s + for_s up to the campaign's duration_s = {duration_s:g}",
        )
    shape, groups = _shape(table) if name == "split" else (None, None)
    return FaultSpec(
        place=table.place,
        kind=name,
        at_s=at_s,
        for_s=for_s,
        jitter_s=jitter_s,
        select=_select(table, kind.select) if kind.select is not None else None,
        when=table.choice("when", MOMENTS, None),
        shape=shape,
        groups=groups,
        parameters=_parameters(table, kind),
    )


def _select(table: Table, default: str) -> Selector:
    value = table.values.get("select", default)
    if isinstance(value, list):
        names: tuple[str, ...] = table.texts("select", what=SELECTORS)
        return names
    if not isinstance(value, str):
        raise table.error("select", shown(value), SELECTORS)
    count = value.removeprefix("random:")
    drawn = count != value and count.isascii() and count.isdigit() and len(count) <= 3 and int(count) > 0
    if not drawn and value not in SELECTOR_WORDS and not value.startswith(AT_SITE):
        raise table.error("select", f"unknown selector {shown(value)}{nearest(value, SELECTOR_WORDS)}", SELECTORS)
    return value


def _shape(table: Table) -> tuple[str | None, tuple[tuple[str, ...], ...] | None]:
    if ("shape" in table) == ("groups" in table):
        raise table.error(
            "shape", "needs either shape or groups", f"shape = {', '.join(SHAPES)}, or groups = [[..], [..]]"
        )
    return table.choice("shape", SHAPES, None), table.groups("groups", None)


def _parameters(table: Table, kind: FaultKind) -> dict[str, Any]:
    result = {}
    for parameter in kind.parameters:
        value = _parameter(table, parameter)
        if value is not None:
            result[parameter.name] = value
    return result


def _parameter(table: Table, parameter: Parameter) -> Any:
    name = parameter.name
    default = REQUIRED if parameter.required else parameter.default
    if parameter.type == "integer":
        return table.integer(name, int(parameter.low), int(parameter.high), default)
    if parameter.type == "number":
        what = f"a number of {parameter.unit}" if parameter.unit not in ("", "percent") else "percent"
        return table.number(name, parameter.low, parameter.high, default, what=what)
    if parameter.type == "choice":
        return table.choice(name, parameter.choices, default)
    if parameter.type == "kinds":
        return table.texts(name, default, choices=tuple(protocols.MESSAGE_IDS))
    if parameter.type == "site":
        return table.word(name, default)
    if parameter.type == "sites":
        return table.texts(name, default, what='two sites that are joined, such as ["north", "south"]')
    return table.texts(name, default, what=f'a list of board names, or "{HOST}"')


def _nemesis(table: Table, duration_s: float) -> NemesisSpec:
    table.only("kinds", "every_s", "for_s")
    return NemesisSpec(
        kinds=table.texts("kinds", choices=NEMESIS_KINDS),
        every_s=table.interval("every_s", 0.1, duration_s),
        for_s=table.interval("for_s", 0.05, duration_s),
    )


def _checks(table: Table) -> ChecksSpec:
    table.only("progress_within_s", "converge_within_s", "operations_at_least", "file", "ranges", "reroute_within_s")
    return ChecksSpec(
        progress_within_s=table.seconds("progress_within_s", 0.1, 3600, ChecksSpec.progress_within_s),
        converge_within_s=table.seconds("converge_within_s", 0.1, 3600, ChecksSpec.converge_within_s),
        operations_at_least=table.integer("operations_at_least", 0, 1_000_000, ChecksSpec.operations_at_least),
        ranges=_ranges(table.table("ranges", {})),
        reroute_within_s=table.seconds("reroute_within_s", 0.1, 3600, ChecksSpec.reroute_within_s),
    )


def _ranges(table: Table) -> dict[str, tuple[int, int]]:
    """[checks.ranges]: what the value of a register may be; see analysis/anomalies.py."""
    if len(table.values) > MAX_KEYS:
        raise UsageError(
            f"{table.source}: {table.place}: there are {len(table.values)}; allowed: up to {MAX_KEYS} keys"
        )
    ranges = {}
    for key in table.values:
        if not 1 <= len(key.encode()) <= 32:
            raise table.error(key, f"the key {shown(key)}", "1 to 32 bytes")
        limits = table.values[key]
        whole = isinstance(limits, list) and len(limits) == 2 and all(type(limit) is int for limit in limits)
        if not whole or limits[0] > limits[1]:
            raise table.error(key, shown(limits), "[least, most], whole numbers")
        ranges[key] = (limits[0], limits[1])
    return ranges
