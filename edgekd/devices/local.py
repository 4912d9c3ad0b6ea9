"""This host: the agent runs in its own process, so a crashing runtime fails one candidate only."""

from __future__ import annotations

import sys
from pathlib import Path

from edgekd.errors import ConversionError, Fault
from edgekd.system.process import run_process


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Run the job in `folder`; see `Device`."""
    done = run_process(
        [sys.executable, str(folder / "agent.py"), str(folder)],
        timeout_s=timeout_s,
        cwd=folder,
        # What a runtime leaves behind is removed with the folder.
        env={"TMPDIR": str(folder)},
    )
    if not (folder / "report.json").exists():
        ended = (
            f"timed out after {timeout_s:.0f} s"
            if done.code is None
            else f"exit status {done.code}"
        )
        raise ConversionError(
            Fault(
                what="The runtime ended without a report.",
                at=f"device {url}",
                got=f"{ended}: {done.last_lines}",
                expected="a report from the agent",
                fix="open the artifact in its runtime by hand, or try another scheme",
            )
        )
