"""Programs that run on a device without edgekd: old Python, no imports of the package."""

from __future__ import annotations

from pathlib import Path

ON_DEVICE = Path(__file__).parent
"""The folder of `agent.py`, `supervisor.py` and `trtexec_driver.py`, which are sent to devices."""
