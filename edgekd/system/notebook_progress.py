"""Progress under the cell of a notebook; outside of a notebook nothing is shown.

Source: https://ipython.readthedocs.io/en/stable/api/generated/IPython.display.html (`display_id`)
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from threading import Lock
from typing import Any

from edgekd.system.progress import Progress, no_progress

PAUSE_S = 0.2
"""The shortest time between two drawings of one count: a browser need not draw every epoch."""


@dataclass
class Line:
    """The progress of one stage; `begun_s` is a time of the monotonic clock."""

    item: str
    begun_s: float
    done: int = 0
    total: int = 0
    ended: bool = False

    def left(self, now_s: float) -> str:
        """The estimated time left, from the mean time of the steps so far; empty if unknown."""
        if self.ended or not self.total or not self.done:
            return ""
        step_s = (now_s - self.begun_s) / self.done
        left_s = round(step_s * (self.total - self.done))
        return f"{left_s // 60}:{left_s % 60:02} left"


@dataclass
class Lines:
    """A `Progress` that draws one line per stage.

    Attributes:
        draw: receives the HTML that replaces what it received before.
    """

    draw: Callable[[str], None]
    lines: dict[str, Line] = field(default_factory=dict)
    drawn_s: float = float("-inf")
    # Each device is timed in its own thread.
    lock: Any = field(default_factory=Lock)

    def __call__(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        """Draws `stage`, and marks the other stages as ended."""
        with self.lock:
            now = time.monotonic()
            line = self.lines.get(stage)
            new = line is None or done < line.done  # A new count starts.
            if line is None or new:
                line = self.lines[stage] = Line(item, now)
            line.item, line.done, line.total = item, done, total
            for name, other in self.lines.items():
                other.ended = other.ended or name != stage
            if new or done == total or now - self.drawn_s > PAUSE_S:
                self.drawn_s = now
                self.draw(shown(self.lines, now))


def shown(lines: Mapping[str, Line], now_s: float) -> str:
    """The lines as an HTML table."""

    def bar(line: Line) -> str:
        if not line.total:
            return ""
        if line.ended:
            return '<progress value="1" max="1"></progress>'
        return f'<progress value="{line.done}" max="{line.total}"></progress>'

    def count(line: Line) -> str:
        return f"{line.done}/{line.total}" if line.total else ""

    rows = (
        (escape(name), bar(line), count(line), line.left(now_s), escape(line.item))
        for name, line in lines.items()
    )
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{body}</table>"


def default_progress() -> Progress:
    """A `Progress` that draws under the cell of a notebook; `no_progress` elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:  # IPython in a terminal has no kernel.
        return no_progress
    from IPython.display import HTML, display

    # tqdm, a dependency of torch, warns that it has no widget for download bars.
    warnings.filterwarnings("ignore", message="IProgress not found")
    handle = display(HTML(""), display_id=True)
    return Lines(lambda html: handle.update(HTML(html)))
