"""A run that violated a check -> a pytest file that fails for the same reason until the firmware is mended.

The run is shrunk with the firmware that its boards ran; the test carries the small campaign out on simulated boards
with the firmware that Python imports then. So it needs no hardware, no broker and not the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..campaign_text import campaign_text
from ..contracts import UsageError
from ..rig import load_rig
from ..sim.explicit import read_run
from ..sim.regression import seeds_of
from ..sim.shrink import Shrunk, shrink

DEFAULT_LIMIT_S = 120.0

TEMPLATE = '''"""Made by `brownout export {run} --as test`: {check} was violated by the firmware {firmware}.

Fails while the firmware that Python imports violates it again, on simulated boards. {found}
"""

from pathlib import Path

from brownout.sim.regression import violations

CHECK = {check!r}
SEEDS = {seeds!r}
CAMPAIGN = """\\
{campaign}"""
SOURCES = {sources!r}  # protocols of one's own that it loads


def test_{name}(tmp_path: Path) -> None:
    for name, text in {{**SOURCES, "campaign.toml": CAMPAIGN}}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert violations(tmp_path / "campaign.toml", CHECK, SEEDS) == []
'''


def export(
    run: Path,
    out: Path | None = None,
    *,
    check: str | None = None,
    time_limit_s: float = DEFAULT_LIMIT_S,
    progress: Callable[[str, dict[str, int]], None] = lambda _what, _size: None,
) -> Path:
    """Write the test and return its path: `out`, or test_<campaign>_<check>.py here. UsageError: nothing to test."""
    recorded = read_run(run)
    shrunk = shrink(recorded, load_rig("sim"), check=check, time_limit_s=time_limit_s, progress=progress)
    seed = int(recorded.document["seed"])
    name = re.sub(r"\W+", "_", f"{recorded.document['campaign']}_{shrunk.check}")
    path = out or Path(f"test_{name}.py")
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"--out {path}: not the path of a file in a folder that there is")
    path.write_text(_text(run, name, seed, shrunk, recorded.history.manifest), encoding="utf-8")
    return path


def _text(run: Path, name: str, seed: int, shrunk: Shrunk, manifest: object) -> str:
    boards = manifest.get("boards", []) if isinstance(manifest, dict) else []
    firmware = boards[0]["firmware"] if boards else "of that run"
    campaign = campaign_text(shrunk.campaign, f"Shrunk from seed {seed}: violates {shrunk.check}.")
    return TEMPLATE.format(
        run=run.name,
        check=shrunk.check,
        firmware=firmware,
        found=f"It did with {100 * shrunk.rate:.0f} % of the seeds.",
        seeds=seeds_of(seed),
        campaign=campaign.replace("\\", "\\\\").replace('"""', '\\"\\"\\"'),
        sources=dict(shrunk.campaign.sources),
        name=name.replace("-", "_"),
    )
