"""The networks of a bench: a namespace for each gateway and each board, joined by veth pairs. Root only.

The host and the gateways share one bridge, the boards of a gateway another one inside it, so that whatever a board says
passes its gateway's nftables. Everything made here carries the bench's own prefix and is removed by that. Must not
know what runs in a namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..process import LabError

WITHIN_S = 20.0
LOCK = Path("/run/brownout-bench.lock")
NETWORKS = range(64, 128)  # second number of 10.x.0.0/16
ROOT_ADVICE = "a bench makes network namespaces: run it as root (`sudo brownout lab up --bench`)"


def run(*words: str, check: bool = True) -> str:
    """One `ip` command, or whatever else is named."""
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    if check and result.returncode:
        said = (result.stderr or result.stdout).strip()
        raise LabError(f"{' '.join(words)}: {said or result.returncode}; {ROOT_ADVICE}")
    return result.stdout


def inside(namespace: str) -> tuple[str, ...]:
    """What stands before a command that runs in that namespace."""
    return ("ip", "netns", "exec", namespace)


def hardware_address(*numbers: int) -> str:
    """The same after a reboot, as on a real machine: others remember it for a while."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0xB0, *numbers, 0))


@dataclass(frozen=True)
class Node:
    """One namespace and its address towards whoever is next."""

    name: str
    namespace: str
    address: str
    gateway: str = ""
    variables: tuple[str, ...] = ()  # NAME=VALUE, of everything that runs there

    @property
    def inside(self) -> tuple[str, ...]:
        """What stands before a command of this node's own."""
        return (*inside(self.namespace), "env", *self.variables) if self.variables else inside(self.namespace)


class Network:
    """`gateways`: name -> its boards; variables: of what runs on them. Use `make`, then `remove`.

    `remove` takes away what an earlier bench left, too.
    """

    def __init__(
        self,
        directory: Path,
        gateways: dict[str, tuple[str, ...]],
        variables: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.prefix = f"bo{zlib.crc32(str(directory).encode()) & 0xFFFF:04x}"
        self.bridge = f"{self.prefix}br"
        self._layout = gateways
        self._variables = dict(variables or {})
        self.number = 0
        self.gateways: dict[str, Node] = {}
        self.boards: dict[str, Node] = {}

    def make(self) -> None:
        """Two benches that start at once must not choose the same addresses."""
        with LOCK.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._make()

    def _make(self) -> None:
        self.remove()
        self.number = self._free_network()
        base = f"10.{self.number}"
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{base}.0.254/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for index, name in enumerate(self._layout, 1):
            self._make_gateway(index, name, base)
        for index, node in enumerate(self.gateways.values(), 1):
            run("ip", "route", "add", f"{base}.{index}.0/24", "via", node.address)
            self._add_routes(node)

    def _add_routes(self, node: Node) -> None:
        """The way from a gateway to the boards of the others."""
        for index, peer in enumerate(self.gateways.values(), 1):
            if peer is not node:
                route = f"10.{self.number}.{index}.0/24"
                run("ip", "-n", node.namespace, "route", "add", route, "via", peer.address)

    def _make_gateway(self, index: int, name: str, base: str) -> None:
        node = Node(name, f"{self.prefix}-g-{name}", f"{base}.0.{index}", variables=self._variables.get(name, ()))
        self.gateways[name] = node
        run("ip", "netns", "add", node.namespace)
        outside = f"{self.prefix}g{index}"
        address = hardware_address(self.number, index, 1)
        peer = ("peer", "name", "lan0", "address", address, "netns", node.namespace)
        run("ip", "link", "add", outside, "type", "veth", *peer)
        run("ip", "link", "set", outside, "master", self.bridge, "up")
        ip = ("ip", "-n", node.namespace)
        run(*ip, "link", "set", "lo", "up")
        run(*ip, "address", "add", f"{node.address}/24", "dev", "lan0")
        run(*ip, "link", "set", "lan0", "up")
        run(*ip, "link", "add", "boards0", "address", hardware_address(self.number, index, 2), "type", "bridge")
        run(*ip, "address", "add", f"{base}.{index}.254/24", "dev", "boards0")
        run(*ip, "link", "set", "boards0", "up")
        run(*inside(node.namespace), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for number, board in enumerate(self._layout[name], 1):
            self._make_board(board, number, node, f"{base}.{index}")

    def _make_board(self, board: str, number: int, gateway: Node, base: str) -> None:
        node = Node(board, f"{self.prefix}-b-{board}", f"{base}.{number}", gateway.name)
        if board not in self.boards:
            run("ip", "netns", "add", node.namespace)
        self.boards[board] = node
        outside = f"b{number}"
        run("ip", "-n", gateway.namespace, "link", "add", outside, "type", "veth", "peer", "name", "eth0",
            "netns", node.namespace)  # fmt: skip
        run("ip", "-n", gateway.namespace, "link", "set", outside, "master", "boards0", "up")
        ip = ("ip", "-n", node.namespace)
        run(*ip, "link", "set", "lo", "up")
        run(*ip, "address", "add", f"{node.address}/24", "dev", "eth0")
        run(*ip, "link", "set", "eth0", "up")
        run(*ip, "route", "add", "default", "via", f"{base}.254")

    @staticmethod
    def _free_network() -> int:
        """A 10.x.0.0/16 that nothing on this machine uses."""
        taken = run("ip", "-o", "-4", "address") + run("ip", "-o", "-4", "route")
        for number in NETWORKS:
            if f" 10.{number}." not in taken and f"\n10.{number}." not in taken:
                return number
        raise LabError("no free network 10.64.0.0/16 to 10.127.0.0/16: end another bench (`brownout lab down`)")

    def remove(self) -> None:
        """Remove every namespace and link with this bench's prefix."""
        for name in namespaces():
            if name.startswith(f"{self.prefix}-"):
                run("ip", "netns", "delete", name, check=False)
        with contextlib.suppress(LabError):
            run("ip", "link", "delete", self.bridge)

    def remove_gateway(self, name: str) -> None:
        """Tear one gateway's namespace down with all that is set in it; nothing runs there any more."""
        node = self.gateways[name]
        for number, _board in enumerate(self._layout[name], 1):  # by themselves they would go some time later
            run("ip", "-n", node.namespace, "link", "delete", f"b{number}")
        run("ip", "-n", node.namespace, "link", "delete", "lan0")
        run("ip", "netns", "delete", node.namespace)

    def restore_gateway(self, name: str) -> None:
        """The same gateway with a network as new; its boards are wired to it again."""
        self._make_gateway(list(self._layout).index(name) + 1, name, f"10.{self.number}")
        self._add_routes(self.gateways[name])


def namespaces() -> Sequence[str]:
    text = run("ip", "-j", "netns", "list", check=False)
    return [entry["name"] for entry in json.loads(text or "[]")]
