"""pytest plugin: campaigns as tests. Fixtures `rig`, `boards` and `campaign`; `--rig` on the command line.

    def test_power(campaign):
        assert campaign("blackout", seed=3).verdict == "valid"

A test that fails names the report and the evidence of each of its runs, on the terminal and as properties of JUnit XML.
Loaded with every pytest of an environment that has brownout: must not import the rest of it before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .campaign import RunResult
    from .rig import Rig

RUNS: pytest.StashKey[list[RunResult]] = pytest.StashKey()
MOST_EVIDENCE = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("brownout", "brownout: campaigns on replica boards")
    group.addoption("--rig", default="sim", help="A shipped rig's name, or a rig file, for campaigns. Default: sim.")
    group.addoption("--runs", default=None, help="Where runs are kept. Default: pytest's temporary folder.")


@pytest.fixture(scope="session")
def rig(pytestconfig: pytest.Config) -> Rig:
    """The rig of --rig."""
    from .contracts import UsageError
    from .rig import load_rig

    try:
        return load_rig(str(pytestconfig.getoption("--rig")))
    except UsageError as error:
        raise pytest.UsageError(f"--rig: {error}") from None


@pytest.fixture(scope="session")
def boards(rig: Rig) -> list[str]:
    """Names of all boards that the rig has; a campaign takes as many of them as it needs."""
    return [board.name for board in rig.boards] or [f"b{number}" for number in range(1, rig.capacity + 1)]


@pytest.fixture
def campaign(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path) -> Iterator[Callable[..., RunResult]]:
    """Runs a campaign, by its name or its file: campaign(name, seed=1) -> its verdict, document and folder."""
    from .campaign import run
    from .campaign_file import load_campaign

    results = request.node.stash.setdefault(RUNS, [])
    out = Path(request.config.getoption("--runs") or tmp_path / "runs")

    def carry_out(name: str | Path, *, seed: int = 1) -> RunResult:
        result = run(load_campaign(str(name)), rig, seed, out)
        results.append(result)
        return result

    yield carry_out


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call" and report.failed:
        for result in item.stash.get(RUNS, []):
            report.sections.append((f"brownout: {result.folder.name} is {result.verdict}", _told(result)))
            item.user_properties.append(("brownout_report", str(result.folder / "report.html")))
    return report


def _told(result: RunResult) -> str:
    lines = [f"report: {result.folder / 'report.html'}"]
    for check in result.document["checks"]:
        if check["verdict"] != "valid":
            lines.append(f"{check['name']}: {check['verdict']}: {check['detail']}")
            lines += [f"    {evidence}" for evidence in check["evidence"][:MOST_EVIDENCE]]
    return "\n".join([*lines, f"again: brownout replay {result.folder}"])
