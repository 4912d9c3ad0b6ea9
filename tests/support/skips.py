"""What a test needs besides edgekd: a skip that names what is missing, and in CI a failure."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest


def need_program(name: str, *places: str) -> str:
    """The path of the program `name`, on PATH or in one of `places`."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *places]))
    if found is None:
        _stop(f"the program {name} is not installed")
    return str(found)


def need_modules(*names: str) -> None:
    """Goes on if all modules `names` are installed."""
    for name in names:
        if find_spec(name) is None:
            _stop(f"the package {name} is not installed")


def need_that(holds: bool, otherwise: str) -> None:
    """Goes on if it holds."""
    if not holds:
        _stop(otherwise)


def _stop(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"in CI nothing is skipped: {reason}")
    pytest.skip(reason)
