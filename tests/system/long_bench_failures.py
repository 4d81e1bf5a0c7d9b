"""The slower ways in which a bench fails in mid-campaign; `make bench-failures` runs them, `make test` does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_bed import TestBench, brownout
from bench_failures import GATEWAYS, after, cut_off, dark, hurt, mishap
from brownout.bench_lab import BenchLab

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBench]:
    made = TestBench(tmp_path_factory.mktemp("bench"), GATEWAYS)
    try:
        yield made
    finally:
        made.close()


def nothing() -> None:
    """Nobody does anything afterwards."""


@pytest.mark.parametrize("gateway", ["east", "west"])
def test_sshd_that_is_killed_and_started_again(bench: TestBench, tmp_path: Path, gateway: str) -> None:
    def kill() -> None:
        mishap(bench, gateway, "sshd", "kill")
        after(2.0, lambda: mishap(bench, gateway, "sshd", "start"))

    ended = hurt(bench, tmp_path, kill, nothing)
    assert ended.code in (0, 3, 4), (ended.stdout, ended.stderr)
    assert ended.code != 4 or "brownout rig doctor" in ended.sentence or "is the gateway on" in ended.sentence
    assert (dark(bench), cut_off(bench)) == ([], [])


@pytest.mark.parametrize("way", ["sshd", "reboot"])
def test_a_gateway_that_stays_away_is_named_and_healing_finishes_what_the_run_could_not(
    bench: TestBench, tmp_path: Path, way: str
) -> None:
    off, on = {"sshd": ("kill", "start"), "reboot": ("off", "on")}[way]
    ended = hurt(bench, tmp_path, lambda: mishap(bench, "west", way, off), lambda: mishap(bench, "west", way, on))
    assert ended.code == 4, (ended.stdout, ended.stderr)
    assert "not healed: links, power of b2, b4 (gateway west" in ended.sentence
    assert f"Mend that, then: brownout heal {ended.folder}" in ended.sentence
    assert cut_off(bench) == []  # east was reached all the same, and the lease has ended on west
    assert dark(bench) == ["b4", "b4"]
    assert "power switched on: b4" in brownout("heal", str(ended.folder)).stdout
    assert dark(bench) == []
    assert "nothing to heal" in brownout("heal", str(ended.folder)).stdout


def test_the_gateway_of_the_broker_restarts(bench: TestBench, tmp_path: Path) -> None:
    def restart() -> None:
        mishap(bench, "east", "reboot", "off")
        after(2.0, lambda: mishap(bench, "east", "reboot", "on"))

    ended = hurt(bench, tmp_path, restart, nothing)
    assert ended.code == 4, (ended.stdout, ended.stderr)
    assert "gateway east" in ended.sentence
    assert (dark(bench), cut_off(bench)) == ([], [])


def test_a_broker_that_dies_is_started_again_and_accuses_nobody(bench: TestBench, tmp_path: Path) -> None:
    def kill() -> None:
        lab = BenchLab(bench.rig)
        lab.gateways["east"].run(["systemctl", "kill", "-s", "SIGKILL", "--", "mosquitto"])
        lab.close()

    ended = hurt(bench, tmp_path, kill, nothing)
    assert ended.code in (0, 3), (ended.stdout, ended.stderr)
    assert (dark(bench), cut_off(bench)) == ([], [])


def test_a_port_that_comes_back_under_another_name_is_no_fault_of_the_board(bench: TestBench, tmp_path: Path) -> None:
    ended = hurt(
        bench,
        tmp_path,
        lambda: mishap(bench, "east", "rename", "b1", "ttyUSB7"),
        lambda: mishap(bench, "east", "rename", "b1", ""),
    )
    assert ended.code == 4, (ended.stdout, ended.stderr)
    assert "no serial port of b1 at its gateway" in ended.sentence
    assert "brownout rig discover shows the names that stay" in ended.sentence
    assert (dark(bench), cut_off(bench)) == ([], [])
