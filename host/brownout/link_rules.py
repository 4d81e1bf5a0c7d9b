"""What a LinkRule means for one message of one directed pair, and what each rule has met so far.

Pure: no sockets and no clock of its own; the proxy asks `judge` for every PUBLISH and carries the verdict out. Every
rule that matches a message counts it, also where another rule decides: two overlapping faults must both be provable. A
drop outranks a hold, a hold outranks everything else; delays add up and copies add up. `nth` counts in each directed
pair by itself, because the order in which messages of different pairs meet is chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import cbor2

from .contracts import LinkRule
from .protocols import MESSAGE_IDS, MESSAGES

HOST = "host"
REST = "*"
ACTIONS = ("drop", "hold", "duplicate", "delay", "loss", "bandwidth", "stall", "reset")
CONNECTION_ACTIONS = ("stall", "reset")  # done to connections, not to messages
NEEDS_AMOUNT = ("delay", "loss", "bandwidth")
HEIGHT_FIELDS = ("height:", "first:")  # as a first field: the height that a message is about
KIND_AT = 5  # element of the message's array; its fields follow


@dataclass(slots=True)
class PairState:
    """One rule on one directed pair."""

    matched: int = 0
    passed: int = 0
    candidates: int = 0  # messages that fit kinds and height, of which `nth` picks one
    free_at_s: float = 0.0  # bandwidth: when the line is idle again
    random: random.Random | None = None


@dataclass
class ActiveRule:
    rule: LinkRule
    kinds: frozenset[int]
    pairs: dict[tuple[str, str], PairState] = field(default_factory=dict)

    @property
    def looks_inside(self) -> bool:
        return bool(self.kinds) or self.rule.height is not None


@dataclass(slots=True)
class Verdict:
    """What to do with one message that some rule matched."""

    drop: bool = False
    holders: set[str] | None = None  # rules that hold it
    delay_s: float = 0.0
    copies: int = 0  # beyond the first


def parse_rule(document: Mapping[str, Any], boards: Iterable[str]) -> LinkRule:
    """A LinkRule from plain data. ValueError says which key is wrong and what is allowed."""
    known = {entry.name for entry in fields(LinkRule)}
    unknown = sorted(set(document) - known)
    if unknown:
        raise ValueError(f"link rule: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(known))}")
    missing = [key for key in ("id", "action", "sources", "targets") if key not in document]
    if missing:
        raise ValueError(f"link rule: {missing[0]!r} is missing")
    values = dict(document)
    for key in ("sources", "targets", "kinds"):
        values[key] = tuple(values.get(key) or ())
    rule = LinkRule(**values)
    where = f"link rule {rule.id!r}"
    if rule.action not in ACTIONS:
        raise ValueError(f"{where}: unknown action {rule.action!r}; allowed: {', '.join(ACTIONS)}")
    endpoints = {*boards, HOST, REST}
    for name in rule.sources + rule.targets:
        if name not in endpoints:
            raise ValueError(f"{where}: unknown board {name!r}; allowed: {', '.join(sorted(endpoints))}")
    for kind in rule.kinds:
        if kind not in MESSAGE_IDS:
            raise ValueError(f"{where}: unknown kind {kind!r}; allowed: {', '.join(sorted(MESSAGE_IDS))}")
    if rule.action in NEEDS_AMOUNT and (rule.amount is None or rule.amount < 0):
        raise ValueError(f"{where}: {rule.action} needs an amount of 0 or more")
    if rule.action == "bandwidth" and not rule.amount:
        raise ValueError(f"{where}: bandwidth needs an amount above 0")
    return rule


def expand(rule: LinkRule, boards: Iterable[str]) -> list[tuple[str, str]]:
    """The directed pairs that a rule is about. "*" is every endpoint that the other side does not name."""
    everybody = [*boards, HOST]

    def side(names: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
        if REST not in names:
            return list(dict.fromkeys(names))
        return [name for name in everybody if name in names or name not in others]

    sources, targets = side(rule.sources, rule.targets), side(rule.targets, rule.sources)
    return [(source, target) for source in sources for target in targets if source != target]


def touched_boards(rule: LinkRule, boards: Iterable[str]) -> tuple[set[str], set[str]]:
    """For stall and reset: the boards whose uplink, and those whose downlink, a rule is about.

    One connection carries all pairs of a board, so only boards that are named count; "*" opposite a name adds none.
    """
    everybody = set(boards)

    def named(names: tuple[str, ...], others: tuple[str, ...]) -> set[str]:
        if REST in names and not (set(others) & everybody):
            return everybody
        return set(names) & everybody

    return named(rule.sources, rule.targets), named(rule.targets, rule.sources)


class RuleBook:
    """The rules that stand, and their counts."""

    def __init__(self, boards: Iterable[str], seed: int = 0) -> None:
        self.boards = tuple(boards)
        self._seed = seed
        self._rules: dict[str, ActiveRule] = {}
        self._by_pair: dict[tuple[str, str], list[tuple[ActiveRule, PairState]]] = {}

    def parse(self, documents: Iterable[Mapping[str, Any]]) -> list[LinkRule]:
        return [parse_rule(document, self.boards) for document in documents]

    def apply(self, rules: Iterable[LinkRule]) -> None:
        """Set rules; one with a known id takes the old one's place and counts from zero."""
        for rule in rules:
            active = ActiveRule(rule, frozenset(MESSAGE_IDS[kind] for kind in rule.kinds))
            for source, target in self._pairs(rule):
                state = PairState()
                if rule.action == "loss":
                    state.random = random.Random(f"{self._seed} {rule.id} {source} {target}")
                active.pairs[source, target] = state
            self._rules[rule.id] = active
        self._index()

    def _pairs(self, rule: LinkRule) -> list[tuple[str, str]]:
        if rule.action not in CONNECTION_ACTIONS:
            return expand(rule, self.boards)
        up, down = touched_boards(rule, self.boards)
        return [(board, HOST) for board in sorted(up)] + [(HOST, board) for board in sorted(down)]

    def clear(self, ids: Iterable[str] | None) -> list[str]:
        """Lift these rules, or all; return the ids of those that stood."""
        gone = [name for name in (list(self._rules) if ids is None else ids) if name in self._rules]
        for name in gone:
            del self._rules[name]
        self._index()
        return gone

    def ids(self) -> set[str]:
        return set(self._rules)

    def _index(self) -> None:
        self._by_pair = {}
        for active in self._rules.values():
            if active.rule.action not in CONNECTION_ACTIONS:
                for pair, state in active.pairs.items():
                    self._by_pair.setdefault(pair, []).append((active, state))

    def concerns(self, source: str, target: str) -> bool:
        return (source, target) in self._by_pair

    @property
    def judges(self) -> bool:
        """Whether any rule looks at messages at all."""
        return bool(self._by_pair)

    def judge(
        self, source: str, target: str, payload: bytes, size: int, now_s: float, seen: set[str] | None = None
    ) -> Verdict | None:
        """The verdict on one message of `size` bytes; None: no rule matches. Rules in `seen` judged it before."""
        entries = self._by_pair.get((source, target))
        if entries is None:
            return None
        verdict: Verdict | None = None
        header: tuple[int, int | None] | None = None
        for active, state in entries:
            if seen is not None and active.rule.id in seen:
                continue
            if active.looks_inside and header is None:
                header = read_header(payload)
            if not self._matches(active, state, header):
                state.passed += 1
                continue
            state.matched += 1
            verdict = verdict or Verdict()
            self._add(verdict, active.rule, state, size, now_s)
        return verdict

    @staticmethod
    def _matches(active: ActiveRule, state: PairState, header: tuple[int, int | None] | None) -> bool:
        if header is not None and active.looks_inside:
            kind, height = header
            if active.kinds and kind not in active.kinds:
                return False
            if active.rule.height is not None and height != active.rule.height:
                return False
        state.candidates += 1
        if active.rule.nth is not None and state.candidates != active.rule.nth:
            return False
        if state.random is not None:
            return state.random.random() * 100.0 < (active.rule.amount or 0.0)
        return True

    @staticmethod
    def _add(verdict: Verdict, rule: LinkRule, state: PairState, size: int, now_s: float) -> None:
        if rule.action in ("drop", "loss"):
            verdict.drop = True
        elif rule.action == "hold":
            verdict.holders = (verdict.holders or set()) | {rule.id}
        elif rule.action == "duplicate":
            verdict.copies += 1 if rule.amount is None else int(rule.amount)
        elif rule.action == "delay":
            verdict.delay_s += (rule.amount or 0.0) / 1000.0
        elif rule.action == "bandwidth" and rule.amount:
            state.free_at_s = max(state.free_at_s, now_s) + size / rule.amount
            verdict.delay_s += state.free_at_s - now_s

    # Stalls and resets.

    def directions(self, action: str) -> tuple[set[str], set[str]]:
        """The boards whose uplink, and whose downlink, rules of this action (stall or reset) stand on."""
        up: set[str] = set()
        down: set[str] = set()
        for active in self._rules.values():
            if active.rule.action == action:
                more_up, more_down = touched_boards(active.rule, self.boards)
                up |= more_up
                down |= more_down
        return up, down

    def count_connection(self, action: str, source: str, target: str) -> None:
        """Note that a connection was stalled, reset or refused."""
        for active in self._rules.values():
            if active.rule.action == action and (source, target) in active.pairs:
                active.pairs[source, target].matched += 1

    def counts(self) -> list[dict[str, Any]]:
        return [
            {
                "rule": name,
                "source": source,
                "target": target,
                "matched": state.matched,
                "passed": state.passed,
            }
            for name, active in self._rules.items()
            for (source, target), state in active.pairs.items()
        ]


def read_header(payload: bytes) -> tuple[int, int | None]:
    """(kind, height or None) of a protocol message; kind 0 for bytes that are none."""
    try:
        message = cbor2.loads(payload)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError):
        return 0, None
    if not isinstance(message, list) or len(message) <= KIND_AT or not isinstance(message[KIND_AT], int):
        return 0, None
    kind = message[KIND_AT]
    row = MESSAGES.get(kind)
    about_one = row is not None and row[2].startswith(HEIGHT_FIELDS)
    has_height = about_one and len(message) > KIND_AT + 1 and isinstance(message[KIND_AT + 1], int)
    return kind, message[KIND_AT + 1] if has_height else None
