"""A QoS-1 publish of the firmware's MQTT client, against a bare socket exchange of the same bytes with the same broker.

Both run in one MicroPython process, in turns. Must not go through the proxy: what is compared is the client.
"""

from __future__ import annotations

from .figures import Figure, side_by_side
from .workbench import Workbench

COUNT = 1500
TARGET = 2.0


def measure(bench: Workbench) -> list[Figure]:
    host, port = bench.lab("b1").broker_address()
    ours, bare = bench.run("publish_speed.py", host, port, COUNT)
    return [
        side_by_side(
            "QoS-1 publish",
            ours,
            bare,
            unit="µs",
            compared_to="bare socket, same bytes",
            target=TARGET,
            note="from publish to PUBACK, 150 bytes of payload, on MicroPython; the rest is asyncio's poll and "
            "the client's window",
        )
    ]
