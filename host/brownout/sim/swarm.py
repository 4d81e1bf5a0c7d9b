"""Draws one run of a swarm from a campaign and a seed: fewer boards, some faults, other load, timings and weather.

Swarm testing: every seed leaves most of what is possible out, since what a run does all the time hides what it would
have met without (Groce et al., Swarm Testing, ISSTA 2012). Pure: campaign and seed in, a campaign and weather out. What
is drawn stays within the campaign's limits: its boards, its kinds of faults, its load. Must not simulate anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from brownout_node.core.config import Config

from ..campaign_file import Campaign, ChecksSpec, FaultSpec, NemesisSpec, Selector
from ..fault_kinds import AT_SITE, HOST, KINDS, NEMESIS_KINDS
from ..faults import Planner
from ..injector import LINK_FAULTS, POWER_FAULTS
from ..rig import PlannedBoard
from ..workload import WorkloadPlan
from .network import Weather

SHORTEST_S, LONGEST_S = 3.0, 6.0  # of the time under faults
PROGRESS_WITHIN_S = 5.0  # in virtual time; nobody's machine is slow here
CONVERGE_WITHIN_S = 8.0
REROUTE_WITHIN_S = 2.0
MOST_LEARNERS = 8  # a crowd of learners costs time and adds no new course of events
CORE_SHARE = 0.3  # of the runs: how many end with a minority still away
LEAST_WITH_MALICE = 4  # voters, of which one weighs less than a third
CORE_MARGIN_S = 1.0  # for boards that were healed last to boot
FACTORS = (0.5, 0.75, 1.0, 1.0, 1.5, 2.0)  # of what a timing is otherwise
TIMINGS_TOGETHER = (
    ("propose_timeout_ms", "vote_timeout_ms", "timeout_step_ms"),
    ("resend_ms",),
    ("fetch_period_ms",),
    ("gossip_period_ms", "sync_period_ms"),
    ("probe_period_ms", "probe_timeout_ms", "suspicion_ms"),
)


@dataclass(frozen=True)
class Drawn:
    """One run of a swarm: what `faults.plan` takes, and the weather of its network."""

    campaign: Campaign
    weather: Weather


def draw(campaign: Campaign, seed: int) -> Drawn:
    """The run that this seed stands for; the same for the same campaign and seed."""
    return _Drawing(campaign, Random(f"swarm {campaign.name}:{seed}")).draw()


class _Drawing:
    def __init__(self, campaign: Campaign, random: Random) -> None:
        self.campaign = campaign
        self.random = random
        self.voters = random.randint(min(3, campaign.voters), campaign.voters)
        self.learners = random.randint(0, min(MOST_LEARNERS, campaign.learners))
        if campaign.workload.operations:  # which name the boards that they ask
            self.voters, self.learners = campaign.voters, campaign.learners
        self.names = [f"b{number}" for number in range(1, self.voters + self.learners + 1)]
        shortest_s, longest_s = (min(bound, campaign.duration_s) for bound in (SHORTEST_S, LONGEST_S))
        self.faulty_s = round(random.uniform(shortest_s, longest_s), 3)

    def draw(self) -> Drawn:
        campaign, random = self.campaign, self.random
        faults = [*self._scripted(), *self._seeded()]
        duration_s = self.faulty_s
        core = self._core() if random.random() < CORE_SHARE else None
        if core is not None:
            faults.append(core)
            duration_s += core.for_s
        serial_only = random.randint(0, min(campaign.serial_only, len(self.names)))
        timing = self._timing()
        drawn = replace(
            campaign,
            duration_s=round(duration_s, 3),
            voters=self.voters,
            learners=self.learners,
            serial_only=serial_only,
            timing=timing,
            workload=self._workload(),
            faults=tuple(faults),
            nemesis=None,
            sites=None if campaign.sites is None else campaign.sites.among(self.names),
            checks=ChecksSpec(
                min(self._progress_s() * self._slower(timing), campaign.checks.progress_within_s),
                min(CONVERGE_WITHIN_S, campaign.checks.converge_within_s),
                operations_at_least=1,
                reroute_within_s=min(REROUTE_WITHIN_S, campaign.checks.reroute_within_s),
            ),
        )
        return Drawn(drawn, self._weather())

    # Faults.

    def _scripted(self) -> list[FaultSpec]:
        """Some of the campaign's own faults, at other times, for other times, against other boards."""
        random = self.random
        share = random.choice((0.25, 0.5, 0.5, 0.75, 1.0))
        chosen = [fault for fault in self.campaign.faults if random.random() < share]
        moved = [fault for one in chosen if (fault := self._moved(one)) is not None]
        return self._wipes_bounded(moved)

    def _wipes_bounded(self, faults: list[FaultSpec]) -> list[FaultSpec]:
        """A majority that loses its journals, one after the other or at once, is beyond what any replica can stand."""
        minority = (self.voters - 1) // 2
        kept, wiped = [], 0
        for fault in faults:
            if fault.kind in ("wipe", "restore", "bitrot"):
                sizes = {"one": 1, "proposer": 1, "minority": minority, "learners": 0}
                size = (
                    len(fault.select) if isinstance(fault.select, tuple) else sizes.get(str(fault.select), self.voters)
                )
                if wiped + size > minority:
                    continue
                wiped += size
            kept.append(fault)
        return kept

    def _moved(self, fault: FaultSpec) -> FaultSpec | None:
        random = self.random
        for_s = min(fault.for_s * random.uniform(0.3, 1.2), 0.7 * self.faulty_s) if fault.for_s else 0.0
        for_s = round(max(for_s, 0.05), 3) if KINDS[fault.kind].lasts else 0.0
        at_s = round(random.uniform(0.1, max(0.1, self.faulty_s - for_s)), 3)
        parameters = dict(fault.parameters)
        for end in ("from", "to"):
            if end in parameters:
                parameters[end] = self._present(parameters[end], (*self.names, HOST))
        if fault.kind == "one_way" and parameters["from"] == parameters["to"]:
            return None
        if fault.kind == "cut_mid_write":
            parameters |= {"operation": random.randint(1, 20), "byte": random.randint(0, 255)}
        elif "count" in parameters:
            parameters["count"] = random.randint(1, 30)
        select: Selector | None = fault.select
        if select == "malicious" and self.voters < LEAST_WITH_MALICE:
            return None  # nobody may be
        if isinstance(select, tuple):
            select = tuple(random.sample(self.names, min(len(select), len(self.names))))
        elif select is not None and not self._fits(select):
            select = "one"
        shape, groups = fault.shape, fault.groups
        if fault.kind == "split":
            if len(self.names) < 2:
                return None
            shape, groups = self._shape(fault)
        return replace(
            fault,
            at_s=at_s,
            for_s=for_s,
            jitter_s=0.0,
            select=select,
            shape=shape,
            groups=groups,
            parameters=parameters,
        )

    def _fits(self, select: str) -> bool:
        count = select.removeprefix("random:")
        if count != select:
            return int(count) <= len(self.names)
        if select == "learners":
            return self.learners > 0
        if select.startswith(AT_SITE):
            sites = self.campaign.sites
            return sites is not None and bool(sites.at(select.removeprefix(AT_SITE), self.names))
        return select != "serial" and not (select == "minority" and self.voters < 3)

    def _present(self, names: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
        """So many names, those that are there first."""
        left = [name for name in names if name in allowed]
        return tuple(left) or (self.random.choice(self.names),)

    def _shape(self, fault: FaultSpec) -> tuple[str | None, tuple[tuple[str, ...], ...] | None]:
        """The split's own shape where there are voters enough for it, else two sides."""
        if fault.shape is not None:
            return (fault.shape if self.voters >= 4 or fault.shape == "halves" else "halves"), None
        names = list(self.names)
        self.random.shuffle(names)
        middle = self.random.randint(1, len(names) - 1)
        return None, (tuple(names[:middle]), tuple(names[middle:]))

    def _seeded(self) -> list[FaultSpec]:
        """What a nemesis with some of the campaign's kinds does in the time under faults."""
        random = self.random
        allowed = [kind for kind in self.campaign.kinds if kind in NEMESIS_KINDS]
        if len(self.names) < 2:
            allowed = [kind for kind in allowed if kind != "split"]
        kinds = tuple(kind for kind in allowed if random.random() < 0.5)
        if not kinds:
            return []
        every_s = random.choice((0.5, 1.0, 2.0))
        for_s = random.choice((0.2, 0.5, 1.5))
        boards = [
            PlannedBoard(number, name, 1 if number <= self.voters else 0, "mqtt", "")
            for number, name in enumerate(self.names, 1)
        ]
        planner = Planner(replace(self.campaign, duration_s=self.faulty_s), boards, random)
        return planner.draw(NemesisSpec(kinds, (0.5 * every_s, 1.5 * every_s), (0.3 * for_s, 1.5 * for_s)))

    def _core(self) -> FaultSpec | None:
        """A minority that stays away while everybody else is healed: the majority has to get on without it."""
        kinds = [
            kind for kind, like in (("cut", POWER_FAULTS), ("isolate", LINK_FAULTS)) if like & set(self.campaign.kinds)
        ]
        if "work" in self.campaign.protocols:
            # A side that mines alone for so long is beyond what confirmations promise; who is off mines nothing.
            kinds = [kind for kind in kinds if kind != "isolate"]
        if self.voters < 3 or not kinds:
            return None
        for_s = min(self._progress_s(), self.campaign.checks.progress_within_s) + CORE_MARGIN_S
        return FaultSpec("core", self.random.choice(kinds), self.faulty_s, for_s, select="minority")

    def _progress_s(self) -> float:
        """How soon things have to go on. Blocks come at random, so a chain has twice the time."""
        if "work" in self.campaign.protocols:
            return 2 * PROGRESS_WITHIN_S
        return PROGRESS_WITHIN_S

    # Everything else.

    def _timing(self) -> dict[str, int]:
        timing = dict(self.campaign.timing)
        usual = Config({"cluster": 0, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]], **timing})
        for names in TIMINGS_TOGETHER:
            factor = self.random.choice(FACTORS)
            if factor != 1.0:
                timing |= {name: max(10, round(getattr(usual, name) * factor)) for name in names}
        return timing

    def _slower(self, timing: dict[str, int]) -> float:
        """How many times longer a round's time-outs are than usual: a lock may cost a turn of all proposers."""
        document = {"cluster": 0, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]]}
        drawn, usual = Config({**document, **timing}), Config(document)
        return max(1.0, float(drawn.propose_timeout_ms / usual.propose_timeout_ms))

    def _workload(self) -> WorkloadPlan:
        random, limit = self.random, self.campaign.workload
        mix: dict[str, Any] = {
            name: weight * random.choice((0.25, 1.0, 1.0, 4.0)) for name, weight in limit.mix.items()
        }
        return replace(
            limit,
            clients=random.randint(min(1, limit.clients), limit.clients),
            operations_per_s=round(limit.operations_per_s * random.uniform(0.3, 1.0), 3),
            keys=random.randint(1, limit.keys),
            mix=mix,
            rumours_per_s=round(limit.rumours_per_s * random.choice((0.0, 0.5, 1.0, 1.0)), 3),
            deletes=round(min(1.0, limit.deletes * random.choice((0.5, 1.0, 2.0))), 3),
        )

    def _weather(self) -> Weather:
        """Over with the faulty phase: progress within a bound is promised only where messages arrive.

        (Partial synchrony: Dwork, Lynch, Stockmeyer, "Consensus in the presence of partial synchrony", JACM 35, 1988.)
        """
        random = self.random
        if random.random() < 0.5:
            return Weather()
        percents = (0.0, 0.0, 1.0, 3.0, 10.0)
        return Weather(
            loss_percent=random.choice(percents),
            duplicate_percent=random.choice(percents),
            late_percent=random.choice(percents),
            late_ms=random.choice((20.0, 200.0, 1000.0)),
            until_s=self.faulty_s,
        )
