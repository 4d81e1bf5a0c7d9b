"""The gateway of a virtual lab: a user's own sshd on loopback, whose only use is to run `labctl`.

Keys only, both ways: the host key is made with the lab and pinned in `known_hosts`, the user key is the only one
let in. The daemon listens itself and starts one `sshd -i` a connection, so that none outlives it and no port is
ever raced for. Where there is no sshd, or it lets nobody in, `gateway.transport` is "local" and says why.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from .process import REAP_WITHIN_S, SYSTEM_PATH, BoundedLog, spawn

HOST = "127.0.0.1"
MAX_CONNECTIONS = 32
PRIVILEGE_SEPARATION = Path("/run/sshd")  # compiled into Debian's sshd, which wants it when root starts it
PROBE_WITHIN_S = 15.0

CONFIGURATION = """\
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
AllowUsers {user}
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserEnvironment no
PermitUserRC no
UsePAM no
UseDNS no
StrictModes no
# An empty home: a shell's start-up files cost each command tens of milliseconds.
SetEnv HOME={directory}/home
PrintMotd no
PrintLastLog no
DisableForwarding yes
PidFile none
LogLevel ERROR
LoginGraceTime 20
MaxSessions 64
"""


class Gateway:
    """Everything is called from the event loop's thread."""

    def __init__(self, directory: Path, labctl: Path, log: BoundedLog) -> None:
        self._directory = directory
        self._labctl = labctl
        self._log = log
        self._socket: socket.socket | None = None
        self._sessions: list[subprocess.Popen[bytes]] = []
        self._sshd: str | None = None
        self.port: int | None = None
        self.user = ""
        self.reason: str | None = None

    async def start(self, *, wanted: bool = True) -> None:
        """Listen, and see that a command gets through."""
        if not wanted:
            self.reason = "a local gateway was asked for"
            return
        self._sshd = shutil.which("sshd", path=SYSTEM_PATH)
        keygen = shutil.which("ssh-keygen", path=SYSTEM_PATH)
        if self._sshd is None or keygen is None:
            self.reason = "no openssh-server on this machine"
            return
        try:
            self.user = pwd.getpwuid(os.geteuid()).pw_name
            self._listen()
            self._make_files(keygen)
        except KeyError:
            self.reason = f"user {os.geteuid()} has no account here"
            return
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            self.reason = f"sshd could not be set up: {error}"
            return
        complaint = await self._probe()
        if complaint is not None:
            self.close()
            self.reason = complaint

    def _listen(self) -> None:
        self._socket = socket.create_server((HOST, 0), backlog=64)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _make_files(self, keygen: str) -> None:
        directory = self._directory
        (directory / "home").mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        for name, comment in (("host_key", "brownout virtual lab"), ("user_key", "brownout host")):
            if not (directory / name).exists():
                command = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(directory / name)]
                subprocess.run(command, check=True, capture_output=True)
        (directory / "authorized_keys").write_text((directory / "user_key.pub").read_text())
        algorithm, key = (directory / "host_key.pub").read_text().split()[:2]
        (directory / "known_hosts").write_text(f"[{HOST}]:{self.port} {algorithm} {key}\n")
        (directory / "sshd_config").write_text(CONFIGURATION.format(directory=directory, user=self.user))

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        with connection:
            self.check()
            if len(self._sessions) >= MAX_CONNECTIONS or self._sshd is None:
                return
            connection.setblocking(True)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            log = self._log.writer()
            try:
                command = [self._sshd, "-i", "-e", "-f", str(self._directory / "sshd_config")]
                self._sessions.append(spawn(command, stdin=connection.fileno(), stdout=connection.fileno(), stderr=log))
            finally:
                os.close(log)

    async def _probe(self) -> str | None:
        """Run one command through ssh; what stands in the way, or None. An account may be locked, a shell missing."""
        ssh = shutil.which("ssh", path=SYSTEM_PATH)
        if ssh is None:
            return None
        process = await asyncio.create_subprocess_exec(
            *self.ssh_command(ssh), "true", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, said = await asyncio.wait_for(process.communicate(), PROBE_WITHIN_S)
        except TimeoutError:
            process.kill()
            return f"sshd did not let anybody in within {PROBE_WITHIN_S} s"
        if process.returncode == 0:
            return None
        lines = said.decode(errors="replace").strip().splitlines() or ["ssh said nothing"]
        return f"sshd lets nobody in: {lines[-1].rstrip('.')} (its own log: {self._log.tail()})"

    def ssh_command(self, ssh: str = "ssh") -> list[str]:
        """How to reach this gateway with the ssh client."""
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f"{self._directory}/known_hosts",
            "GlobalKnownHostsFile": os.devnull,
        }
        command = [ssh, "-F", os.devnull, "-p", str(self.port), "-i", f"{self._directory}/user_key"]
        for option, value in options.items():
            command += ["-o", f"{option}={value}"]
        return [*command, f"{self.user}@{HOST}"]

    def to_document(self) -> dict[str, Any]:
        """What a host needs to reach it; for lab.json."""
        document: dict[str, Any] = {"transport": "ssh" if self.port else "local", "labctl": str(self._labctl)}
        if self.port is None:
            return {**document, "reason": self.reason}
        document.update(host=HOST, port=self.port, user=self.user, key=str(self._directory / "user_key"))
        document["known_hosts"] = str(self._directory / "known_hosts")
        return document

    def check(self) -> None:
        """A child has ended; forget connections that are over."""
        self._sessions = [session for session in self._sessions if session.poll() is None]

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = self.port = None
        for session in self._sessions:
            session.kill()
            session.wait(REAP_WITHIN_S)
        self._sessions.clear()
