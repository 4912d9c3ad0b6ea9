"""How long-running functions report their progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told how far the work is; the command line draws it."""

    def __call__(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        """`item` of `stage` is at step `done` of `total` (0 of 0: no count)."""


def no_progress(stage: str, item: str, done: int = 0, total: int = 0) -> None:
    """A `Progress` that drops what it is told."""
