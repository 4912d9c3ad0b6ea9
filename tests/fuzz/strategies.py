"""Strategies for documents, texts and bytes that are nearly valid."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import tomli_w
from hypothesis import strategies as st

CHUNKS = (
    "[" * 5000, "{" * 300, '{"a":' * 300, "9" * 5000, "-" * 40, "1e999", "NaN", "null", "\0", "\n",
    "\x1b[2J", "\u202e", "../", "/", "\\", "\ud7ff", "é", "💥", '"', "'", "=", "#", "%", "${HOME}",
    "$(id)", ":", "@", "[", "]", ",", "0", "-1", "1.5", "true", " " * 200, "a" * 300,
)  # fmt: skip
"""Pieces that break careless parsers."""

NAMES = st.one_of(st.sampled_from(CHUNKS), st.text(max_size=12))

SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, -(2**63)]),
    st.floats(),
    NAMES,
)

VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=8,
)


def places(document: Any) -> list[tuple[Any, ...]]:
    """The way to each value in `document`, the document itself excepted."""
    pairs = (
        list(document.items())
        if isinstance(document, dict)
        else list(enumerate(document))
        if isinstance(document, list)
        else []
    )
    return [(key, *rest) for key, value in pairs for rest in [(), *places(value)]]


@st.composite
def documents(draw: Callable[..., Any], valid: Any, values: Any = VALUES) -> Any:
    """`valid` with up to three values replaced, removed, renamed or repeated."""
    document = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(document)
        if not ways:
            break
        *way, key = draw(st.sampled_from(ways))
        table = document
        for step in way:
            table = table[step]
        action = draw(st.sampled_from(("replace", "replace", "remove", "rename", "repeat", "wrap")))
        if action == "replace":
            table[key] = draw(values)
        elif action == "wrap":
            table[key] = [table[key]]
        elif action == "remove":
            del table[key]
        elif isinstance(table, dict):
            name = draw(NAMES)
            value = copy.deepcopy(table[key])
            if action == "rename":
                del table[key]
            table[name] = value
        else:
            table.append(copy.deepcopy(table[key]))
    return document


@st.composite
def broken(draw: Callable[..., Any], valid: bytes) -> bytes:
    """`valid` with up to three pieces inserted, removed, replaced or repeated."""
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from((0, 1, 2, 4, 16, 200)))
        piece = draw(
            st.one_of(
                st.just(b""),
                st.binary(max_size=8),
                st.sampled_from(CHUNKS).map(lambda text: text.encode()),
                st.just(data[at : at + length] * 2),
            )
        )
        data = data[:at] + piece + data[at + length :]
    return data


def texts(valid: str) -> st.SearchStrategy[str]:
    """`valid`, broken, as text."""
    return broken(valid.encode()).map(lambda data: data.decode(errors="replace"))


def toml_files(valid: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """TOML files near `valid`."""
    whole = tomli_w.dumps(valid).encode()
    return st.one_of(
        documents(valid).map(lambda value: tomli_w.dumps(value).encode()), broken(whole)
    )


def json_files(valid: Any) -> st.SearchStrategy[bytes]:
    """JSON files near `valid`."""
    whole = json.dumps(valid).encode()
    values = st.one_of(VALUES, st.none())
    return st.one_of(
        documents(valid, values).map(lambda value: json.dumps(value).encode()), broken(whole)
    )
