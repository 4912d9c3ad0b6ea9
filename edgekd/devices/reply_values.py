"""Values of a device's reply, each read as the type that it must have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import printable

REPLY_BYTES = 2**26
"""The largest JSON file; hours of samples and sensor readings take a tenth of it."""
INTEGER_LIMIT = 2**63
TEXT_CHARS = 2000
DEPTH = 12
ENTRIES = 10_000


class MisfitError(ValueError):
    """A part of a reply does not fit; the message names it."""


def read_json(path: Path, most_bytes: int = REPLY_BYTES) -> Any:
    """The document in a JSON file that a device wrote.

    Raises:
        MisfitError: there is no such file, it is too large, or it is not JSON.
    """
    try:
        if not path.is_file():
            raise MisfitError(f"there is no file {path.name}")
        size = path.stat().st_size
        if size > most_bytes:
            raise MisfitError(f"{path.name} has {size} bytes, more than {most_bytes}")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, MisfitError):
            raise
        raise MisfitError(f"{path.name} is not JSON: {type(error).__name__}: {error}") from error


def cleaned(value: Any, at: str, depth: int = 0) -> Any:
    """A JSON value without control characters, texts shortened.

    Raises:
        MisfitError: it is nested or large beyond reason, or has a number that is not finite.
    """
    if depth > DEPTH:
        raise MisfitError(f"{at} is nested more than {DEPTH} deep")
    if isinstance(value, str):
        return printable(value)[:TEXT_CHARS]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return as_number(value, at)
    if len(value) > ENTRIES:
        raise MisfitError(f"{at} has {len(value)} entries")
    if isinstance(value, list):
        return [cleaned(entry, at, depth + 1) for entry in value]
    return {
        printable(key)[:TEXT_CHARS]: cleaned(entry, f"{at}.{key}"[:200], depth + 1)
        for key, entry in value.items()
    }


def short(value: Any) -> str:
    """A value for a message, shortened."""
    if isinstance(value, int) and abs(value) >= INTEGER_LIMIT:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # An integer in it has more digits than Python prints.
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_object(value: Any, at: str) -> dict[str, Any]:
    """`value`, a JSON object."""
    if not isinstance(value, dict):
        raise MisfitError(f"{at} is {short(value)}, not an object")
    return value


def as_list(value: Any, at: str) -> list[Any]:
    """`value`, a list."""
    if not isinstance(value, list):
        raise MisfitError(f"{at} is {short(value)}, not a list")
    return value


def as_number(value: Any, at: str) -> float:
    """A finite number that fits 64 bits."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not (abs(value) < INTEGER_LIMIT if isinstance(value, int) else
                           math.isfinite(value)):  # fmt: skip
        raise MisfitError(f"{at} is {short(value)}, not a finite number")
    number: float = value
    return number


def as_time(value: Any, at: str, *, least: float) -> float:
    """`value`, a number of at least `least`."""
    number = as_number(value, at)
    if not least <= number < INTEGER_LIMIT:
        raise MisfitError(f"{at} is {short(number)}, not a time")
    return number


def is_count(value: Any) -> bool:
    """Whether `value` is a non-negative integer of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < INTEGER_LIMIT


def optional_count(document: Mapping[str, Any], key: str) -> int | None:
    """The count under `key`; None if there is none."""
    value = document.get(key)
    if value is not None and not is_count(value):
        raise MisfitError(f"{key} is {short(value)}, not a count")
    count: int | None = value
    return count
