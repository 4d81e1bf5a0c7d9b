"""Both gateways against real shells and a real sshd: what is refused, what is bounded, that arguments arrive whole."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from brownout.contracts import Gateway, RigError, UsageError
from brownout.gateway import LocalGateway, SshGateway, open_gateway
from brownout.rig import GatewaySpec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mqtt_bed import wait_until
from sshd import Sshd

pytestmark = [pytest.mark.system, pytest.mark.needs("sshd", "ssh-keygen")]

ECHO = [sys.executable, "-IS", "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
ARGUMENTS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20), max_size=4
)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module", params=["local", "ssh"])
def gateway(request: pytest.FixtureRequest, sshd: Sshd) -> Iterator[Gateway]:
    spec = sshd.spec if request.param == "ssh" else GatewaySpec("here", "local")
    opened = open_gateway(spec)
    assert opened.transport == request.param
    yield opened
    opened.close()


def test_a_command_s_outcome_is_whole_and_kept(gateway: Gateway) -> None:
    result = gateway.run(["sh", "-c", "echo out; echo error >&2; exit 3"], check=False)
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "error\n")
    assert gateway.commands[-1] is result
    assert 0 < result.duration_ms < 10_000


def test_a_failing_command_is_a_rig_error_with_what_it_said(gateway: Gateway) -> None:
    with pytest.raises(RigError, match="exit code 1: no such relay") as caught:
        gateway.run(["sh", "-c", "echo no such relay >&2; exit 1"])
    assert not caught.value.definite
    with pytest.raises(RigError, match="exit code 127"):
        gateway.run(["no-such-command-here"])


@given(ARGUMENTS)
@settings(max_examples=60)
@example(
    ["; touch /tmp/owned", "$(id)", "`id`", "'", '"', "\\", "!!", "*", "~", "-rf", "", "a\nb\r\n\tc", "\x1b[31m", "é😀"]
)
@example(["--", "--signal=KILL", "\x01\x02\x03\x04\x1b\x7f"])
def test_arguments_arrive_byte_for_byte(gateway: Gateway, arguments: list[str]) -> None:
    assert json.loads(gateway.run([*ECHO, *arguments]).stdout) == arguments


def test_what_cannot_be_an_argument_is_refused_before_anything_runs(gateway: Gateway) -> None:
    before = len(gateway.commands)
    for argv in (["echo", "a\0b"], ["echo", "\ud800"], []):
        with pytest.raises(UsageError):
            gateway.run(argv)
    assert len(gateway.commands) == before


def test_output_that_is_no_text_is_replaced_not_raised(gateway: Gateway) -> None:
    assert gateway.run(["printf", r"\377\376ok"]).stdout == "\ufffd\ufffdok"


def test_a_command_gets_no_input_and_does_not_wait_for_any(gateway: Gateway) -> None:
    assert gateway.run(["cat"], timeout_s=5).stdout == ""


def test_a_command_that_takes_too_long_is_ended_on_the_far_side(gateway: Gateway, tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    began = time.monotonic()
    with pytest.raises(RigError, match=r"not done after 0\.3 s") as caught:
        gateway.run(["sh", "-c", script], timeout_s=0.3)
    assert time.monotonic() - began < 4
    assert not caught.value.definite
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
    wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text(), "the command is dead")


def test_many_threads_share_a_gateway(gateway: Gateway) -> None:
    with ThreadPoolExecutor(12) as pool:
        outputs = list(pool.map(lambda number: gateway.run(["echo", str(number)]).stdout, range(24)))
    assert outputs == [f"{number}\n" for number in range(24)]


# Only over SSH.


def test_threads_share_one_connection(sshd: Sshd) -> None:
    gateway = SshGateway(sshd.spec)
    script = "echo $SSH_CONNECTION"
    with ThreadPoolExecutor(4) as pool:
        peers = set(pool.map(lambda _number: gateway.run(["sh", "-c", script]).stdout, range(8)))
    gateway.close()
    assert len(peers) == 1


def test_a_session_that_sshd_has_no_room_for_waits_and_the_connection_stays(tmp_path: Path) -> None:
    with Sshd(tmp_path, max_sessions=2) as server:
        gateway = SshGateway(server.spec)
        with ThreadPoolExecutor(8) as pool:
            peers = list(pool.map(lambda _number: gateway.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout, range(24)))
        gateway.close()
    assert len(peers) == 24
    assert len(set(peers)) == 1


def test_a_command_that_had_not_begun_when_the_connection_died_runs_on_a_new_one(sshd: Sshd) -> None:
    gateway = SshGateway(sshd.spec)
    gateway.run(["true"])
    assert gateway._connection is not None
    # The transport still looks alive to the next command, whose session then cannot be opened.
    gateway._connection.transport.sock.shutdown(socket.SHUT_RDWR)
    assert gateway.run(["echo", "again"]).stdout == "again\n"
    gateway.close()


def refused(spec: GatewaySpec) -> str:
    gateway = SshGateway(spec)
    began = time.monotonic()
    with pytest.raises(RigError) as caught:
        gateway.run(["true"])
    gateway.close()
    assert caught.value.definite
    assert time.monotonic() - began < 8
    assert gateway.commands == []
    return str(caught.value)


def test_an_unknown_host_is_refused_and_its_fingerprint_named(sshd: Sshd, tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    said = refused(dataclasses.replace(sshd.spec, known_hosts=str(empty)))
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.directory / "host_key.pub")], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert "unknown host, refused" in said
    assert fingerprint in said
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in said
    assert empty.read_text() == ""


def test_a_host_with_another_key_is_refused(sshd: Sshd) -> None:
    sshd.trust("other_key")
    try:
        assert "another machine answers" in refused(sshd.spec)
    finally:
        sshd.trust("host_key")


def test_a_wrong_key_and_missing_files_are_named(sshd: Sshd) -> None:
    other = str(sshd.directory / "other_key")
    assert f"the key {other} was refused" in refused(dataclasses.replace(sshd.spec, key=other))
    assert "private key does not exist" in refused(dataclasses.replace(sshd.spec, key="/none/key"))
    assert "known hosts does not exist" in refused(dataclasses.replace(sshd.spec, known_hosts="/none/hosts"))


def test_a_port_where_nothing_or_nobody_answers_is_named(sshd: Sshd) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert "is the gateway on, and sshd running" in refused(dataclasses.replace(sshd.spec, port=port))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no connection" in refused(dataclasses.replace(sshd.spec, port=silent.getsockname()[1]))


def test_a_connection_that_was_lost_is_made_anew(tmp_path: Path) -> None:
    with Sshd(tmp_path) as server:
        gateway = SshGateway(server.spec)
        assert gateway.run(["echo", "1"]).stdout == "1\n"
        errors: list[RigError] = []

        def run_long() -> None:
            try:
                gateway.run(["sleep", "20"], timeout_s=30)
            except RigError as error:
                errors.append(error)

        thread = threading.Thread(target=run_long)
        thread.start()
        wait_until(lambda: b"sleep" in _commands_of(server), "the command runs")
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert [error.definite for error in errors] == [False]
        with pytest.raises(RigError):
            gateway.run(["echo", "2"])
        server.start()
        assert gateway.run(["echo", "3"]).stdout == "3\n"
        gateway.close()


def _commands_of(server: Sshd) -> bytes:
    """The command lines of everything below the server."""
    assert server._process is not None
    found, left = b"", [server._process.pid]
    while left:
        pid = left.pop()
        try:
            found += Path(f"/proc/{pid}/cmdline").read_bytes()
            left += [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_local_needs_no_files() -> None:
    gateway = LocalGateway()
    assert gateway.run(["echo", "hello"]).stdout == "hello\n"
    gateway.close()
