"""report.html: what runs came to, in one file that needs no network and no script."""

from __future__ import annotations

from edgekd.report.page import write_report
from edgekd.report.run_data import RunData, read_run

__all__ = ["RunData", "read_run", "write_report"]
