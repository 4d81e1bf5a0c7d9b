"""The links of one gateway: the message proxy between its boards and the broker, with a lease on every rule.

    python -m brownout_virtual.bench.links --directory DIR --settings FILE

Boards connect by TLS, the broker is reached on loopback. Rules live as long as the host renews them: a host that
vanishes leaves no partition behind. Commands come through DIR/control.sock, as `linkctl` (the lab's labctl) sends them:
link apply JSON [LEASE_S], link clear [ID...], link counts, link renew LEASE_S. Must not know why a rule stands.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any

from ..process import CommandError
from ..proxy import Proxy

LEASE_S = 15.0
LONGEST_LEASE_S = 3600.0
MAX_REQUEST_BYTES = 1 << 20
ANSWER_WITHIN_S = 5.0


def _seconds(word: str) -> float:
    try:
        lease_s = float(word)
    except ValueError:
        lease_s = 0.0
    if not 0.1 <= lease_s <= LONGEST_LEASE_S:
        raise CommandError(f"a lease is 0.1 to {LONGEST_LEASE_S:.0f} seconds, not {word!r}")
    return lease_s


class Links:
    """Everything runs in the event loop's thread."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._expiry: asyncio.TimerHandle | None = None
        self.expired = 0

    def run(self, words: list[str]) -> Any:
        if len(words) < 2 or words[0] != "link" or words[1] not in ("apply", "clear", "counts", "renew", "state"):
            raise CommandError("link takes one of: apply, clear, counts, renew, state")
        action, rest = words[1], words[2:]
        if action == "apply":
            if not 1 <= len(rest) <= 2:
                raise CommandError("link apply takes a JSON list of rules, and a lease in seconds")
            lease_s = _seconds(rest[1]) if len(rest) == 2 else LEASE_S
            try:
                self._proxy.apply(json.loads(rest[0]))
            except (ValueError, TypeError) as error:
                raise CommandError(f"link apply: {error}") from error
            self._lease(lease_s)
        elif action == "clear":
            self._proxy.clear(rest or None)
        elif action == "renew":
            self._lease(_seconds(rest[0] if rest else str(LEASE_S)))
        elif action == "state":
            return {
                "connected": self._proxy.connected(),
                "rules": sorted(self._proxy.rules.ids()),
                "expired": self.expired,
            }
        return self._proxy.counts()

    def _lease(self, lease_s: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(lease_s, self._expire)

    def _expire(self) -> None:
        if self._proxy.rules.ids():
            self.expired += 1
            print("the host did not renew its rules: all are lifted", file=sys.stderr, flush=True)
        self._proxy.clear()


class Server:
    """Takes words parted by zero bytes, answers with exit code, newline and JSON, as the lab does."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                request = await asyncio.wait_for(reader.read(MAX_REQUEST_BYTES), ANSWER_WITHIN_S)
                while not reader.at_eof() and len(request) < MAX_REQUEST_BYTES:
                    request += await asyncio.wait_for(reader.read(MAX_REQUEST_BYTES), ANSWER_WITHIN_S)
                writer.write(self._answer(request.decode(errors="surrogateescape").split("\0")))
                await writer.drain()
            except (ConnectionError, TimeoutError) as error:
                print(f"a command was broken off: {error!r}", file=sys.stderr, flush=True)

    def _answer(self, words: list[str]) -> bytes:
        try:
            code, text = 0, json.dumps(self._links.run(words))
        except CommandError as error:
            code, text = 2, f"linkctl: {error}"
        return f"{code}\n{text}\n".encode(errors="surrogateescape")


async def _live(directory: Path, settings: dict[str, Any]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["certificate"], settings["key"])
    proxy = Proxy(
        settings["bed"],
        settings["boards"],
        settings["broker"][0],
        settings["broker"][1],
        seed=settings["seed"],
        listen=settings["listen"],
        tls=context,
    )
    await proxy.start(settings["ports"])
    server = await asyncio.start_unix_server(Server(Links(proxy)).serve, "control.sock", limit=MAX_REQUEST_BYTES)
    async with server:
        os.write(1, b"ready\n")
        await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m brownout_virtual.bench.links", description="Links of a gateway.")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--settings", type=Path, required=True)
    arguments = parser.parse_args()
    settings = json.loads(arguments.settings.read_text())
    os.umask(0o077)
    os.chdir(arguments.directory)
    Path("control.sock").unlink(missing_ok=True)
    asyncio.run(_live(arguments.directory, settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
