"""Read JSON that somebody else wrote: what JSON does not define is refused, sizes are bounded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LIMIT_BYTES = 64 * 2**20
"""Limit of a document's size: many times any manifest."""

LIMIT_DEPTH = 64
"""Limit of the lists and objects around a value."""

SURROGATES = re.compile("[\ud800-\udfff]")


def read_json(path: Path) -> Any:
    """The JSON document in `path`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON in UTF-8, is too large or nested too deep, repeats a key, or has
            half a surrogate pair or a number that 64 bits cannot hold.
    """
    with path.open("rb") as file:
        data = file.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"more than {LIMIT_BYTES:,} bytes")
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_values(document)
    return document


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise ValueError(f"the key {name!r} occurs twice in one object")
        document[name] = value
    return document


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond the range of a 64-bit float")
    return number


def _integer(text: str) -> int:
    # Python itself refuses, or is slow with, integers of thousands of digits.
    number = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{text[:40]} is beyond the range of a 64-bit integer")
    return number


def _check_values(document: Any) -> None:
    level, depth = [document], 0
    while level:
        if depth > LIMIT_DEPTH:
            raise ValueError(_too_deep())
        for text in level:
            if isinstance(text, str) and SURROGATES.search(text):
                raise ValueError(f"{text[:40]!r} has half a surrogate pair")
        level = [
            value
            for entry in level
            if isinstance(entry, dict | list)
            for value in (_flat(entry) if isinstance(entry, dict) else entry)
        ]
        depth += 1


def _flat(table: dict[str, Any]) -> Iterator[Any]:
    """The keys and the values of `table`."""
    for item in table.items():
        yield from item


def _too_deep() -> str:
    return f"lists or objects nested more than {LIMIT_DEPTH} deep"
