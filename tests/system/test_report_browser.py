"""The report in a real browser: it renders, shows verdict and drawings, and asks nothing of the network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from brownout.checkers import check_run
from brownout.report import write_report
from eventful_runs import eventful, save
from history_builder import is_event

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


def browse(profile: Path, *arguments: str) -> str:
    browser = shutil.which("chromium")
    assert browser is not None
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout


@pytest.mark.system
@pytest.mark.needs("chromium")
def test_the_report_renders_offline(tmp_path: Path) -> None:
    world = eventful(operations=60)
    world.change(is_event("b4", "decided", height=20), value_id="f" * 16)
    folder = save(world.history(), tmp_path)
    check_run(folder)
    report = write_report(folder)
    # A script of the test's own reads what the browser made of the page, and writes it where the dump shows it.
    probe = (
        "<script>addEventListener('load', () => { const seen = id => document.querySelector(id);"
        "const wide = document.documentElement.scrollWidth <= innerWidth;"
        "const drawn = [...document.querySelectorAll('figure .wide svg')].filter(s => s.getBBox().width > 500).length;"
        "seen('#theme').click(); const theme = document.documentElement.dataset.theme;"
        "document.body.dataset.probe = [seen('#verdict').textContent, drawn, wide, theme,"
        "performance.getEntriesByType('resource').length].join(' '); });</script></body>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(report.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    document = browse(tmp_path / "profile", "--window-size=1240,900", "--dump-dom", probed.as_uri())
    assert 'data-probe="invalid 5 true ' in document
    assert document.split('data-probe="')[1].split('"')[0].split()[-1] == "0", "the page fetched something"
    assert "height 20 was decided differently" in document


HANDS = f"<script>{(Path(__file__).parent / 'report_hands.js').read_text(encoding='utf-8')}</script></head>"


@pytest.mark.system
@pytest.mark.needs("chromium")
def test_the_diagram_is_drawn_zoomed_filtered_and_shows_the_evidence(tmp_path: Path) -> None:
    world = eventful(operations=60)
    world.change(is_event("b4", "decided", height=20), value_id="f" * 16)
    folder = save(world.history(), tmp_path)
    check_run(folder)
    probed = tmp_path / "probed.html"
    probed.write_text(write_report(folder).read_text(encoding="utf-8").replace("</head>", HANDS), encoding="utf-8")
    dump = ("--window-size=1240,900", "--virtual-time-budget=20000", "--dump-dom")
    document = browse(tmp_path / "profile", *dump, probed.as_uri())
    assert 'data-told="' in document, "the hands did not get to their end"
    told = dict(part.split("=", 1) for part in document.split('data-told="')[1].split('"')[0].split(" "))
    assert told["failures"] == ""
    assert int(told["inks"]) > 12
    shown, links, view = (told["all"].split("/")[place] for place in range(3))
    assert int(shown) > 300 and int(links) > 100
    began, ended = map(int, view.split("-"))
    start, end = map(int, told["zoomed"].split("/")[2].split("-"))
    assert began == 0 and end - start == pytest.approx(ended / 2, abs=2)
    assert int(told["two"].split("/")[0]) < int(told["filtered"].split("/")[0]) < int(shown)
    near, far = map(int, told["evidence"].split("/")[2].split("-"))
    assert far - near < ended / 5 and int(told["proofs"]) >= 2
    assert told["copy"].startswith("--board_b") and told["copy"].endswith("s")
    assert "_b" in told["said"] and "event" in told["said"]
    saved = [part.split(":") for part in told["saved"].split(",")]
    assert len(saved) == 6 and all(name.endswith(".png") and int(size) > 3000 for name, size in saved)


@pytest.mark.system
@pytest.mark.needs("chromium")
def test_the_report_can_be_looked_at(tmp_path: Path) -> None:
    report = write_report(save(eventful(operations=60).history(), tmp_path))
    picture = tmp_path / "report.png"
    browse(tmp_path / "profile", "--window-size=1240,2400", f"--screenshot={picture}", report.as_uri())
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 50_000  # an empty page of that size has about 6,000
