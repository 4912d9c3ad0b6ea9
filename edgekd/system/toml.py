"""Read TOML, with edgekd's errors, on every supported Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from edgekd.errors import Fault, RecipeError


def read_toml(path: Path) -> dict[str, Any]:
    """Read the document in `path`.

    Raises:
        RecipeError: the file cannot be read, or is not TOML.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        _check(document)
    except OSError as error:
        raise RecipeError(
            Fault(
                what=f"{path} cannot be read.",
                at=str(path),
                got=error.strerror or str(error),
                expected="a TOML file",
                fix=f"check the path; files beside it: {_beside(path)}",
            )
        ) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError.
        deep = isinstance(error, RecursionError)
        raise RecipeError(
            Fault(
                what=f"{path} is not valid TOML.",
                at=str(path),
                got="brackets that are nested too deep" if deep else str(error),
                expected="TOML 1.0 (https://toml.io/en/v1.0.0)",
                fix="fix the line named above; strings need quotes, tables need [brackets]",
            )
        ) from error
    return document


def _check(value: Any, at: str = "") -> None:
    """Refuse what TOML allows in no document, and what no path or number here can be.

    Raises:
        ValueError: an integer has more than 64 bits, or a text has a NUL character.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{at} is an integer of {value.bit_length()} bits, more than 64")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{at} has a NUL character")
    if isinstance(value, list):
        for number, entry in enumerate(value):
            _check(entry, f"{at}[{number}]")
    if isinstance(value, dict):
        for key, entry in value.items():
            _check(key, f"the key {key!r}")
            _check(entry, f"{at}.{key}".lstrip("."))


def parse_value(text: str) -> Any:
    """`text` as a TOML value, or as a plain string if it is not one."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
        _check(value)
    except (ValueError, RecursionError):
        return text
    return value


def _beside(path: Path) -> str:
    folder = path.parent
    names = sorted(entry.name for entry in folder.glob("*.toml")) if folder.is_dir() else []
    return ", ".join(names) or "none"
