"""The live page in a real browser: an event is drawn within a second of the host having it, boards without power are
shown, pages keep to themselves, and the buttons switch a lab's boards only for whoever has the token.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from brownout.drivers.virtual_lab import LabOptions, VirtualLab
from browser import Browser
from eventful_runs import eventful, save
from history_builder import World
from live_runs import LiveRun

pytestmark = [pytest.mark.system]

BROWNOUT = [sys.executable, "-c", "import sys; from brownout.cli import main; sys.exit(main())"]
MOST_LATE = 1  # of the drawings, over a second late: a machine that stands still for others' work draws nothing
CUT_SHOWN_WITHIN_S = 2.0  # as this process sees it, its own waiting included


@contextmanager
def served(runs: Path, *words: str, state: Path | None = None) -> Iterator[dict[str, str]]:
    """`brownout serve`, and the addresses that it printed."""
    command = [*BROWNOUT, "serve", str(runs), "--port", "0", *words]
    environment = {**os.environ, "XDG_STATE_HOME": str(state or runs)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        found = {}
        for _ in range(3 if "--control" in words else 2):
            name, _, url = process.stdout.readline().strip().partition(" ")
            found[name] = url.strip()
        try:
            yield found
        finally:
            process.terminate()
            _, said = process.communicate(timeout=15)
            found["said"] = said
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(autouse=True)
def no_errors(browser: Browser) -> Iterator[None]:
    browser.errors.clear()
    yield
    assert browser.errors == []


def ask(url: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {k.replace("_", "-"): v for k, v in headers.items()}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.needs("chromium")
def test_an_event_is_drawn_within_a_second_and_a_cut_is_shown(browser: Browser, tmp_path: Path) -> None:
    world = World(5)
    with served(tmp_path) as urls:
        browser.open(urls["live"])
        browser.wait("document.querySelector('#connection').textContent === 'connected'")
        run = LiveRun(tmp_path, world)
        world.boot()
        run.receive(world.events)
        browser.wait("document.querySelectorAll('#boards [data-state=up]').length === 5")
        for number in range(20):
            told = len(world.events)
            world.operate("put", "k1", f"v{number}")
            fresh = run.receive(world.events[told:])
            drawn = f"{fresh[-1].board}/{fresh[-1].boot}/{fresh[-1].sequence}"
            # Measured in the page, from the host's receipt by the calendar until it was drawn.
            browser.wait(f"document.querySelector('#content').dataset.drawn === '{drawn}'", within_s=5)
        told = browser.run("({...document.querySelector('#content').dataset})")
        assert int(told["late"]) <= MOST_LATE, f"events were drawn up to {told['worst']} ms after the host had them"
        assert browser.run("document.querySelector('#votes tbody tr').dataset.height") == "20"
        for stage in ("planned", "applied"):
            world.fault("f01", "cut", stage, "b2")
            run.folder.append_fault(world.faults[-1])
        began = time.monotonic()
        browser.wait("document.querySelector('[data-board=b2]').dataset.state === 'off'", within_s=5)
        assert time.monotonic() - began < CUT_SHOWN_WITHIN_S
        assert browser.run("document.querySelector('[data-board=b2]').innerText").count("no power") == 1
        assert browser.run("document.querySelector('#f-up b').textContent") == "4 of 5"
        _by_keyboard(browser)
        run.end()
        browser.wait("document.querySelector('#verdict').textContent === 'valid'", within_s=5)
        for dark in (False, True):
            browser.dark(dark)
            picture = browser.picture(tmp_path / "live.png")
            assert picture.startswith(b"\x89PNG") and len(picture) > 40_000
        paper = browser.run("getComputedStyle(document.documentElement).backgroundColor")
        assert paper == "rgb(20, 21, 23)", "the page is not dark where the system is"
        browser.dark(False)


def _by_keyboard(browser: Browser) -> None:
    """Everything can be reached by the tabulator; p holds the page still; each plot has its table."""
    browser.press("p")
    assert browser.run("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    browser.press("p")
    reached = browser.run(
        "[...document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]')]"
        ".filter((one) => one.tabIndex >= 0).length"
    )
    assert reached >= 15
    tables = browser.run(
        "(async () => { for (const details of document.querySelectorAll('figure.curve details')) details.open = true;"
        " await new Promise((done) => setTimeout(done, 900));"
        " return [...document.querySelectorAll('figure.curve tbody')].map((body) => body.rows.length); })()"
    )
    assert len(tables) == 3 and all(count > 0 for count in tables)


@pytest.mark.needs("chromium")
def test_past_runs_reports_and_comparison_open(browser: Browser, tmp_path: Path) -> None:
    for seed in (1, 2, 3, 4):
        history = eventful(operations=30, seed=seed).history(timing={"gossip_period_ms": 100 + 100 * (seed % 2)})
        folder = save(history, tmp_path)
        (folder / "report.html").write_text(
            "<!doctype html><title>waiting</title><script>"
            "try { document.title = 'kept ' + sessionStorage.length } catch (error) { document.title = error.name }"
            "</script><p>a report"
        )
    with served(tmp_path) as urls:
        browser.open(urls["runs"])
        assert browser.run("document.querySelectorAll('#runs tbody tr').length") == 4
        browser.run("for (const box of document.querySelectorAll('[name=run]')) box.checked = true")
        browser.run("document.querySelector('[name=by]').value = 'timing.gossip_period_ms'")
        browser.run("document.querySelector('form button').click()")
        browser.wait("location.pathname === '/compare' && document.querySelector('#metrics') !== null")
        said = browser.run("document.querySelector('#metrics').innerText")
        assert "operation_put_ms" in said and "100 (2)" in said and "200 (2)" in said
        browser.open(f"{urls['runs']}compare?run={folder.name}&by=seed")
        assert "two are compared" in browser.run("document.querySelector('#wrong').textContent")
        browser.open(f"{urls['runs']}run/{folder.name}")
        browser.wait("document.querySelector('#content').dataset.ready === '1'")
        browser.wait("document.querySelectorAll('#boards [data-board]').length === 5")
        # What a run's folder holds can be somebody else's: it gets no hold of what this origin keeps.
        browser.open(f"{urls['runs']}run/{folder.name}/report")
        browser.wait("document.title === 'SecurityError'")
        status, text = ask(urls["runs"] + "metrics")
        assert status == 200 and "brownout_run_going" in text
        assert ask(urls["runs"] + "run/..%2F..%2Fetc")[0] == 404
        assert ask(urls["runs"], Host="evil.example")[0] == 403
        assert ask(urls["runs"] + "control/power", "POST", {"action": "off", "boards": ["b1"]})[0] == 404


@pytest.mark.needs("chromium")
def test_the_buttons_switch_boards_for_whoever_has_the_token(browser: Browser, tmp_path: Path) -> None:
    lab = VirtualLab.start(tmp_path / "lab", LabOptions(("b1", "b2"), local_gateway=True))
    rig = tmp_path / "rig.toml"
    lab_rig = (Path(__file__).parents[2] / "testbed" / "rigs" / "lab.toml").read_text(encoding="utf-8")
    rig.write_text(lab_rig.replace("[lab]", f'[lab]\ndirectory = "{lab.directory}"'))
    (tmp_path / "runs").mkdir()
    try:
        with served(tmp_path / "runs", "--rig", str(rig), "--control", state=tmp_path) as urls:
            # The output of this server is no terminal and may be a log: the address is in a file instead.
            kept = Path(urls["switches"].removeprefix("address in ").removesuffix(", which only you can read"))
            assert kept.stat().st_mode & 0o777 == 0o600
            switches = kept.read_text().strip()
            base, token = urls["runs"], switches.split("#token=")[1]
            origin = base.rstrip("/")
            off = {"action": "off", "boards": ["b1"]}
            good = {"Authorization": f"Bearer {token}", "Origin": origin}
            for wrong in ({"Authorization": "Bearer x"}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}):
                assert ask(base + "control/power", "POST", off, **{**good, **wrong})[0] == 403
            assert ask(base + "control/power", "GET", None, **good)[0] == 405
            assert ask(base + "control/power", "POST", {"action": "off", "boards": ["b9"]}, **good)[0] == 400
            assert ask(base + "control/power", "POST", {"action": "explode", "boards": ["b1"]}, **good)[0] == 400
            browser.open(switches)
            assert token not in browser.run("location.href"), "the token stays in the address"
            _click(browser, "[data-what=state]", "state : done")
            for action, shown in (("on", "on"), ("off", "off")):
                _click(browser, f"[data-board=b1] [data-action={action}]", f"power {action} b1: done")
                assert browser.run("document.querySelector('[data-board=b1] .state').textContent") == shown
            _click(browser, "[data-board=b2] [data-action=isolate]", "link isolate b2: done")
            _click(browser, "[data-action=clear]", "link clear : done")
        assert not kept.exists()
        assert token not in urls["said"] and "power off b1" in urls["said"]
    finally:
        lab.close()


def _click(browser: Browser, button: str, said: str) -> None:
    browser.run(f"document.querySelector({json.dumps(button)}).click()")
    browser.wait(f"document.querySelector('#said').textContent.replace(/ +/g, ' ') === {json.dumps(said)}")


@pytest.mark.needs("chromium")
def test_a_run_shows_itself_and_its_page_ends_with_it(browser: Browser, tmp_path: Path) -> None:
    command = [*BROWNOUT, "run", "demo", "--rig", "sim", "--seed", "1", "--out", str(tmp_path), "--live"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        url = next(found[1] for line in process.stderr if (found := re.search(r"live page (\S+)", line)))
        rest = threading.Thread(target=process.stderr.read, daemon=True)
        rest.start()
        browser.open(url)
        browser.wait("document.querySelector('#verdict').textContent === 'valid'", within_s=60)
        browser.wait("document.querySelector('#connection').textContent.includes('has ended')", within_s=30)
        assert "VALID" in process.stdout.read()
        assert process.wait(20) == 0
        rest.join(5)
