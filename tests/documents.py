"""Mutations of TOML documents for Hypothesis, as values and as bytes, shared by the tests of campaign and rig files."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none().map(lambda _none: "b1"),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 20),
    st.floats(),
    st.text(max_size=40),
    st.sampled_from(["all", "proposer", "random:2", "random:0", "cut", "split", "ring", "", "-", "b1", "host", "*"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)),
    max_leaves=8,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every node below the root."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in entries:
        found.append((*path, key))
        found += _places(inner, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, documents: list[dict[str, Any]]) -> dict[str, Any]:
    """One of the documents with one to three nodes replaced, removed, renamed, repeated or added."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            break
        *path, key = draw(st.sampled_from(places))
        parent: Any = document
        for step in path:
            parent = parent[step]
        action = draw(st.sampled_from(["replace", "remove", "rename", "repeat", "add"]))
        if action == "replace":
            parent[key] = draw(VALUES)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            name = key + draw(st.sampled_from(["s", "_ms", "_s", " "])) if action == "rename" else draw(st.text())
            parent[name] = parent.pop(key) if action == "rename" else draw(VALUES)
        else:
            parent.append(copy.deepcopy(parent[key]))
    return document
