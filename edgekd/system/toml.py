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
        return tomllib.loads(path.read_text(encoding="utf-8"))
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(
            Fault(
                what=f"{path} is not valid TOML.",
                at=str(path),
                got=str(error),
                expected="TOML 1.0 (https://toml.io/en/v1.0.0)",
                fix="fix the line named above; strings need quotes, tables need [brackets]",
            )
        ) from error


def parse_value(text: str) -> Any:
    """`text` as a TOML value, or as a plain string if it is not one."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _beside(path: Path) -> str:
    folder = path.parent
    names = sorted(entry.name for entry in folder.glob("*.toml")) if folder.is_dir() else []
    return ", ".join(names) or "none"
