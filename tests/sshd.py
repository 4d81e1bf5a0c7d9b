"""A real sshd of the user's own on loopback, keys only, for tests; it ends with its context."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from brownout.rig import GatewaySpec

SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
WITHIN_S = 10.0

CONFIGURATION = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
AuthenticationMethods publickey
UsePAM no
UseDNS no
StrictModes no
PidFile none
PermitRootLogin prohibit-password
SetEnv HOME={directory}/home
MaxSessions {max_sessions}
LogLevel ERROR
"""


class Sshd:
    """`spec` is how to reach it; use as a context manager."""

    def __init__(self, directory: Path, max_sessions: int = 10) -> None:
        self.directory = directory
        self.known_hosts = directory / "known_hosts"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (directory / "home").mkdir()
        for name in ("host_key", "user_key", "other_key"):
            self._keygen(name)
        self.trust("host_key")
        (directory / "config").write_text(
            CONFIGURATION.format(port=self.port, directory=directory, max_sessions=max_sessions)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def _keygen(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)]
        subprocess.run(command, check=True)

    def trust(self, name: str) -> None:
        """Make known_hosts say that this key is the host's."""
        algorithm, key = (self.directory / f"{name}.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {algorithm} {key}\n")

    @property
    def spec(self) -> GatewaySpec:
        return GatewaySpec(
            name="east",
            transport="ssh",
            host="127.0.0.1",
            port=self.port,
            user=getpass.getuser(),
            key=str(self.directory / "user_key"),
            known_hosts=str(self.known_hosts),
        )

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def start(self) -> None:
        program = shutil.which("sshd", path=SYSTEM_PATH)
        assert program is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process = subprocess.Popen([program, "-D", "-e", "-f", str(self.directory / "config")])
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "sshd does not listen"
                time.sleep(0.01)

    def stop(self) -> None:
        """End the listener and every session of it."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.terminate()
        self._process.wait(WITHIN_S)
        for child in children:
            try:
                os.kill(int(child), 9)
            except ProcessLookupError:
                continue
        self._process = None

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self.stop()
