"""This host: the agent in a process of its own, so that a runtime that crashes is only a row."""

from __future__ import annotations

import sys
from pathlib import Path

from edgekd.errors import ConversionError, Fault
from edgekd.system.process import run_process


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Does the job in `folder`; see `Device`."""
    done = run_process(
        [sys.executable, str(folder / "agent.py"), str(folder)], timeout_s=timeout_s, cwd=folder
    )
    if not (folder / "report.json").exists():
        ended = f"past {timeout_s:.0f} s" if done.code is None else f"exit status {done.code}"
        raise ConversionError(
            Fault(
                what="The runtime did not survive the artifact.",
                at=f"device {url}",
                got=f"{ended}: {done.last_lines}",
                expected="a report from the agent",
                fix="open the artifact in its runtime by hand; another scheme may do",
            )
        )
