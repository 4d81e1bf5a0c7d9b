"""A bench that fails in mid-campaign ends in a verdict, or in exit 4 and a sentence; nothing stays cut off or dark.

`long_bench_failures.py` beside it has the slower ways to fail (`make bench-failures` runs both).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_bed import TestBench, brownout
from bench_failures import GATEWAYS, after, cut_off, dark, hurt, mishap

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("bench"), pytest.mark.needs("faketime")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBench]:
    made = TestBench(tmp_path_factory.mktemp("bench"), GATEWAYS, movable_clocks=True)
    try:
        yield made
    finally:
        made.close()


def test_a_wrong_clock_a_full_disk_and_a_renumbered_port_change_no_verdict(bench: TestBench, tmp_path: Path) -> None:
    """Leases count from the gateway's boot, what runs there writes nothing, and a stable name finds the new device."""

    def harmless() -> None:
        mishap(bench, "east", "clock", "+3600")
        mishap(bench, "west", "clock", "-3600")
        mishap(bench, "west", "disk", "full")
        mishap(bench, "east", "rename", "b1", "b1")

    def setup() -> None:
        try:
            program = bench.folder / "gateways" / "west" / "bin" / "brownout-serial"
            lab = bench.take()
            lab.gateways["west"].run(["sh", "-c", 'echo "# of another release" >> "$1"', "sh", str(program)])
            lab.close()
            laid = brownout("rig", "setup-gateway", "--rig", str(bench.folder / "rig.toml"))
            assert laid.returncode == 4
            assert "gateway west" in laid.stderr
            assert "No space left on device" in laid.stderr
            assert "free some" in laid.stderr
        finally:
            mishap(bench, "west", "disk", "free")
            for gateway in GATEWAYS:
                mishap(bench, gateway, "clock", "+0")

    ended = hurt(bench, tmp_path, harmless, setup)
    assert ended.code == 0, (ended.stdout, ended.stderr)
    assert "VALID (campaign hurt, seed 1)" in ended.stdout
    assert (dark(bench), cut_off(bench)) == ([], [])


def test_a_gateway_that_restarts_is_healed_when_it_is_back(bench: TestBench, tmp_path: Path) -> None:
    """Its partition went with it, and the board that it had switched off gets its power again from the same run."""

    def restart() -> None:
        mishap(bench, "west", "reboot", "off")
        after(2.0, lambda: mishap(bench, "west", "reboot", "on"))

    ended = hurt(bench, tmp_path, restart, lambda: None)
    assert ended.code == 4, (ended.stdout, ended.stderr)
    assert "gateway west" in ended.sentence
    assert "restart" in ended.sentence or "is the gateway on" in ended.sentence
    assert (dark(bench), cut_off(bench)) == ([], [])
    assert "nothing to heal" in brownout("heal", str(ended.folder)).stdout
