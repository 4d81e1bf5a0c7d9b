"""Modules are parsed from several threads, while finalizers of the collector let others come between."""

from __future__ import annotations

import ast
import gc
import threading
from collections.abc import Iterator

import pytest
from brownout import resources
from brownout.firmware_syntax import parse

MOST_S = 0.5  # that a second thread is given to parse while the first one does; it takes a tenth of that
SOURCE = (resources.firmware_package() / "core" / "vote.py").read_bytes()


class LetsAnotherParse:
    """Garbage that only the collector finds. When it does, another thread parses, or waits for its turn."""

    def __init__(self, found: list[ast.Module]) -> None:
        self.me = self
        self.other = threading.Thread(target=lambda: found.append(parse(SOURCE)))

    def __del__(self) -> None:
        self.other.start()
        self.other.join(MOST_S)


@pytest.fixture
def often_collected() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.collect()
    gc.set_threshold(2000)  # more than what comes before the parser, less than what it makes
    yield
    gc.set_threshold(*thresholds)


def test_two_threads_that_parse_at_once_both_get_the_tree(often_collected: None) -> None:
    found: list[ast.Module] = []
    other = LetsAnotherParse(found).other
    assert other.ident is None
    tree = parse(SOURCE)
    assert other.ident is not None, "the collector did not come while the first one parsed"
    other.join()
    assert [ast.dump(one) for one in found] == [ast.dump(tree)]
