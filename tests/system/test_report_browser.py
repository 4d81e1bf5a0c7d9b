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


@pytest.mark.system
@pytest.mark.needs("chromium")
def test_the_report_can_be_looked_at(tmp_path: Path) -> None:
    report = write_report(save(eventful(operations=60).history(), tmp_path))
    picture = tmp_path / "report.png"
    browse(tmp_path / "profile", "--window-size=1240,2400", f"--screenshot={picture}", report.as_uri())
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 50_000  # an empty page of that size has about 6,000
