"""The planner: campaign, rig and seed in, plan out. Pure and deterministic: the same three give the same plan.json.

What a seed can decide is decided here (times, boards, groups); what only the run can know (`proposer`, `when`) stays in
the plan by name. A campaign that the rig cannot carry out is refused here, before anything starts. Must not act.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any

from . import partitions
from .campaign_file import Campaign, FaultSpec, NemesisSpec, Selector
from .contracts import LinkRule, Support, UsageError
from .document import nearest
from .fault_kinds import AT_SITE, HAND_OVER, HOST, KINDS, MALICE, SHAPES, SITE_KINDS, TRAP_POINTS
from .protocols import add, configuration
from .rig import PlannedBoard, Rig, choose_boards
from .sites import Sites, check_boards

PROPOSER = "proposer"
NEMESIS = "nemesis"  # place of what the seed has drawn
LEAST_DRIFT_MS = 50  # what telemetry can tell from its own delays
_LEAST_VOTERS = {"halves": 1, "majority-minority": 3, "ring": 4, "bridge": 3}


@dataclass(frozen=True)
class PlannedFault:
    """One fault of a plan. `boards` is what its selector came to; empty with `select` set where only the run can tell.

    parameters: by kind, see fault_kinds.py; those of link faults also hold `cuts`, a list of [sources, targets].
    """

    id: str
    kind: str
    at_s: float
    for_s: float
    boards: tuple[str, ...]
    select: str | None = None
    when: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        return {**asdict(self), "boards": list(self.boards), "parameters": _as_plain(self.parameters)}


@dataclass(frozen=True)
class Plan:
    """Everything that a run is going to do; `to_document` is plan.json."""

    campaign: str
    seed: int
    rig: str
    rung: str
    duration_s: float
    boards: tuple[PlannedBoard, ...]
    timing: Mapping[str, int]
    protocols: tuple[str, ...]
    options: Mapping[str, Mapping[str, int]]  # by protocol
    workload: Mapping[str, Any]
    checks: Mapping[str, Any]
    faults: tuple[PlannedFault, ...]
    checker: str | None = None  # the file of a check of its own
    sources: Mapping[str, str] = field(default_factory=dict)  # of its own protocols and checker: file name -> text
    sites: Sites | None = None

    @property
    def configuration(self) -> dict[str, Any]:
        """What the boards' configuration holds for this plan, the same for all."""
        return {**self.timing, **configuration(self.protocols, self.options)}

    def to_document(self) -> dict[str, Any]:
        document = {
            "campaign": self.campaign,
            "seed": self.seed,
            "rig": self.rig,
            "rung": self.rung,
            "duration_s": self.duration_s,
            "boards": [asdict(board) for board in self.boards],
            "timing": dict(sorted(self.timing.items())),
            "protocols": list(self.protocols),
            "options": _as_plain(self.options),
            "workload": _as_plain(self.workload),
            "checks": _as_plain(self.checks),
            "faults": [fault.to_document() for fault in self.faults],
            "checker": self.checker,
            "sources": _as_plain(self.sources),
        }
        return document | ({} if self.sites is None else {"sites": self.sites.to_document()})


def _as_plain(value: Any) -> Any:
    """Plain JSON data with sorted keys, so that equal plans are equal bytes."""
    if isinstance(value, Mapping):
        return {str(key): _as_plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_as_plain(entry) for entry in value]
    return value


def plan(campaign: Campaign, rig: Rig, seed: int) -> Plan:
    """Plan the campaign on that rig. UsageError names what the rig lacks, or what is wrong in the campaign."""
    check_support(campaign, rig)
    load_own(campaign.checker, campaign.sources)
    if campaign.sites is not None and rig.made is None:
        raise UsageError(
            f"{rig.source}: campaign {campaign.name!r} has [sites], whose brokers are made for a run, "
            f"and rig {rig.name!r} has one of its own; try --rig virtual, or --rig sim"
        )
    boards = choose_boards(rig, campaign.name, campaign.voters, campaign.learners, campaign.serial_only)
    if campaign.sites is None and rig.sites is not None:
        campaign = replace(campaign, sites=rig.sites.among(board.name for board in boards))
    random = Random(f"{campaign.name}:{seed}")
    planner = Planner(campaign, boards, random)
    planner.check_operations()
    if campaign.sites is not None:
        check_boards(campaign.sites, planner.names, campaign.source)
    drafts = [planner.draft(spec) for spec in campaign.faults]
    if campaign.nemesis:
        drafts += [planner.draft(spec) for spec in planner.draw(campaign.nemesis)]
    drafts.sort(key=lambda draft: draft.at_s)
    faults = tuple(
        PlannedFault(**{**vars(draft), "id": f"f{number:02}"}) for number, draft in enumerate(drafts, start=1)
    )
    return Plan(
        campaign=campaign.name,
        seed=seed,
        rig=rig.name,
        rung=rig.rung,
        duration_s=campaign.duration_s,
        boards=boards,
        timing=dict(campaign.timing),
        protocols=campaign.protocols,
        options=campaign.options,
        workload=asdict(campaign.workload),
        checks=asdict(campaign.checks),
        faults=faults,
        checker=campaign.checker,
        sources=campaign.sources,
        sites=campaign.sites,
    )


def load_own(checker: str | None, sources: Mapping[str, str]) -> None:
    """Make a campaign's own protocols known to this process, which may not be the one that read the campaign."""
    for file, text in sources.items():
        if file != checker:
            add(file, text)


def check_support(campaign: Campaign, rig: Rig) -> None:
    """Refuse a campaign with a kind of fault that is absent from the rig."""
    absent = [kind for kind in campaign.kinds if rig.support[kind] is Support.ABSENT]
    if absent:
        present = [kind for kind in KINDS if rig.support[kind] is not Support.ABSENT]
        raise UsageError(
            f"{rig.source}: campaign {campaign.name!r} needs the faults {', '.join(absent)}, "
            f"which rig {rig.name!r} cannot do; it has: {', '.join(present) or 'none'}"
        )


class Planner:
    """Turns specifications into planned faults, drawing what they leave open."""

    def __init__(self, campaign: Campaign, boards: Sequence[PlannedBoard], random: Random) -> None:
        self.campaign = campaign
        self.random = random
        self.names = [board.name for board in boards]
        self.voters = [board.name for board in boards if board.weight]
        self.learners = [board.name for board in boards if not board.weight]
        self.serial = [board.name for board in boards if board.mesh == "serial"]
        self._weights = {board.name: board.weight for board in boards}

    @cached_property
    def malicious(self) -> list[str]:
        """As many voters as weigh less than a third of all together, drawn once for the whole plan."""
        drawn: set[str] = set()
        weight = 0
        for name in self.random.sample(self.voters, len(self.voters)):
            if 3 * (weight + self._weights[name]) < sum(self._weights.values()):
                weight += self._weights[name]
                drawn.add(name)
        return [name for name in self.names if name in drawn]

    def _error(self, spec: FaultSpec, key: str, what: str, allowed: str) -> UsageError:
        return UsageError(f"{self.campaign.source}: {spec.place}.{key}: {what}; allowed: {allowed}")

    def check_operations(self) -> None:
        """Refuse an operation that asks a board that is not there."""
        for number, operation in enumerate(self.campaign.workload.operations):
            for name in operation.boards:
                if name not in self.names:
                    raise UsageError(
                        f"{self.campaign.source}: operation[{number}].boards: unknown board "
                        f"{name!r}{nearest(name, self.names)}; allowed: {', '.join(self.names)}"
                    )

    def draft(self, spec: FaultSpec) -> PlannedFault:
        """The fault with everything settled that can be, except its id."""
        if spec.kind in MALICE and "adversary" not in self.campaign.protocols:
            allowed = f"protocols that begin with adversary, in [campaign], or other kinds than {', '.join(MALICE)}"
            raise self._error(spec, "kind", f"{spec.kind!r} needs boards that can turn malicious", allowed)
        if spec.parameters.get("first") == HAND_OVER and "hand_over" not in self.campaign.protocols:
            allowed = "protocols with hand_over after vote or stake, in [campaign], or no `first`"
            raise self._error(spec, "first", f"{HAND_OVER!r} needs boards that can", allowed)
        if spec.kind in SITE_KINDS:
            self._check_sites(spec)
        at_s = round(spec.at_s + self.random.uniform(0.0, spec.jitter_s), 3)
        parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.parameters.items()}
        boards: tuple[str, ...] = ()
        if spec.kind == "split":
            boards, more = self._split(spec)
            parameters |= more
        elif spec.select is not None and spec.select != PROPOSER:
            boards = self._select(spec, spec.select)
        parameters |= self._conditions(spec)
        for end in ("from", "to"):
            for name in spec.parameters.get(end, ()):
                self._check_name(spec, end, name, (*self.names, HOST))
        if spec.kind == "one_way":
            boards = tuple(
                name for name in self.names if name in spec.parameters["from"] or name in spec.parameters["to"]
            )
        return PlannedFault(
            id="",
            kind=spec.kind,
            at_s=at_s,
            for_s=round(spec.for_s, 3),
            boards=boards,
            select=PROPOSER if spec.select == PROPOSER else None,
            when=spec.when,
            parameters=parameters,
        )

    def _conditions(self, spec: FaultSpec) -> dict[str, Any]:
        """What faults of flash, clock and heap have drawn by the seed; a drift that nobody could see is refused."""
        if spec.kind in ("bitrot", "pressure"):
            return {"draw": self.random.getrandbits(32)}
        if spec.kind == "worn":
            drawn = self.random.sample(range(32), int(spec.parameters.get("sectors", 24)))
            return {"which": sorted(drawn)}
        if spec.kind == "drift":
            comes_to_ms = abs(float(spec.parameters["ppm"])) * spec.for_s / 1000
            if comes_to_ms < LEAST_DRIFT_MS:
                least = int(LEAST_DRIFT_MS * 1000 / max(spec.for_s, 0.001)) + 1
                what = f"{spec.parameters['ppm']} comes to {comes_to_ms:.0f} ms in {spec.for_s} s, too little to prove"
                raise self._error(
                    spec, "ppm", what, f"{least} or more (or {-least} or less) for that time, or more time"
                )
        return {}

    def _check_sites(self, spec: FaultSpec) -> None:
        """A fault of a site's broker or of a bridge names what there is."""
        sites = self.campaign.sites
        if sites is None:
            raise self._error(spec, "kind", f"{spec.kind!r} needs sites", "a table [sites], or another kind")
        if "site" in spec.parameters and spec.parameters["site"] not in sites.names:
            raise self._error(spec, "site", f"unknown site {spec.parameters['site']!r}", ", ".join(sites.names))
        if spec.kind == "bridge" and tuple(spec.parameters["between"]) not in sites.bridges:
            bridges = "; ".join(", ".join(bridge) for bridge in sites.bridges)
            raise self._error(spec, "between", f"no bridge {', '.join(spec.parameters['between'])}", bridges)

    def _check_name(self, spec: FaultSpec, key: str, name: str, allowed: Sequence[str]) -> None:
        if name not in allowed:
            raise self._error(spec, key, f"unknown board {name!r}{nearest(name, allowed)}", ", ".join(allowed))

    def _select(self, spec: FaultSpec, select: Selector) -> tuple[str, ...]:
        """The boards that a selector comes to, in the order of the rig."""
        if not isinstance(select, str):
            for name in select:
                self._check_name(spec, "select", name, self.names)
            return tuple(name for name in self.names if name in select)
        whole = {"all": self.names, "voters": self.voters, "learners": self.learners, "serial": self.serial}
        if select in whole:
            chosen = whole[select]
        elif select.startswith(AT_SITE):
            chosen = self._at_site(spec, select.removeprefix(AT_SITE))
        elif select.startswith("random:"):
            chosen = self._draw(spec, self.names, int(select.removeprefix("random:")))
        elif select == "malicious":
            chosen = self.malicious
        else:
            voters = len(self.voters)
            sizes = {"one": 1, "minority": (voters - 1) // 2, "majority": voters // 2 + 1}
            chosen = self._draw(spec, self.voters, sizes[select])
        if not chosen:
            raise self._error(
                spec,
                "select",
                f"{select!r} comes to no board",
                f"a selector that fits {len(self.voters)} voters, {len(self.learners)} learners and "
                f"{len(self.serial)} boards on serial only",
            )
        return tuple(chosen)

    def _at_site(self, spec: FaultSpec, site: str) -> list[str]:
        sites = self.campaign.sites
        if sites is None or site not in sites.names:
            known = (
                ", ".join(AT_SITE + name for name in sites.names) if sites else "other selectors, or a table [sites]"
            )
            raise self._error(spec, "select", f"unknown site {site!r}", known)
        return list(sites.at(site, self.names))

    def _draw(self, spec: FaultSpec, names: Sequence[str], count: int) -> list[str]:
        if count > len(names):
            raise self._error(spec, "select", f"{count} of {len(names)} boards", f"up to random:{len(names)}")
        drawn = set(self.random.sample(names, count))
        return [name for name in names if name in drawn]

    def _split(self, spec: FaultSpec) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The boards that a split concerns, and its parameters: shape, groups and cuts."""
        if spec.groups is not None:
            for at, group in enumerate(spec.groups):
                for name in group:
                    self._check_name(spec, f"groups[{at}]", name, self.names)
            return self._cut_apart("groups", spec.groups)
        assert spec.shape is not None, "campaign_file asks for either shape or groups"
        if len(self.names) < 2:
            key = "kind" if spec.place != NEMESIS else "kinds"
            raise self._error(spec, key, "'split' needs 2 boards; there are 1", "other kinds, or more boards")
        least = _LEAST_VOTERS[spec.shape]
        if len(self.voters) < least:
            raise self._error(
                spec, "shape", f"{spec.shape!r} needs {least} voters; there are {len(self.voters)}", ", ".join(SHAPES)
            )
        if spec.shape == "halves":
            return self._cut_apart(spec.shape, partitions.halves(self.names, self.random))
        if spec.shape == "majority-minority":
            groups = partitions.majority_minority(self.voters, self.learners, self.random)
            return self._cut_apart(spec.shape, groups)
        if spec.shape == "ring":
            return tuple(self.voters), {"shape": "ring", "cuts": _plain_cuts(partitions.ring(self.voters, self.random))}
        cuts, middle = partitions.bridge(self.voters, self.learners, self.random)
        concerned = tuple(name for name in self.names if name != middle)
        return concerned, {"shape": "bridge", "bridge": middle, "cuts": _plain_cuts(cuts)}

    def _cut_apart(self, shape: str, groups: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], dict[str, Any]]:
        concerned = tuple(name for name in self.names if any(name in group for group in groups))
        cuts = _plain_cuts(partitions.between(groups))
        return concerned, {"shape": shape, "groups": [list(group) for group in groups], "cuts": cuts}

    # The nemesis.

    def draw(self, nemesis: NemesisSpec) -> list[FaultSpec]:
        """Faults drawn by the seed until the campaign's time is used up."""
        specs: list[FaultSpec] = []
        at_s = self.random.uniform(*nemesis.every_s)
        while True:
            kind = self.random.choice(nemesis.kinds)
            for_s = round(self.random.uniform(*nemesis.for_s), 3) if KINDS[kind].lasts else 0.0
            if at_s + for_s > self.campaign.duration_s:
                return specs
            specs.append(self._drawn(kind, round(at_s, 3), for_s))
            at_s += self.random.uniform(*nemesis.every_s)

    def _drawn(self, kind: str, at_s: float, for_s: float) -> FaultSpec:
        random = self.random
        select: Selector | None = KINDS[kind].select
        shape = None
        parameters: dict[str, Any] = {
            parameter.name: parameter.default for parameter in KINDS[kind].parameters if parameter.default is not None
        }
        if kind in ("cut", "cycle", "power_flap", "reset", "isolate", "link_flap") and len(self.voters) > 2:
            select = random.choice(("one", "one", "minority", PROPOSER))
        elif kind == "split":
            shape = random.choice([shape for shape in SHAPES if len(self.voters) >= _LEAST_VOTERS[shape]])
        elif kind == "cut_mid_write":
            parameters = {"operation": random.randint(1, 20), "byte": random.randint(0, 255)}
        elif kind == "trap":
            parameters |= {"point": random.choice(TRAP_POINTS), "count": random.randint(1, 30)}
        elif kind == "loss":
            parameters = {"percent": random.choice((5.0, 10.0, 20.0))}
        elif kind == "delay":
            parameters = {"ms": random.choice((20.0, 50.0, 100.0))}
        elif kind == "bandwidth":
            parameters = {"bytes_per_s": random.choice((4000.0, 16000.0))}
        return FaultSpec(NEMESIS, kind, at_s, for_s, select=select, shape=shape, parameters=parameters)


def _plain_cuts(cuts: Sequence[partitions.Cut]) -> list[list[list[str]]]:
    return [[list(sources), list(targets)] for sources, targets in cuts]


# From a planned fault to rules for the links.


def link_rules(fault: PlannedFault, boards: Sequence[str], names: Sequence[str]) -> list[LinkRule]:
    """The rules that carry out a fault of a link or of messages.

    boards: what its selector came to at run time. names: every board of the run.
    """
    action, amount, cuts = _action(fault, boards, names)
    return [
        LinkRule(
            id=f"{fault.id}.{number}",
            action=action,
            sources=tuple(sources),
            targets=tuple(targets),
            kinds=tuple(fault.parameters.get("kinds", ())),
            height=fault.parameters.get("height"),
            nth=fault.parameters.get("nth"),
            amount=amount,
        )
        for number, (sources, targets) in enumerate(cuts, start=1)
    ]


def _action(
    fault: PlannedFault, boards: Sequence[str], names: Sequence[str]
) -> tuple[str, float | None, Sequence[partitions.Cut]]:
    parameters = fault.parameters
    kind = fault.kind
    if kind in ("isolate", "link_flap"):
        return "drop", None, partitions.isolate(boards)
    if kind == "split":
        return "drop", None, [(tuple(sources), tuple(targets)) for sources, targets in parameters["cuts"]]
    if kind == "one_way":
        return "drop", None, partitions.one_way(parameters["from"], parameters["to"])
    if kind == "loss":
        return "loss", float(parameters["percent"]), partitions.touching(boards, names)
    if kind == "delay":
        return "delay", float(parameters["ms"]), partitions.touching(boards, names)
    if kind == "bandwidth":
        return "bandwidth", float(parameters["bytes_per_s"]), partitions.touching(boards, names)
    if kind in ("drop", "hold", "duplicate"):
        ends = partitions.one_way(parameters.get("from", names), parameters.get("to", names))
        return kind, float(parameters["copies"]) if kind == "duplicate" else None, ends
    raise ValueError(f"fault {fault.id}: {kind!r} is nothing that a link can do")
