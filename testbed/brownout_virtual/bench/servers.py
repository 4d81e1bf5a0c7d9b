"""The servers of a bench, each in a gateway's namespace: sshd, mosquitto with TLS, and the links' proxy.

Everything is a child of the bench's daemon and dies with it. Must not know boards beyond their names and ports.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from brownout import bench_ca

from ..broker import Broker, _mosquitto_version
from ..directory import LONGEST_INTERPRETER
from ..process import REAP_WITHIN_S, SYSTEM_PATH, BoundedLog, LabError, spawn
from ..sshd import PRIVILEGE_SEPARATION
from .namespaces import Node

SSH_PORT = 22
BROKER_PORT = 8883
PLAIN_PORT = 1883  # on the gateway's loopback only, for the proxy
FIRST_LINK_PORT = 9001
READY_WITHIN_S = 15.0
UNIT = "mosquitto"

SSHD = """\
ListenAddress {address}
Port {port}
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
SetEnv HOME={directory}/home PATH={bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin{variables}
PrintMotd no
PrintLastLog no
DisableForwarding yes
PidFile none
LogLevel ERROR
LoginGraceTime 20
MaxSessions 64
MaxStartups 100
"""

MOSQUITTO = """\
per_listener_settings false
allow_anonymous false
password_file {directory}/users
acl_file {directory}/acl
persistence false
set_tcp_nodelay true
log_dest stderr
log_type error
max_queued_messages 1000
user root
listener {tls_port} 0.0.0.0
certfile {secrets}/server.pem
keyfile {secrets}/server.key
listener {plain_port} 127.0.0.1
"""


def program(name: str) -> str:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise LabError(f"no `{name}` on this machine: a bench needs iproute2, nftables, openssh-server and mosquitto")
    return found


def install_script(source: Path, target: Path) -> None:
    """A script with this interpreter, executable."""
    interpreter = f"{Path(sys.executable).resolve()} -IS"
    if len(interpreter) > LONGEST_INTERPRETER or interpreter.count(" ") > 1:
        raise LabError(f"{sys.executable}: the path of Python is too long or has spaces: use a shorter one")
    target.write_text(f"#!{interpreter}\n" + source.read_text().partition("\n")[2])
    target.chmod(0o700)


class GatewaySshd:
    """A real sshd in a gateway's namespace. `spec` is what a rig file says of it."""

    def __init__(self, node: Node, directory: Path, user: str, user_key: Path, log: BoundedLog) -> None:
        self._node = node
        self._directory = directory
        self._log = log
        self._user_key = user_key
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def make_files(self) -> str:
        """Keys and configuration; the line of known_hosts."""
        directory = self._directory
        (directory / "home").mkdir(parents=True, exist_ok=True)
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        make_key(directory / "host_key", "brownout bench gateway")
        (directory / "authorized_keys").write_text(self._user_key.with_suffix(".pub").read_text())
        (directory / "sshd_config").write_text(
            SSHD.format(
                address=self._node.address,
                port=SSH_PORT,
                directory=directory,
                user=self._user,
                bin=directory / "bin",
                variables="".join(f" {variable}" for variable in self._node.variables),
            )
        )
        algorithm, key = (directory / "host_key.pub").read_text().split()[:2]
        return f"{self._node.address} {algorithm} {key}\n"

    def start(self) -> None:
        log = self._log.writer()
        command = [*self._node.inside, program("sshd"), "-D", "-e", "-f"]
        try:
            self._process = spawn([*command, str(self._directory / "sshd_config")], stderr=log)
        finally:
            os.close(log)

    def stop(self) -> None:
        """End the listener; its sessions end with their network, or with `end_all` of the namespace."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(REAP_WITHIN_S)
            self._process = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def check(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._process = None


def make_key(path: Path, comment: str) -> None:
    if not path.exists():
        command = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        subprocess.run(command, check=True, capture_output=True)


class BenchBroker(Broker):
    """mosquitto with TLS, a password for each board and an access list by board."""

    def __init__(self, node: Node, directory: Path, secrets: Path, acl: str, log: BoundedLog) -> None:
        self.port = BROKER_PORT
        self.host = node.address
        self.starts = 0
        self._log = log
        self._process = None
        self._exit = None
        self._lifeline = None
        mosquitto = program("mosquitto")
        self.kind, self.version = "mosquitto", _mosquitto_version(mosquitto)
        (directory / "acl").write_text(acl)
        passwords: dict[str, str] = json.loads((secrets / "passwords.json").read_text())
        bench_ca.private(directory / "users", "".join(f"{u}:{p}\n" for u, p in passwords.items()).encode())
        subprocess.run([program("mosquitto_passwd"), "-U", str(directory / "users")], check=True, capture_output=True)
        configuration = MOSQUITTO.format(
            directory=directory, secrets=secrets, tls_port=BROKER_PORT, plain_port=PLAIN_PORT
        )
        (directory / "mosquitto.conf").write_text(configuration)
        self._command = [*node.inside, mosquitto, "-c", str(directory / "mosquitto.conf")]

    async def listening(self) -> bool:
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_connection(self.host, self.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


class LinkServer:
    """The links' proxy of the gateway where the broker is."""

    def __init__(self, node: Node, directory: Path, settings: dict[str, Any], log: BoundedLog) -> None:
        self._node = node
        self._directory = directory
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        install_script(Path(__file__).parent.parent / "labctl.py", directory / "bin" / "linkctl")
        (directory / "settings.json").write_text(json.dumps(settings))

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        command = [sys.executable, "-m", "brownout_virtual.bench.links", "--directory", str(self._directory)]
        reading, writing = os.pipe()
        log = self._log.writer()
        try:
            self._process = spawn(
                [*self._node.inside, *command, "--settings", str(self._directory / "settings.json")],
                stdout=writing,
                stderr=log,
            )
        finally:
            os.close(writing)
            os.close(log)
        ready = await asyncio.wait_for(asyncio.to_thread(os.read, reading, 64), READY_WITHIN_S)
        os.close(reading)
        if ready != b"ready\n":
            raise LabError(f"the links of gateway {self._node.name} do not start: {self._log.tail()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(REAP_WITHIN_S)
            self._process = None
