"""report.html: the results of runs in one file without scripts or network access."""

from __future__ import annotations

from edgekd.report.page import write_report
from edgekd.report.run_data import RunData, read_run

__all__ = ["RunData", "read_run", "write_report"]
