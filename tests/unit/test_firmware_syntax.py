"""Modules are parsed from several threads, while finalizers of the collector let others come between."""

from __future__ import annotations

import ast
import gc
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from brownout import resources
from brownout.firmware_syntax import parse

TIMES = 40  # without turns some of them end with a SystemError
SOURCE = (resources.firmware_package() / "core" / "vote.py").read_bytes()


class Yields:
    """Garbage that only the collector finds, and that lets another thread go on when it is."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0)


@pytest.fixture
def often_collected() -> Iterator[None]:
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


def test_threads_that_parse_at_once_all_get_the_tree(often_collected: None) -> None:
    expected = len(list(ast.walk(ast.parse(SOURCE))))
    done = threading.Event()

    def litter() -> None:
        while not done.is_set():
            Yields()
            time.sleep(0)

    with ThreadPoolExecutor(5) as pool:
        pool.submit(litter)
        try:
            found = list(pool.map(lambda _: len(list(ast.walk(parse(SOURCE)))), range(TIMES)))
        finally:
            done.set()
    assert set(found) == {expected}
