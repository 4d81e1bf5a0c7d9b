"""Links of a bench: the proxy where the broker is judges messages, nftables on a board's own gateway cuts it off.

    linkctl link apply JSON LEASE_S, link clear ID..., link counts, link renew LEASE_S
    nft add element inet brownout up { ADDRESS timeout 10s }

Everything that is set has an end: the host renews it for as long as it lives, so gateways undo partitions by themselves
when it vanishes (the dead man's switch). Must not leave a rule without a lease.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..contracts import Gateway, LinkCount, LinkRule, RigError, Support

KINDS = ("isolate", "split", "one_way", "loss", "delay", "bandwidth", "link_flap", "drop", "hold", "duplicate")
HOST = "host"
TABLE = """\
add table inet brownout
add set inet brownout up { type ipv4_addr; flags timeout; counter; }
add set inet brownout down { type ipv4_addr; flags timeout; counter; }
flush table inet brownout
"""
_CHAINS = "".join(
    f"add chain inet brownout {hook} {{ type filter hook {hook} priority 0; }}\n"
    + "".join(
        f"add rule inet brownout {hook} {side} @{name} meta l4proto tcp reject with tcp reset\n"
        f"add rule inet brownout {hook} {side} @{name} drop\n"
        for side, name in (("ip saddr", "up"), ("ip daddr", "down"))
        if not (hook == "input" and name == "down") and not (hook == "output" and name == "up")
    )
    for hook in ("input", "forward", "output")
)
RULESET = TABLE + _CHAINS
RENEWALS = 3  # in the time of one lease


def set_elements(name: str, addresses: Sequence[str], lease_s: float) -> list[str]:
    """The command that isolates these addresses for the time, or goes on doing so."""
    elements = ", ".join(f"{ipaddress.IPv4Address(address)} timeout {max(1, round(lease_s))}s" for address in addresses)
    return ["nft", f"add element inet brownout {name} {{ {elements} }}"]


def remove_elements(name: str, addresses: Sequence[str]) -> list[str]:
    """The command that lets them go; no error where they have gone by themselves."""
    plain = ", ".join(str(ipaddress.IPv4Address(address)) for address in addresses)
    timed = ", ".join(f"{ipaddress.IPv4Address(address)} timeout 1s" for address in addresses)
    lines = (f"add element inet brownout {name} {{ {timed} }}", f"delete element inet brownout {name} {{ {plain} }}")
    return ["nft", "; ".join(lines)]


def read_elements(text: str) -> dict[str, int]:
    """address -> packets that met it, of `nft -j list set`."""
    try:
        entries = [entry["set"] for entry in json.loads(text)["nftables"] if "set" in entry]
        elements = [element["elem"] for entry in entries for element in entry.get("elem", [])]
        return {element["val"]: int(element["counter"]["packets"]) for element in elements}
    except (ValueError, KeyError, TypeError) as error:
        raise RigError(f"nft answered {text[:100]!r}", definite=False) from error


class Isolation:
    """Rules that nftables carries out: whole boards, cut off from everybody in one direction or the other."""

    def __init__(self, addresses: Mapping[str, str], home: Mapping[str, Gateway], lease_s: float) -> None:
        self._addresses = addresses
        self._home = home
        self._lease_s = lease_s
        self._rules: dict[str, tuple[str, tuple[str, ...]]] = {}  # id -> set, boards
        self._prepared: set[str] = set()

    def takes(self, rule: LinkRule) -> bool:
        if rule.action != "drop" or rule.kinds or rule.height is not None or rule.nth is not None:
            return False
        if rule.targets == ("*",):
            return set(rule.sources) <= set(self._addresses)
        return rule.sources == ("*",) and set(rule.targets) <= set(self._addresses)

    def apply(self, rule: LinkRule) -> None:
        name, boards = ("up", rule.sources) if rule.targets == ("*",) else ("down", rule.targets)
        self._rules[rule.id] = (name, boards)
        for gateway, addresses in self._by_gateway(boards):
            if gateway.name not in self._prepared:
                gateway.run(["nft", RULESET])
                self._prepared.add(gateway.name)
            gateway.run(set_elements(name, addresses, self._lease_s))

    def _by_gateway(self, boards: Sequence[str]) -> list[tuple[Gateway, list[str]]]:
        grouped: dict[str, tuple[Gateway, list[str]]] = {}
        for board in boards:
            gateway = self._home[board]
            grouped.setdefault(gateway.name, (gateway, []))[1].append(self._addresses[board])
        return list(grouped.values())

    def clear(self, ids: Sequence[str]) -> None:
        for name, boards in [self._rules.pop(rule) for rule in ids if rule in self._rules]:
            kept = {board for other, those in self._rules.values() if other == name for board in those}
            for gateway, addresses in self._by_gateway([board for board in boards if board not in kept]):
                done = gateway.run(remove_elements(name, addresses), check=False)
                if done.exit_code and self._table(gateway):
                    raise RigError(f"gateway {gateway.name}: nft: {done.stderr.strip()[-300:]}", definite=False)

    def clear_all(self) -> int:
        """Whatever any host has left on these gateways; how many addresses were still cut off."""
        self._rules.clear()
        self._prepared.clear()
        left, failures = 0, []
        for gateway in {gateway.name: gateway for gateway in self._home.values()}.values():
            try:
                if self._table(gateway):
                    left += sum(len(self._elements(gateway, name)) for name in ("up", "down"))
                    gateway.run(["nft", "delete table inet brownout"])
            except RigError as error:
                failures.append(str(error))
        if failures:
            raise RigError("; ".join(failures), definite=False)
        return left

    def _table(self, gateway: Gateway) -> bool:
        """Whether the gateway has our table; it is gone when the gateway was restarted."""
        there = gateway.run(["nft", "list table inet brownout"], check=False).exit_code == 0
        if not there:
            self._prepared.discard(gateway.name)
        return there

    @staticmethod
    def _elements(gateway: Gateway, name: str) -> dict[str, int]:
        return read_elements(gateway.run(["nft", "-j", f"list set inet brownout {name}"]).stdout)

    def renew(self) -> None:
        for name, boards in list(self._rules.values()):
            for gateway, addresses in self._by_gateway(boards):
                gateway.run(set_elements(name, addresses, self._lease_s))

    def standing(self) -> bool:
        return bool(self._rules)

    def counts(self) -> list[LinkCount]:
        counts = []
        for rule, (name, boards) in list(self._rules.items()):
            packets: dict[str, int] = {}
            for gateway, addresses in self._by_gateway(boards):
                found = self._elements(gateway, name) if self._table(gateway) else {}
                if set(addresses) - set(found):
                    raise RigError(f"gateway {gateway.name}: {', '.join(boards)}: {_ended_early()}", definite=False)
                packets |= found
            for board in boards:
                matched = packets[self._addresses[board]]
                pair = (board, HOST) if name == "up" else (HOST, board)
                counts.append(LinkCount(rule, *pair, matched=matched, passed=0))
        return counts


class BenchLink:
    """Satisfies contracts.Link. isolation: None where the proxy does everything."""

    def __init__(
        self,
        gateway: Gateway,
        control: str,
        lease_s: float,
        isolation: Isolation | None,
        support: Mapping[str, Support],
    ) -> None:
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}
        self._gateway = gateway
        self._control = control
        self._lease_s = lease_s
        self._isolation = isolation
        self._by_proxy: set[str] = set()
        self._by_nft: set[str] = set()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._keeper: threading.Thread | None = None
        self.renewal_failed: str | None = None

    def _ask(self, *words: str) -> Any:
        result = self._gateway.run([self._control, "link", *words])
        try:
            return json.loads(result.stdout)
        except ValueError:
            raise RigError(
                f"gateway {self._gateway.name}: linkctl {words[0]} answered {result.stdout[:100]!r}", definite=False
            ) from None

    def apply(self, rules: Sequence[LinkRule]) -> None:
        if not rules:
            return
        with self._lock:
            cut = [rule for rule in rules if self._isolation is not None and self._isolation.takes(rule)]
            rest = [rule for rule in rules if rule not in cut]
            if rest:
                text = json.dumps([asdict(rule) for rule in rest])
                standing = {count.rule for count in _counts(self._ask("apply", text, f"{self._lease_s:g}"))}
                missing = [rule.id for rule in rest if rule.id not in standing]
                if missing:
                    raise RigError(f"link apply: the rules {', '.join(missing)} do not stand", definite=False)
                self._by_proxy |= {rule.id for rule in rest}
            for rule in cut:
                assert self._isolation is not None
                self._isolation.apply(rule)
                self._by_nft.add(rule.id)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="link leases", daemon=True)
                self._keeper.start()

    def clear(self, ids: Sequence[str] | None = None) -> None:
        if ids is not None and not ids:
            return
        with self._lock:
            if ids is None:
                self._clear_all()
                return
            if self._isolation is not None:
                self._isolation.clear([rule for rule in ids if rule in self._by_nft])
            by_proxy = [rule for rule in ids if rule not in self._by_nft]
            if by_proxy:
                standing = {count.rule for count in _counts(self._ask("clear", *by_proxy))}
                left = standing & set(by_proxy)
                if left:
                    raise RigError(f"link clear: the rules {', '.join(sorted(left))} still stand", definite=False)
            self._by_nft -= set(ids)
            self._by_proxy -= set(ids)

    def _clear_all(self) -> None:
        """Everything, whoever set it; a gateway that does not answer holds up no other."""
        self._by_nft.clear()
        self._by_proxy.clear()  # nobody renews them from now on, so they end by themselves if they cannot be reached
        failures = []
        for clear in (self._isolation.clear_all if self._isolation is not None else None, lambda: self._ask("clear")):
            try:
                if clear is not None:
                    clear()
            except RigError as error:
                failures.append(str(error))
        if failures:
            raise RigError("; ".join(failures), definite=False)

    def counts(self) -> list[LinkCount]:
        with self._lock:
            counts = _counts(self._ask("counts"))
            ended = self._by_proxy - {count.rule for count in counts}
            if ended:
                raise RigError(
                    f"gateway {self._gateway.name}: rules {', '.join(sorted(ended))}: {_ended_early()}", definite=False
                )
            return counts + (self._isolation.counts() if self._isolation is not None else [])

    def _keep(self) -> None:
        """Renew what stands, well before it runs out."""
        while not self._over.wait(self._lease_s / RENEWALS):
            with self._lock:
                try:
                    if self._by_proxy:
                        self._ask("renew", f"{self._lease_s:g}")
                    if self._isolation is not None and self._isolation.standing():
                        self._isolation.renew()
                    self.renewal_failed = None
                except RigError as error:  # the counters will show what has healed by itself
                    self.renewal_failed = str(error)

    def close(self) -> None:
        self._over.set()
        if self._keeper is not None:
            self._keeper.join(5.0)


def _ended_early() -> str:
    return (
        "the cut ended before its time: its gateway was restarted, or did not answer for so long that the lease ran "
        "out; what was seen since says nothing, run it again (lease_s in [links] may be longer)"
    )


def _counts(answer: Any) -> list[LinkCount]:
    try:
        return [LinkCount(**entry) for entry in answer]
    except TypeError as error:
        raise RigError(f"linkctl answered something else than counts: {error}", definite=False) from error
