"""What a run depends on besides its recipe: interpreter, machine and packages."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any


def environment() -> dict[str, Any]:
    """What a run depends on besides its recipe."""
    packages = {entry.metadata["Name"]: entry.version for entry in metadata.distributions()}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "packages": dict(sorted(packages.items(), key=lambda item: str(item[0]).lower())),
    }
