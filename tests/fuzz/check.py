"""The property of every reader: a value or an error of five parts, in bounded time and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from edgekd.errors import EdgekdError
from tests.fuzz.readers import Reader

LIMIT_S = 5.0
"""The processor time that one input may take; usual is below 10 ms."""

LIMIT_KIB = 512 * 1024
"""The memory by which the process may grow while all inputs of one reader are read."""


def outcome(reader: Reader, value: Any, folder: Path) -> str:
    """Read `value`: "read", or the name of the documented error.

    Raises:
        AssertionError: an error lacks a part, is a bug in edgekd, or reading took too long.
    """
    began = time.process_time()
    try:
        reader.read(value, folder)
        ended = "read"
    except EdgekdError as error:
        check_parts(error)
        ended = type(error).__name__
    except reader.allowed as error:
        ended = type(error).__name__
    assert time.process_time() - began < LIMIT_S
    return ended


def check_parts(error: EdgekdError) -> None:
    """Assert that `error` is no bug of edgekd and that each of its faults has five parts."""
    assert error.exit_code != 1, str(error)
    for fault in error.faults:
        parts = (fault.what, fault.at, fault.got, fault.expected, fault.fix)
        assert all(isinstance(part, str) and part.strip() for part in parts), repr(fault)


def peak_kib() -> int:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(
    reader: Reader,
    folder: Path,
    examples: int,
    *,
    derandomize: bool = True,
    note: Callable[[str], None] = lambda ended: None,  # noqa: ARG005
) -> None:
    """Read `examples` inputs; `note` receives the outcome of each.

    Raises:
        AssertionError: as `outcome`, or the process has grown by more than `LIMIT_KIB`.
    """
    files, prepared = folder / "files", folder / "prepared"
    files.mkdir(parents=True, exist_ok=True)
    prepared.mkdir(parents=True, exist_ok=True)

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.inputs(prepared))
    def run(value: Any) -> None:
        note(outcome(reader, value, files))

    before = peak_kib()
    run()
    assert peak_kib() - before < LIMIT_KIB
