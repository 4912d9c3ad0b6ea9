"""Skip tests whose requirements are missing; in CI, fail instead."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest


def need_program(name: str, *folders: str) -> str:
    """The path of the program `name`, on PATH or in one of `folders`; else skip the test."""
    program = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *folders]))
    if program is None:
        _skip(f"the program {name} is not installed")
    return str(program)


def need_modules(*names: str) -> None:
    """Skip the test unless all modules `names` are installed."""
    for name in names:
        if find_spec(name) is None:
            _skip(f"the package {name} is not installed")


def need_that(holds: bool, otherwise: str) -> None:
    """Skip the test unless `holds`."""
    if not holds:
        _skip(otherwise)


def _skip(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"no test may be skipped in CI: {reason}")
    pytest.skip(reason)
