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
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Node:
    """One namespace and its address towards whoever is next."""

    name: str
    namespace: str
    address: str
    gateway: str = ""


class Network:
    """`gateways`: name -> its boards. Use `make`, then `remove`, which also removes what an earlier bench left."""

    def __init__(self, directory: Path, gateways: dict[str, tuple[str, ...]]) -> None:
        self.prefix = f"bo{zlib.crc32(str(directory).encode()) & 0xFFFF:04x}"
        self.bridge = f"{self.prefix}br"
        self._layout = gateways
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
            for other, peer in enumerate(self.gateways.values(), 1):
                if other != index:
                    run("ip", "-n", node.namespace, "route", "add", f"{base}.{other}.0/24", "via", peer.address)

    def _make_gateway(self, index: int, name: str, base: str) -> None:
        node = Node(name, f"{self.prefix}-g-{name}", f"{base}.0.{index}")
        self.gateways[name] = node
        run("ip", "netns", "add", node.namespace)
        outside = f"{self.prefix}g{index}"
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", "lan0", "netns", node.namespace)
        run("ip", "link", "set", outside, "master", self.bridge, "up")
        ip = ("ip", "-n", node.namespace)
        run(*ip, "link", "set", "lo", "up")
        run(*ip, "address", "add", f"{node.address}/24", "dev", "lan0")
        run(*ip, "link", "set", "lan0", "up")
        run(*ip, "link", "add", "boards0", "type", "bridge")
        run(*ip, "address", "add", f"{base}.{index}.254/24", "dev", "boards0")
        run(*ip, "link", "set", "boards0", "up")
        run(*inside(node.namespace), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for number, board in enumerate(self._layout[name], 1):
            self._make_board(board, number, node, f"{base}.{index}")

    def _make_board(self, board: str, number: int, gateway: Node, base: str) -> None:
        node = Node(board, f"{self.prefix}-b-{board}", f"{base}.{number}", gateway.name)
        self.boards[board] = node
        run("ip", "netns", "add", node.namespace)
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
        """Tear one gateway's network down, as a reboot does."""
        run("ip", "-n", self.gateways[name].namespace, "link", "set", "lan0", "down")

    def restore_gateway(self, name: str) -> None:
        """The gateway is back; its routes went with the link."""
        node = self.gateways[name]
        run("ip", "-n", node.namespace, "link", "set", "lan0", "up")
        for other, peer in enumerate(self.gateways.values(), 1):
            if peer is not node:
                route = f"10.{self.number}.{other}.0/24"
                run("ip", "-n", node.namespace, "route", "replace", route, "via", peer.address)


def namespaces() -> Sequence[str]:
    text = run("ip", "-j", "netns", "list", check=False)
    return [entry["name"] for entry in json.loads(text or "[]")]
