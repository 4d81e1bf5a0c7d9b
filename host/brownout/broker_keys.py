"""The keyring of brokers: which user, password and certificate authority go with which broker's address.

Whoever opens a connection to a broker looks its address up here; a broker that is not here is met in the clear and
without a name. Filled by whoever read the rig. Must not print, log or write down what it holds.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class BrokerKey:
    """`ca` is the path of the authority's certificate; `server` the name that the broker's own must carry."""

    user: str
    password: str = field(repr=False)
    ca: str
    server: str

    @cached_property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


_keys: dict[tuple[str, int], BrokerKey] = {}
_lock = threading.Lock()


def add(host: str, port: int, key: BrokerKey) -> None:
    with _lock:
        _keys[host, port] = key


def find(host: str, port: int) -> BrokerKey | None:
    with _lock:
        return _keys.get((host, port))
