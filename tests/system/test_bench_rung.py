"""A bench of namespaces: real sshd, mosquitto over TLS, nftables; what is cut, what heals by itself, what lies."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_bed import Probe, TestBench, brownout, namespaces, probe_all, settled
from brownout import bench_lock, qualify
from brownout.bench_lab import BenchLab
from brownout.contracts import LinkRule, RigError
from brownout.drivers import bench_process
from brownout.drivers.bench_power import BenchPower
from brownout.gateway import open_gateway
from brownout.gateway_setup import setup_gateway
from mqtt_bed import wait_until

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("bench")]
GATEWAYS = {"east": ["b1", "b2"], "west": ["b3", "b4"]}
PROBES = 200
HEALS_WITHIN_S = 2.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBench]:
    made = TestBench(tmp_path_factory.mktemp("bench"), GATEWAYS, liar="b4")
    try:
        yield made
    finally:
        made.close()
        assert not namespaces() & set(made.document["namespaces"])


@pytest.fixture
def lab(bench: TestBench) -> Iterator[BenchLab]:
    taken = bench.take()
    yield taken
    taken.close()


@pytest.fixture
def probes(lab: BenchLab) -> Iterator[dict[str, Probe]]:
    made = {board: Probe(lab, board) for board in ("b1", "b2", "b3", "b4")}
    for probe in made.values():
        probe.ready()
    yield made
    for probe in made.values():
        probe.close()


def passed(probes: dict[str, Probe]) -> dict[str, set[str]]:
    """receiver -> the senders of whom it heard every message; anything between none and all is an error."""
    heard: dict[str, set[str]] = {}
    for name, probe in probes.items():
        for source, count in probe.heard.items():
            assert count in (0, PROBES), f"{source} -> {name}: {count} of {PROBES}"
        heard[name] = {source for source, count in probe.heard.items() if count}
    return heard


def test_a_split_of_boards_on_one_broker_cuts_exactly_the_pairs_it_names(
    lab: BenchLab, probes: dict[str, Probe]
) -> None:
    link = lab.switches().link
    left, right = ("b1", "b3"), ("b2", "b4")
    link.apply([LinkRule("s.1", "drop", left, right), LinkRule("s.2", "drop", right, left)])
    probe_all(probes.values(), PROBES)
    settled(probes.values())
    assert passed(probes) == {"b1": {"b3"}, "b3": {"b1"}, "b2": {"b4"}, "b4": {"b2"}}
    assert {count.matched for count in link.counts()} == {PROBES}
    link.clear()
    healed_s = time.monotonic()
    probes["b1"].say("b2", 1)
    assert probes["b2"].wait_for("b1", 1, HEALS_WITHIN_S)
    assert time.monotonic() - healed_s < HEALS_WITHIN_S


def test_a_link_that_works_in_one_direction_only(lab: BenchLab, probes: dict[str, Probe]) -> None:
    link = lab.switches().link
    link.apply([LinkRule("o.1", "drop", ("b1",), ("b2", "b3"))])
    probe_all(probes.values(), PROBES)
    settled(probes.values())
    everybody = set(probes)
    cut = {"b2": {"b1"}, "b3": {"b1"}}
    assert passed(probes) == {board: everybody - {board} - cut.get(board, set()) for board in probes}
    link.clear()
    probes["b1"].say("b3", 1)
    assert probes["b3"].wait_for("b1", 1, HEALS_WITHIN_S)


def test_a_board_speaks_as_itself_alone(lab: BenchLab, probes: dict[str, Probe]) -> None:
    probes["b1"].say("b3", 5, source="b2")
    probes["b1"].say("b3", 5)
    assert probes["b3"].wait_for("b1", 5)
    assert probes["b3"].heard["b2"] == 0
    stranger = Probe(lab, "b1", user="b2")
    assert stranger.refused.wait(5.0), "a board got in under another one's name"
    stranger.close()


PARTITION = """
import sys, time
from pathlib import Path
from brownout.bench_lab import BenchLab
from brownout.contracts import LinkRule
from brownout.rig import read_rig
link = BenchLab(read_rig(Path(sys.argv[1]))).switches().link
link.apply([LinkRule("d.1", "drop", ("b1",), ("b2",)), LinkRule("d.2", "drop", ("b3",), ("*",))])
print("cut", flush=True)
time.sleep(600)
"""


def test_a_partition_is_gone_by_itself_when_the_host_is_killed(bench: TestBench, lab: BenchLab, tmp_path: Path) -> None:
    """The host renews what it cut beyond its lease, and what nobody renews ends within it."""
    short = (bench.folder / "rig.toml").read_text().replace("lease_s = 10.0", "lease_s = 2.0")
    (bench.folder / "short.toml").write_text(short)
    host = subprocess.Popen([sys.executable, "-c", PARTITION, str(bench.folder / "short.toml")], stdout=subprocess.PIPE)
    assert host.stdout is not None
    assert host.stdout.readline() == b"cut\n"
    west = lab.gateways["west"]

    def isolated() -> bool:
        text = west.run(["nft", "-j", "list set inet brownout up"]).stdout
        return "10." in text

    link = lab.switches().link
    time.sleep(3.0)  # longer than the lease
    assert isolated()
    assert {count.rule for count in link.counts()} == {"d.1"}
    host.kill()
    host.wait()
    killed_s = time.monotonic()
    wait_until(lambda: not isolated() and not link.counts(), "the gateways have healed by themselves", 5.0)
    assert time.monotonic() - killed_s < 3.5
    assert lab.switches().link.counts() == []  # `brownout heal` finds nothing to do


def test_qualify_finds_the_hub_that_lies(bench: TestBench, lab: BenchLab) -> None:
    power = lab.switches().power
    assert isinstance(power, BenchPower)
    assert not lab.missing_ports(["b1", "b2", "b3", "b4"])
    outlets = {board.name: board.outlet for board in bench.rig.boards}
    findings = qualify.qualify(outlets, power, lab.enumerated, lambda *_words: None)
    assert {finding.board: finding.verdict for finding in findings} == {
        "b1": "proven", "b2": "proven", "b3": "proven", "b4": "lies",
    }  # fmt: skip
    qualify.write_result(bench.rig.source, findings)
    assert set(qualify.unproven(bench.rig.source)) == {"b4"}


CUT_THE_LIAR = """
[campaign]
name = "trusted-liar"
description = "the power of a board goes whose hub says so and feeds it all the same"
duration_s = 1.5
voters = 4

[workload]
clients = 1
operations_per_s = 5.0

[[fault]]
kind = "cut"
select = ["b4"]
at_s = 0.3
for_s = 0.5

[checks]
progress_within_s = 8.0
converge_within_s = 8.0
"""


def test_a_campaign_that_trusts_the_lying_hub_ends_unknown(bench: TestBench, tmp_path: Path) -> None:
    """By the command line: qualify names the liar, a campaign refuses it, and one that is told to trust it says so."""
    rig = str(bench.folder / "rig.toml")
    found = brownout("rig", "qualify", "--rig", rig)
    assert (found.returncode, "no campaign may cut the power of b4" in found.stderr) == (4, True), found
    (tmp_path / "liar.toml").write_text(CUT_THE_LIAR)
    words = ("run", str(tmp_path / "liar.toml"), "--rig", rig, "--seed", "1", "--no-live", "--out", str(tmp_path))
    refused = brownout(*words)
    assert refused.returncode == 4
    assert "b4, whose outlet could not be proven (lies: the switch says off" in refused.stderr
    assert "--trust-switches" in refused.stderr
    trusted = brownout(*words, "--trust-switches")
    assert trusted.returncode == 3, (trusted.stdout, trusted.stderr)
    assert "fault f01 (cut) could not be proven" in trusted.stdout
    assert "UNKNOWN (campaign trusted-liar, seed 1)" in trusted.stdout
    assert "'switch': 'off', 'enumerated': True" in " ".join(trusted.stdout.split())
    assert "invalid" not in trusted.stdout.lower()


def test_what_runs_is_listed_with_its_gateway_and_its_time(lab: BenchLab) -> None:
    switches = lab.switches()
    lab.missing_ports(["b1", "b3"])
    switches.power.off(["b1", "b3"])
    switches.power.on(["b1", "b3"])
    ran = [(result.gateway, result.argv[0]) for result in switches.gateway.commands]
    assert {gateway for gateway, _program in ran} == {"east", "west"}
    assert all(result.duration_ms > 0 for result in switches.gateway.commands)


def test_an_isolated_board_is_cut_by_its_own_gateway(lab: BenchLab, bench: TestBench) -> None:
    board = bench.document["boards"]["b3"]
    link = lab.switches().link
    host, port = lab.broker_address("b3")
    namespace = next(name for name in bench.document["namespaces"] if name.endswith("-b-b3"))
    connect = f"import socket; socket.create_connection(({host!r}, {port}), 2).close()"

    def reaches() -> bool:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", connect]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert reaches()
    rules = [LinkRule("i.1", "drop", ("b3",), ("*",)), LinkRule("i.2", "drop", ("*",), ("b3",))]
    link.apply(rules)
    assert not reaches()
    matched = {count.rule: count.matched for count in link.counts()}
    assert matched["i.1"] > 0, (matched, board)
    link.clear([rule.id for rule in rules])
    assert reaches()


def test_a_gateway_that_is_away_is_named_within_the_time_and_comes_back(bench: TestBench, lab: BenchLab) -> None:
    namespace = next(name for name in bench.document["namespaces"] if name.endswith("-g-west"))
    power = lab.switches().power
    subprocess.run(["ip", "-n", namespace, "link", "set", "lan0", "down"], check=True)
    try:
        began_s = time.monotonic()
        with pytest.raises(RigError, match="gateway west"):
            lab.gateways["west"].run(["true"], timeout_s=0.5)
        assert time.monotonic() - began_s < 15.0
    finally:
        subprocess.run(["ip", "-n", namespace, "link", "set", "lan0", "up"], check=True)
    wait_until(lambda: power.state(["b3"])["b3"].evidence["switch"] == "on", "the gateway answers again", 10.0)


def test_programs_are_laid_down_once(lab: BenchLab, bench: TestBench, tmp_path: Path) -> None:
    gateway = open_gateway(bench.rig.gateways["east"])
    assert setup_gateway(gateway, str(tmp_path / "tools"))
    assert setup_gateway(gateway, str(tmp_path / "tools")) == []
    (tmp_path / "tools" / "brownout-serial").write_text("damaged")
    assert setup_gateway(gateway, str(tmp_path / "tools"))
    gateway.close()


def test_a_bench_whose_daemon_was_killed_is_removed_whole(tmp_path: Path) -> None:
    made = TestBench(tmp_path / "bench", {"east": ["b1"]})
    mine = set(made.document["namespaces"])
    assert mine <= namespaces()
    subprocess.run(["kill", "-9", str(made.document["pid"])], check=True)
    bench_process.down(made.folder)
    assert not mine & namespaces()


def test_a_lock_is_free_when_its_holder_dies(tmp_path: Path) -> None:
    rig_file = str(tmp_path / "rig.toml")
    program = f"from brownout import bench_lock; bench_lock.take({rig_file!r}, 'a run', process=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    wait_until(lambda: bench_lock.holder(rig_file) is not None, "the other process has the bench", 10.0)
    with pytest.raises(RigError, match="a run"):
        bench_lock.take(rig_file, "another")
    holder.kill()
    holder.wait()
    assert bench_lock.holder(rig_file) is None
    bench_lock.take(rig_file, "another", 0.01)
    wait_until(lambda: bench_lock.holder(rig_file) is None, "the time is out", 5.0)
