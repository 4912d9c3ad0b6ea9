"""The emulated Arm device: its userland, its set-up, its instruction counter."""

from __future__ import annotations

from pathlib import Path

EMULATION = Path(__file__).parent
"""The folder of the counting plugin's source and of its driver."""
