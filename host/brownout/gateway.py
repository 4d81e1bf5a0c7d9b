"""Gateways: the hosts that reach power switches and links. The only importer of Fabric and of invoke.

LocalGateway runs commands on this machine through invoke's Context, SshGateway on another through Fabric's Connection;
both quote every argument, bound every command in time on the far side too (`timeout`), and keep what ran. Fabric takes
unknown hosts, uses whatever keys an agent offers and leaves commands running after a time-out: none of that here. Must
not know what the commands do.
"""

from __future__ import annotations

import logging
import shlex
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fabric
import invoke
import paramiko
from fabric.runners import Remote
from invoke.exceptions import CommandTimedOut, ThreadException
from invoke.runners import Local

from .contracts import CommandResult, Gateway, RigError, UsageError
from .rig import GatewaySpec

CONNECT_TIMEOUT_S = 5.0
CHANNEL_TIMEOUT_S = 5.0  # on a dead link a new command would otherwise wait for an hour
KEEP_ALIVE_S = 5
GRACE_S = 1  # between the polite and the other end of a command that takes too long
BACKSTOP_S = 3.0  # after which this side gives up on a far side that should have ended the command
MOST_SESSIONS = 8  # at once on one connection; sshd allows ten
NO_ROOM_PAUSE_S = 0.02
LOOK_AT = "is its link up, is sshd alive there, or did it restart? brownout rig doctor tells"
ENDED_BY_TIMEOUT = (124, 137)
_POLL_S = 0.001  # invoke looks for the end of a command every 10 ms unless told otherwise

# What paramiko logs, tracebacks included, is in the errors raised here; without a handler it would go to the user.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _NotStarted(Exception):
    """The connection failed before the command could have begun."""


class _NoRoom(Exception):
    """The far side has as many sessions as it allows; the connection itself is fine."""


class _UnknownHost(paramiko.SSHException):
    pass


class _RefuseUnknownHosts(paramiko.RejectPolicy):
    """Names the fingerprint, so that somebody can compare it."""

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        raise _UnknownHost(f"{key.get_name()} {key.fingerprint}")


class _QuickLocal(Local):
    input_sleep = _POLL_S


class _QuickRemote(Remote):
    input_sleep = _POLL_S


class _Connection(fabric.Connection):
    """Opened once and no more: Fabric would open one that died again from whatever threads use it, all at once."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # What is set in another way becomes part of the configuration, which is copied for each command.
        self._set(was_opened=False)
        # paramiko keeps why a session was refused in one place for all threads.
        self._set(opening=threading.Lock())

    def open(self) -> Any:
        if self.was_opened:
            if not self.is_connected:
                raise _NotStarted("the connection had died")
            return None
        self._set(was_opened=True)
        return super().open()

    def create_session(self) -> Any:
        try:
            with self.opening:
                return super().create_session()
        except paramiko.ChannelException as error:
            raise _NoRoom(str(error)) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _NotStarted(str(error) or type(error).__name__) from error


def quoted(argv: Sequence[str], timeout_s: float) -> str:
    """One line for a POSIX shell that runs exactly `argv`, ends it after the time, and gives it no input."""
    _check(argv)
    return shlex.join(["timeout", "-k", str(GRACE_S), f"{timeout_s:g}", *argv]) + " </dev/null"


def lasting(argv: Sequence[str]) -> str:
    """The same for a command that goes on and is talked to: no end, and the session as its input.

    The first word is quoted whatever it is, or a shell takes `PATH=/x/tool` for an assignment and runs the next word.
    """
    _check(argv)
    first = "'" + argv[0].replace("'", "'\"'\"'") + "'"
    return " ".join([first, *(shlex.quote(argument) for argument in argv[1:])])


def _check(argv: Sequence[str]) -> None:
    for argument in argv:
        if "\0" in argument or any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(f"a command's argument cannot hold a NUL or half a character: {argument!r}")
    if not argv:
        raise UsageError("an empty command cannot be run")


class _CommandLine:
    """What both gateways share: quoting, time-outs, exit codes, and the record of what ran."""

    transport = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.commands: list[CommandResult] = []
        self._lock = threading.Lock()

    def run(self, argv: Sequence[str], *, timeout_s: float = 10.0, check: bool = True) -> CommandResult:
        """Run one command; RigError when the gateway cannot be reached, in time, or (check) the command fails."""
        line = quoted(argv, timeout_s)
        shown = shlex.join(argv)
        began = time.monotonic()
        try:
            outcome = self._execute(line, timeout_s + GRACE_S + BACKSTOP_S)
        except (CommandTimedOut, ThreadException) as error:
            raise RigError(
                f"gateway {self.name}: {shown}: no answer after {time.monotonic() - began:.1f} s "
                f"({type(error).__name__}); is the gateway overloaded, or its link down?",
                definite=False,
            ) from error
        duration_s = time.monotonic() - began
        result = CommandResult(
            tuple(argv), outcome.exited, outcome.stdout, outcome.stderr, duration_s * 1000, self.name
        )
        with self._lock:
            self.commands.append(result)
        if result.exit_code in ENDED_BY_TIMEOUT and duration_s >= timeout_s:
            raise RigError(f"gateway {self.name}: {shown}: not done after {timeout_s:g} s, ended", definite=False)
        if check and result.exit_code:
            said = (result.stderr.strip() or result.stdout.strip() or "it said nothing")[-500:]
            raise RigError(f"gateway {self.name}: {shown}: exit code {result.exit_code}: {said}", definite=False)
        return result

    def _execute(self, line: str, backstop_s: float) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the gateway."""


class LocalGateway(_CommandLine):
    """This machine, by invoke."""

    transport = "local"

    def __init__(self, name: str = "local") -> None:
        super().__init__(name)
        settings = {"run": {"shell": "/bin/sh"}, "runners": {"local": _QuickLocal}}
        self._context = invoke.Context(invoke.Config(overrides=settings, lazy=True))

    def _execute(self, line: str, backstop_s: float) -> Any:
        return self._context.run(
            line, hide=True, warn=True, in_stream=False, encoding="utf-8", timeout=backstop_s, echo=False
        )


class Stream:
    """The two ends of a command that goes on: bytes in, bytes out. Closing it ends the command's input."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def receive(self, most: int = 65536) -> bytes:
        """What has come, waiting for it; nothing when it is over."""
        data: bytes = self._channel.recv(most)
        return data

    def complaint(self) -> str:
        """What it has said on standard error."""
        return self._channel.recv_stderr(4096).decode(errors="replace") if self._channel.recv_stderr_ready() else ""

    def send(self, data: bytes) -> None:
        """OSError where the far side is gone."""
        self._channel.sendall(data)

    def close(self) -> None:
        self._channel.close()


class SshGateway(_CommandLine):
    """Another machine, by Fabric: one connection, opened at first use, shared by all threads."""

    transport = "ssh"

    def __init__(self, spec: GatewaySpec) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self._where = f"{spec.host}:{spec.port}"
        self._connecting = threading.Lock()
        self._sessions = threading.BoundedSemaphore(MOST_SESSIONS)
        self._connection: _Connection | None = None

    def _execute(self, line: str, backstop_s: float) -> Any:
        with self._sessions:
            try:
                outcome = self._attempt(line, backstop_s)
            except _NotStarted:  # the connection had died, or another thread gave it up: once more, on a new one
                try:
                    outcome = self._attempt(line, backstop_s)
                except _NotStarted as error:
                    raise RigError(
                        f"gateway {self.name}: {self._where} does not answer any more ({error}); {LOOK_AT}"
                    ) from error
        return outcome

    def _attempt(self, line: str, backstop_s: float) -> Any:
        connection = self._connected()
        try:
            outcome = self._when_there_is_room(connection, line, backstop_s)
        except (_NotStarted, CommandTimedOut, ThreadException):
            self._give_up(connection)
            raise
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._give_up(connection)
            raise RigError(f"gateway {self.name}: lost {self._where}: {error}; {LOOK_AT}", definite=False) from error
        if outcome.exited < 0:  # paramiko's word for a connection that ended before the command
            self._give_up(connection)
            raise RigError(
                f"gateway {self.name}: lost {self._where} in the middle of a command; {LOOK_AT}", definite=False
            )
        return outcome

    def _when_there_is_room(self, connection: _Connection, line: str, backstop_s: float) -> Any:
        """sshd counts a session until it has buried its process, so for a moment after it has said that one ended."""
        deadline = time.monotonic() + CHANNEL_TIMEOUT_S
        while True:
            try:
                return connection.run(
                    line, hide=True, warn=True, in_stream=False, encoding="utf-8", timeout=backstop_s, echo=False
                )
            except _NoRoom as error:
                if time.monotonic() > deadline:
                    raise RigError(
                        f"gateway {self.name}: {self._where} opens no session ({error}) "
                        f"within {CHANNEL_TIMEOUT_S:g} s; what is MaxSessions in its sshd_config?"
                    ) from error
                time.sleep(NO_ROOM_PAUSE_S)

    def _connected(self) -> _Connection:
        with self._connecting:
            if self._connection is not None:
                transport = self._connection.transport
                if transport is not None and transport.is_active():
                    return self._connection
                self._close_connection()
            self._connection = self._connect()
            return self._connection

    def _connect(self) -> _Connection:
        spec = self.spec
        for path, what in ((spec.key, "private key"), (spec.known_hosts, "known hosts")):
            if not Path(path).is_file():
                raise RigError(f"gateway {self.name}: its file of {what} does not exist: {path}")
        connection = _Connection(
            spec.host,
            user=spec.user,
            port=spec.port,
            connect_timeout=CONNECT_TIMEOUT_S,
            config=fabric.Config(overrides={"load_ssh_configs": False, "runners": {"remote": _QuickRemote}}, lazy=True),
            connect_kwargs={
                "key_filename": spec.key,
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": CONNECT_TIMEOUT_S,
                "auth_timeout": CONNECT_TIMEOUT_S,
                "channel_timeout": CHANNEL_TIMEOUT_S,
            },
        )
        connection.client.set_missing_host_key_policy(_RefuseUnknownHosts())
        try:
            connection.client.load_system_host_keys(spec.known_hosts)
            connection.open()
        except Exception as error:
            connection.close()
            raise RigError(self._why(error)) from error
        connection.transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.transport.set_keepalive(KEEP_ALIVE_S)
        connection.transport.channel_timeout = CHANNEL_TIMEOUT_S
        return connection

    def _why(self, error: Exception) -> str:
        """What to tell the user, and what to try, when no connection comes about."""
        spec = self.spec
        start = f"gateway {self.name}: {spec.user}@{self._where}"
        if isinstance(error, _UnknownHost):
            return (
                f"{start}: unknown host, refused. Its key is {error}. If that is right: "
                f"ssh-keyscan -p {spec.port} {spec.host} >> {spec.known_hosts}"
            )
        if isinstance(error, paramiko.BadHostKeyException):
            return f"{start}: the host key is not the one in {spec.known_hosts}; another machine answers, or it was new"
        if isinstance(error, paramiko.AuthenticationException):
            return f"{start}: the key {spec.key} was refused; is its public half in authorized_keys there?"
        if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError | ConnectionError | TimeoutError):
            return f"{start}: no connection ({error}); is the gateway on, and sshd running at that port?"
        if isinstance(error, socket.gaierror):
            return f"{start}: no such host name ({error.strerror})"
        return f"{start}: no connection: {str(error) or type(error).__name__}; try: ssh -p {spec.port} -i {spec.key}"

    def stream(self, argv: Sequence[str]) -> Stream:
        """Start a command that talks for as long as it lasts, in a session of its own on the same connection."""
        line = lasting(argv)
        try:
            channel = self._connected().transport.open_session(timeout=CHANNEL_TIMEOUT_S)
            channel.exec_command(line)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise RigError(f"gateway {self.name}: {line}: no session ({error}); is its link up?") from error
        return Stream(channel)

    def _give_up(self, connection: _Connection) -> None:
        """Not to be used again; another thread may have put a new one in its place already."""
        with self._connecting:
            if connection is self._connection:
                self._close_connection()

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._connecting:
            self._close_connection()


def open_gateway(spec: GatewaySpec) -> Gateway:
    """The gateway that a rig names."""
    return LocalGateway(spec.name) if spec.transport == "local" else SshGateway(spec)
