"""Shared by all tests: where the tree is, Hypothesis profiles, and what happens where a tool is missing.

A test that needs a program of the system says `@pytest.mark.needs("mosquitto")`. Where it is missing, the test is
skipped with the reason on a workstation, and fails in CI: nothing goes untested in silence.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shell starts what it puts into the background with Ctrl-C ignored, and whoever is started inherits that: tests that
# interrupt a command would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# Machines are shared and slow at times: a deadline would fail tests for somebody else's load.
settings.register_profile(
    "brownout", deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("brownout")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for tool in marker.args:
            if shutil.which(tool, path=SYSTEM_PATH) is None:
                message = f"not tested: {item.nodeid} needs {tool}, which is not on this machine (see `make setup`)"
                if os.environ.get("CI"):
                    pytest.fail(message)
                pytest.skip(message)
