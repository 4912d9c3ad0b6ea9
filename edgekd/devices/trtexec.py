"""stub"""

from __future__ import annotations

MADE = "x"
